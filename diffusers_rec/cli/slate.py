"""``diffrec slate``."""

from __future__ import annotations

from typing import Annotated

import typer

from diffusers_rec.cli.errors import suggesting_options
from diffusers_rec.cli.generated import FIXES, generated_table, plain_gaps, plain_samples
from diffusers_rec.cli.models import choose_generating_sampler, load_pipeline
from diffusers_rec.cli.options import (
    CandidatesOption,
    ExcludeOption,
    GeneratingSamplerOption,
    IncludeSeenOption,
    JsonOption,
    ModelArgument,
    StepsOption,
)
from diffusers_rec.cli.terminal import print_json, stdout
from diffusers_rec.cli.values import parse_choice, parse_ids
from diffusers_rec.core.errors import check_int
from diffusers_rec.recommenders.base import Unknown


def slate_command(
    model: ModelArgument,
    history: Annotated[
        list[str], typer.Option(help="Item ids, oldest first, separated by commas, or a JSON list. May be repeated.")
    ],
    k: Annotated[
        int | None,
        typer.Option("-k", "--k", help="Number of items; as many as the model fills in together by default."),
    ] = None,
    samples: Annotated[
        int | None,
        typer.Option(
            help="Number of slates for each history; by default the one of the likeliest items, or one sample with "
            "--sampler or --steps."
        ),
    ] = None,
    include_seen: IncludeSeenOption = False,
    candidates: CandidatesOption = None,
    exclude: ExcludeOption = None,
    unknown: Annotated[
        Unknown, typer.Option(help="Ids that the model does not know: report an error, or drop them.")
    ] = "error",
    sampler: GeneratingSamplerOption = None,
    steps: StepsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Propose the next items after a history together, none of them twice.

    The likeliest slate is listed first. The model must fill gaps: diffrec train --preset joint, maskgr or bert4rec.
    """
    samples = None if samples is None else check_int("--samples", samples, minimum=1)
    trained = load_pipeline(model, "slate")
    strict = unknown == "error"
    with suggesting_options({"unknown id": "--unknown drop", **FIXES}):
        histories = [parse_ids("--history", text, trained.vocabulary, strict=strict) for text in history]
        among, without = parse_choice(candidates, exclude, trained.vocabulary, strict=strict)
        found = trained.slate(
            histories,
            k,
            samples,
            exclude_seen=not include_seen,
            candidates=among,
            exclude=without,
            unknown=unknown,
            sampler=choose_generating_sampler(sampler, steps),
        )
    if as_json:
        print_json(
            [
                {"history": row, "slates": plain_samples(found, number), "positions": plain_gaps(found, number)}
                for number, row in enumerate(histories)
            ]
        )
        return
    for number, text in enumerate(history):
        places = range(len(found[number][0]))
        headings = [f"item {place + 1}" for place in places]
        stdout.print(generated_table(f"after {text}", headings, found, number, places))
