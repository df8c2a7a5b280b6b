"""``diffrec evaluate``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from diffusers_rec.cli.inputs import LogFile
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
from diffusers_rec.cli.reports import compare, describe_probabilities, plain_reports, report_table
from diffusers_rec.cli.splits import SplitChoice, SplitTimeOption, TestOption, ValidationOption
from diffusers_rec.cli.terminal import print_json, stdout
from diffusers_rec.core.errors import check_path
from diffusers_rec.evaluation.full_ranking import report_of
from diffusers_rec.evaluation.metrics import parse_metric
from diffusers_rec.evaluation.ranks import UserRanks


def evaluate_command(
    model: ModelArgument,
    data: DataArgument,
    others: WithOption = None,
    split: Annotated[HeldOut, typer.Option(help="Split whose held-out items are ranked.")] = "test",
    metric: Annotated[
        list[str] | None,
        typer.Option(
            help="Metric in place of HR and NDCG at 5, 10 and 20: hr@K, ndcg@K, recall@K, precision@K, mrr@K or mrr. "
            "May be repeated."
        ),
    ] = None,
    ranks_file: Annotated[
        Path | None,
        typer.Option("--ranks", help="File for the model's rank of every held-out item, .csv or .parquet."),
    ] = None,
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
    split_time: SplitTimeOption = None,
    validation: ValidationOption = None,
    test: TestOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Rank every user's held-out items among all items: HR and NDCG, without and with seen items."""
    choice = SplitChoice(short, split_time, validation, test)
    for name in metric or []:
        parse_metric(name)
    if ranks_file is not None:
        _check_ranks_file(ranks_file)
    trained = load_model(model)
    ensemble = load_ensemble(trained, model, others)
    log = LogFile(data, format, user, item, time, separator, quote, missing, k_core)
    parts = choice.split(choice.sequences(log), log)
    holdout = parts.test if split == "test" else parts.validation
    reports = compare(
        ensemble, holdout, seeds=seeds, sampler=choose_sampler(trained, sampler, steps),
        probabilities=True, progress=not quiet and sys.stderr.isatty(),
    )  # fmt: skip
    if metric:
        reports = {name: report_of(report.ranks, metric, report.probabilities) for name, report in reports.items()}
    if ranks_file is not None:
        _write_ranks(reports["model"].ranks, ranks_file)
    if as_json:
        print_json({"split": split} | plain_reports(reports))
    else:
        stdout.print(report_table(reports, split, models=1 + len(others or [])))
        if probabilities := reports["model"].probabilities:
            stdout.print(describe_probabilities(probabilities), highlight=False)


def _check_ranks_file(path: Path) -> None:
    if check_path("--ranks", path).suffix not in (".csv", ".parquet"):
        raise ValueError(f"--ranks must end in .csv or .parquet, got {path}.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"--ranks {path}: there is no folder {path.parent}.")


def _write_ranks(ranks: UserRanks, path: Path) -> None:
    frame = ranks.to_frame("polars")
    if path.suffix == ".csv":
        frame.write_csv(path)
    else:
        frame.write_parquet(path)
