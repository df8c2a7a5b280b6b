"""A trial: one model trained on one data set and evaluated once on its test split.

Every trial has a folder of its own, in which a run that was killed goes on and a finished one is not repeated. What is
chosen, the epoch, is chosen on validation.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.data import add_data_option
from benchmarks.harness import Row
from diffusers_rec import DiffRec, Split, TrainingBatches, Vocabulary
from diffusers_rec.evaluation import Report, evaluate
from diffusers_rec.training import TrainingConfig, train

DATASETS = ("beauty", "toys", "ml-1m")


@dataclass(frozen=True)
class Trial:
    """What is trained, and how.

    Attributes:
        model: its name in the tables.
        build: from the items and a seed.
        training: settings.
    """

    model: str
    build: Callable[[Vocabulary, int], DiffRec]
    training: TrainingConfig


def add_trial_options(parser: argparse.ArgumentParser) -> None:
    """``--data-dir``, ``--runs``, ``--datasets``, ``--seeds`` and ``--budget``."""
    add_data_option(parser)
    parser.add_argument("--runs", type=Path, default=Path("runs/paper"), help="folder of the trials, to go on from")
    parser.add_argument("--datasets", nargs="+", default=DATASETS, choices=DATASETS)
    parser.add_argument("--seeds", type=int, default=1, help="trainings of each model, seeded from --seed on")
    parser.add_argument("--budget", type=int, help="epochs at most, for a short version")


def run(trial: Trial, dataset: str, split: Split, seed: int, options: argparse.Namespace) -> list[Row]:
    """Train, or go on, and evaluate: one row with the history masked and one without."""
    training = replace(trial.training, seed=seed)
    if options.budget is not None:
        training = replace(training, epochs=min(options.budget, training.epochs))
    model = trial.build(split.train.vocabulary, seed)
    folder = options.runs / dataset / f"{trial.model}-{seed}-{training.epochs}"
    print(f"== {dataset}, {trial.model}, seed {seed}: {folder}", flush=True)
    result = train(model, split.train, split.validation, training, directory=folder, progress=True)
    # Of the training alone: the log knows how fast each epoch went.
    targets = TrainingBatches(split.train, examples=training.examples).num_targets
    seconds = sum(targets / record["targets_per_second"] for record in result.history)
    settings = json.dumps({"model": model.config(), "training": training.config()}, sort_keys=True)
    about = {
        "best_epoch": result.best_epoch,
        "epochs": training.epochs,
        "validation_ndcg@10": result.best_score,
        "training_seconds": seconds,
        "settings": settings,
    }
    return [row | {"trained_seed": seed} | about for row in rows_of(evaluate(model, split.test), dataset, trial.model)]


def rows_of(report: Report, dataset: str, model: str) -> list[Row]:
    """A report as rows."""
    return [
        {"dataset": dataset, "model": model, "history": history, **metrics}
        for history, metrics in (("masked", report.masked), ("unmasked", report.unmasked))
    ]
