"""The data and the models that the programs of this folder share.

Of every user the last K items are the test; the item before them is the validation, which chooses the epoch. Users with
fewer than K + 3 items train whole. All models have the width, the windows and the number of epochs of one row of
:data:`SETTINGS`; a finished training is read from its folder.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.data import add_data_option, interactions_of
from benchmarks.harness import argument_parser, parse
from diffusers_rec import DiffRec, Sequences, Split
from diffusers_rec.presets import best, control, joint
from diffusers_rec.training import RECIPES, TrainingConfig, train


@dataclass(frozen=True)
class Setting:
    """How the models of a data set are built and trained.

    Attributes:
        k: Number K of test items a user.
        dropout: Dropout rate of the history encoders.
        epochs: Number of epochs.
        batch_targets: Largest number of targets in a batch.
    """

    k: int
    dropout: float
    epochs: int
    batch_targets: int


SETTINGS = {
    "beauty": Setting(k=3, dropout=0.5, epochs=30, batch_targets=400),
    "toys": Setting(k=3, dropout=0.5, epochs=30, batch_targets=400),
    "ml-1m": Setting(k=5, dropout=0.2, epochs=20, batch_targets=1000),
}

MODELS = ("control", "best", "joint", "bert4rec")
"""``best``, its control without noise, ``joint``, and BERT4Rec, the absorbing process over whole windows."""


def split_of(sequences: Sequences, k: int) -> Split:
    """The last k items of each user for the test, the one before for validation."""
    lengths, items = sequences.lengths, [sequences[user] for user in range(len(sequences))]
    held = np.where(lengths >= k + 3, k + 1, 0)

    def part(pick: Any) -> Sequences:
        rows = [pick(row, size) for row, size in zip(items, held, strict=True)]
        offsets = np.concatenate([[0], np.cumsum([len(row) for row in rows])]).astype(np.int64)
        return Sequences(np.concatenate(rows), offsets, sequences.users, sequences.vocabulary)

    return Split.of(
        part(lambda row, size: row[: len(row) - size]),
        part(lambda row, size: row[len(row) - size : len(row) - size + 1][:size]),
        part(lambda row, size: row[len(row) - size + 1 :] if size else row[:0]),
    )


def untrained(name: str, split: Split, setting: Setting, seed: int) -> DiffRec:
    """One of :data:`MODELS`."""
    arguments = {"dropout": setting.dropout, "low_pass": 0.0, "seed": seed}
    if name == "joint":
        return joint(split.train.vocabulary, k=setting.k, **arguments)
    if name == "bert4rec":  # a query is a whole window behind its first item, and the network over it is all there is
        return joint(split.train.vocabulary, k=49, per_row=1, **arguments).replace(
            process={"blank": 1.0},
            denoiser={"num_layers": 1, "joint_layers": 2, "joint_dropout": setting.dropout},
            objective={"next_weight": 0.0},
        )
    model = best(split.train.vocabulary, **arguments)
    return control(model) if name == "control" else model


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of every program of this folder."""
    add_data_option(parser)
    parser.add_argument("--dataset", choices=SETTINGS, default="ml-1m")
    parser.add_argument("--runs", type=Path, default=Path("runs/generation"), help="folder of the trained models")
    parser.add_argument("--progress", action="store_true", help="show progress bars")
    parser.add_argument("--epochs", type=int, help="number of epochs; that of the setting if absent")


def folder_of(name: str, options: argparse.Namespace) -> Path:
    """The folder of a training."""
    epochs = options.epochs or SETTINGS[options.dataset].epochs
    folder: Path = options.runs / options.dataset / f"{name}-{options.seed}-{epochs}"
    return folder


def trained(name: str, split: Split, options: argparse.Namespace) -> DiffRec:
    """Train a model, resume its training, or read it."""
    setting = SETTINGS[options.dataset]
    model = untrained(name, split, setting, options.seed)
    config: TrainingConfig = replace(
        RECIPES["best"],
        epochs=options.epochs or setting.epochs,
        batch_targets=setting.batch_targets,
        seed=options.seed,
    )
    train(
        model,
        split.train,
        split.validation,
        config,
        directory=folder_of(name, options),
        device="cpu",
        progress=options.progress,
    )
    return model.eval()


def main(argv: Sequence[str] | None = None) -> None:
    """Train the models of a data set."""
    parser = argument_parser(main.__doc__)
    add_options(parser)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    options = parse(parser, argv)
    sequences = interactions_of(options.dataset, options.data_dir).sequences()
    split = split_of(sequences, SETTINGS[options.dataset].k)
    for name in options.models:
        trained(name, split, options)


if __name__ == "__main__":
    main()
