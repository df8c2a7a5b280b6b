"""Time of slates of the joint model, beside a roll-out of the control with cached keys, and of its training steps.

Both draw ``--draws`` samples of K items for each of up to 256 users in one call. The roll-out is a lower bound: it
encodes the history once, and one item more for each draw. Training steps are compared with those of ``best`` on the
same windows. Run this program alone.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from benchmarks import plots
from benchmarks.generation.rollout import cached_roll_out
from benchmarks.generation.samples import ROLL_OUT
from benchmarks.generation.setting import add_options, data_name, setting_of, split_of, trained, untrained
from benchmarks.harness import Results, Timing, argument_parser, command, compare, parse
from benchmarks.training_throughput import Steps
from diffusers_rec import Split
from diffusers_rec.data import pad
from diffusers_rec.guidance import unwrapped
from diffusers_rec.training import RECIPES

STEPS = {"1 step": 1, "2 steps": 2, "K steps": None}

draw = partial(plots.dots, names=["way"], panels={"median_seconds": "seconds"})


def main(argv: Sequence[str] | None = None) -> None:
    parser = argument_parser(__doc__)
    add_options(parser)
    parser.add_argument("--draws", type=int, default=20, help="samples per user")
    options = parse(parser, argv)
    results = Results(f"latency-{data_name(options)}", options)
    split, k = split_of(options), setting_of(options).k
    some = split.test.take(np.arange(min(256, len(split.test))))
    joint, control = (trained(name, split, options).without_memory() for name in ("joint", "control"))
    raw = [joint.vocabulary.decode(row) for row in some.histories]
    history, encoder = pad(list(some.histories), control.history_length - k), unwrapped(control.denoiser).encoder
    slate = partial(joint.slate, raw, k, samples=options.draws)
    timings = compare(
        {ROLL_OUT: partial(cached_roll_out, control, encoder, history, k, options.draws, options.seed)}
        | {way: partial(slate, sampler={"name": "unmask", "num_steps": number}) for way, number in STEPS.items()},
        repeats=5,
        budget=120,
    )
    for way, timing in timings.items():
        row = {"dataset": data_name(options), "way": way if way == ROLL_OUT else f"blanks, {way}", "users": len(some)}
        results.add(row | {"draws": options.draws}, timing)
    for way in STEPS:
        name = f"blanks_{way.replace(' ', '_')}_time_vs_cached_roll_out"
        results.ratio(name, timings[way].over(timings[ROLL_OUT]), "<= 0.5")
    steps = training_steps(split, options)
    results.ratio("training_step_of_joint_over_best", steps["joint"].over(steps["best"]), "<= 3")
    results.write(draw)


def training_steps(split: Split, options: argparse.Namespace) -> dict[str, Timing]:
    """Timing of training steps of ``best`` and ``joint``, in turn, on the same sample of batches."""
    setting = setting_of(options)
    recipe = replace(RECIPES["best"], batch_targets=setting.batch_targets, seed=options.seed)
    count = 1 if options.quick else 8
    steps = {
        name: Steps(untrained(name, split, setting, options.seed, None), split, recipe, count)
        for name in ("best", "joint")
    }
    return compare(steps, repeats=5, budget=120)


if __name__ == "__main__":
    command(main)
