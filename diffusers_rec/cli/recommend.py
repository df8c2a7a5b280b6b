"""``diffrec recommend``."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Annotated

import typer
from rich.box import SIMPLE
from rich.table import Table

from diffusers_rec.cli.errors import suggesting_options
from diffusers_rec.cli.models import choose_sampler, load_ensemble, load_model
from diffusers_rec.cli.options import (
    CandidatesOption,
    ExcludeOption,
    IncludeSeenOption,
    JsonOption,
    ModelArgument,
    SamplerOption,
    SeedsOption,
    StepsOption,
    WithOption,
)
from diffusers_rec.cli.terminal import print_json, stderr, stdout
from diffusers_rec.cli.values import parse_choice, parse_ids
from diffusers_rec.recommenders.base import Empty, Unknown


def recommend_command(
    model: ModelArgument,
    history: Annotated[
        list[str], typer.Option(help="Item ids, oldest first, separated by commas, or a JSON list. May be repeated.")
    ],
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
) -> None:
    """Recommend the next items after a history, with the probability of each and its standard deviation over draws.

    With several models, the standard deviation is over the draws of all models and measures how far they disagree.
    """
    trained = load_model(model)
    strict = unknown == "error"
    with suggesting_options({"unknown id": "--unknown drop", "one item at least": "--empty popularity"}):
        histories = [parse_ids("--history", text, trained.vocabulary, strict=strict) for text in history]
        allowed, excluded = parse_choice(candidates, exclude, trained.vocabulary, strict=strict)
        found = load_ensemble(trained, model, others).recommend(
            histories, k,
            exclude_seen=not include_seen,
            candidates=allowed,
            exclude=excluded,
            unknown=unknown,
            empty=empty,
            seeds=seeds,
            sampler=choose_sampler(trained, sampler, steps),
        )  # fmt: skip
    width = found.scores.shape[1]
    for text, names in zip(history, found.items, strict=True):
        if len(names) < width:
            reason = "because the others are in the history or excluded. --include-seen allows items of the history."
            stderr.print(f"after {text}: {len(names)} of {width} items, {reason}")
    if as_json:
        rows = [[dict(zip(("item", "score", "std"), row, strict=True)) for row in found[i]] for i in range(len(found))]
        print_json([{"history": h, "recommendations": r} for h, r in zip(histories, rows, strict=True)])
        return
    std_heading = "std over models and draws" if others else "std over draws"
    for number, text in enumerate(history):
        stdout.print(_table(f"after {text}", found[number], std_heading))
    if any(row[:-1].lt(row[1:]).any() for row in found.scores):
        stderr.print("The order is that of the ranking; the probabilities are calibrated by a mixture of their own.")


def _table(title: str, rows: list[tuple[Hashable, float, float]], std_heading: str) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE)
    for heading in ("rank", "item", "probability", std_heading):
        table.add_column(heading, overflow="fold")  # ids are never truncated
    for rank, (item, score, std) in enumerate(rows, start=1):
        table.add_row(str(rank), str(item), f"{score:.4f}", f"{std:.1e}")
    return table
