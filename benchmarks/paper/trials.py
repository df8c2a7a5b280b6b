"""A trial: one model trained on one data set and evaluated once on its test split.

Every trial has a folder of its own, in which a run that was killed goes on and a finished one is neither trained nor
evaluated again: programs that need the same trial share it. Its report alone says all that a table wants, so that
trainings of several machines can be gathered. What is chosen, the epoch, is chosen on validation.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

import diffusers_rec
from benchmarks.data import add_data_option
from benchmarks.harness import Results, Row, cpu_name, parse, read_csv
from diffusers_rec import (
    DiffRec,
    Ensemble,
    NoMemory,
    Recommender,
    Sequences,
    Split,
    TrainingBatches,
    Vocabulary,
    read_interactions,
)
from diffusers_rec.checkpoint import write_atomically
from diffusers_rec.evaluation import Report, evaluate
from diffusers_rec.pipeline import PARTS
from diffusers_rec.presets import best, paper
from diffusers_rec.training import RECIPES, TrainingConfig, train

DATASETS = ("beauty", "toys", "ml-1m")
PUBLISHED = Path(__file__).with_name("published.csv")
REPORT_FILE = "report.json"
MACHINES_FILE = "machines.json"
NETWORK_ALONE = ", network alone"
ALONE = "best-without-memory"
"""The network of ``best`` alone: what its memory adds to every ranking hides part of what the network's parts do."""

# Sec. 5.1.4 tunes dropout by data set. Under `best`, prefixes of short sequences are examples of their own, which costs
# little there and mixes the batches better; long sequences want batches of more targets, and longer windows.
DROPOUT = {"beauty": 0.3, "toys": 0.3, "ml-1m": 0.2}
SHORT_SEQUENCES = {"examples": "every-prefix", "batch_targets": 256, "epochs": 25}
BEST: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "beauty": ({"dim": 64}, SHORT_SEQUENCES),
    "toys": ({"dim": 64}, SHORT_SEQUENCES),
    "ml-1m": ({"dim": 128, "dropout": 0.2, "max_length": 200, "low_pass": 0.0}, {"batch_targets": 2000, "epochs": 24}),
}


@dataclass(frozen=True)
class Trial:
    """What is trained, and how.

    Attributes:
        model: its name in the tables, and that of its folder.
        build: from the items and a seed.
        training: settings.
    """

    model: str
    build: Callable[[Vocabulary, int], DiffRec]
    training: TrainingConfig

    def varied(self, label: str, **parts: Mapping[str, Any]) -> Trial:
        """The same training of a model whose ``parts`` are changed, see :func:`with_parts`."""
        return Trial(
            f"{self.model}-{label}", lambda items, seed: with_parts(self.build(items, seed), parts), self.training
        )

    def lasting(self, epochs: int) -> Trial:
        """The same trained for so many epochs; for as many as ever when 0."""
        return replace(self, training=replace(self.training, epochs=epochs or self.training.epochs))


def base(preset: str, dataset: str) -> Trial:
    """A preset, or :data:`ALONE`, as it is trained on a data set."""
    if preset == ALONE:
        return base("best", dataset).varied("without-memory", memory={"name": "none"})
    if preset == "paper":
        # The paper's precision is not said; bf16 matrix products make its size affordable. Its 50 epochs are cut short
        # when the validation score, by which the epoch is chosen, has not risen for ten.
        recipe = replace(RECIPES["paper"], precision="bf16", patience=10)
        return Trial("paper", lambda items, seed: paper(items, dropout=DROPOUT[dataset], seed=seed), recipe)
    settings, training = BEST[dataset]
    return Trial("best", lambda items, seed: best(items, seed=seed, **settings), replace(RECIPES["best"], **training))


def short_windows(preset: str, dataset: str) -> Trial:
    """As :func:`base`, in the paper's windows of 50: for variants whose cost grows with the square of the window."""
    trial = base(preset, dataset)
    if preset != "paper" and BEST[dataset][0].get("max_length", 50) > 50:
        return trial.varied("length-50", denoiser={"max_length": 50})
    return trial


def with_parts(model: DiffRec, parts: Mapping[str, Mapping[str, Any]]) -> DiffRec:
    """A model like ``model``, untrained, with parts changed.

    Args:
        model: whose config is the start.
        parts: kind to settings. With a ``"name"`` among them another component takes the place, and keeps of the old
            one's settings those that it has too.
    """
    config = model.config()
    for part, change in parts.items():
        name = change.get("name", config[part]["name"])
        known = PARTS[part].named(name).settings()
        kept = {key: value for key, value in config[part].items() if key in known}
        config[part] = {"name": name, **kept, **change}
    return DiffRec.from_config(model.vocabulary, config)


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """``--data-dir``, ``--runs`` and ``--budget``."""
    add_data_option(parser)
    parser.add_argument("--runs", type=Path, default=Path("runs/paper"), help="folder of the trials, to go on from")
    parser.add_argument("--budget", type=int, help="epochs at most; --quick alone is --budget 1")


def add_trial_options(parser: argparse.ArgumentParser) -> None:
    """Those of :func:`add_run_options`, ``--datasets`` and ``--seeds``."""
    add_run_options(parser)
    parser.add_argument("--datasets", "--dataset", nargs="+", default=DATASETS, choices=DATASETS)
    parser.add_argument("--seeds", type=int, default=1, help="trainings of each model, seeded from --seed on")


def parse_trials(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """As the harness parses; a run with a budget is a quick one, whose results have names of their own."""
    options = parse(parser, argv)
    if options.budget is not None and options.budget < 1:
        parser.error("--budget takes one epoch at least; leave it out for all")
    if options.quick and options.budget is None:
        options.budget = 1
    options.quick = options.budget is not None
    return options


def seeds_of(options: argparse.Namespace) -> range:
    """Those of the trainings of each model."""
    return range(options.seed, options.seed + options.seeds)


def results_of(program: str, options: argparse.Namespace, default: str) -> Results:
    """Called as the program where it looks at its ``default`` preset; another preset's have its name behind."""
    return Results(program if options.preset == default else f"{program}-{options.preset}", options)


def sequences_of(dataset: str, options: argparse.Namespace) -> Sequences:
    """The data set's sequences, from the data folder."""
    return read_interactions(options.data_dir / f"{dataset}.txt").sequences()


def training_of(trial: Trial, seed: int, options: argparse.Namespace) -> TrainingConfig:
    """The settings of a trial's run: with its seed, within the budget."""
    return replace(trial.training, seed=seed, epochs=min(options.budget or math.inf, trial.training.epochs))


def folder_of(trial: Trial, dataset: str, seed: int, options: argparse.Namespace) -> Path:
    """Where a trial is, or will be."""
    folder: Path = options.runs / dataset / f"{trial.model}-{seed}-{training_of(trial, seed, options).epochs}"
    return folder


def finished(trial: Trial, dataset: str, seed: int, options: argparse.Namespace) -> bool:
    """Whether a trial is trained and evaluated."""
    return (folder_of(trial, dataset, seed, options) / REPORT_FILE).is_file()


def trained(
    trial: Trial, dataset: str, split: Split, seed: int, options: argparse.Namespace
) -> tuple[DiffRec, Path, Row]:
    """Train, go on, or read what is finished: the model with its best weights, its folder, and how it was trained."""
    training = training_of(trial, seed, options)
    model = trial.build(split.train.vocabulary, seed)
    folder = folder_of(trial, dataset, seed, options)
    print(f"== {dataset}, {trial.model}, seed {seed}: {folder}", flush=True)
    result = train(
        model, split.train, split.validation, training, directory=folder, progress=True,
        on_epoch=lambda _: note_machine(folder),
    )  # fmt: skip
    # Of the training alone: the log knows how fast each epoch went.
    targets = TrainingBatches(split.train, examples=training.examples).num_targets
    return model, folder, {
        "trained_seed": seed,
        "best_epoch": result.best_epoch,
        "epochs": len(result.history),  # patience may have cut it short
        "validation_ndcg@10": result.best_score,
        "training_seconds": sum(targets / record["targets_per_second"] for record in result.history),
        "trained_on": ", ".join(machines_of(folder)),
        "settings": settings_of(model, training),
    }  # fmt: skip


def settings_of(model: DiffRec, training: TrainingConfig) -> str:
    """All of them, in JSON."""
    return json.dumps({"model": model.config(), "training": training.config()}, sort_keys=True)


def machines_of(folder: Path) -> list[str]:
    """The processors, or GPUs, on which a trial has been trained, in the order in which they came to it."""
    file = folder / MACHINES_FILE
    return [str(name) for name in json.loads(file.read_bytes())] if file.is_file() else []


def note_machine(folder: Path) -> None:
    """Add the one at hand to :func:`machines_of`."""
    machines = dict.fromkeys([*machines_of(folder), machine_name()])
    write_atomically(folder / MACHINES_FILE, json.dumps(list(machines)).encode())


def machine_name() -> str:
    """The GPU, where there is one, for it trains there; or the processor."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else cpu_name()


def run(trial: Trial, dataset: str, split: Split, seed: int, options: argparse.Namespace) -> list[Row]:
    """Train and evaluate, or read what is finished: one row with the history masked and one without.

    A model with a memory has the network's own rows besides.
    """

    def report() -> list[Row]:
        model, _, about = trained(trial, dataset, split, seed, options)
        return report_of(model, trial.model, dataset, split, about)

    file = folder_of(trial, dataset, seed, options) / REPORT_FILE
    return kept(file, report, wanted_settings(trial, split, seed, options))


def run_together(
    trial: Trial, dataset: str, split: Split, seeds: Sequence[int], options: argparse.Namespace
) -> list[Row]:
    """As :func:`run`, of the mean of a trial's seeds."""

    def report() -> list[Row]:
        members, _, about = zip(*(trained(trial, dataset, split, seed, options) for seed in seeds), strict=True)
        together = {
            "trained_seed": ", ".join(map(str, seeds)),
            "epochs": about[0]["epochs"],
            "training_seconds": math.fsum(each["training_seconds"] for each in about),
            "trained_on": ", ".join(dict.fromkeys(each["trained_on"] for each in about)),
            "settings": about[0]["settings"],
        }
        name = f"{trial.model}, {len(seeds)} trainings together"
        return report_of(Ensemble(members), name, dataset, split, together)

    file = folder_of(trial, dataset, seeds[-1], options) / f"together-{'-'.join(map(str, seeds))}.json"
    return kept(file, report, wanted_settings(trial, split, seeds[0], options))


def wanted_settings(trial: Trial, split: Split, seed: int, options: argparse.Namespace) -> str:
    """:func:`settings_of` a trial that need not be trained."""
    return settings_of(trial.build(split.train.vocabulary, seed), training_of(trial, seed, options))


def kept(file: Path, report: Callable[[], list[Row]], settings: str) -> list[Row]:
    """The rows in ``file``, which is written first where it is not there.

    Raises:
        ValueError: it is there, with other settings.
    """
    if not file.is_file():
        write_atomically(file, json.dumps(report(), indent=1).encode())
    rows: list[Row] = json.loads(file.read_bytes())
    if {row.get("settings") for row in rows} != {settings}:
        raise ValueError(f"{file} reports a training with other settings. Choose another --runs, or delete its folder.")
    return rows


def report_of(model: Recommender, name: str, dataset: str, split: Split, about: Row) -> list[Row]:
    """The model's rows of the test split."""
    rows = rows_of(evaluate(model, split.test), dataset, name)
    if not isinstance(model.memory, NoMemory):
        rows += rows_of(evaluate(model, split.test, memory=False), dataset, f"{name}{NETWORK_ALONE}")
    return [row | {"evaluated_with": diffusers_rec.__version__} | about for row in rows]


def rows_of(report: Report, dataset: str, model: str) -> list[Row]:
    """A report as rows."""
    return [
        {"dataset": dataset, "model": model, "history": history, **metrics}
        for history, metrics in (("masked", report.masked), ("unmasked", report.unmasked))
    ]


def published(dataset: str, model: str | None = None) -> list[Row]:
    """The published rows of a data set, or those of one model."""
    rows = (row for row in read_csv(PUBLISHED) if row["dataset"] == dataset and model in (None, row["model"]))
    return [{key: value for key, value in row.items() if value != ""} for row in rows]


def mean_score(rows: Sequence[Row], metric: str = "ndcg@10", **where: str) -> float:
    """A metric with the history masked, averaged over the rows whose columns have the values of ``where``."""
    wanted = where | {"history": "masked"}
    found = [row[metric] for row in rows if all(row.get(key) == value for key, value in wanted.items())]
    return math.fsum(found) / len(found)
