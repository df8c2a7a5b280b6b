"""What stands before a public function: one look at the class of each argument, and an explanation where it fails.

The look costs about two microseconds. While torch traces a function it is left out, and so is the explanation.
"""

from __future__ import annotations

import dis
import functools
import inspect
import types
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from os import PathLike
from typing import Any, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

from diffusers_rec.core.errors import shown, wrong_class

T = TypeVar("T")
C = TypeVar("C", bound=type[Any])
P = ParamSpec("P")

_UNCLEAR = TypeError, ValueError, RuntimeError, LookupError, AttributeError, ArithmeticError, AssertionError
"""What Python, torch and NumPy raise where arguments do not fit; told from our own by :func:`_explained`."""

_LEFT_TO_THE_FUNCTION = {
    int, float, bool, bytes, list, tuple, dict, set, object, Any,
    Iterable, Sequence, Mapping, Collection, PathLike,
}  # fmt: skip
"""Annotations of numbers and containers: what of them is allowed, and how it is mended, the function knows."""


def checked(function: Callable[P, T]) -> Callable[P, T]:
    """Refuse arguments that are not of the class that their annotation names.

    Numbers and containers are left to the function, which has bounds and better words for them. A class can say in
    ``made_by`` where its objects come from.

    Raises:
        TypeError: an argument of another class, at the call.
    """
    return _guarded(function, ())


def explained(function: Callable[P, T]) -> Callable[P, T]:
    """:func:`checked`, and where the function fails on what it was given, the error says what that was.

    Errors that this library or a component of somebody else's raises on purpose are left as they are.

    Raises:
        TypeError: an argument of another class.
        ValueError: in place of an error from within Python, torch or NumPy that does not speak of the arguments.
    """
    return _guarded(function, _UNCLEAR)


def guarded(cls: C) -> C:
    """:func:`explained`, for the constructor and every public method that a class defines."""
    for name, member in list(vars(cls).items()):
        if name.startswith("_") and name not in ("__init__", "__getitem__"):
            continue
        if isinstance(member, types.FunctionType):
            setattr(cls, name, explained(member))
        elif isinstance(member, classmethod):
            setattr(cls, name, classmethod(explained(member.__func__)))
    return cls


def _guarded(function: Callable[P, T], unclear: tuple[type[Exception], ...]) -> Callable[P, T]:
    parameters = inspect.signature(function).parameters
    names = list(parameters)
    where = function.__qualname__.removesuffix(".__init__")
    constructs = function.__name__ == "__init__"

    @functools.cache
    def expected() -> dict[str, tuple[type, ...]]:  # at the first call, when every annotation can be resolved
        try:
            hints = get_type_hints(function)
        except Exception:  # somebody else's annotations may name what is imported for type checkers alone
            hints = {}
        return {name: _classes(hints.get(name)) or (object,) for name in names}

    def check(given: Mapping[str, Any], classes: Mapping[str, tuple[type, ...]]) -> None:
        for name, value in given.items():
            if not isinstance(value, classes.get(name, object)) and value is not parameters[name].default:
                raise wrong_class(f"{where}: {name}", value, classes[name])

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        if torch.compiler.is_compiling():
            return function(*args, **kwargs)
        classes = expected()
        for value, allowed in zip(args, classes.values()):  # noqa: B905 - not all are given by position
            if not isinstance(value, allowed):
                check(dict(zip(names, args, strict=False)), classes)
        for name, value in kwargs.items():
            if not isinstance(value, classes.get(name, object)):
                check(kwargs, classes)
        try:
            return function(*args, **kwargs)
        except unclear as error:
            if _explained(error) or (not constructs and _is_of_the_machine(error)):
                raise
            raise _explanation(where, {**dict(zip(names, args, strict=False)), **kwargs}, error) from error

    return wrapper


def _explained(error: Exception) -> bool:
    """Whether somebody raised it on purpose, who is neither torch nor NumPy."""
    if isinstance(error, RecursionError):
        return True
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    if trace is None:
        return False
    owner = trace.tb_frame.f_globals.get("__name__", "").partition(".")[0]
    if owner != "diffusers_rec":
        return owner not in ("torch", "numpy", "einops", "faiss")
    return trace.tb_frame.f_code.co_code[trace.tb_lasti] == dis.opmap["RAISE_VARARGS"]  # a raise, not an operation


def _is_of_the_machine(error: Exception) -> bool:
    """Whether memory or a device failed; of a constructor, whose sizes ask for the memory, that is the caller's."""
    marks = "can't allocate memory", "out of memory", "CUDA error"
    return isinstance(error, RuntimeError) and any(mark in str(error) for mark in marks)


def _explanation(where: str, given: Mapping[str, Any], error: Exception) -> Exception:
    came = ", ".join(f"{name} {_described(value)}" for name, value in given.items() if name != "self")
    if _is_of_the_machine(error):
        return ValueError(f"{where}: these sizes need more memory than there is; make them smaller. Got {came}.")
    said = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
    kind = TypeError if isinstance(error, TypeError) else ValueError
    return kind(f"{where}: the arguments do not fit ({said}). Got {came}. help({where}) has the shapes.")


def _classes(hint: Any) -> tuple[type, ...]:
    """The classes that an annotation allows; none where it holds anything that is left to the function."""
    if get_origin(hint) in (Union, types.UnionType):
        parts = [_classes(part) for part in get_args(hint)]
        return tuple(cls for part in parts for cls in part) if all(parts) else ()
    cls = get_origin(hint) or hint
    known = isinstance(cls, type) and cls not in _LEFT_TO_THE_FUNCTION and not getattr(cls, "_is_protocol", False)
    return (cls,) if known else ()


def _described(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} of {str(value.dtype).removeprefix('torch.')}"
    return shown(value) if isinstance(value, int | float | str | None) else type(value).__name__
