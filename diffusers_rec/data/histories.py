"""Histories of users from files and frames of any size, one user at a time.

Two forms are read, and the columns decide which one it is:

=================  =====================================================  ==========================================
form               columns                                                a row
=================  =====================================================  ==========================================
a log              user, item, and a time unless rows are oldest first    one interaction; those of a user adjacent
one row a user     user, and a list of items, oldest first; lists of      one user
                   times, candidates and items to leave out if known
=================  =====================================================  ==========================================

A list is one of a Parquet file or a frame, or a JSON list in a text. A text file with one user a line, as
:func:`~diffusers_rec.read_interactions` reads it, is of the second form.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, groupby, repeat
from operator import itemgetter
from typing import Any

import numpy as np

from diffusers_rec.core.errors import shown
from diffusers_rec.data.times import TimeArray, as_times
from diffusers_rec.data.vocabulary import factorize, is_missing, listed

ROWS_AT_ONCE, LISTS_AT_ONCE = 65_536, 4_096
"""Rows of a Parquet file or a frame that become Python objects together, in either form."""

Interaction = tuple[Hashable, Hashable, Any]  # user, item, time or None


@dataclass(frozen=True, eq=False)
class UserHistory:
    """What is known of one user.

    Attributes:
        user: Raw id.
        items: Raw item ids, oldest first.
        times: Time of each item; None where times are not known.
        candidates: Raw ids of the items to choose among; None where no column gives them.
        exclude: Raw ids of the items to leave out; None where no column gives them.
    """

    user: Hashable
    items: list[Any]
    times: TimeArray | None = None
    candidates: list[Any] | None = None
    exclude: list[Any] | None = None


@dataclass(frozen=True)
class HistoryColumns:
    """Names of the columns.

    Attributes:
        user: Users.
        item: Items of a log.
        time: Times of a log, or lists of times; None if rows are ordered oldest first.
        history: Lists of items.
        candidates: Lists of the items to choose among; None without such a column.
        exclude: Lists of the items to leave out; None without such a column.
    """

    user: str | int = "user"
    item: str | int = "item"
    time: str | int | None = "time"
    history: str | int = "history"
    candidates: str | int | None = None
    exclude: str | int | None = None

    def of(self, present: Sequence[Any]) -> dict[str, Any]:
        """The columns to read, by their meaning: with ``history`` for one row a user, with ``item`` for a log.

        Raises:
            ValueError: Missing columns, those of both forms, or lists beside a log.
        """
        given = {role: name for role, name in vars(self).items() if name is not None}
        log: dict[str, Any] = {role: given[role] for role in ("user", "item", "time") if role in given}
        among = "user", "history", "candidates", "exclude"
        lists: dict[str, Any] = {role: given[role] for role in among if role in given}
        if self.history in present and self.item in present:
            raise ValueError(
                f"The table has {self.item!r}, the items of a log, and {self.history!r}, the lists of users. Rename "
                "the column that is not meant."
            )
        chosen = lists if self.history in present else log
        if any(name not in present for name in chosen.values()):
            raise ValueError(
                f"Expected the columns {list(log.values())}, one interaction a row, or {list(lists.values())}, one "
                f"user a row, but the table has {list(present)}. Name them with user=, item= and time= (time=None if "
                "rows are ordered oldest first), or with user= and history=."
            )
        if chosen is log and len(lists) > 2:
            raise ValueError(
                f"Candidates and exclusions in columns need one row a user, with the columns {list(lists.values())}; "
                "this table has one interaction a row."
            )
        return lists | {"time": self.time} if chosen is lists and self.time in present else chosen


def frame_histories(frame: Any, columns: HistoryColumns) -> Iterator[UserHistory]:
    """Histories of a table in memory. The rows of a log may have any order; users come as they first appear.

    Args:
        frame: Data frame of narwhals.
        columns: Names of the columns.
    """
    chosen = columns.of(frame.columns)
    if "item" in chosen:
        codes, _ = factorize(frame.get_column(columns.user).to_list(), "user")
        if (np.diff(codes) < 0).any():
            frame = frame[np.argsort(codes, kind="stable")]
    return typed_histories(lambda start, stop: frame[start:stop], len(frame), chosen)


def typed_histories(take: Callable[[int, int], Any], count: int, chosen: Mapping[str, Any]) -> Iterator[UserHistory]:
    """Histories of a table whose rows ``take(start, stop)`` gives as a frame of narwhals."""
    if not count:
        raise ValueError("Expected at least one row, but the table is empty.")
    size = ROWS_AT_ONCE if "item" in chosen else LISTS_AT_ONCE

    def slices() -> Iterator[list[list[Any]]]:
        for start in range(0, count, size):
            some = take(start, min(start + size, count))
            columns = {role: some.get_column(name) for role, name in chosen.items()}
            for role in ("user", "item"):
                if role in chosen:
                    _refuse_missing(role, columns[role], start)
            yield [column.to_list() for column in columns.values()]

    if "history" in chosen:
        rows = chain.from_iterable(zip(*columns, strict=True) for columns in slices())
        return (list_history(dict(zip(chosen, row, strict=True))) for row in rows)
    timed = "time" in chosen
    rows = chain.from_iterable(
        zip(*columns, strict=True) if timed else zip(*columns, repeat(None), strict=False) for columns in slices()
    )
    return log_histories(rows, timed=timed)


def _refuse_missing(role: str, column: Any, start: int) -> None:
    missing = column.is_null() | column.is_nan() if column.dtype.is_float() else column.is_null()
    if missing.any():
        raise missing_id(role, start + missing.to_list().index(True) + 1, None)


def log_histories(rows: Iterable[Interaction], *, timed: bool) -> Iterator[UserHistory]:
    """Adjacent rows of each user, oldest first.

    Args:
        rows: Users, items, and the times by which those of a user are sorted.
        timed: Whether there are times; rows are oldest first otherwise.

    Raises:
        ValueError: The rows of a user are in several places, or times that cannot be read.
    """
    earlier = _Digests()
    for user, group in groupby(rows, key=itemgetter(0)):
        if not earlier.add(user):
            raise ValueError(
                f"the rows of user {shown(user)} are in several places, but the file is read a user at a time. Sort it "
                "by user, or pass sort=True, which reads the whole log into memory."
            )
        _, items, given = zip(*group, strict=True)
        if not timed:
            yield UserHistory(user, list(items))
            continue
        times = _times(user, list(given))
        order = np.argsort(times, kind="stable")
        yield UserHistory(user, [items[place] for place in order.tolist()], times[order])


class _Digests:
    """The users so far, 8 bytes each."""

    def __init__(self) -> None:
        self._old, self._new = np.empty(0, np.int64), set[int]()

    def add(self, user: Hashable) -> bool:
        """Whether the user is new."""
        digest = hash(repr(user))  # the integers -1 and -2 have one hash
        place = int(self._old.searchsorted(digest))
        if digest in self._new or (place < len(self._old) and self._old[place] == digest):
            return False
        self._new.add(digest)
        if len(self._new) > ROWS_AT_ONCE:
            recent = np.fromiter(self._new, np.int64, len(self._new))
            self._old, self._new = np.sort(np.concatenate([self._old, recent]), kind="stable"), set()
        return True


def list_history(row: Mapping[str, Any]) -> UserHistory:
    """The history of a row of lists, by their meaning.

    Raises:
        ValueError: Lists that are none, or times that are not one an item.
    """
    user = row["user"]
    lists = {role: _list(role, user, cell) for role, cell in row.items() if role != "user"}
    items, times = lists["history"] or [], None
    if "time" in row:
        given = lists["time"] or []
        if len(given) != len(items):
            raise ValueError(f"user {shown(user)}: expected one time an item, {len(items)}, got {len(given)}.")
        times = _times(user, given) if given else np.empty(0, np.int64)
    if "candidates" in lists and lists["candidates"] is None:
        raise ValueError(f"user {shown(user)} has no list of candidates. Give one, or leave the column out.")
    exclude = (lists["exclude"] or []) if "exclude" in lists else None
    return UserHistory(user, items, times, lists.get("candidates"), exclude)


def _list(role: str, user: Hashable, cell: Any) -> list[Any] | None:
    """A list, from text as JSON; None for a missing value."""
    found = cell
    if isinstance(cell, str):
        if not cell.strip():
            return None
        try:
            found = json.loads(cell)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, list) or any(isinstance(each, bool | list | dict | None) for each in found):
            raise ValueError(
                f"the {role} of user {shown(user)} must be a list, in text a JSON list such as "
                f'["a", "b"] or [1, 2], got {shown(cell)}.'
            )
    if not isinstance(found, Iterable):
        if is_missing(found):
            return None
        raise ValueError(f"the {role} of user {shown(user)} must be a list, got {shown(found)}.")
    return list(listed(found, role))


def _times(user: Hashable, given: list[Any]) -> TimeArray:
    try:
        return as_times(given)
    except (TypeError, ValueError) as error:
        raise type(error)(f"the times of user {shown(user)}: {error}") from error


def missing_id(role: str, number: int, value: Any) -> ValueError:
    """The error of a row without a user or an item."""
    return ValueError(f"the {role} in row {number}, counted from 1, is missing ({shown(value)}). Drop the row.")
