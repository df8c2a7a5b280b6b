"""``diffrec train``."""

from __future__ import annotations

import os
import shlex
import sys
import textwrap
from collections.abc import Callable
from functools import partial
from inspect import signature
from typing import Annotated, Any

import torch
import typer

from diffusers_rec.cli.changes import change_model, change_training, parse_changes
from diffusers_rec.cli.inputs import LogFile, output_folder
from diffusers_rec.cli.models import count_parameters
from diffusers_rec.cli.options import (
    CoreOption,
    DataArgument,
    FormatOption,
    ItemOption,
    JsonOption,
    MissingOption,
    QuietOption,
    QuoteOption,
    SeparatorOption,
    ShortOption,
    TimeOption,
    UserOption,
)
from diffusers_rec.cli.progress import EpochLog, describe_outcome
from diffusers_rec.cli.reports import compare, plain_reports, report_table
from diffusers_rec.cli.splits import SplitChoice, SplitTimeOption, TestOption, ValidationOption
from diffusers_rec.cli.terminal import print_json, stderr, stdout
from diffusers_rec.cli.values import drop_none
from diffusers_rec.core.errors import check_int
from diffusers_rec.core.registry import Config, unknown_name
from diffusers_rec.evaluation import Report
from diffusers_rec.evaluation.audit import kind_without_noise
from diffusers_rec.presets import PRESETS, control
from diffusers_rec.recommenders.base import Recommender
from diffusers_rec.recommenders.diffrec import DiffRec
from diffusers_rec.recommenders.pretrained import Pretrained
from diffusers_rec.training import RECIPES, TrainingConfig, train

MAX_THREADS = 1024


def train_command(
    data: DataArgument,
    out_folder: Annotated[
        str, typer.Option("--out", help="Folder for the model, the log and the state to resume from.")
    ],
    preset: Annotated[
        str,
        typer.Option(
            help="The configuration that ranks best so far; joint, which also fills gaps and proposes slates; the "
            "paper's (Sec. 5.1.4); or another paper's model, validated with or without seen items as there. All: "
            f"{', '.join(PRESETS)}.",
        ),
    ] = "best",
    settings: Annotated[
        str | None,
        typer.Option(help="Variant of the settings of a paper with several: a data set such as ml-1m, for most."),
    ] = None,
    dim: Annotated[int | None, typer.Option(help="Latent width D.")] = None,
    max_length: Annotated[int | None, typer.Option(help="Number of positions in a sequence.")] = None,
    dropout: Annotated[float | None, typer.Option(help="Dropout rate of the denoiser.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Maximum number of epochs.")] = None,
    batch_targets: Annotated[int | None, typer.Option(help="Number of targets in a batch.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate of Adam.")] = None,
    select_by: Annotated[
        str | None, typer.Option(help="Validation metric that selects the epoch, hr@K or ndcg@K; ndcg@10 by default.")
    ] = None,
    include_seen: Annotated[
        bool, typer.Option("--include-seen", help="Rank the items of the history, too, in validation.")
    ] = False,
    no_validation: Annotated[
        bool, typer.Option("--no-validation", help="Train on all items of every user and keep the last epoch.")
    ] = False,
    final: Annotated[
        bool,
        typer.Option("--final", help="Train on training and validation items together and keep the last epoch."),
    ] = False,
    change: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            help="Change a part or one of its settings, or a training setting: --set denoiser=transformer, "
            "--set schedule.num_timesteps=200, --set training.patience=5. May be repeated.",
        ),
    ] = None,
    as_control: Annotated[
        bool, typer.Option("--control", help="Train the noise-free control: the same model without noise.")
    ] = False,
    seed: Annotated[
        int,
        typer.Option(
            help="Seed of the initial weights, the batch order and the noise; --set training.seed=5 sets the last "
            "two only."
        ),
    ] = 0,
    threads: Annotated[
        int | None, typer.Option(help="Number of CPU threads; 1 is fastest for small models on busy cores.")
    ] = None,
    cpu: Annotated[bool, typer.Option("--cpu", help="Train on the CPU even if there is a GPU.")] = False,
    track: Annotated[
        list[str] | None,
        typer.Option(help="Send settings and epochs to tensorboard, wandb, mlflow, ... May be repeated."),
    ] = None,
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
    """Train a model and keep its best epoch on validation. To resume a killed run, start the same command again.

    Settings that are not given are those of the preset.
    """
    is_main = os.environ.get("RANK", "0") == "0"  # of several processes one prints
    quiet = quiet or not is_main
    size = drop_none(dim=dim, max_length=max_length, dropout=dropout)
    training_options = drop_none(
        epochs=epochs, batch_targets=batch_targets, learning_rate=learning_rate, select_by=select_by
    )
    changes = parse_changes(change or [], [*size, *training_options, *(["include_seen"] if include_seen else [])])
    choice = SplitChoice(short, split_time, validation, test)
    selection = {"--select-by": select_by is not None, "--include-seen": include_seen}
    if final:
        _refuse_beside("--final", {"--no-validation": no_validation, **selection})
    if no_validation:
        _refuse_beside("--no-validation", {"--short": short != "error", "--split-time": split_time is not None,
                                           "--validation": validation is not None, **selection})  # fmt: skip
    if threads is not None:
        torch.set_num_threads(check_int("--threads", threads, minimum=1, maximum=MAX_THREADS))
    build, folder = _preset(preset, settings), output_folder(out_folder)
    log = LogFile(data, format, user, item, time, separator, quote, missing, k_core)
    whole = choice.sequences(log)
    split = None if no_validation else choice.split(whole, log)
    sequences = whole if split is None else split.final() if final else split.train
    held_out = None if split is None or final else split.validation
    model = build(sequences.vocabulary, seed=seed, **size)
    training = _recipe(preset, validates=held_out is not None) | {"seed": seed, **training_options}
    training["exclude_seen"] = training["exclude_seen"] and not include_seen
    training, model = change_training(training, changes), change_model(model, changes)
    if as_control:
        model = _control(model, preset)
    config = TrainingConfig(**training)
    if not quiet:
        stderr.print(f"{whole.statistics()}\n")
        name = f"{preset}, noise-free control" if as_control else preset
        stderr.print(f"{name}: {count_parameters(model):,} parameters\n{_list_parts(model)}")
    epoch_log, progress = EpochLog(folder, config.select_by), not quiet and sys.stderr.isatty()
    result = train(
        model, sequences, held_out, config, directory=folder, device="cpu" if cpu else None, progress=progress,
        on_epoch=None if quiet else epoch_log.epoch, trackers=track or (),
    )  # fmt: skip
    if not is_main:
        return
    if not quiet:
        epoch_log.end()
    reports: dict[str, Report] = {}
    if held_out is not None and model.without_memory() is not model:
        reports = compare(model, held_out, seeds=config.validation_seeds, progress=progress)
    record = result.history[result.best_epoch - 1]
    metrics = {
        name.removeprefix("validation_"): value for name, value in record.items() if name.startswith("validation_")
    }
    if as_json:
        print_json(
            {
                "out": str(folder),
                "best_epoch": result.best_epoch,
                "epochs": len(result.history),
                "select_by": None if held_out is None else config.select_by,
                "exclude_seen": config.exclude_seen,
                "validation": metrics,
            }
            | plain_reports(reports)
        )
        return
    stdout.print(describe_outcome(result, config, metrics), soft_wrap=True)
    if reports:
        stdout.print(report_table(reports, "validation"))
    if not quiet:
        reading = [*log.arguments(), *choice.arguments()]
        following = ["evaluate", str(folder), *reading] if split else ["recommend", str(folder), "--history", "ITEM"]
        stderr.print(f"Saved to {folder}. Next: diffrec {shlex.join(following)}")


def _preset(name: str, settings: str | None) -> Callable[..., Recommender]:
    """The function of a preset, with a variant of its settings."""
    if name == "d3rec":
        raise ValueError(
            "--preset: d3rec needs the categories of the items. Call diffusers_rec.presets.d3rec(items, "
            "categories=...) in Python."
        )
    if name not in PRESETS:
        raise ValueError(f"--preset: {unknown_name('preset', name, PRESETS)}")
    if settings is None:
        return PRESETS[name]
    having = [each for each, preset in PRESETS.items() if "settings" in signature(preset).parameters]
    if name not in having:
        raise ValueError(f"--settings: the preset {name} has one variant. Those with several: {', '.join(having)}.")
    return partial(PRESETS[name], settings=settings)


def _recipe(preset: str, *, validates: bool) -> dict[str, Any]:
    """Training settings of a preset. Patience counts validations, so that there is none without."""
    return RECIPES[preset].config() | ({} if validates else {"patience": 0})


def _control(model: Recommender, preset: str) -> DiffRec:
    """Noise-free control of the model of a preset."""
    if kind_without_noise(model):
        raise ValueError(f"--control: the preset {preset} is a system without noise. Leave --control out.")
    try:
        return control(model)
    except (TypeError, ValueError) as error:
        reason = str(error).removeprefix("control: ")
        raise ValueError(f"--control: {reason} In the shell, that is --preset best --control.") from error


def _refuse_beside(option: str, options: dict[str, bool]) -> None:
    """Refuse options of the validation beside one that trains without; each name comes with whether it is given."""
    given = [name for name, is_given in options.items() if is_given]
    if given:
        raise ValueError(
            f"{option} cannot be combined with {' and '.join(given)}, which only concern the validation. "
            "Remove one or the other."
        )


def _list_parts(model: Recommender) -> str:
    """Every part by name, as ``--set`` takes it, in lines of at most 80 columns."""
    config = model.config() if isinstance(model, Pretrained) else {}
    named = {part: value for part, value in config.items() if isinstance(value, dict) and "name" in value}
    parts = ", ".join(f"{part}={_part_name(value)}" for part, value in named.items())
    return textwrap.fill(parts, 80, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)


def _part_name(part: Config) -> str:
    inner = part.get("base") or part.get("encoder")
    return f"{part['name']}({_part_name(inner)})" if inner else str(part["name"])
