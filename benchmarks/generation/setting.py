"""The data and the models that the programs of this folder share.

Of every user the last K items are the test; the item before them is the validation, which chooses the epoch. BERT4Rec,
which does not rank the next item, keeps its last epoch. Users with fewer than K + 3 items train whole. All models have
the width, the windows and the number of epochs of one row of :data:`SETTINGS`; a finished training is read from its
folder.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.data import add_data_option, interactions_of
from benchmarks.harness import argument_parser, command, parse
from diffusers_rec import DiffRec, Split, SyntheticWorld
from diffusers_rec.presets import best, control, joint
from diffusers_rec.training import RECIPES, TrainingConfig, train


@dataclass(frozen=True)
class Setting:
    """How the models of a data set are built and trained.

    Attributes:
        k: Number K of test items a user.
        dropout: Dropout rate of the history encoders.
        epochs: Number of epochs.
        joint_epochs: Number of epochs of ``joint``, after those of the control.
        batch_targets: Largest number of targets in a batch.
    """

    k: int
    dropout: float
    epochs: int
    joint_epochs: int
    batch_targets: int


QUICK = Setting(k=3, dropout=0.2, epochs=1, joint_epochs=1, batch_targets=200)
"""A synthetic world, for a look."""

SETTINGS = {
    "beauty": Setting(k=3, dropout=0.5, epochs=30, joint_epochs=15, batch_targets=400),
    "toys": Setting(k=3, dropout=0.5, epochs=30, joint_epochs=15, batch_targets=400),
    "ml-1m": Setting(k=5, dropout=0.2, epochs=20, joint_epochs=10, batch_targets=1000),
}

MODELS = ("control", "longer", "best", "joint", "bert4rec")
"""``best``, its control without noise, ``joint``, which starts from the trained control, and BERT4Rec, the absorbing
process over whole windows. ``longer`` is the control, trained on for the epochs of ``joint`` in the same way."""

STARTED = ("joint", "longer")
"""Models that start from the trained control."""


def data_name(options: argparse.Namespace) -> str:
    """Name of the data in tables and folders."""
    return "synthetic" if options.quick else str(options.dataset)


def setting_of(options: argparse.Namespace) -> Setting:
    """The setting of the chosen data set."""
    setting = QUICK if options.quick else SETTINGS[options.dataset]
    return replace(
        setting,
        epochs=options.epochs or setting.epochs,
        joint_epochs=options.joint_epochs or setting.joint_epochs,
    )


def split_of(options: argparse.Namespace) -> Split:
    """The last K items of each user for the test, the one before for validation."""
    if options.quick:
        sequences = world_of(options).sample(150, min_length=8, seed=options.seed).sequences()
    else:
        sequences = interactions_of(options.dataset, options.data_dir).sequences()
    return sequences.leave_last_out(setting_of(options).k)


def world_of(options: argparse.Namespace) -> SyntheticWorld:
    """The synthetic world of a quick run."""
    return SyntheticWorld(60, seed=options.seed)


def untrained(name: str, split: Split, setting: Setting, seed: int, ranker: DiffRec | None) -> DiffRec:
    """One of :data:`MODELS`; those of :data:`STARTED` start from a ``ranker``."""
    arguments = {"dropout": setting.dropout, "low_pass": 0.0, "seed": seed}
    if name == "joint":
        return joint(split.train.vocabulary, k=setting.k, ranker=ranker, **arguments)
    if name == "bert4rec":  # a query is a whole window behind its first item, and the network over it is all there is
        return joint(split.train.vocabulary, k=49, **arguments).replace(
            noising="whole-windows",
            process={"blank": 1.0},
            denoiser={"encoder": {"num_layers": 1}, "joint_layers": 2, "joint_dropout": setting.dropout},
            objective={"next_weight": 0.0},
        )
    model = best(split.train.vocabulary, **arguments)
    if name == "best":
        return model
    plain = control(model)
    if ranker is not None:
        plain.load_state_dict(ranker.state_dict())
    return plain


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of every program of this folder."""
    add_data_option(parser)
    parser.add_argument("--dataset", choices=SETTINGS, default="ml-1m")
    parser.add_argument("--runs", type=Path, default=Path("runs/generation"), help="folder of the trained models")
    parser.add_argument("--progress", action="store_true", help="show progress bars")
    parser.add_argument("--epochs", type=int, help="number of epochs; that of the setting if absent")
    parser.add_argument("--joint-epochs", type=int, help="the same for joint and longer, after those of the control")


def epochs_of(name: str, options: argparse.Namespace) -> str:
    """Epochs of a model, as in ``"12"``; ``"12+6"`` where it starts from another one."""
    setting = setting_of(options)
    return f"{setting.epochs}+{setting.joint_epochs}" if name in STARTED else str(own_epochs(name, setting))


def own_epochs(name: str, setting: Setting) -> int:
    """Epochs of a model itself. BERT4Rec starts from nothing and gets those of ``joint`` and its start together."""
    if name == "bert4rec":
        return setting.epochs + setting.joint_epochs
    return setting.joint_epochs if name in STARTED else setting.epochs


def trained(name: str, split: Split, options: argparse.Namespace) -> DiffRec:
    """Train a model, resume its training, or read it."""
    ranker = trained("control", split, options) if name in STARTED else None
    model = untrained(name, split, setting_of(options), options.seed, ranker)
    return fitted(model, name, split, options)


def fitted(model: DiffRec, name: str, split: Split, options: argparse.Namespace, variant: str = "") -> DiffRec:
    """Train a model with the settings of one of :data:`MODELS`, resume its training, or read it."""
    setting = setting_of(options)
    folder = options.runs / data_name(options) / f"{variant}{name}-{options.seed}-{epochs_of(name, options)}"
    config: TrainingConfig = replace(
        RECIPES["best"],
        epochs=own_epochs(name, setting),
        batch_targets=setting.batch_targets,
        seed=options.seed,
    )
    train(
        model,
        split.train,
        None if name == "bert4rec" else split.validation,  # it does not rank the next item: its last epoch is kept
        config,
        directory=folder,
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
    split = split_of(options)
    for name in options.models:
        trained(name, split, options)


if __name__ == "__main__":
    command(main)
