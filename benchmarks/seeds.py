"""Serving: what S seeds cost beside one, in latents alone and with the ranking over a catalogue of Beauty's.

Full histories, untrained models at the paper's sizes. Where every seed costs a whole sequence (and in a quick run) many
seeds are not run but extrapolated, for the cost is linear in S; the column ``extrapolated`` says so.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial

import torch

from benchmarks import plots
from benchmarks.data import BEAUTY_ITEMS, full_histories
from benchmarks.harness import Results, Timing, argument_parser, compare, extrapolated, parse
from benchmarks.models import BACKBONES, untrained
from diffusers_rec import DiffRec, History
from diffusers_rec.recommenders.ranking import TopK, top_k

SEEDS = (1, 2, 5, 10, 20, 50, 100)
QUICK_SEEDS = (1, 10)
LENGTH = 50
K = 10
TARGETS = {"causal-transformer": "<= 2", "conditional-mlp": "<= 2"}

draw = partial(
    plots.lines,
    x="seeds",
    panels={
        "median_seconds": "seconds per batch, latents",
        "ranking_median_seconds": "seconds per batch, with ranking",
    },
    by="denoiser",
)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argument_parser(__doc__)
    options = parse(parser, argv)
    results = Results("seeds", options)
    with torch.no_grad():
        for backbone in BACKBONES:
            measure(results, backbone, options)
    results.write(draw)


def measure(results: Results, backbone: str, options: argparse.Namespace) -> None:
    """One backbone at every number of seeds."""
    unfolds = backbone not in TARGETS  # to one sequence a seed
    rows = (8 if unfolds else 64) if options.quick else 256
    most = 10 if options.quick or unfolds else max(SEEDS)
    run = QUICK_SEEDS if options.quick else [seeds for seeds in SEEDS if seeds <= most]
    model = untrained(backbone, num_items=BEAUTY_ITEMS, max_length=LENGTH)
    history = full_histories(rows, model.history_length, BEAUTY_ITEMS, seed=options.seed)
    functions: dict[tuple[str, int], Callable[[], object]] = {}
    for seeds in run:
        functions["latents", seeds] = partial(model.next_item_latents, history, seeds=seeds)
        functions["ranking", seeds] = partial(rank, model, history, seeds)
    timings = compare(functions, repeats=9, budget=3 if options.quick else 60)
    for seeds in SEEDS:
        flag = "" if seeds in run else f"from {most} seeds"
        latents, ranking = (
            timings.get((what, seeds)) or extrapolated(timings[what, 1], timings[what, most], most, seeds)
            for what in ("latents", "ranking")
        )
        measured = {"denoiser": backbone, "seeds": seeds, "batch": rows, "extrapolated": flag}
        results.add(measured | with_ranking(ranking), latents)
    words = backbone.replace("-", "_")
    for what, suffix in (("ranking", ""), ("latents", "_latents_alone")):
        times = timings[what, 10].over(timings[what, 1])
        results.ratio(f"{words}_10_seeds_vs_1{suffix}", times, "" if suffix else TARGETS.get(backbone, ""))


def rank(model: DiffRec, history: History, seeds: int) -> TopK:
    """What ``recommend`` computes."""
    return top_k(model.score(history, seeds=seeds), K)


def with_ranking(timing: Timing) -> dict[str, float]:
    """The columns of the latents and their ranking together."""
    return {f"ranking_{name}": value for name, value in timing.columns().items() if name != "repeats"}


if __name__ == "__main__":
    main()
