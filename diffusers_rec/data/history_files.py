"""Files of histories, read a few rows at a time."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffusers_rec.core.errors import require_extra
from diffusers_rec.data.histories import (
    HistoryColumns,
    Interaction,
    UserHistory,
    list_history,
    log_histories,
    missing_id,
    typed_histories,
)
from diffusers_rec.data.readers import MISSING, Format, dialect, format_of, read_interactions
from diffusers_rec.data.text import lines, table
from diffusers_rec.data.vocabulary import Vocabulary


@dataclass(frozen=True)
class HistoryFile:
    """A file of histories. Each iteration reads it from the start, a few rows at a time.

    Args:
        path: Path of a file.
        vocabulary: Item ids of the model; a text becomes the integer that they contain.
        columns: Names of the columns.
        format: See :func:`~diffusers_rec.read_interactions`.
        separator: See there.
        quote: See there.
        missing: See there.
        sort: Whether to read a log as a whole, because the rows of a user are not adjacent.
    """

    path: Path
    vocabulary: Vocabulary
    columns: HistoryColumns
    format: Format = "auto"
    separator: str | None = None
    quote: str | None = None
    missing: Collection[str] = MISSING
    sort: bool = False

    def __post_init__(self) -> None:
        if not self.path.is_file():
            raise FileNotFoundError(f"There is no file '{self.path}' (looked from {Path.cwd()}). A pipe is no file.")

    def __iter__(self) -> Iterator[UserHistory]:
        try:
            yield from self._parquet() if self._kind == "parquet" else self._text()
        except (TypeError, ValueError) as error:
            named = str(error).startswith(str(self.path))
            raise type(error)(str(error) if named else f"{self.path}: {error}") from error

    def user_type(self) -> Any:
        """Polars' type of the users."""
        pl = require_extra("polars", "data")
        return self._lazy().collect_schema()[self.columns.user] if self._kind == "parquet" else pl.String

    @property
    def _kind(self) -> Format:
        return format_of(self.path) if self.format == "auto" else self.format

    def _lazy(self) -> Any:
        return require_extra("polars", "data").scan_parquet(self.path, glob=False)

    def _parquet(self) -> Iterator[UserHistory]:
        nw, pl = require_extra("narwhals", "data"), require_extra("polars", "data")
        try:
            whole = self._lazy()
            chosen, count = self.columns.of(whole.collect_schema().names()), whole.select(pl.len()).collect().item()
        except pl.exceptions.PolarsError as error:
            raise ValueError(f"expected a parquet file, but {str(error).splitlines()[0]}. Pass format=.") from None
        if self.sort and "item" in chosen:
            return self._sorted()
        some = whole.select(list(dict.fromkeys(chosen.values())))
        return typed_histories(
            lambda start, stop: nw.from_native(some.slice(start, stop - start).collect()), count, chosen
        )

    def _text(self) -> Iterator[UserHistory]:
        known = {str(raw): raw for raw in self.vocabulary.ids if isinstance(raw, str | int)}
        if self._kind == "sequences":
            return self._lines(known)
        rows: Iterator[tuple[int, list[str]]]
        if self._kind == "movielens":
            header, columns = ["user", "item", "rating", "time"], HistoryColumns(time=self.columns.time and "time")
            rows = lines(self.path, self.separator or "::")
        else:
            rows, columns = enumerate(table(self.path, *dialect(self._kind, self.separator, self.quote))), self.columns
            header = next(rows)[1]
        chosen = {role: header.index(name) for role, name in columns.of(header).items()}
        if "history" in chosen:
            return self._lists(rows, chosen)
        if self.sort:
            return self._sorted(known)
        return log_histories(self._interactions(rows, len(header), chosen, known), timed="time" in chosen)

    def _interactions(
        self, rows: Iterable[tuple[int, list[str]]], width: int, places: Mapping[str, int], known: Mapping[str, Any]
    ) -> Iterator[Interaction]:
        missing = frozenset(("", *self.missing))
        user_place, item_place, time_place = places["user"], places["item"], places.get("time", 0)
        for number, row in rows:
            if len(row) != width:
                raise ValueError(f"row {number}, counted from 1: expected {width} fields, got {len(row)}.")
            user, item = row[user_place], row[item_place]
            if user.strip() in missing or item.strip() in missing:
                raise missing_id("user", number, user) if user.strip() in missing else missing_id("item", number, item)
            yield user, known.get(item, item), row[time_place]

    def _lists(self, rows: Iterable[tuple[int, list[str]]], places: Mapping[str, int]) -> Iterator[UserHistory]:
        missing = frozenset(("", *self.missing))
        for number, row in rows:
            if row[places["user"]].strip() in missing:
                raise missing_id("user", number, row[places["user"]])
            yield list_history({role: row[place] for role, place in places.items()})

    def _lines(self, known: Mapping[str, Any]) -> Iterator[UserHistory]:
        missing = frozenset(("", *self.missing))
        for number, (user, *items) in lines(self.path, self.separator):
            if not missing.isdisjoint((user, *items)):
                raise ValueError(f"line {number} has a missing id. Drop it, or pass missing=() if it is an id.")
            yield UserHistory(user, [known.get(item, item) for item in items])

    def _sorted(self, known: Mapping[str, Any] | None = None) -> Iterator[UserHistory]:
        """The whole log, its ids as in the file."""
        log = read_interactions(
            self.path, format=self._kind, user=str(self.columns.user), item=str(self.columns.item),
            time=None if self.columns.time is None else str(self.columns.time), separator=self.separator,
            quote=self.quote, missing=self.missing,
        ).sequences(times=self.columns.time is not None)  # fmt: skip
        for place, user in enumerate(log.users):
            items = log.vocabulary.decode(log[place])
            times = None if log.times is None else log.times[log.offsets[place] : log.offsets[place + 1]]
            if known is None:
                yield UserHistory(user, items, times)
            else:
                yield UserHistory(str(user), [known.get(str(item), item) for item in items], times)
