"""Checks whose errors say what was expected, what came, and how to mend it.

Every check returns the value it was given, so that a constructor can check and assign in one line.
"""

from __future__ import annotations

import importlib
import math
import operator
from collections.abc import Collection
from types import ModuleType
from typing import Any, SupportsFloat, TypeVar

T = TypeVar("T")


def check_int(name: str, value: Any, *, minimum: int | None = None) -> int:
    """Return ``value`` as an ``int``; floats, booleans and anything below ``minimum`` are refused."""
    bound = "" if minimum is None else f" >= {minimum}"
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise TypeError(f"{name} must be an integer{bound}, got {value!r} ({type(value).__name__}).")
    if minimum is not None and number < minimum:
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
    if isinstance(value, (str, bool)) or not isinstance(value, SupportsFloat):
        raise TypeError(f"{name} must be {expected}, got {value!r} ({type(value).__name__}).")
    number = float(value)
    if not math.isfinite(number) or not (above < number < below and minimum <= number <= maximum):
        raise ValueError(f"{name} must be {expected}, got {value!r}.")
    return number


def check_choice(name: str, value: T, choices: Collection[T]) -> T:
    """Return ``value`` when it is one of ``choices``."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(repr(choice) for choice in choices)}, got {value!r}.")
    return value


def check_bool(name: str, value: Any) -> bool:
    """Return ``value`` when it is a ``bool``; 0, 1 and "false" are refused, for they are usually mistakes."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r} ({type(value).__name__}).")
    return value


def require_extra(module: str, extra: str) -> ModuleType:
    """Import an optional dependency, or say which extra brings it.

    Raises:
        ImportError: the module is not installed; the message holds the ``pip install`` line that mends it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise ImportError(
            f"This needs {error.name}, which is not installed. Mend it with: pip install 'diffusers-rec[{extra}]'"
        ) from error
