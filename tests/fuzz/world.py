"""A small world: the least that every public call needs, fresh at each call so that no trial meets another's traces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from diffusers_rec import (
    Batch,
    DiffRec,
    GaussianProcess,
    History,
    Holdout,
    Interactions,
    LinearHead,
    Sequences,
    SqrtSchedule,
    TableEmbedding,
    TrainingBatches,
    TransitionMemory,
    Vocabulary,
)
from diffusers_rec.integrations.faiss import ItemIndex

NUM_ITEMS, DIM, STEPS = 8, 4, 7
DENOISER = {
    "name": "conditional-mlp",
    "encoder": {"name": "causal-transformer", "num_layers": 1, "num_heads": 1, "dropout": 0.2},
    "mlp_layers": 1,
}
SETTINGS: dict[str, Any] = {
    "dim": DIM,
    "max_length": 6,
    "schedule": {"name": "cosine", "num_timesteps": STEPS},
    "denoiser": DENOISER,
    "memory": {"name": "transitions"},
    "seeds": 2,
}


def vocabulary(size: int = NUM_ITEMS) -> Vocabulary:
    return Vocabulary([f"i{v}" for v in range(size)])


def log() -> Interactions:
    """Six users of five items each."""
    walk = [(u, (3 * u + step * (1 + u % 3)) % NUM_ITEMS) for u in range(6) for step in range(5)]
    users, items = np.array(walk).T.copy()
    return Interactions(users, items, np.arange(len(users)), Vocabulary([f"u{u}" for u in range(6)]), vocabulary())


def sequences() -> Sequences:
    return log().sequences()


def holdout() -> Holdout:
    return sequences().leave_one_out().validation


def model(items: Vocabulary | None = None, **changes: Any) -> DiffRec:
    built = DiffRec(items or vocabulary(), **{**SETTINGS, **changes})
    if items is None:
        built.memory.fit(sequences())
    return built.eval()


def embedding(dim: int = DIM) -> TableEmbedding:
    return TableEmbedding(NUM_ITEMS, dim)


def head() -> LinearHead:
    return LinearHead(NUM_ITEMS, DIM)


def schedule() -> SqrtSchedule:
    return SqrtSchedule(STEPS)


def process() -> GaussianProcess:
    return GaussianProcess(schedule())


def memory() -> TransitionMemory:
    fitted = TransitionMemory(NUM_ITEMS)
    fitted.fit(sequences())
    return fitted


def batch() -> Batch:
    return next(iter(TrainingBatches(sequences(), max_length=6, batch_targets=8).epoch(0)))


def history() -> History:
    return History(torch.ones(2, 3).long(), torch.tensor([3, 2]))


def generator(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def gaussian(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator(1))


def index() -> ItemIndex:
    return ItemIndex(head(), factory="Flat")


def write_files(folder: Path) -> None:
    """``model``, ``part``, ``index.safetensors`` and ``log.csv`` in a folder."""
    model().save_pretrained(folder / "model")
    embedding().save_pretrained(folder / "part")
    index().save(folder / "index.safetensors")
    given = log()
    rows = zip(given.users, given.items, given.times, strict=True)
    lines = ["user,item,time", *(f"u{user},i{item},{time}" for user, item, time in rows)]
    (folder / "log.csv").write_text("\n".join(lines) + "\n")
