"""Times: seconds, nanoseconds, dates or text come in; one int64 or float64 array goes out.

Only the order of times matters to a sequence, so units are kept as they come; whatever is a date becomes int64
nanoseconds since 1970 (UTC where no zone is given). Integers stay integers: float64 would merge close nanoseconds.
"""

from __future__ import annotations

import warnings
from datetime import date, datetime, timezone
from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt

from diffusers_rec.data.vocabulary import is_missing, plain

TimeArray = npt.NDArray[np.int64] | npt.NDArray[np.float64]


def as_times(times: npt.ArrayLike) -> TimeArray:
    """Times as numbers that sort.

    Args:
        times: ``(n,)`` integers, floats, datetime64, datetime or date objects, or text that holds numbers or ISO dates.

    Returns:
        int64 ``(n,)``, or float64 where the times are fractions.

    Raises:
        ValueError: a missing, infinite or unreadable time, with its row (from 1).
        TypeError: anything that is no time, such as bool or timedelta.
    """
    values = np.asarray(times)
    if values.ndim != 1:
        raise ValueError(f"Expected times of shape (n,), got {values.shape}. Flatten them first.")
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
    raise _no_times(values)


def _from_objects(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    _refuse(np.fromiter(map(is_missing, values), bool, len(values)), values, "is missing")
    kinds = set(map(type, values))
    if all(issubclass(kind, str) for kind in kinds):
        return np.array(values.tolist(), dtype=str)
    if all(issubclass(kind, date | np.datetime64) for kind in kinds):
        return np.array([_utc(value) for value in values])
    if all(issubclass(kind, Real) and not issubclass(kind, bool) for kind in kinds):
        _refuse(np.abs(values) > np.iinfo(np.int64).max, values, "does not fit into int64")
        numbers = np.array(values.tolist())
        return numbers if numbers.dtype.kind != "O" else numbers.astype(np.float64)
    raise _no_times(values)


def _utc(value: Any) -> Any:
    if hasattr(value, "to_datetime64"):  # a pandas Timestamp knows its nanoseconds
        return value.to_datetime64()
    if isinstance(value, datetime) and value.tzinfo is not None:
        value = value.astimezone(timezone.utc).replace(tzinfo=None)
    return np.datetime64(value)


def _from_text(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    for dtype in (np.int64, np.float64):
        try:
            return values.astype(dtype)
        except (ValueError, OverflowError):
            continue
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy warns that it turns zones into UTC, which is what is meant here
        try:
            return np.array(values, dtype="datetime64")
        except ValueError:
            _refuse(
                ~np.fromiter(map(_is_date, values), bool, len(values)), values, "is neither a number nor an ISO date"
            )
            raise


def _is_date(text: str) -> bool:
    try:
        np.datetime64(text)
    except ValueError:
        return False
    return True


def _nanoseconds(values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    _refuse(np.isnat(values), values, "is missing")
    nanoseconds = values.astype("datetime64[ns]")
    _refuse(nanoseconds.astype(values.dtype) != values, values, "lies outside the years 1678..2261")
    return nanoseconds.astype(np.int64)


def _refuse(bad: npt.NDArray[np.bool_], values: npt.NDArray[Any], complaint: str) -> None:
    if bad.any():
        row = int(np.argmax(bad))
        raise ValueError(
            f"Expected a finite time in every row, but the time in row {row + 1}, counted from 1, {complaint} "
            f"({_shown(values[row])}; {bad.sum()} of {len(bad)} rows). "
            "Drop or mend these rows, or pass no times to keep the order given."
        )


def _shown(value: Any) -> str:
    return str(value) if isinstance(value, np.datetime64) else repr(plain(value))


def _no_times(values: npt.NDArray[Any]) -> TypeError:
    kinds = sorted({type(value).__name__ for value in values[:1000].tolist()})
    return TypeError(
        f"Expected times as numbers, datetimes or text, all of one kind, got {values.dtype} of {', '.join(kinds)}. "
        f"Convert them, for instance to seconds since 1970."
    )
