"""Times: seconds, nanoseconds, dates or text as one int64 or float64 array.

Only the order of times matters to a sequence, so units do not change. Dates become int64 nanoseconds since 1970 (UTC if
no zone is given), truncated if they are finer. Integers stay integers, because float64 would merge close nanoseconds.
Fractions become float64; fractions that it would merge are refused.
"""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt

from diffusers_rec.core.errors import shown
from diffusers_rec.data.vocabulary import is_missing, plain

TimeArray = npt.NDArray[np.int64] | npt.NDArray[np.float64]
TimePoint = int | float | str | date | np.datetime64

_SECONDS, _NANOSECONDS = np.dtype("datetime64[s]"), np.dtype("datetime64[ns]")
_OUTSIDE = "lies outside the years 1678..2261"
_SHARE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*%\s*")
_DATE = re.compile(r"\d{4}(-.+)?")  # NumPy also accepts the word "now", and wraps a year of 14 digits


def as_times(times: npt.ArrayLike) -> TimeArray:
    """Times as numbers that sort.

    Args:
        times: Integers, floats, datetime64, datetime or date objects, or text of numbers or ISO dates, ``(n,)``.

    Returns:
        Numbers, int64 ``(n,)``, or float64 if the times are fractions.

    Raises:
        ValueError: a missing, infinite or unreadable time, one outside the years 1678..2261, or two that would become
            equal; the message has the row (from 1).
        TypeError: values of another kind, such as bool or timedelta.
    """
    values = np.asarray(times)
    if values.ndim != 1:
        raise ValueError(f"Expected times of shape (n,), got {values.shape}. Flatten them first.")
    if values.dtype.kind in "fM" and not hasattr(times, "dtype"):  # NumPy rounds ints among floats
        values = np.array(times, dtype=object)
    if values.dtype.kind == "O":
        values = _from_objects(values)
    if values.dtype.kind in "US":
        values = _from_text(values.astype(str))
    if values.dtype.kind == "M":
        return _nanoseconds(values)
    if values.dtype.kind == "f":
        _refuse(~np.isfinite(values), values, "is missing or infinite")
        return values.astype(np.float64)
    if values.dtype.kind in "iu":
        _refuse(values > np.iinfo(np.int64).max, values, "does not fit into int64")
        return values.astype(np.int64)
    raise _wrong_kind(values)


def time_point(name: str, point: TimePoint, times: TimeArray) -> np.int64 | np.float64:
    """A point in time as a number in the unit of ``times``.

    Args:
        name: Name of the point, for errors.
        point: A time, in any form that :func:`as_times` reads; or a share such as ``"80%"``, which means that 80 % of
            the times come before the point, fewer where several are equal to it.
        times: The times, ``(n,)``.

    Raises:
        ValueError: Neither a time of the log nor a share below 100 %.
    """
    share = _SHARE.fullmatch(point) if isinstance(point, str) else None
    try:
        if share is not None:
            return np.sort(times)[int(len(times) * float(share[1]) / 100)]
        found = as_times(np.array([point]))[0]
    except (TypeError, ValueError, IndexError):
        raise ValueError(
            f"{name} must be a time of the log, a date, or a share of the interactions from '0%' to below '100%', got "
            f"{shown(point)}. Times of the log lie in {times.min()}..{times.max()}."
        ) from None
    if not times.min() <= found <= times.max():
        raise ValueError(
            f"{name}: {shown(point)} is {found}, outside the times of the log, {times.min()}..{times.max()}. Use the "
            "unit of the log: a date is in nanoseconds since 1970, as in logs whose times are dates."
        )
    return found


def _from_objects(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    _refuse(_mask(values, is_missing), values, "is missing")
    kinds = set(map(type, values))
    if all(issubclass(kind, str) for kind in kinds):
        return np.array(values.tolist(), dtype=str)
    if all(issubclass(kind, date | np.datetime64) for kind in kinds):
        _refuse(_mask(values, lambda value: _outside(_utc(value))), values, _OUTSIDE)
        return np.array([_utc(value).astype(_NANOSECONDS) for value in values])
    if all(issubclass(kind, Real) and not issubclass(kind, bool) for kind in kinds):
        numbers = np.array(values.tolist())
        return numbers if numbers.dtype.kind in "iu" else _exactly(values, values.tolist())
    raise _wrong_kind(values)


def _utc(value: Any) -> Any:
    if hasattr(value, "to_datetime64"):  # a pandas Timestamp has nanoseconds
        return value.to_datetime64()
    if isinstance(value, datetime) and value.tzinfo is not None:
        value = value.astimezone(UTC).replace(tzinfo=None)
    return np.datetime64(value)


def _from_text(values: npt.NDArray[np.str_]) -> npt.NDArray[Any]:
    try:
        return values.astype(np.int64)
    except (ValueError, OverflowError):
        pass
    try:
        values.astype(np.float64)
    except ValueError:
        return _from_dates(np.char.strip(values))
    return _exactly(values, [Decimal(text) for text in values.tolist()])


def _exactly(values: npt.NDArray[Any], numbers: list[Any]) -> npt.NDArray[np.float64]:
    """Numbers as float64, refused if rounding merges two of them."""
    rounded = np.array([_rounded(number) for number in numbers])
    _refuse(~np.isfinite(rounded), values, "is missing or infinite")
    _refuse(np.abs(rounded) >= 2.0**63, values, "does not fit into int64")
    first: dict[float, Any] = {}
    merged = [first.setdefault(key, number) != number for key, number in zip(rounded.tolist(), numbers, strict=True)]
    _refuse(np.array(merged, bool), values, "differs from an earlier one by less than float64 can hold")
    return rounded


def _rounded(number: Any) -> float:
    try:
        return float(number)
    except OverflowError:
        return math.inf


def _from_dates(texts: npt.NDArray[np.str_]) -> npt.NDArray[np.datetime64]:
    _refuse(_mask(texts, lambda text: text.lower() in ("", "nat")), texts, "is missing")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy warns that it converts zones to UTC, as intended here
        if not all(map(_DATE.fullmatch, texts.tolist())) or not _parses(texts):
            bad = ~_mask(texts, lambda text: bool(_DATE.fullmatch(text)) and _parses(np.array(text)))
            _refuse(bad & ~_mask(texts, _is_number), texts, "is neither a number nor an ISO date")
            _refuse(bad, texts, "is a number among dates")
        nanoseconds = texts.astype(_NANOSECONDS)
        _refuse(nanoseconds.astype(_SECONDS) != texts.astype(_SECONDS), texts, _OUTSIDE)
    return nanoseconds


def _parses(texts: npt.NDArray[np.str_]) -> bool:
    try:
        texts.astype(_SECONDS)
    except ValueError:
        return False
    return True


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _nanoseconds(values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    _refuse(np.isnat(values), values, "is missing")
    _refuse(_outside(values), values, _OUTSIDE)
    return values.astype(_NANOSECONDS).astype(np.int64)


def _outside(values: Any) -> Any:
    """Whether nanoseconds overflow, which never happens for finer units: they span fewer years."""
    finer = np.promote_types(values.dtype, _NANOSECONDS) != _NANOSECONDS
    return (values.astype(_NANOSECONDS).astype(values.dtype) != values) & (not finer)


def _mask(values: npt.NDArray[Any], predicate: Callable[[Any], bool]) -> npt.NDArray[np.bool_]:
    return np.array([predicate(value) for value in values.tolist()], dtype=bool)


def _refuse(bad: npt.NDArray[np.bool_], values: npt.NDArray[Any], problem: str) -> None:
    if bad.any():
        row = int(np.argmax(bad))
        raise ValueError(
            f"Expected a finite time in every row, but the time in row {row + 1}, counted from 1, {problem} "
            f"({_shown(values[row])}; {bad.sum()} of {len(bad)} rows). "
            "Drop or correct these rows, or pass no times to use the order given."
        )


def _shown(value: Any) -> str:
    return str(value) if isinstance(value, np.datetime64) else repr(plain(value))


def _wrong_kind(values: npt.NDArray[Any]) -> TypeError:
    kinds = sorted({type(value).__name__ for value in values[:1000].tolist()})
    return TypeError(
        f"Expected times as numbers, datetimes or text, all of one kind, got {values.dtype} of {', '.join(kinds)}. "
        f"Convert them, for instance to seconds since 1970."
    )
