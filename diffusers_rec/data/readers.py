"""Readers: interaction logs from files and data frames.

======================  ===========================================================  =========================
format                  a line                                                       suffix
======================  ===========================================================  =========================
``csv``, ``tsv``        one interaction; the header names the columns                ``.csv``, ``.tsv``
``parquet``             (the same, typed)                                            ``.parquet``
``movielens``           ``user::item::rating::time``, no header                      ``.dat``
``sequences``           a user, then that user's items, oldest first                 ``.txt``
======================  ===========================================================  =========================
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from diffusers_rec.data.interactions import Interactions
from diffusers_rec.data.sequences import places_within
from diffusers_rec.data.vocabulary import FirstSeen, Vocabulary

if TYPE_CHECKING:
    from os import PathLike

Format = Literal["auto", "csv", "tsv", "parquet", "movielens", "sequences"]

_SUFFIXES: dict[str, Format] = {".csv": "csv", ".tsv": "tsv", ".parquet": "parquet", ".dat": "movielens"}
_SEPARATORS: dict[Format, str] = {"csv": ",", "tsv": "\t", "movielens": "::"}


def read_interactions(
    path: str | PathLike[str],
    *,
    format: Format = "auto",
    user: str = "user",
    item: str = "item",
    time: str | None = "time",
    separator: str | None = None,
) -> Interactions:
    """Reads a log from a file.

    In text files ids are int where every id of the column is a plain integer (``42``; ``007`` stays text), else str.

    Args:
        path: the file, text in UTF-8.
        format: one of the table above; "auto" goes by the suffix, and takes a ``.txt`` whose first line holds
            ``::`` for movielens.
        user: column of the users (csv, tsv, parquet).
        item: column of the items (csv, tsv, parquet).
        time: column of the times (csv, tsv, parquet); None means that rows come oldest first.
        separator: what divides a line, if not the format's own: ``,``, tab, ``::``, or any white space.

    Raises:
        FileNotFoundError: no such file.
        IsADirectoryError: a folder.
        ImportError: csv, tsv or parquet without the ``data`` extra.
        ValueError: an unknown format, an empty file, a missing column or value, or a broken line, with its number.
    """
    path = Path(path)
    if path.is_dir():
        raise IsADirectoryError(f"'{path}' is a folder. Name the file in it.")
    if not path.is_file():
        raise FileNotFoundError(f"There is no file '{path}' (looked from {Path.cwd()}).")
    kind = _by_suffix(path) if format == "auto" else format
    if kind == "movielens":
        return _read_movielens(path, separator or _SEPARATORS[kind])
    if kind == "sequences":
        return _read_sequences(path, separator)
    if kind in ("csv", "tsv", "parquet"):
        return _read_table(path, kind, separator, {"user": user, "item": item, "time": time})
    raise ValueError(
        f"read_interactions: unknown format {kind!r}. Use 'auto', 'csv', 'tsv', 'parquet', 'movielens' or 'sequences'."
    )


def from_frame(frame: Any, *, user: str = "user", item: str = "item", time: str | None = "time") -> Interactions:
    """A log from a pandas, Polars or PyArrow table, or anything else that narwhals knows.

    Args:
        frame: one interaction a row.
        user: column of the users.
        item: column of the items.
        time: column of the times; None means that rows come oldest first.

    Raises:
        ImportError: the ``data`` extra is not installed.
        ValueError: a missing column or value, or no rows.
        TypeError: not a data frame, or times that are none.
    """
    nw = _extra("narwhals")
    try:
        table = nw.from_native(frame).lazy()
    except (TypeError, AttributeError):
        raise TypeError(
            f"from_frame: expected a data frame (pandas, Polars, PyArrow), got {type(frame).__name__}. "
            f"For plain arrays use Interactions.from_arrays."
        ) from None
    columns = [user, item] if time is None else [user, item, time]
    present = table.collect_schema().names()
    missing = [column for column in columns if column not in present]
    if missing:
        raise ValueError(
            f"Expected the columns {columns}, but {missing} are missing; the table has {present}. "
            f"Name them with user=, item= and time= (time=None if rows come oldest first)."
        )
    table = table.select(list(dict.fromkeys(columns))).collect()
    times = None if time is None else _frame_times(table[time])
    return Interactions.from_arrays(table[user].to_list(), table[item].to_list(), times)


def _frame_times(column: Any) -> Any:
    if getattr(column.dtype, "time_zone", None):
        column = column.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
    return column.to_numpy()


def _read_table(path: Path, kind: Format, separator: str | None, columns: dict[str, Any]) -> Interactions:
    nw, pl = _extra("narwhals"), _extra("polars")
    try:
        if kind == "parquet":
            return from_frame(pl.scan_parquet(path, glob=False), **columns)
        divider = separator or _SEPARATORS[kind]
        text = pl.scan_csv(path, separator=divider, infer_schema_length=0, glob=False)  # every column as str
        return _with_integer_ids(from_frame(text, **columns))
    except (nw.exceptions.NarwhalsError, pl.exceptions.PolarsError) as error:
        raise ValueError(
            f"{path}: expected a {kind} file with at least one row and rows of equal width, "
            f"but {str(error).splitlines()[0]}. Check the file, or pass format= and separator=."
        ) from None
    except (TypeError, ValueError) as error:
        raise type(error)(f"{path}: {error}") from error


def _by_suffix(path: Path) -> Format:
    if path.suffix == ".txt":
        return "movielens" if "::" in next(_lines(path), (0, ""))[1] else "sequences"
    if path.suffix not in _SUFFIXES:
        raise ValueError(
            f"read_interactions: cannot tell the format of {path.name} from its suffix {path.suffix!r}; "
            f"known are {', '.join(_SUFFIXES)} and .txt. Pass format=."
        )
    return _SUFFIXES[path.suffix]


def _read_movielens(path: Path, separator: str) -> Interactions:
    users, items, times = array("q"), array("q"), array("q")
    user_index, item_index = FirstSeen(), FirstSeen()
    for number, line in _lines(path):
        fields = line.split(separator)
        if len(fields) != 4 or not all(fields) or not fields[3].strip().isdecimal():
            raise ValueError(
                f"{path}, line {number}: expected user{separator}item{separator}rating{separator}time, got {line!r}."
            )
        users.append(user_index[fields[0]])
        items.append(item_index[fields[1]])
        times.append(int(fields[3]))
    _some(path, len(users))
    user_codes, item_codes, seconds = (np.array(column, dtype=np.int64) for column in (users, items, times))
    log = Interactions(user_codes, item_codes, seconds, Vocabulary(user_index), Vocabulary(item_index))
    return _with_integer_ids(log)


def _read_sequences(path: Path, separator: str | None) -> Interactions:
    items, counts = array("q"), array("q")
    user_index, item_index = FirstSeen(), FirstSeen()
    for number, line in _lines(path):
        user, *row = line.split(separator)
        if not row:
            raise ValueError(f"{path}, line {number}: user {user!r} has no items. Expected the user, then the items.")
        if user in user_index:
            raise ValueError(f"{path}, line {number}: user {user!r} had a line before. Expected one line a user.")
        counts.append(len(row))
        items.extend(map(item_index.__getitem__, row))
        user_index[user]
    _some(path, len(items))
    lengths = np.array(counts, dtype=np.int64)
    users = np.repeat(np.arange(len(lengths)), lengths)
    codes = np.array(items, dtype=np.int64)
    log = Interactions(users, codes, places_within(lengths), Vocabulary(user_index), Vocabulary(item_index))
    return _with_integer_ids(log)


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Lines that are not blank, with their number from 1."""
    with path.open(encoding="utf-8-sig") as file:
        try:
            yield from ((number, line.strip()) for number, line in enumerate(file, 1) if not line.isspace())
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: expected text in UTF-8; {error}. Convert it, for instance with iconv.") from None


def _some(path: Path, num_rows: int) -> None:
    if num_rows == 0:
        raise ValueError(f"{path}: expected at least one interaction, but the file is empty.")


def _with_integer_ids(log: Interactions) -> Interactions:
    users, items = _integers(log.user_vocabulary), _integers(log.item_vocabulary)
    return Interactions(log.users, log.items, log.times, users, items)


def _integers(vocabulary: Vocabulary) -> Vocabulary:
    try:
        numbers = [int(str(raw_id)) for raw_id in vocabulary.ids]
    except ValueError:
        return vocabulary
    as_written = all(str(number) == raw_id for number, raw_id in zip(numbers, vocabulary.ids, strict=True))
    return Vocabulary(numbers) if as_written else vocabulary


def _extra(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError:
        raise ImportError(f"Reading tables needs {name}. Install it with: pip install 'diffusers-rec[data]'") from None
