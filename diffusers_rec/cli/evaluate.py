"""``diffrec evaluate``."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from diffusers_rec.cli.inputs import LogFile, held_out
from diffusers_rec.cli.models import choose_sampler, load_ensemble, load_model
from diffusers_rec.cli.options import (
    CoreOption,
    DataArgument,
    FormatOption,
    HeldOut,
    ItemOption,
    JsonOption,
    MissingOption,
    ModelArgument,
    QuietOption,
    QuoteOption,
    SamplerOption,
    SeedsOption,
    SeparatorOption,
    ShortOption,
    StepsOption,
    TimeOption,
    UserOption,
    WithOption,
)
from diffusers_rec.cli.reports import compare, plain_reports, report_table
from diffusers_rec.cli.terminal import print_json, stdout


def evaluate_command(
    model: ModelArgument,
    data: DataArgument,
    others: WithOption = None,
    split: Annotated[HeldOut, typer.Option(help="Split whose held-out items are ranked.")] = "test",
    seeds: SeedsOption = None,
    sampler: SamplerOption = None,
    steps: StepsOption = None,
    format: FormatOption = "auto",
    user: UserOption = "user",
    item: ItemOption = "item",
    time: TimeOption = "time",
    separator: SeparatorOption = None,
    quote: QuoteOption = None,
    missing: MissingOption = None,
    k_core: CoreOption = None,
    short: ShortOption = "error",
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Rank every user's held-out item among all items: HR and NDCG, without and with seen items."""
    trained = load_model(model)
    ensemble = load_ensemble(trained, model, others)
    log = LogFile(data, format, user, item, time, separator, quote, missing, k_core)
    holdout = held_out(log, split, short)
    reports = compare(
        ensemble, holdout, seeds=seeds, sampler=choose_sampler(trained, sampler, steps),
        progress=not quiet and sys.stderr.isatty(),
    )  # fmt: skip
    if as_json:
        print_json({"split": split} | plain_reports(reports))
    else:
        stdout.print(report_table(reports, split, models=1 + len(others or [])))
