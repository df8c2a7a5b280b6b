"""The models of the field, their controls, and the time that a training may take."""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from benchmarks.harness import Row, at_least
from benchmarks.paper.options import add_trial_options, sequences_of
from benchmarks.paper.running import seconds_of
from benchmarks.paper.trial import Trial
from diffusers_rec import Recommender, Split, Vocabulary
from diffusers_rec.presets import PRESETS, control
from diffusers_rec.training import RECIPES, Callback, TrainingRun

CONTROL = "-control"
OURS = ("best", "joint", "paper")
"""Presets that other tables compare."""

PRINTED = {
    "gru4rec": "GRU4Rec",
    "sasrec": "SASRec",
    "bert4rec": "BERT4Rec",
    "stosa": "STOSA",
    "cl4srec": "CL4SRec",
    "duorec": "DuoRec",
    "acvae": "ACVAE",
    "vsan": "VSAN",
    "mfgan": "MFGAN",
}
"""Presets without diffusion, the plain systems of Table 2, and their names there."""

PLAIN = tuple(PRINTED)

FIELD = tuple(name for name in PRESETS if name not in OURS + PLAIN)
"""Presets of other papers, in the order in which they are entered."""

WITHOUT_CONTROL = ("flowrec", "maskgr", "wang2023", "wang2023-latent", "wang2023-temporal", "flowcf")
"""Presets that have no control: they predict velocities or items, or diffuse vectors of users."""

CHANGED: dict[str, dict[str, Any]] = {
    "preferdiff": {"dim": 256},  # 3072 is the width of text embeddings; one core takes seconds for a step of it
}
"""Arguments that differ from those of the paper, on every data set."""

OF_DATASET: dict[tuple[str, str], dict[str, Any]] = {
    ("preferdiff", "beauty"): {"settings": "beauty"},
    ("preferdiff", "toys"): {"settings": "toys"},
    ("prefergrow", "beauty"): {"settings": "beauty"},
    ("prefergrow", "toys"): {"settings": "toys"},
    ("prefergrow", "ml-1m"): {"settings": "ml-1m"},
    ("cddrec", "beauty"): {"settings": "beauty"},
    ("cddrec", "toys"): {"settings": "toys"},
    ("wang2023", "ml-1m"): {"settings": "ml-1m"},
    ("wang2023-latent", "ml-1m"): {"settings": "ml-1m"},
    ("sasrec", "ml-1m"): {"max_length": 201, "dropout": 0.2},
    ("bert4rec", "ml-1m"): {"max_length": 200, "dropout": 0.2, "mask_share": 0.2},
}
"""Arguments that a paper has for a data set, by preset and data set; elsewhere, the preset's own."""

TRAINING_OF_DATASET: dict[tuple[str, str], dict[str, Any]] = {
    ("adrec", "ml-1m"): {"batch_targets": 22_500},  # as many as the last 50 of 512 users, the batch of the code
    ("prefergrow", "toys"): {"learning_rate": 1e-3},
    ("prefergrow", "ml-1m"): {"warmup_epochs": 0.65},  # 2,500 steps on every data set
    ("wang2023", "ml-1m"): {"learning_rate": 1e-3},
    ("wang2023-latent", "ml-1m"): {"learning_rate": 1e-3},
}
"""Training settings that a paper has for a data set, where they differ from those of the recipe."""

IN_FP32 = ("diffurec", "adrec", "fmrec", "maskgr", "ediffurec")
"""Presets that their code trains in fp32. In most, bf16 would round away noise that is scaled by .001."""

FIXED_EPOCHS = {"adrec": 5}
"""Epochs in which a preset's item vectors are those of its trained control, and fixed, as in its paper."""

VALIDATION_USERS = 2048
"""Users by whom the epoch is chosen: a ranking for all by 32 steps takes as long as the training."""

MINUTES = {"beauty": 60, "toys": 60, "ml-1m": 120}
"""The longest training of one model, on one core."""

PUBLISHED = Path(__file__).with_name("published.csv")


class TimeLimit(Callback):
    """Ends a training, within an epoch if need be, once its steps have used the minutes.

    The time is that of the processor in the training steps, of one thread, so that other work on the machine does not
    shorten a training. Epochs of an earlier process count by the clock, as the history has them. The limit is checked
    at the start too, so that a run which it has stopped trains no further epoch when it is resumed. Validation is not
    counted.

    Args:
        minutes: Length of the training.
    """

    def __init__(self, minutes: float) -> None:
        self.minutes = minutes
        self.seconds = self._read = 0.0

    def on_start(self, run: TrainingRun) -> None:
        self.seconds = seconds_of(run.history)
        self._check(run)
        self._read = time.thread_time()

    def on_batch(self, run: TrainingRun, losses: dict[str, float]) -> None:
        now = time.thread_time()
        self.seconds, self._read = self.seconds + now - self._read, now
        self._check(run)

    def on_epoch(self, run: TrainingRun, record: dict[str, float]) -> None:
        self._read = time.thread_time()

    def _check(self, run: TrainingRun) -> None:
        if self.seconds >= 60 * self.minutes:
            run.stop(at_once=True)


@dataclass(frozen=True)
class PresetTrial(Trial):
    """A trial whose ``model`` has the arguments of a preset, and its name under ``"preset"``.

    Attributes:
        fixed_epochs: Epochs in which the item vectors are those of the trained control, and fixed.
    """

    fixed_epochs: int = 0

    @classmethod
    def of(cls, name: str, dataset: str) -> Self:
        """A preset with the settings of its paper for the data set, and with its recipe.

        The precision is the machine's, so that a limited training has as many epochs as possible, except
        :data:`IN_FP32`.
        """
        precision = RECIPES[name].precision if name in IN_FP32 else "auto"
        training = replace(RECIPES[name], precision=precision, **TRAINING_OF_DATASET.get((name, dataset), {}))
        arguments = {**CHANGED.get(name, {}), **OF_DATASET.get((name, dataset), {})}
        return cls(name, dataset, {"preset": name, **arguments}, training, {}, FIXED_EPOCHS.get(name, 0))

    def build(self, items: Vocabulary, seed: int) -> Recommender:
        """The untrained model, or its control."""
        arguments = dict(self.model)
        model = PRESETS[arguments.pop("preset")](items, **arguments, seed=seed)
        return control(model) if self.name.endswith(CONTROL) else model

    def further_settings(self) -> dict[str, Any]:
        """The fixed epochs, if any."""
        return {"fixed_epochs": self.fixed_epochs} if self.fixed_epochs else {}


def trials(dataset: str) -> dict[str, PresetTrial]:
    """Every model, and its noise-free control where there is one, by name."""
    found: dict[str, PresetTrial] = {}
    for name in FIELD:
        found[name] = trial = PresetTrial.of(name, dataset)
        if name not in WITHOUT_CONTROL:
            found[f"{name}{CONTROL}"] = replace(trial, name=f"{name}{CONTROL}", fixed_epochs=0)
    return found


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of the programs of this folder."""
    add_trial_options(parser)
    add_limit(parser)
    names = list(trials("beauty"))
    parser.add_argument("--models", nargs="+", default=names, choices=names, metavar="MODEL", help=", ".join(names))


def add_limit(parser: argparse.ArgumentParser) -> None:
    """``--minutes``, and the folder of the trainings with a limit."""
    parser.set_defaults(runs=Path("runs/field"))
    parser.add_argument("--minutes", type=at_least(1), help="longest training; by default an hour, and two on ML-1M")


def split_of(dataset: str, options: argparse.Namespace) -> Split:
    """The leave-one-out split of a data set, with :data:`VALIDATION_USERS` for validation."""
    split = sequences_of(dataset, options).leave_one_out()
    return replace(split, validation=split.validation.sample(VALIDATION_USERS, seed=0))


def minutes_of(dataset: str, options: argparse.Namespace) -> int:
    """The longest training of a model on a data set, in minutes."""
    return options.minutes or MINUTES[dataset]


def limited(dataset: str, options: argparse.Namespace) -> argparse.Namespace:
    """The options for a data set, whose runs have a folder for each time limit."""
    runs = options.runs / f"{minutes_of(dataset, options)}-minutes"
    return argparse.Namespace(**{**vars(options), "runs": runs})


def longest(rows: Sequence[Row]) -> list[Row]:
    """The rows of each model's longest limit on a data set, and all rows without a limit."""
    limits: dict[tuple[str, str], set[int]] = defaultdict(set)
    for row in rows:
        limits[row["dataset"], row["model"]].add(int(row.get("minutes") or 0))
    return [
        row
        for row in rows
        if not row.get("minutes") or int(row["minutes"]) == max(limits[row["dataset"], row["model"]])
    ]


def limit_of(dataset: str, options: argparse.Namespace) -> Sequence[Callback]:
    """The time limit of a training."""
    return [TimeLimit(minutes_of(dataset, options))]
