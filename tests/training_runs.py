"""Short trainings of small models, for the tests of training."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import torch

from diffusers_rec import DiffRec, SyntheticWorld
from diffusers_rec.training import TrainingConfig, train

SPLIT = SyntheticWorld(40, num_groups=4).sample(100, min_length=4, max_length=12).sequences().leave_one_out()


CONFIG = TrainingConfig(epochs=3, batch_targets=96, learning_rate=3e-3)


ARGUMENTS = "on_epoch", "optimizer", "metric", "callbacks", "trackers"
BEST = {
    "embedding": {"name": "table", "scale": "unit", "init_std": 0.02},
    "denoiser": {
        "name": "conditional-mlp",
        "encoder": {"name": "causal-transformer", "num_layers": 1, "num_heads": 2, "dropout": 0.1},
    },
    "objective": {"name": "simplified", "recommend_from": "final", "distance": "cosine", "reconstruction_weight": 0.1},
}


KINDS = {
    "causal, dropout, importance": {},
    "all positions, uniform, cosine": {
        "timesteps": "uniform",
        "examples": "all-positions",
        "decay": "cosine",
        "warmup_epochs": 0.5,
        "clip_norm": 1.0,
    },
    "the paper's encoder, last target": {
        "denoiser": {"name": "transformer", "num_layers": 1, "num_heads": 2, "dropout": 0.3},
        "examples": "last-target",
    },
    "bf16": {"precision": "bf16"},
    "the best preset's parts": BEST,
    "averaged weights": {"average_decay": 0.9},
    "no validation": {"validation": None},
}


def build(seed=0, vocabulary=SPLIT.train.vocabulary, **parts):
    settings = {
        "schedule": {"name": "sqrt", "num_timesteps": 5},
        "timesteps": {"name": "importance", "history": 3},
        "denoiser": {"name": "causal-transformer", "num_layers": 1, "num_heads": 2, "dropout": 0.2},
        "head": "tied",
    }
    return DiffRec(vocabulary, dim=16, max_length=8, seeds=2, seed=seed, **{**settings, **parts})


def fit(directory=None, *, model=None, validation=SPLIT.validation, **changes):
    """Train; ``changes`` are arguments of ``train``, training settings, or parts of the model."""
    arguments = {name: changes.pop(name) for name in ARGUMENTS if name in changes}
    settings = {name: changes.pop(name) for name in list(changes) if name in TrainingConfig.names()}
    model = model or build(**changes)
    config = replace(CONFIG, **settings)
    result = train(model, SPLIT.train, validation, config, directory=directory, device="cpu", **arguments)
    return model, result


def end(model, result):
    """The results of a run except times, as something that compares bit for bit."""
    history = [{name: value for name, value in row.items() if name != "targets_per_second"} for row in result.history]
    tensors = {name: tensor.numpy().tobytes() for name, tensor in model.state_dict().items()}
    return tensors, history, result.best_epoch, repr(result.best_score)  # NaN differs from itself


@lru_cache
def uninterrupted(kind="causal, dropout, importance"):
    return end(*fit(**KINDS[kind]))


def files(folder):
    return {path.name for path in folder.iterdir()}


def validations(result):
    return [row["validation_ndcg@10"] for row in result.history]


def train_and_write(folder, kind=None, **changes):
    """One of several processes: train, and write down how it ended."""
    torch.set_num_threads(1)
    from accelerate import PartialState

    text = as_json(end(*fit(Path(folder) / "run", **KINDS.get(kind, {}), **changes)))
    (Path(folder) / f"end-{PartialState().process_index}.json").write_text(text)


def as_json(ended):
    """How a run ended, as text."""
    tensors, *rest = ended
    return json.dumps([{name: data.hex() for name, data in tensors.items()}, *rest])
