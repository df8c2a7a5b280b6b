"""Trainings in stages: ADRec starts from the item vectors of its control, and keeps them fixed for some epochs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import cast

import torch

from benchmarks.field.settings import CONTROL, limit_of, trials
from benchmarks.paper.running import is_finished, train_or_resume
from diffusers_rec import DiffRec, Split
from diffusers_rec.items.embeddings import ItemEmbedding
from diffusers_rec.training import Callback, TrainingRun


class FixedVectors(Callback):
    """Starts a training from item vectors, and trains them only after some epochs.

    Args:
        vectors: Embedding with the vectors.
        epochs: Number of epochs in which they are fixed.
    """

    def __init__(self, vectors: ItemEmbedding, epochs: int) -> None:
        self.vectors, self.epochs = vectors, epochs

    def on_start(self, run: TrainingRun) -> None:
        embedding = cast(DiffRec, run.model).embedding
        if not run.history:
            embedding.load_state_dict(self.vectors.state_dict())
        elif len(run.history) <= self.epochs and not torch.equal(embedding.table(), self.vectors.table()):
            raise ValueError("The run was started with other item vectors than the control's. Delete its folder.")
        self._fix(run)

    def on_epoch(self, run: TrainingRun, record: dict[str, float]) -> None:
        self._fix(run)

    def _fix(self, run: TrainingRun) -> None:
        cast(DiffRec, run.model).embedding.requires_grad_(len(run.history) >= self.epochs)


def stages_of(name: str, dataset: str, split: Split, seed: int, options: argparse.Namespace) -> Sequence[Callback]:
    """The callback of a training in stages, whose first stage, the control, is trained where it is missing."""
    by_name = trials(dataset)
    epochs = by_name[name].fixed_epochs
    if not epochs or is_finished(by_name[name], seed, options):
        return []
    control = by_name[f"{name}{CONTROL}"]
    first = train_or_resume(control, split, seed, options, callbacks=limit_of(dataset, options))[0]
    return [FixedVectors(first.embedding, epochs)]
