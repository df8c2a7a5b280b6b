"""Recommendations for tables of users: frames, and files of any size."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import islice
from os import PathLike
from typing import Any

from diffusers_rec.core.entrances import explained
from diffusers_rec.core.errors import check_bool, check_path, require_extra, shown
from diffusers_rec.core.parts import check_table_path, open_parts
from diffusers_rec.core.progress import counted
from diffusers_rec.data.histories import HistoryColumns, UserHistory, frame_histories
from diffusers_rec.data.history_files import HistoryFile
from diffusers_rec.data.readers import MISSING, Format
from diffusers_rec.data.vocabulary import listed
from diffusers_rec.guidance import Guidance
from diffusers_rec.recommenders.base import Empty, Recommender, Unknown
from diffusers_rec.recommenders.requests import Items, is_list
from diffusers_rec.recommenders.scoring import SamplerChoice, Seeds
from diffusers_rec.recommenders.user_calls import UserCall


@explained
def recommend_frame(
    model: Recommender,
    frame: Any,
    k: int | None = None,
    *,
    user: str | int = "user",
    item: str | int = "item",
    time: str | int | None = "time",
    history: str | int = "history",
    candidates: str | Items | None = None,
    exclude: str | Items | None = None,
    exclude_seen: bool = True,
    unknown: Unknown = "error",
    empty: Empty = "error",
    seeds: Seeds | None = None,
    sampler: SamplerChoice | None = None,
    guidance: Guidance = None,
    batch_size: int = 256,
) -> Any:
    """The k likeliest next items of each user of a table.

    Args:
        model: Trained model.
        frame: Table of pandas, Polars or PyArrow: a log of one interaction a row, in any order, or one row a user with
            the items in a list.
        k: Number of items, see :meth:`Recommender.recommend`; fewer where a user has fewer candidates.
        user: Column of the users.
        item: Column of the items of a log.
        time: Column of the times of a log, or of their lists; None if rows are ordered oldest first.
        history: Column of the lists of items, oldest first.
        candidates: Ids to choose among, or the name of a column with a list for each user.
        exclude: Ids to leave out, or the name of a column with a list for each user.
        exclude_seen: See :meth:`Recommender.recommend`.
        unknown: See there.
        empty: See there.
        seeds: See there.
        sampler: See there.
        guidance: See there.
        batch_size: Histories at once.

    Returns:
        A table of the same library with a row for each recommendation: ``user``, ``rank`` (from 1), ``item``, ``score``
        and ``std``. Users come in the order of their first rows.

    Raises:
        ValueError: Missing columns or values, or as :meth:`Recommender.recommend`; the message names the user.
        TypeError: Not a table.
        ImportError: The extra ``data`` is not installed.
    """
    nw = require_extra("narwhals", "data")
    try:
        given = nw.from_native(frame)
    except (TypeError, AttributeError):
        raise TypeError(
            f"recommend_frame: expected a data frame (pandas, Polars, PyArrow), got {type(frame).__name__}. For a file "
            "use recommend_file, for lists model.recommend."
        ) from None
    eager = given.collect() if isinstance(given, nw.LazyFrame) else given
    lists = {"candidates": candidates, "exclude": exclude}
    columns = HistoryColumns(user, item, time, history, **_names(lists))
    call = UserCall(
        model, k, **_ids(lists, model), exclude_seen=exclude_seen, unknown=unknown, empty=empty, seeds=seeds,
        sampler=sampler, guidance=guidance, batch_size=batch_size,
    )  # fmt: skip
    answer: dict[str, list[Any]] = {}
    for some in _chunks(frame_histories(eager, columns), call.users_at_once):
        for name, values in call.columns(some).items():
            answer.setdefault(name, []).extend(values)
    return nw.from_dict(answer, backend=eager.implementation).to_native()


@explained
def recommend_file(
    model: Recommender,
    path: str | PathLike[str],
    out: str | PathLike[str],
    k: int | None = None,
    *,
    format: Format = "auto",
    user: str = "user",
    item: str = "item",
    time: str | None = "time",
    history: str = "history",
    candidates: str | Items | None = None,
    exclude: str | Items | None = None,
    separator: str | None = None,
    quote: str | None = None,
    missing: Collection[str] = MISSING,
    sort: bool = False,
    exclude_seen: bool = True,
    unknown: Unknown = "error",
    empty: Empty = "error",
    seeds: Seeds | None = None,
    sampler: SamplerChoice | None = None,
    guidance: Guidance = None,
    batch_size: int = 256,
    progress: bool = False,
) -> int:
    """The k likeliest next items of each user of a file, written to a file.

    The file is read twice, a few rows at a time: first to check it and to count the users, then to answer them. Memory
    holds the histories of 16 batches, and 8 bytes a user. Answers are written to the folder ``OUT.parts``. The same
    call resumes after a kill; ``out`` appears, or is replaced, when all is done.

    Args:
        model: Trained model.
        path: File of a log whose rows are adjacent for each user, or of one row a user with the items in a list.
        out: File of the answers, ``.parquet`` or ``.csv``, with the columns of :func:`recommend_frame`.
        k: See :func:`recommend_frame`.
        format: See :func:`~diffusers_rec.read_interactions`.
        user: See :func:`recommend_frame`.
        item: See there.
        time: See there.
        history: See there.
        candidates: See there.
        exclude: See there.
        separator: See :func:`~diffusers_rec.read_interactions`.
        quote: See there.
        missing: See there.
        sort: Whether to read a whole log into memory, because the rows of a user are not adjacent.
        exclude_seen: See :meth:`Recommender.recommend`.
        unknown: See there.
        empty: See there.
        seeds: See there.
        sampler: See there.
        guidance: See there.
        batch_size: Histories at once.
        progress: Whether to show a bar.

    Returns:
        Number of users.

    Raises:
        ValueError: A file of another form, or as :func:`recommend_frame`; nothing has been scored then.
        FileNotFoundError: The file, or the folder of ``out``, does not exist.
        OSError: The answers cannot be written.
        ImportError: The extra ``data`` is not installed.
    """
    pl = require_extra("polars", "data")
    target = check_table_path("out", out)
    if isinstance(missing, str):
        raise TypeError(f"recommend_file: missing must be a list of texts, got {missing!r}. Use [{missing!r}].")
    lists = {"candidates": candidates, "exclude": exclude}
    columns = HistoryColumns(user, item, time, history, **_names(lists))
    source = HistoryFile(
        check_path("path", path), model.vocabulary, columns, format, separator, quote, sorted(missing),
        check_bool("sort", sort),
    )  # fmt: skip
    call = UserCall(
        model, k, **_ids(lists, model), exclude_seen=exclude_seen, unknown=unknown, empty=empty, seeds=seeds,
        sampler=sampler, guidance=guidance, batch_size=batch_size,
    )  # fmt: skip
    stat = source.path.stat()
    total = 0
    with counted(None, 0, "users checked", show=progress) as advance:
        for some in _chunks(source, call.users_at_once):
            advance(call.check(some))
            total += len(some)
    item_type = pl.Int64 if call.has_numbers else pl.String
    schema = {"user": source.user_type(), "rank": pl.Int64, "item": item_type, "score": pl.Float64, "std": pl.Float64}
    with open_parts(target, call.job(f"{source} {stat.st_size} {stat.st_mtime_ns}")) as parts:
        done = len(parts)
        with counted(total, min(total, done * call.users_at_once), "users", show=progress) as advance:
            for number, some in enumerate(_chunks(source, call.users_at_once)):
                if number >= done:
                    parts.add(pl.DataFrame(call.columns(some), schema))
                    advance(len(some))
        parts.join()
    return total


def _chunks(users: Iterable[UserHistory], size: int) -> Iterator[list[UserHistory]]:
    """Up to so many users at once; no more are read ahead."""
    rest = iter(users)
    while some := list(islice(rest, size)):
        yield some


def _names(lists: Mapping[str, Any]) -> dict[str, str]:
    """The arguments that are columns."""
    return {name: value for name, value in lists.items() if isinstance(value, str)}


def _ids(lists: Mapping[str, Any], model: Recommender) -> dict[str, list[Any] | None]:
    """The arguments that are ids, for all users."""
    found: dict[str, list[Any] | None] = dict.fromkeys(lists)
    for name, value in lists.items():
        if value is None or isinstance(value, str):
            continue
        if isinstance(value, Mapping) or not isinstance(value, Iterable):
            raise TypeError(f"{name} must be a list of item ids, or the name of a column, got {shown(value)}.")
        ids = sorted(value, key=repr) if isinstance(value, set | frozenset) else listed(value, name)
        if any(is_list(each, model.vocabulary) for each in ids):
            raise ValueError(f"{name} must be one list of ids for all users. Lists of each user come in a column.")
        found[name] = ids
    return found
