"""Readers: interaction logs from files and data frames.

======================  ===========================================================  =========================
format                  a line                                                       suffix
======================  ===========================================================  =========================
``csv``, ``tsv``        one interaction; the header names the columns                ``.csv``, ``.tsv``
``parquet``             (the same, typed)                                            ``.parquet``
``movielens``           ``user::item::rating::time``, no header                      ``.dat``
``sequences``           a user, then that user's items, oldest first                 ``.txt``
======================  ===========================================================  =========================

Text may be compressed with gzip (``.csv.gz``). Suffixes are not case-sensitive.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Hashable, Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np

from diffusers_rec.core.entrances import explained
from diffusers_rec.core.errors import check_path, require_extra
from diffusers_rec.data.interactions import Interactions
from diffusers_rec.data.text import TextLog, lines, table
from diffusers_rec.data.times import as_times

Format = Literal["auto", "csv", "tsv", "parquet", "movielens", "sequences"]

MISSING = ("NA", "N/A", "n/a", "<NA>", "NaN", "nan", "NaT", "NULL", "Null", "null", "None")
"""Texts that mean a missing id in the files of common programs; an empty text always does."""

_INT64 = np.iinfo(np.int64).max
_SUFFIXES: dict[str, Format] = {".csv": "csv", ".tsv": "tsv", ".parquet": "parquet", ".dat": "movielens"}
_SEPARATORS: dict[Format, str] = {"csv": ",", "tsv": "\t", "movielens": "::"}
_QUOTES: dict[Format, str] = {"csv": '"', "tsv": ""}


@explained
def read_interactions(
    path: str | PathLike[str],
    *,
    format: Format = "auto",
    user: str = "user",
    item: str = "item",
    time: str | None = "time",
    separator: str | None = None,
    quote: str | None = None,
    missing: Collection[str] = MISSING,
) -> Interactions:
    """Read a log from a file.

    In text files, ids are int if every id of the column is a plain integer (``42``, but not ``007``), else str.

    Args:
        path: Path of a file, text in UTF-8, or of a pipe (with ``format``).
        format: Format, one of the table above. "auto" follows the suffix; a ``.txt`` file is movielens if its first
            line contains ``::``.
        user: Column of the users (csv, tsv, parquet).
        item: Column of the items (csv, tsv, parquet).
        time: Column of the times (csv, tsv, parquet); None if rows are ordered oldest first.
        separator: Text between two fields, one character for csv and tsv. None means the format's own: ``,``, tab,
            ``::``, or any white space.
        quote: Character around fields that contain separators (csv, tsv); "" for none. None means ``"`` in csv and
            no quotes in tsv.
        missing: Texts that mean a missing id, in addition to the empty text; missing ids are refused. Not for parquet.

    Raises:
        FileNotFoundError: the file does not exist.
        IsADirectoryError: the path is a folder.
        ImportError: parquet without the ``data`` extra.
        ValueError: an unknown format, an empty file, a missing column or value, or a broken line.
        TypeError: a path or a name that is not text.
    """
    path = check_path("read_interactions: path", path)
    if path.is_dir():
        raise IsADirectoryError(f"'{path}' is a folder. Name the file in it.")
    if not path.exists():
        raise FileNotFoundError(f"There is no file '{path}' (looked from {Path.cwd()}).")
    if isinstance(missing, str):
        raise TypeError(f"read_interactions: missing must be a list of texts, got {missing!r}. Use [{missing!r}].")
    if separator == "":
        raise ValueError("read_interactions: separator must not be empty. Leave it out for the format's own.")
    kind = format_of(path) if format == "auto" else format
    missing_ids = frozenset(("", *missing))
    if kind == "movielens":
        return _read_movielens(path, separator or _SEPARATORS[kind], missing_ids)
    if kind == "sequences":
        return _read_sequences(path, separator, missing_ids)
    columns = {"user": user, "item": item, "time": time}
    if kind == "parquet":
        return _read_parquet(path, columns)
    if kind in ("csv", "tsv"):
        return _read_table(path, *dialect(kind, separator, quote), columns, missing_ids)
    raise ValueError(
        f"read_interactions: unknown format {kind!r}. Use 'auto', 'csv', 'tsv', 'parquet', 'movielens' or 'sequences'."
    )


@explained
def from_frame(
    frame: Any, *, user: str | int = "user", item: str | int = "item", time: str | int | None = "time"
) -> Interactions:
    """A log from a pandas, Polars or PyArrow table, or from anything else that narwhals supports.

    Args:
        frame: Table with one interaction per row.
        user: Column of the users; a number if the table numbers its columns, as pandas does without a header.
        item: Column of the items.
        time: Column of the times; None if rows are ordered oldest first.

    Raises:
        ImportError: the ``data`` extra is not installed.
        ValueError: a missing column or value, or no rows.
        TypeError: not a data frame, or times of another kind.
    """
    nw = require_extra("narwhals", "data")
    try:
        table = nw.from_native(frame).lazy()
    except (TypeError, AttributeError):
        raise TypeError(
            f"from_frame: expected a data frame (pandas, Polars, PyArrow), got {type(frame).__name__}. "
            f"For plain arrays use Interactions.from_arrays."
        ) from None
    columns = [user, item] if time is None else [user, item, time]
    _check_columns(columns, table.collect_schema().names())
    chosen = table.select([nw.col(column) for column in dict.fromkeys(columns)]).collect()
    times = None if time is None else _frame_times(chosen.get_column(time))
    users, items = (chosen.get_column(column).to_list() for column in (user, item))
    return Interactions.from_arrays(users, items, times)


def _check_columns(columns: Sequence[Hashable], present: Sequence[Hashable]) -> None:
    missing = [column for column in columns if column not in present]
    if missing:
        only = str(present[0]) if len(present) == 1 else ""
        other = next((each for each in ";\t|," if each in only), None)
        if other is not None:
            raise ValueError(
                f"Expected the columns {columns}, but the table has one column, {only!r}. Give its separator: "
                f"separator={other!r}."
            )
        raise ValueError(
            f"Expected the columns {columns}, but {missing} are missing; the table has {present}. "
            f"Name them with user=, item= and time= (time=None if rows are ordered oldest first)."
        )


def _frame_times(column: Any) -> Any:
    if getattr(column.dtype, "time_zone", None):
        column = column.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
    return column.to_numpy()


def format_of(path: Path) -> Format:
    """Format of a file by its suffix."""
    if not path.is_file():
        raise ValueError(
            f"read_interactions: {path} is a pipe or a device, whose suffix does not give the format. Pass format=."
        )
    suffix = Path(path.name.lower().removesuffix(".gz")).suffix
    if suffix == ".txt":
        return "movielens" if any("::" in field for field in next(lines(path, None), (0, []))[1]) else "sequences"
    if suffix not in _SUFFIXES:
        raise ValueError(
            f"read_interactions: the suffix {path.suffix!r} of {path.name} does not give the format; "
            f"known are {', '.join(_SUFFIXES)} and .txt, each optionally with .gz. Pass format=."
        )
    return _SUFFIXES[suffix]


def dialect(kind: Format, separator: str | None, quote: str | None) -> tuple[str, str]:
    """Separator and quote character of a csv or tsv file: those given, or the format's own."""
    separator, quote = separator or _SEPARATORS[kind], _QUOTES[kind] if quote is None else quote
    if len(separator) != 1 or separator in "\r\n":
        raise ValueError(
            f"read_interactions: separator must be one character in a {kind} file, got {separator!r}. "
            f"For user::item::rating::time use format='movielens'; else replace it in the file."
        )
    if len(quote) > 1 or quote in (separator, "\r", "\n"):
        raise ValueError(
            f"read_interactions: quote must be one character other than the separator, got {quote!r}. "
            f"Use '' if fields are not quoted."
        )
    return separator, quote


def _read_parquet(path: Path, columns: dict[str, Any]) -> Interactions:
    nw, pl = require_extra("narwhals", "data"), require_extra("polars", "data")
    try:
        with _naming(path):
            frame = pl.scan_parquet(path, glob=False) if path.is_file() else pl.read_parquet(BytesIO(path.read_bytes()))
            return from_frame(frame, **columns)
    except (nw.exceptions.NarwhalsError, pl.exceptions.PolarsError) as error:
        raise ValueError(
            f"{path}: expected a parquet file, but {str(error).splitlines()[0]}. Check the file, or pass format=."
        ) from None


def _read_table(
    path: Path, separator: str, quote: str, columns: dict[str, Any], missing: frozenset[str]
) -> Interactions:
    rows, log = table(path, separator, quote), TextLog(path, "row", missing)
    header = next(rows)
    names = [name for name in columns.values() if name is not None]
    with _naming(path):
        _check_columns(names, header)
    user, item, *time = map(header.index, names)
    texts: list[str] = []
    for number, row in enumerate(rows, 1):
        log.add(number, row[user], [row[item]])
        if time:
            texts.append(row[time[0]])
    with _naming(path):
        times = as_times(texts) if time else np.arange(len(log.users))
    return log.interactions(times)


def _read_movielens(path: Path, separator: str, missing: frozenset[str]) -> Interactions:
    log, times = TextLog(path, "line", missing), array("q")
    for number, fields in lines(path, separator):
        if len(fields) != 4 or not all(fields) or not fields[3].isdecimal() or int(fields[3]) > _INT64:
            line = separator.join(fields)
            raise ValueError(
                f"{path}, line {number}: expected user{separator}item{separator}rating{separator}time, got {line!r}."
            )
        log.add(number, fields[0], [fields[1]])
        times.append(int(fields[3]))
    return log.interactions(np.array(times, np.int64))


def _read_sequences(path: Path, separator: str | None, missing: frozenset[str]) -> Interactions:
    log, times = TextLog(path, "line", missing), array("q")
    for number, (user, *items) in lines(path, separator):
        if not items:
            raise ValueError(f"{path}, line {number}: user {user!r} has no items. Expected the user, then the items.")
        if user in log.user_index:
            raise ValueError(f"{path}, line {number}: user {user!r} has an earlier line. Expected one line per user.")
        log.add(number, user, items)
        times.extend(range(len(items)))
    return log.interactions(np.array(times, np.int64))


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Put the file's name before an error in its content."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise type(error)(f"{path}: {error}") from error
