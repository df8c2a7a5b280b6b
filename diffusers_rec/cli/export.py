"""``diffrec export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from diffusers_rec.cli.models import choose_sampler, load_pipeline
from diffusers_rec.cli.options import IncludeSeenOption, ModelArgument, SamplerOption, StepsOption
from diffusers_rec.cli.terminal import stdout
from diffusers_rec.integrations.onnx import export_onnx


def export_command(
    model: ModelArgument,
    to: Annotated[
        Path, typer.Option(help="File to write, NAME.onnx; NAME.items.jsonl and NAME.noise.npy are beside it.")
    ],
    k: Annotated[int, typer.Option("-k", "--k", help="Number of items that it recommends.")] = 10,
    include_seen: IncludeSeenOption = False,
    sampler: SamplerOption = None,
    steps: StepsOption = None,
) -> None:
    """Write a model as an ONNX file: items of histories in, the likeliest next items and their probabilities out.

    The file takes any number of histories, of any length that the model reads.
    """
    trained = load_pipeline(model, "export")
    chosen = choose_sampler(trained, sampler, steps)
    for path in export_onnx(trained, to, k, exclude_seen=not include_seen, sampler=chosen):
        stdout.print(str(path), soft_wrap=True)
