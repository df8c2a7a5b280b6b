"""``diffrec recommend``."""

from __future__ import annotations

import sys
from collections.abc import Hashable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE
from rich.table import Table

from diffusers_rec.cli.errors import suggesting_options
from diffusers_rec.cli.models import choose_sampler, load_ensemble, load_model
from diffusers_rec.cli.options import (
    CandidatesOption,
    ExcludeOption,
    FormatOption,
    IncludeSeenOption,
    ItemOption,
    JsonOption,
    MissingOption,
    ModelArgument,
    QuietOption,
    QuoteOption,
    SamplerOption,
    SeedsOption,
    SeparatorOption,
    StepsOption,
    TimeOption,
    UserOption,
    WithOption,
)
from diffusers_rec.cli.terminal import print_json, stderr, stdout
from diffusers_rec.cli.values import drop_none, parse_choice, parse_ids
from diffusers_rec.recommenders.base import Empty, Unknown
from diffusers_rec.recommenders.tables import recommend_file

_FIXES = {
    "unknown id": "--unknown drop",
    "one item at least": "--empty popularity",
    "in several places": "--sort",
    "Expected the columns": "--user, --item, --time, --history-column",
    "has no list of candidates": "--candidates-column",
}
"""Options that avoid errors, by words of the message."""


def recommend_command(
    model: ModelArgument,
    history: Annotated[
        list[str] | None,
        typer.Option(help="Item ids, oldest first, separated by commas, or a JSON list. May be repeated."),
    ] = None,
    histories: Annotated[
        Path | None,
        typer.Option(
            help="File of users instead of --history: a log whose rows are adjacent for each user, or one row a user "
            "with the items in a list. Needs --out."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="File for the recommendations of --histories, .parquet or .csv. A killed command resumes."),
    ] = None,
    k: Annotated[
        int | None, typer.Option("-k", "--k", help="Number of items; 10, or all candidates if they are fewer.")
    ] = None,
    include_seen: IncludeSeenOption = False,
    others: WithOption = None,
    candidates: CandidatesOption = None,
    exclude: ExcludeOption = None,
    unknown: Annotated[
        Unknown, typer.Option(help="Ids that the model does not know: report an error, or drop them.")
    ] = "error",
    empty: Annotated[
        Empty,
        typer.Option(
            help="Histories without a known item, or '[]': report an error, or recommend the most popular items."
        ),
    ] = "error",
    seeds: SeedsOption = None,
    sampler: SamplerOption = None,
    steps: StepsOption = None,
    as_json: JsonOption = False,
    format: FormatOption = "auto",
    user: UserOption = "user",
    item: ItemOption = "item",
    time: TimeOption = "time",
    history_column: Annotated[str, typer.Option(help="Name of the column with lists of items.")] = "history",
    candidates_column: Annotated[
        str | None, typer.Option(help="Column with a list of the item ids to recommend for each user.")
    ] = None,
    exclude_column: Annotated[
        str | None, typer.Option(help="Column with a list of the item ids not to recommend to each user.")
    ] = None,
    sort: Annotated[
        bool, typer.Option("--sort", help="Read the whole log into memory: the rows of a user need not be adjacent.")
    ] = False,
    separator: SeparatorOption = None,
    quote: QuoteOption = None,
    missing: MissingOption = None,
    quiet: QuietOption = False,
) -> None:
    """Recommend the next items after a history, with the probability of each and its standard deviation over draws.

    With several models, the standard deviation is over the draws of all models and measures how far they disagree.

    With --histories and --out, recommend for all users of a file; the options from --format on describe it.
    """
    _check_form(history, histories, out)
    trained = load_model(model)
    strict = unknown == "error"
    with suggesting_options(_FIXES):
        allowed, excluded = parse_choice(candidates, exclude, trained.vocabulary, strict=strict)
        options: dict[str, Any] = {
            "exclude_seen": not include_seen, "unknown": unknown, "empty": empty, "seeds": seeds,
            "sampler": choose_sampler(trained, sampler, steps),
        }  # fmt: skip
        if histories is not None and out is not None:
            count = recommend_file(
                load_ensemble(trained, model, others), histories, out, k,
                candidates=_either("candidates", allowed, candidates_column),
                exclude=_either("exclude", excluded, exclude_column), format=format, user=user, item=item,
                time=time or None, history=history_column, sort=sort, progress=not quiet and sys.stderr.isatty(),
                **drop_none(separator=separator and separator.replace(r"\t", "\t"), quote=quote, missing=missing),
                **options,
            )  # fmt: skip
            if as_json:
                print_json({"out": str(out), "users": count})
            else:
                stdout.print(f"{out}: recommendations for {count:,} users", highlight=False)
            return
        asked = [parse_ids("--history", text, trained.vocabulary, strict=strict) for text in history or []]
        found = load_ensemble(trained, model, others).recommend(
            asked, k, candidates=allowed, exclude=excluded, **options
        )
    width = found.scores.shape[1]
    for text, names in zip(history or [], found.items, strict=True):
        if len(names) < width:
            reason = "because the others are in the history or excluded. --include-seen allows items of the history."
            stderr.print(f"after {text}: {len(names)} of {width} items, {reason}")
    if as_json:
        rows = [[dict(zip(("item", "score", "std"), row, strict=True)) for row in found[i]] for i in range(len(found))]
        print_json([{"history": h, "recommendations": r} for h, r in zip(asked, rows, strict=True)])
        return
    std_heading = "std over models and draws" if others else "std over draws" if bool(found.std.any()) else ""
    for number, text in enumerate(history or []):
        stdout.print(_table(f"after {text}", found[number], std_heading))
    if any(row[:-1].lt(row[1:]).any() for row in found.scores):
        stderr.print("The order is that of the ranking; the probabilities are calibrated by a mixture of their own.")


def _check_form(history: list[str] | None, histories: Path | None, out: Path | None) -> None:
    if (histories is None) != (out is None):
        raise ValueError("--histories and --out belong together: a file of users, and the file of what they get.")
    if bool(history) == (histories is not None):
        raise ValueError("Give either --history, the items of one user, or --histories and --out, two files.")


def _either(name: str, ids: list[int | str] | None, column: str | None) -> list[int | str] | str | None:
    if ids is not None and column is not None:
        raise ValueError(f"--{name} and --{name}-column exclude each other. Remove one.")
    return ids if column is None else column


def _table(title: str, rows: list[tuple[Hashable, float, float]], std_heading: str) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE)
    for heading in ("rank", "item", "probability", *([std_heading] if std_heading else [])):
        table.add_column(heading, overflow="fold")  # ids are never truncated
    for rank, (item, score, std) in enumerate(rows, start=1):
        table.add_row(str(rank), str(item), f"{score:.4f}", *([f"{std:.1e}"] if std_heading else []))
    return table
