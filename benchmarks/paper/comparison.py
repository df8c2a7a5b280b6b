"""Tables that compare many trainings and grow over several runs: options, order of the rows, equal settings."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.harness import Place, Results, Row, at_least
from benchmarks.paper.running import training_of
from benchmarks.paper.settings import DATASETS
from benchmarks.paper.trial import Trial, with_epochs
from diffusers_rec.training import TrainingConfig


def add_comparison_options(parser: argparse.ArgumentParser, epochs: int) -> None:
    """``--add``, and ``--epochs`` with its default."""
    parser.add_argument("--add", action="store_true", help="keep the rows of other trials that the results contain")
    explained = "epochs of each training; 0 for as many as the preset's"
    parser.add_argument("--epochs", type=at_least(0), default=epochs, help=explained)


def place_of(column: str, labels: Sequence[str]) -> Place:
    """The order of a table: by data set; the published rows, then by label in the given order; by seed."""
    ranks = {label: rank for rank, label in enumerate(labels)}

    def place(row: Row) -> tuple[Any, ...]:
        label, seed = row[column], str(row.get("trained_seed", ""))
        order = DATASETS.index(row["dataset"]), bool(seed), ranks.get(label, len(ranks)), label, seed.zfill(9)
        return *order, row.get("model", ""), row.get("history", "")

    return place


def refuse_unequal_training(
    results: Results, column: str, trials: Callable[[str], Mapping[str, Trial]], options: argparse.Namespace
) -> None:
    """Check that the rows which ``--add`` keeps are of trainings with the settings of this run.

    Args:
        results: Results with the rows of earlier runs.
        column: Column that contains the labels.
        trials: Function from a data set to its trials by label.
        options: Parsed options, ``epochs`` among them.

    Raises:
        ValueError: a row is of a training that this run would do with other settings.
    """
    for row in results.kept():
        trial = trials(row["dataset"]).get(row[column]) if row["dataset"] in options.datasets else None
        if trial is None or not row.get("settings"):
            continue
        # A setting that is younger than the row had its default then.
        recorded = TrainingConfig(**json.loads(row["settings"])["training"]).config()
        wanted = training_of(with_epochs(trial, options.epochs), 0, options).config()
        unequal = [key for key in wanted if key != "seed" and recorded[key] != wanted[key]]
        if unequal:
            differences = ", ".join(f"{key} {recorded[key]} and not {wanted[key]}" for key in unequal)
            raise ValueError(
                f"--add: {results.file('.csv')} holds a training on {row['dataset']}, {row[column]}, with "
                f"{differences}. Give the same settings, or another --out."
            )
