"""Robustness: random items among the history, and what they cost the joint model and the control.

A share of the items of every test history is replaced by items drawn uniformly. The ranking is by the network alone,
seen items left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from benchmarks import plots
from benchmarks.generation.setting import MODELS, add_options, data_name, split_of, trained
from benchmarks.harness import Results, argument_parser, command, parse
from diffusers_rec import Holdout, Sequences
from diffusers_rec.evaluation import evaluate

SHARES = (0.0, 0.1, 0.2, 0.33)

draw = partial(plots.dots, names=["model", "replaced"], panels={"ndcg@10": "NDCG@10", "hr@10": "HR@10"})


def main(argv: Sequence[str] | None = None) -> None:
    parser = argument_parser(__doc__)
    add_options(parser)
    parser.add_argument("--users", type=int, default=3000, help="test users to look at")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=("control", "joint"))
    options = parse(parser, argv)
    results = Results(f"robustness-{data_name(options)}", options)
    split = split_of(options)
    test = split.test.sample(options.users, options.seed)
    found: dict[tuple[str, float], float] = {}
    for name in options.models:
        model = trained(name, split, options)
        for share in SHARES:
            report = evaluate(model, replaced(test, share, options.seed), memory=False, ks=[10])
            metrics = report.metrics(["ndcg@10", "hr@10"])
            found[name, share] = metrics["ndcg@10"]
            row = {"dataset": data_name(options), "model": name, "replaced": f"{share:.0%}", "users": len(test)}
            results.add(row | metrics)
    for name in options.models:
        for share in SHARES[1:]:
            kept = found[name, share] / found[name, 0.0]
            results.ratio(f"{name}_ndcg@10_kept_with_{share:.0%}_replaced", kept)
    results.write(draw)


def replaced(test: Holdout, share: float, seed: int) -> Holdout:
    """The test with a share of the items of its histories replaced, the same ones for every model."""
    generator, own = np.random.default_rng(seed), test.histories
    chosen = generator.random(len(own.items)) < share
    items = np.where(chosen, generator.integers(len(own.vocabulary), size=len(own.items)), own.items)
    histories = Sequences(items, own.offsets, own.users, own.vocabulary)
    return Holdout(histories, test.targets, test.following)


if __name__ == "__main__":
    command(main)
