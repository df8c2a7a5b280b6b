"""What stands before a public function: one look at the class of each argument, and an explanation where it fails.

The look costs about a microsecond. While torch traces a function it is left out, and so is the explanation.
"""

from __future__ import annotations

import dis
import functools
import inspect
import operator
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np
import torch
from torch import Tensor

from diffusers_rec.errors import shown, wrong_class

T = TypeVar("T")
C = TypeVar("C", bound=type[Any])
P = ParamSpec("P")

_UNCLEAR = TypeError, ValueError, RuntimeError, LookupError, AttributeError, ArithmeticError, AssertionError
"""What Python, torch and NumPy raise where arguments do not fit; told from our own by :func:`_explained`."""

_FITTING: dict[Any, tuple[type, ...]] = {
    int: (int, np.integer),
    float: (float, int, np.floating, np.integer),
    Sequence: (Sequence, np.ndarray, Tensor),
}
"""Annotations that allow more classes than they name."""


def checked(function: Callable[P, T]) -> Callable[P, T]:
    """Refuse arguments that are not of the class that their annotation names.

    Annotations of classes, of numbers and of unions of them are checked. Literals and type variables are not, nor are
    the numbers of a constructor, which has bounds for them. A class can say in ``made_by`` where its objects come from.

    Raises:
        TypeError: an argument of another class, at the call.
    """
    return _guarded(function, ())


def shaped(function: Callable[P, T]) -> Callable[P, T]:
    """:func:`checked`, and where the function fails on what it was given, the error says what that was.

    Errors that this library or a component of somebody else's raises on purpose are left as they are.

    Raises:
        TypeError: an argument of another class.
        ValueError: in place of an error from within Python, torch or NumPy that does not speak of the arguments.
    """
    return _guarded(function, _UNCLEAR)


def guarded(cls: C) -> C:
    """:func:`shaped`, for the constructor and every public method that a class defines."""
    for name, member in list(vars(cls).items()):
        if name.startswith("_") and name not in ("__init__", "__getitem__"):
            continue
        if isinstance(member, types.FunctionType):
            setattr(cls, name, shaped(member))
        elif isinstance(member, classmethod):
            setattr(cls, name, classmethod(shaped(member.__func__)))
    return cls


def _guarded(function: Callable[P, T], unclear: tuple[type[Exception], ...]) -> Callable[P, T]:
    names = list(inspect.signature(function).parameters)
    where = function.__qualname__.removesuffix(".__init__")
    numbers = function.__name__ != "__init__"

    @functools.cache
    def expected() -> dict[str, tuple[type, ...]]:  # at the first call, when every annotation can be resolved
        hints = get_type_hints(function)
        return {name: _classes(hints.get(name), numbers=numbers) or (object,) for name in names}

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        if torch.compiler.is_compiling():
            return function(*args, **kwargs)
        classes = expected()
        for value, allowed in zip(args, classes.values()):  # noqa: B905 - not all are given by position
            if not isinstance(value, allowed) or value.__class__ is bool:
                _check(where, dict(zip(names, args, strict=False)), classes)
        for name, value in kwargs.items():
            if not isinstance(value, classes.get(name, object)) or value.__class__ is bool:
                _check(where, kwargs, classes)
        try:
            return function(*args, **kwargs)
        except unclear as error:
            if _explained(error):
                raise
            raise _explanation(where, {**dict(zip(names, args, strict=False)), **kwargs}, error) from error

    return wrapper


def _check(where: str, given: Mapping[str, Any], classes: Mapping[str, tuple[type, ...]]) -> None:
    """The slow way, in which a zero-dimensional array is a number and a boolean is none."""
    for name, value in given.items():
        allowed = classes.get(name, (object,))
        fits = bool in allowed or object in allowed if isinstance(value, bool) else isinstance(value, allowed)
        if not fits and not _is_number(value, allowed):
            raise wrong_class(f"{where}: {name}", value, allowed)


def _is_number(value: Any, allowed: tuple[type, ...]) -> bool:
    if isinstance(value, bool | str | bytes | type):
        return False
    try:
        if int in allowed and float not in allowed:
            operator.index(value)
        elif float in allowed:
            float(value)
        else:
            return False
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return False
    return True


def _explained(error: Exception) -> bool:
    """Whether somebody raised it on purpose, who is neither torch nor NumPy."""
    if isinstance(error, RecursionError | torch.cuda.OutOfMemoryError):
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


def _explanation(where: str, given: Mapping[str, Any], error: Exception) -> Exception:
    came = ", ".join(f"{name} {_described(value)}" for name, value in given.items() if name != "self")
    said = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
    kind = TypeError if isinstance(error, TypeError) else ValueError
    return kind(f"{where}: the arguments do not fit ({said}). Got {came}. help({where}) has the shapes.")


def _classes(hint: Any, *, numbers: bool) -> tuple[type, ...]:
    """The classes that an annotation allows; none where it holds anything that is not a class."""
    if get_origin(hint) in (Union, types.UnionType):
        parts = [_classes(part, numbers=numbers) for part in get_args(hint)]
        return tuple(cls for part in parts for cls in part) if all(parts) else ()
    cls = get_origin(hint) or hint
    if not isinstance(cls, type) or cls in (object, Any) or getattr(cls, "_is_protocol", False):
        return ()
    if cls in (int, float, bool) and not numbers:
        return ()
    return _FITTING.get(cls, (cls,))


def _described(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} of {str(value.dtype).removeprefix('torch.')}"
    return shown(value) if isinstance(value, int | float | str | None) else type(value).__name__
