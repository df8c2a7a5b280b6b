"""Samples of the next K items: what they hit, how they differ, and whether they are calibrated.

For each user S samples of K items: from the roll-out of a next-item model, from the marginals (every item given the
history alone), from blanks in 1 to K steps, and from Gaussian chains. Seen items are left out. No item comes twice in a
sample, but from the marginals.

``probability`` is the mean probability of the items at their positions under the joint model, given the history alone,
for every way, and ``ece`` the expected calibration error of these numbers: how far they are from the share of items
that came at that position.
``distinct_at_place`` counts the items of a user's samples at one position. Blanks in K steps are exact draws of the
joint model, so that calibrated chains agree with them in all three. They look at one position at a time: ``likelihood``
measures whether the items of a sample fit one another.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from benchmarks import plots
from benchmarks.generation.rollout import roll_out
from benchmarks.generation.setting import add_options, data_name, setting_of, split_of, trained
from benchmarks.harness import Results, argument_parser, command, parse
from diffusers_rec import DiffRec, Holdout
from diffusers_rec.data import pad
from diffusers_rec.evaluation.calibration import expected_calibration_error
from diffusers_rec.items.choice import Choice
from diffusers_rec.recommenders.generating import Blanks, gap_distributions

CHAINS: dict[str, dict[str, Any]] = {
    "blanks, 1 step": {"name": "unmask", "num_steps": 1},
    "blanks, 2 steps": {"name": "unmask", "num_steps": 2},
    "blanks, K steps": {"name": "unmask"},
    "blanks, K steps, left to right": {"name": "unmask", "order": "left-to-right"},
    "blanks, K steps, surest first": {"name": "unmask", "order": "confidence"},
    "Gaussian, 5 steps": {"name": "ddpm", "num_steps": 5, "variance": "posterior"},
    "Gaussian, 10 steps": {"name": "ddpm", "num_steps": 10, "variance": "posterior"},
    "Gaussian, 25 steps": {"name": "ddpm", "num_steps": 25, "variance": "posterior"},
    "Gaussian, 50 steps": {"name": "ddpm", "num_steps": 50, "variance": "posterior"},
}

ANCESTRAL: dict[str, dict[str, Any]] = {
    "absorbing, 25 steps": {"name": "ddpm", "num_steps": 25},
    "absorbing, 50 steps": {"name": "ddpm", "num_steps": 50},
}
"""Chains of the absorbing process, whose steps fill any number of blanks."""

USERS_AT_ONCE = 16

ROLL_OUT = "control, rolled out"

draw = partial(
    plots.dots,
    names=["way"],
    panels={"recall": "recall of one sample", "union": "recall of all", "distinct": "distinct items"},
)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argument_parser(__doc__)
    add_options(parser)
    parser.add_argument("--users", type=int, default=400, help="test users to look at")
    parser.add_argument("--draws", type=int, default=20, help="samples per user")
    options = parse(parser, argv)
    results = Results(f"samples-{data_name(options)}", options)
    split, k = split_of(options), setting_of(options).k
    test = split.test.sample(options.users, options.seed)
    joint, control = (trained(name, split, options).without_memory() for name in ("joint", "control"))
    marginals = marginals_of(joint, test, k)

    blanks_alone = joint.replace(process="mask").eval()
    ways: dict[str, Callable[[], Tensor]] = {
        ROLL_OUT: partial(roll_out, control, test.histories, k, options.draws, seeded(options)),
        "marginals": partial(exact_draws, marginals, options.draws, seeded(options)),
        **{way: partial(slates, joint, test, k, chain, options) for way, chain in CHAINS.items()},
        **{way: partial(slates, blanks_alone, test, k, chain, options) for way, chain in ANCESTRAL.items()},
    }
    for way, sample in ways.items():
        items = sample()
        row = {"dataset": data_name(options), "way": way, "users": len(test)}
        found = metrics(items, test, k) | calibration(items, marginals, test)
        results.add(row | {"draws": options.draws} | found)
    marks(results)
    results.write(draw)


def marks(results: Results) -> None:
    """Chains beside exact draws of the same model."""
    rows = {row["way"]: row for row in results.rows}
    exact = rows["blanks, K steps"]
    for way in ("Gaussian, 25 steps", "Gaussian, 50 steps", *ANCESTRAL):
        for number in ("probability", "distinct_at_place"):
            name = way.replace(", ", "_").replace(" ", "_").lower()
            results.ratio(f"{name}_{number}_vs_exact", rows[way][number] / exact[number], "0.95 to 1.05")


def slates(
    model: DiffRec, test: Holdout, k: int, sampler: dict[str, Any], options: argparse.Namespace, guidance: Any = None
) -> Tensor:
    """Item indices of the model's slates, ``(U, S, K)``.

    Draws share their noise among the histories of a call, so that a few histories have seeds of their own.
    """
    histories, found = [model.vocabulary.decode(row) for row in test.histories], []
    for start in range(0, len(histories), USERS_AT_ONCE):
        seeds = [options.seed + start * options.draws + draw for draw in range(options.draws)]
        part = histories[start : start + USERS_AT_ONCE]
        found += model.slate(part, k, samples=seeds, sampler=sampler, guidance=guidance).items
    return torch.from_numpy(np.array([[model.vocabulary.encode(sample) for sample in row] for row in found]))


def marginals_of(model: DiffRec, test: Holdout, k: int) -> Tensor:
    """Probabilities of the items at each position given the history alone, ``(U, K, V)``; seen items left out."""
    blanks = Blanks(list(test.histories), [np.full(k, -1)] * len(test))
    found = torch.zeros(len(test), k, len(model.vocabulary))
    for places, part in blanks.batches(256):
        choice = Choice(pad(part.histories, fill=-1).items, None)
        with model.serving() as served:
            for place in range(k):
                for rows, scores in gap_distributions(served, part, torch.full((len(places),), place), choice):
                    found[torch.tensor(places)[rows], place] = scores.exp()
    return found


def exact_draws(marginals: Tensor, draws: int, generator: Generator) -> Tensor:
    """Items drawn independently from the marginals, ``(U, S, K)``; an item may come twice in a sample."""
    flat = torch.multinomial(marginals.flatten(0, 1), draws, replacement=True, generator=generator)
    return flat.view(*marginals.shape[:2], draws).transpose(1, 2)


def metrics(items: Tensor, test: Holdout, k: int) -> dict[str, float]:
    """Recall of one sample, of the best and of all together; items at their own place; sets that are hit whole."""
    truth = following(test, k)
    hit = (items[..., None] == truth[:, None, None]).any(2)  # (U, S, K): whether a sample holds the k-th item
    recall = hit.float().mean(-1)
    distinct = [len(row.unique()) for row in items.flatten(1)]
    repeats = [k - len(set(sample)) for row in items.tolist() for sample in row]
    return {
        "recall": float(recall.mean()),
        "best": float(recall.amax(1).mean()),
        "union": float(hit.any(1).float().mean()),
        "same_place": float((items == truth[:, None]).float().mean()),
        "whole_set": float((recall == 1).any(1).float().mean()),
        "distinct": float(np.mean(distinct)),
        "repeats": float(np.mean(repeats)),
    }


def calibration(items: Tensor, marginals: Tensor, test: Holdout) -> dict[str, float]:
    """Mean probability of the items of a sample, how far it is from coming true, and distinct items at a position."""
    probability = marginals.gather(2, items.transpose(1, 2))  # (U, K, S)
    came_true = (items == following(test, items.shape[2])[:, None]).transpose(1, 2).double()
    distinct = [len(column.unique()) for row in items for column in row.T]
    return {
        "probability": float(probability.mean()),
        "ece": expected_calibration_error(probability.flatten().double(), came_true.flatten()),
        "distinct_at_place": float(np.mean(distinct)),
    }


def following(test: Holdout, k: int) -> Tensor:
    """The first k items that followed, ``(U, K)``."""
    return torch.from_numpy(np.stack([row[:k] for row in test.following]))


def seeded(options: argparse.Namespace) -> Generator:
    """The generator of the draws of one way."""
    return Generator().manual_seed(options.seed)


if __name__ == "__main__":
    command(main)
