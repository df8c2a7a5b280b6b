"""``diffrec complete``."""

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
from diffusers_rec.cli.values import parse_choice, parse_sequence
from diffusers_rec.core.errors import check_int
from diffusers_rec.recommenders.generating import GAP


def complete_command(
    model: ModelArgument,
    sequence: Annotated[
        list[str],
        typer.Option(
            help="Item ids, oldest first, separated by commas, with ? for each gap; or a JSON list with null for each "
            "gap. May be repeated."
        ),
    ],
    samples: Annotated[int, typer.Option(help="Number of ways to fill in the gaps of each sequence.")] = 1,
    include_seen: IncludeSeenOption = False,
    candidates: CandidatesOption = None,
    exclude: ExcludeOption = None,
    sampler: GeneratingSamplerOption = None,
    steps: StepsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Fill in the gaps of sequences, given the items on either side of them.

    The likeliest sample is listed first. The model must be one that fills gaps: diffrec train --preset joint.
    """
    samples = check_int("--samples", samples, minimum=1)
    trained = load_pipeline(model, "complete")
    fixes = {
        "expected a gap": "? or a JSON null marks a gap",
        "begins with a gap": "diffrec recommend --empty popularity",
        **FIXES,
    }
    with suggesting_options(fixes):
        sequences = [parse_sequence("--sequence", text, trained.vocabulary) for text in sequence]
        among, without = parse_choice(candidates, exclude, trained.vocabulary, strict=True)
        found = trained.complete(
            sequences,
            samples,
            exclude_seen=not include_seen,
            candidates=among,
            exclude=without,
            sampler=choose_generating_sampler(sampler, steps) or "unmask",
        )
    places = [[place for place, each in enumerate(row) if each is GAP] for row in sequences]
    if as_json:
        given = [[None if each is GAP else each for each in row] for row in sequences]
        print_json(
            [
                {"sequence": row, "samples": plain_samples(found, number), "gaps": plain_gaps(found, number)}
                for number, row in enumerate(given)
            ]
        )
        return
    for number, (text, gaps) in enumerate(zip(sequence, places, strict=True)):
        headings = [f"gap {count}" for count in range(1, len(gaps) + 1)]
        stdout.print(generated_table(text, headings, found, number, gaps))
