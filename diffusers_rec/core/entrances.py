"""Decorators of public functions that check the class of each argument and add the arguments to error messages.

The check takes about two microseconds. Both are skipped while torch traces a function.
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

_UNEXPLAINED = TypeError, ValueError, RuntimeError, LookupError, AttributeError, ArithmeticError, AssertionError
"""Errors of Python, torch and NumPy for arguments that do not fit; :func:`_is_deliberate` excludes our own."""

_LEFT_TO_FUNCTIONS = {
    int, float, bool, bytes, list, tuple, dict, set, object, Any,
    Iterable, Sequence, Mapping, Collection, PathLike,
}  # fmt: skip
"""Annotations of numbers and containers, which the functions check themselves, with bounds and better messages."""


def checked(function: Callable[P, T]) -> Callable[P, T]:
    """Reject arguments that are not of the class that their annotation names.

    The function itself checks numbers and containers. The attribute ``made_by`` of a class names what creates its
    objects, for the message.

    Raises:
        TypeError: An argument is of another class.
    """
    return _guarded(function, ())


def explained(function: Callable[P, T], contract: Callable[..., Any] | None = None) -> Callable[P, T]:
    """:func:`checked`; in addition, an error within the function is reported with the arguments that caused it.

    Errors that this library or a third party's component raises deliberately stay as they are.

    Args:
        function: Function to decorate.
        contract: Method that the function implements. Its signature is part of the message if there are too many or too
            few arguments.

    Raises:
        TypeError: An argument is of another class.
        ValueError: In place of an error of Python, torch or NumPy that does not name the arguments.
    """
    return _guarded(function, _UNEXPLAINED, contract)


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


def _guarded(
    function: Callable[P, T],
    unexplained: tuple[type[Exception], ...],
    contract: Callable[..., Any] | None = None,
) -> Callable[P, T]:
    parameters = inspect.signature(function).parameters
    names = list(parameters)
    where = function.__qualname__.removesuffix(".__init__")
    constructs = function.__name__ == "__init__"

    known: list[dict[str, tuple[type, ...]]] = []  # no functools.cache, which torch.compile cannot trace past

    def expected() -> dict[str, tuple[type, ...]]:  # at the first call, when every annotation can be resolved
        if not known:
            try:
                hints = get_type_hints(function)
            except Exception:  # a third party's annotations may name what is imported for type checkers only
                hints = {}
            # Whole at once, because another thread may read it.
            known.append({name: _classes(hints.get(name)) or (object,) for name in names})
        return known[0]

    def check(given: Mapping[str, Any], classes: Mapping[str, tuple[type, ...]]) -> None:
        for name, value in given.items():
            if not isinstance(value, classes.get(name, object)) and value is not parameters[name].default:
                raise wrong_class(f"{where}: {name}", value, classes[name])

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        if torch.compiler.is_compiling():
            return function(*args, **kwargs)
        classes = expected()
        for value, allowed in zip(args, classes.values()):  # noqa: B905 - some are given by name
            if not isinstance(value, allowed):
                check(dict(zip(names, args, strict=False)), classes)
        for name, value in kwargs.items():
            if not isinstance(value, classes.get(name, object)):
                check(kwargs, classes)
        try:
            return function(*args, **kwargs)
        except unexplained as error:
            if _is_deliberate(error) or (not constructs and _is_resource_failure(error)):
                raise
            called = error.__traceback__ is not None and error.__traceback__.tb_next is not None
            fix = (
                f"help({where}) has the shapes" if called or not contract else f"The contract is {_signature(contract)}"
            )
            raise _explanation(where, {**dict(zip(names, args, strict=False)), **kwargs}, error, fix) from error

    return wrapper


def _is_deliberate(error: Exception) -> bool:
    """Whether code other than torch and NumPy raised the error deliberately."""
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


def _is_resource_failure(error: Exception) -> bool:
    """Whether memory or a device failed. The sizes given to a constructor are the cause of its own failures."""
    marks = "can't allocate memory", "out of memory", "CUDA error"
    return isinstance(error, RuntimeError) and any(mark in str(error) for mark in marks)


def _signature(method: Callable[..., Any]) -> str:
    """Signature of a method without annotations."""
    bare = inspect.Parameter.empty
    parameters = list(inspect.signature(method).parameters.values())[1:]
    return method.__qualname__ + str(inspect.Signature([each.replace(annotation=bare) for each in parameters]))


def _explanation(where: str, given: Mapping[str, Any], error: Exception, fix: str) -> Exception:
    received = ", ".join(f"{name} {_described(value)}" for name, value in given.items() if name != "self")
    if _is_resource_failure(error):
        return ValueError(f"{where}: these sizes need more memory than there is; make them smaller. Got {received}.")
    reason = (str(error) or type(error).__name__).splitlines()[0].rstrip(".")
    kind = TypeError if isinstance(error, TypeError) else ValueError
    return kind(f"{where}: the arguments do not fit ({reason}). Got {received}. {fix}.")


def _classes(hint: Any) -> tuple[type, ...]:
    """Classes that an annotation allows; none if the function itself checks any of them."""
    if get_origin(hint) in (Union, types.UnionType):
        parts = [_classes(part) for part in get_args(hint)]
        return tuple(cls for part in parts for cls in part) if all(parts) else ()
    cls = get_origin(hint) or hint
    known = isinstance(cls, type) and cls not in _LEFT_TO_FUNCTIONS and not getattr(cls, "_is_protocol", False)
    return (cls,) if known else ()


def _described(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} of {str(value.dtype).removeprefix('torch.')}"
    return shown(value) if isinstance(value, int | float | str | None) else type(value).__name__
