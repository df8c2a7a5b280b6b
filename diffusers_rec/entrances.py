"""What stands before a public function: one look at the class of each argument, and an explanation where it fails.

The look costs about a microsecond. While torch traces a function it is left out, and so is the explanation.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import torch
from torch import Tensor
from typing_extensions import ParamSpec

from diffusers_rec.errors import check_class

T = TypeVar("T")
P = ParamSpec("P")

_UNCLEAR = RuntimeError, LookupError, AttributeError, ArithmeticError, AssertionError
"""What torch, NumPy and Python raise where arguments do not fit one another."""


def checked(function: Callable[P, T]) -> Callable[P, T]:
    """Refuse arguments that are not of the class that their annotation names.

    Annotations of classes, and of unions of them, are checked; numbers, literals and type variables are not: what they
    allow is checked where the value is used. A class can say in ``made_by`` where its objects come from.

    Raises:
        TypeError: an argument of another class, at the call.
    """
    return _guarded(function, ())


def shaped(function: Callable[P, T]) -> Callable[P, T]:
    """:func:`checked`, for functions of tensors: where the computation fails, the error says which shapes came.

    Raises:
        TypeError: an argument of another class.
        ValueError: in place of an error from within the computation that does not speak of the arguments.
    """
    return _guarded(function, _UNCLEAR)


def _guarded(function: Callable[P, T], unclear: tuple[type[Exception], ...]) -> Callable[P, T]:
    names = list(inspect.signature(function).parameters)
    where = function.__qualname__.removesuffix(".__init__")

    @functools.cache
    def expected() -> dict[str, tuple[type, ...]]:  # at the first call, when every annotation can be resolved
        hints = get_type_hints(function)
        return {name: _classes(hints.get(name)) or (object,) for name in names}

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        if torch.compiler.is_compiling():
            return function(*args, **kwargs)
        classes = expected()
        for value, allowed in zip(args, classes.values()):  # noqa: B905 - not all are given by position
            if not isinstance(value, allowed):
                _refuse(where, dict(zip(names, args, strict=False)), classes)
        for name, value in kwargs.items():
            if not isinstance(value, classes.get(name, object)):
                _refuse(where, kwargs, classes)
        try:
            return function(*args, **kwargs)
        except unclear as error:
            if isinstance(error, RecursionError) or not _from_within(error):
                raise
            raise _unfitting(where, {**dict(zip(names, args, strict=False)), **kwargs}, error) from error

    return wrapper


def _refuse(where: str, given: Mapping[str, Any], classes: Mapping[str, tuple[type, ...]]) -> None:
    for name, value in given.items():
        check_class(f"{where}: {name}", value, *classes.get(name, (object,)))


def _from_within(error: Exception) -> bool:
    """Whether this library or what it computes with raised it; a component of somebody else's has its own reasons."""
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    module = trace.tb_frame.f_globals.get("__name__", "") if trace else ""
    return module.partition(".")[0] in ("diffusers_rec", "torch", "numpy", "einops")


def _unfitting(where: str, given: Mapping[str, Any], error: Exception) -> ValueError:
    came = ", ".join(f"{name} {_described(value)}" for name, value in given.items() if name != "self")
    said = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
    return ValueError(f"{where}: the arguments do not fit ({said}). Got {came}. help({where}) has the shapes.")


def _classes(hint: Any) -> tuple[type, ...]:
    """The classes that an annotation allows; none where it holds anything that is not a class, or a number."""
    if get_origin(hint) in (Union, types.UnionType):
        parts = [_classes(part) for part in get_args(hint)]
        return tuple(cls for part in parts for cls in part) if all(parts) else ()
    cls = get_origin(hint) or hint
    return (cls,) if isinstance(cls, type) and cls not in (int, float, object, Any) else ()


def _described(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} of {str(value.dtype).removeprefix('torch.')}"
    return repr(value) if isinstance(value, int | float | str | None) else type(value).__name__
