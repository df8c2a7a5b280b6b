"""Checks of arguments; each error contains the expected value, the actual value and a fix.

Every check returns its value, so that a constructor can check and assign in one line.
"""

from __future__ import annotations

import importlib
import inspect
import math
import operator
import types
import warnings
from collections.abc import Collection
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
_SMALLEST, _LARGEST = -(2**63), 2**63 - 1


def check_class(name: str, value: T, *classes: type) -> T:
    """Return ``value`` if it is of one of ``classes``; their attribute ``made_by`` is part of the message."""
    if not isinstance(value, classes):
        raise wrong_class(name, value, classes)
    return value


def wrong_class(name: str, value: object, classes: tuple[type, ...]) -> TypeError:
    """The error of :func:`check_class`."""
    names = " or ".join(dict.fromkeys("None" if cls is types.NoneType else cls.__name__ for cls in classes))
    made_by = next((f" Use {cls.made_by}." for cls in classes if hasattr(cls, "made_by")), "")
    return TypeError(f"{name} must be {names}, got {type(value).__name__}.{made_by}")


def shown(value: object) -> str:
    """Text of any value for a message, at most one line."""
    try:
        text = repr(value)
    except Exception:  # an integer of thousands of digits, or a third party's class
        return f"a {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:77]}..."


def check_int(name: str, value: Any, *, minimum: int | None = None, maximum: int | None = None) -> int:
    """Return ``value`` as an ``int``; floats, booleans and integers outside the bounds or 64 bits are errors."""
    low, high = ("" if minimum is None else f" >= {minimum}"), ("" if maximum is None else f" <= {maximum}")
    bound = f"{low}{' and' * bool(low and high)}{high}"
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except (TypeError, RuntimeError):
        number = None
    if number is None:
        raise TypeError(f"{name} must be an integer{bound}, got {shown(value)} ({type(value).__name__}).")
    if not _SMALLEST <= number <= _LARGEST:
        raise ValueError(f"{name} must be an integer{bound} of 64 bits, got {shown(number)}.")
    if (minimum is not None and number < minimum) or (maximum is not None and number > maximum):
        raise ValueError(f"{name} must be an integer{bound}, got {number}.")
    return number


def check_float(
    name: str,
    value: Any,
    *,
    above: float = -math.inf,
    minimum: float = -math.inf,
    maximum: float = math.inf,
    below: float = math.inf,
) -> float:
    """Return ``value`` as a finite ``float`` with ``above < value < below`` and ``minimum <= value <= maximum``."""
    bounds = [
        *([f"above {above:g}"] if above > -math.inf else []),
        *([f"at least {minimum:g}"] if minimum > -math.inf else []),
        *([f"at most {maximum:g}"] if maximum < math.inf else []),
        *([f"below {below:g}"] if below < math.inf else []),
    ]
    expected = " ".join(["a finite number", " and ".join(bounds)]).rstrip()
    try:
        number = None if isinstance(value, (str, bytes, bool, type)) else float(value)
    except OverflowError:
        number = math.inf
    except (TypeError, ValueError, RuntimeError):  # an array of several numbers, for instance
        number = None
    if number is None:
        raise TypeError(f"{name} must be {expected}, got {shown(value)} ({type(value).__name__}).")
    if not math.isfinite(number) or not (above < number < below and minimum <= number <= maximum):
        raise ValueError(f"{name} must be {expected}, got {shown(value)}.")
    return number


def check_choice(name: str, value: T, choices: Collection[T]) -> T:
    """Return ``value`` if it is one of ``choices``."""
    if not any(value is choice or (isinstance(value, type(choice)) and value == choice) for choice in choices):
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {shown(value)}.")
    return value


def check_bool(name: str, value: Any) -> bool:
    """Return ``value`` if it is a ``bool``; 0, 1 and "false" are errors, because they are usually mistakes."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {shown(value)} ({type(value).__name__}).")
    return value


def check_path(name: str, value: str | PathLike[str]) -> Path:
    """Return ``value`` as a ``Path``; an empty path, which would mean the working folder, is an error."""
    if not isinstance(value, str | PathLike):
        raise TypeError(f"{name} must be a path, got {value!r} ({type(value).__name__}).")
    if not str(value).strip() or "\0" in str(value):
        raise ValueError(f"{name} must be a path, got {str(value)!r}. The working folder is '.'.")
    return Path(value)


def check_same(left: str, got: object, right: str, expected: object) -> None:
    """Require that two parts agree.

    Raises:
        ValueError: ``got``, which the message calls ``left``, is not ``expected``, which it calls ``right``.
    """
    if got != expected:
        raise ValueError(f"The parts do not fit: {left} is {got}, {right} is {expected}.")


def warn_caller(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn with the line of the caller that is outside the library."""
    passed = __name__.partition(".")[0], "torch", "abc"  # abc: where a class is created
    frame, level = inspect.currentframe(), 1
    while frame and frame.f_globals.get("__name__", "").partition(".")[0] in passed:
        frame, level = frame.f_back, level + 1
    warnings.warn(message, category, stacklevel=level)


def require_extra(module: str, extra: str) -> types.ModuleType:
    """Import an optional dependency.

    Raises:
        ImportError: The module is not installed; the message contains the ``pip install`` line of its extra.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise ImportError(
            f"This needs {error.name}, which is not installed. Install it with: pip install 'diffusers-rec[{extra}]'"
        ) from error
