"""The models that programs measure: untrained ones where only cost matters, a trained one where quality does."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from diffusers_rec import DiffRec, Holdout, SyntheticWorld, read_interactions
from diffusers_rec.presets import best
from diffusers_rec.training import RECIPES, train

BACKBONES = ("transformer", "causal-transformer", "conditional-mlp")


def untrained(backbone: str, *, num_items: int, max_length: int = 50, dim: int = 256, seed: int = 0) -> DiffRec:
    """The paper's sizes (two layers, two heads, N 1000) on a backbone."""
    return DiffRec(range(num_items), dim=dim, max_length=max_length, denoiser=backbone, seed=seed).eval()


def add_model_options(parser: argparse.ArgumentParser, users: int) -> None:
    """``--model``, ``--data`` and ``--users``."""
    parser.add_argument("--model", type=Path, help="folder of a trained model; a small one is trained when absent")
    parser.add_argument("--data", type=Path, help="the file that --model was trained on")
    parser.add_argument("--users", type=int, default=users, help="test users to look at")


def trained(options: argparse.Namespace) -> tuple[DiffRec, Holdout, dict[str, float]]:
    """A model, some users of its test set, and the best metrics that can be reached there, where they are known."""
    if (options.model is None) != (options.data is None):
        raise SystemExit("--model and --data come together: a model and the file that it was trained on.")
    users = options.users // 4 if options.quick else options.users
    if options.model is not None:
        model = DiffRec.from_pretrained(options.model)
        test = read_interactions(options.data).sequences().leave_one_out().test
        return model, test.sample(users, options.seed), {}
    world = SyntheticWorld(seed=options.seed)
    num_users, epochs = (1000, 5) if options.quick else (3000, 10)
    split = world.sample(num_users, seed=options.seed).sequences().leave_one_out()
    model = best(split.train.vocabulary, dropout=0.2, seed=options.seed)
    recipe = replace(RECIPES["best"], epochs=epochs, learning_rate=2e-3, precision="fp32", seed=options.seed)
    print(f"training a small model on {world}")
    torch.set_num_threads(1)  # tensors this small lose more to threads than they gain
    train(model, split.train, split.validation, replace(recipe, validate_every=epochs))
    torch.set_num_threads(options.threads)
    test = split.test.sample(users, options.seed)
    return model, test, world.best_metrics(test)
