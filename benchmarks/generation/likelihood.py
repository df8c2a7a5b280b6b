"""Joint likelihood of the next K items, and of an item left out between known ones, in nats an item.

Every model gives the probability of the same test items. ``left to right`` asks for the next item K times. ``any order``
is the mean over random orders; ``factorised`` takes each item given the history alone. The gap is the middle one of the K.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial

import numpy as np

from benchmarks import plots
from benchmarks.data import interactions_of
from benchmarks.generation.setting import SETTINGS, add_options, split_of, trained
from benchmarks.harness import Results, argument_parser, command, parse
from diffusers_rec import DiffRec, Holdout, Split, TransitionMemory
from diffusers_rec.evaluation import evaluate_gap, evaluate_joint
from diffusers_rec.evaluation.joint import GapReport

draw = partial(plots.dots, names=["question", "model", "order"], panels={"nats": "nats per item"})


def main(argv: Sequence[str] | None = None) -> None:
    parser = argument_parser(__doc__)
    add_options(parser)
    parser.add_argument("--users", type=int, default=1500, help="test users to look at")
    parser.add_argument("--orders", type=int, default=4, help="random orders per user")
    parser.add_argument("--models", nargs="+", default=("control", "joint", "bert4rec"))
    options = parse(parser, argv)
    results = Results(f"generation-likelihood-{options.dataset}", options, place=place)
    setting = SETTINGS[options.dataset]
    split = split_of(interactions_of(options.dataset, options.data_dir).sequences(), setting.k)
    test = split.test.sample(options.users, options.seed)
    for name in options.models:
        model = trained(name, split, options).without_memory()
        for exclude_seen in (True, False):
            joint_likelihood(results, name, model, test, setting.k, exclude_seen, options)
            gap(results, name, model, test, setting.k, exclude_seen, options)
    neighbours(results, split, test, setting.k, options)
    results.write(draw)


def place(row: dict[str, object]) -> tuple[str, ...]:
    """Where a row stands in the table."""
    return tuple(str(row[key]) for key in ("question", "seen", "model", "order", "seed"))


def joint_likelihood(
    results: Results, name: str, model: DiffRec, test: Holdout, k: int, exclude_seen: bool, options: argparse.Namespace
) -> None:
    """The next k items by the chain rule."""
    orders = {"left to right": ("left-to-right", True)}
    if model.denoiser.prediction == "items":
        orders |= {
            "any order": ("random", True),
            "any order, one encoding": ("random", False),
            "factorised": ("factorised", True),
        }
    for words, (order, join) in orders.items():
        found = evaluate_joint(
            model, test, k, order, orders=options.orders, join=join, exclude_seen=exclude_seen, seed=options.seed
        )
        add(results, f"next {k}", name, words, exclude_seen, -found / k, options)


def gap(
    results: Results, name: str, model: DiffRec, test: Holdout, k: int, exclude_seen: bool, options: argparse.Namespace
) -> None:
    """The middle item of the k, with what is left of it known, and with both sides known."""
    middle = k // 2
    sides = {"left side": list(range(middle))}
    if model.denoiser.prediction == "items":
        sides["both sides"] = [place for place in range(k) if place != middle]
    for words, known in sides.items():
        found = evaluate_gap(model, test, middle, known, exclude_seen=exclude_seen)
        add(results, "gap", name, words, exclude_seen, -found.log_probabilities, options, found)


def neighbours(results: Results, split: Split, test: Holdout, k: int, options: argparse.Namespace) -> None:
    """Item-to-item from both neighbours of the gap: how often each item came after the one and before the other."""
    num_items, middle = len(split.train.vocabulary), k // 2
    memory = TransitionMemory(num_items, backward=1.0, neighbours=num_items)
    memory.fit(split.train)
    table = np.zeros((num_items, num_items), np.float32)
    np.add.at(table, (np.arange(num_items)[:, None], memory.items.numpy()), memory.counts.numpy())
    for exclude_seen in (True, False):
        ranks = []
        for user in range(len(test)):
            items = test.following[user]
            scores = table[items[middle - 1]] + table[items[middle + 1]]
            if exclude_seen:
                scores[test.histories[user]] = -1
                scores[np.delete(items, middle)] = -1
            ranks.append(int((scores >= scores[items[middle]]).sum()))
        report = GapReport(np.full(len(test), np.nan), np.array(ranks))
        add(results, "gap", "item-to-item", "both sides", exclude_seen, report.log_probabilities, options, report)


def add(
    results: Results,
    question: str,
    model: str,
    order: str,
    exclude_seen: bool,
    nats: np.ndarray,
    options: argparse.Namespace,
    report: GapReport | None = None,
) -> None:
    """One row: the mean and its standard error over the users."""
    row: dict[str, object] = {
        "dataset": options.dataset,
        "question": question,
        "seen": "excluded" if exclude_seen else "kept",
        "model": model,
        "order": order,
        "users": len(nats),
        "nats": float(nats.mean()),
        "standard_error": float(nats.std() / len(nats) ** 0.5),
    }
    if report is not None:
        row["hr@10"] = report.hit_rate(10)
    results.add(row | {"epochs": options.epochs or SETTINGS[options.dataset].epochs})


if __name__ == "__main__":
    command(main)
