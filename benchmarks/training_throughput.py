"""Training: targets a second, against the baseline and of one way to cut examples against another.

Every program of a comparison takes training steps on a fixed sample of an epoch's batches, drawn in strata of their
width so that few stand for all; the library's steps are those of ``train`` itself. Batches are cut beforehand on both
sides. The baseline's batches all cost the same, so that one stands for all.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from itertools import islice

import numpy as np
import torch

from benchmarks import plots
from benchmarks.data import add_data_option, split_of
from benchmarks.harness import Results, Timing, argument_parser, compare, parse
from benchmarks.naive import NaiveDSR, NaiveTraining
from diffusers_rec import Batch, DiffRec, Split, TrainingBatches
from diffusers_rec.presets import best, paper
from diffusers_rec.training import RECIPES, TrainingConfig
from diffusers_rec.training.learner import Learner
from diffusers_rec.training.loop import step_generator, training_batches
from diffusers_rec.training.optimizers import build_optimizer
from diffusers_rec.training.precision import resolved
from diffusers_rec.training.processes import Processes

PAPER_BATCH = 256
FASTEST = resolved("auto", torch.device("cpu"))
"""Precision of the recipes on this machine."""

LOOKED_AT = 512  # batches of the epoch that the sample is drawn from; their order is random

draw = partial(
    plots.dots,
    names=["dataset", "model", "precision", "examples", "batch_targets"],
    panels={"targets_per_second": "targets per second, log scale"},
    log=True,
)


class Steps:
    """The library's training steps on a sample of an epoch's batches, one after another at each call."""

    def __init__(self, model: DiffRec, split: Split, config: TrainingConfig, count: int) -> None:
        self.config = config
        model.prepare(split.train, examples=config.examples)
        self.learner = Learner(model, build_optimizer(None, model, config), config, Processes("cpu"))
        self.learner.start_epoch()
        self.batches = sampled(training_batches(model, split.train, config), count)
        self.targets = sum(batch.num_targets for batch in self.batches)

    def __call__(self) -> None:
        for number, batch in enumerate(self.batches):
            generator = step_generator(self.config.seed, 0, number)
            self.learner.step(batch, generator, number=number, epochs_done=self.config.warmup_epochs)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argument_parser(__doc__)
    add_data_option(parser)
    options = parse(parser, argv)
    results = Results("training_throughput", options)
    against_the_baseline(results, options)
    examples_against_examples(results, options)
    recipes(results, options)
    results.write(draw)


def against_the_baseline(results: Results, options: argparse.Namespace) -> None:
    """The paper's model and batches on Beauty, written plainly and by the library."""
    name, split = split_of("beauty", options.data_dir, options.seed)
    batch, count = PAPER_BATCH, 8 if options.quick else 32
    naive = NaiveTraining(NaiveDSR(len(split.train.vocabulary)), split.train, batch, options.seed)
    ours = {
        precision: Steps(
            paper(split.train.vocabulary, seed=options.seed),
            split,
            TrainingConfig(batch_targets=batch, precision=precision, seed=options.seed),
            count,
        )
        for precision in ("bf16", "fp32")
    }
    timings = compare({"naive": naive.step, **ours}, **effort(options, 60))
    add(results, timings["naive"], batch, dataset=name, model="naive", precision="fp32",
        examples="every-prefix", batch_targets=batch)  # fmt: skip
    for precision, steps in ours.items():
        add(results, timings[precision], steps.targets, dataset=name, model="paper", precision=precision,
            examples="every-prefix", batch_targets=batch)  # fmt: skip
        times = timings["naive"].over(timings[precision]) * steps.targets / batch
        suffix, target = ("", ">= 6") if precision == "bf16" else ("_fp32", "")
        results.ratio(f"beauty_paper_size_vs_naive{suffix}", times, target)


def examples_against_examples(results: Results, options: argparse.Namespace) -> None:
    """All positions of a window at once against one example a prefix, each at the fastest of a few batch sizes."""
    name, split = split_of("ml-1m", options.data_dir, options.seed)
    sizes = {"every-prefix": (128, 256, 512), "all-positions": (512, 1024, 2048)}
    if options.quick:
        sizes = {"every-prefix": (64,), "all-positions": (512,)}
    for backbone in ("conditional-mlp", "causal-transformer"):
        steps = {
            (examples, size): Steps(
                DiffRec(split.train.vocabulary, denoiser=backbone, seed=options.seed),
                split,
                TrainingConfig(examples=examples, batch_targets=size, precision=FASTEST, seed=options.seed),
                1 if options.quick else 4,
            )
            for examples in sizes
            for size in sizes[examples]
        }
        timings = compare(steps, **effort(options, 60))
        for (examples, size), timing in timings.items():
            add(results, timing, steps[examples, size].targets, dataset=name, model=backbone, precision=FASTEST,
                examples=examples, batch_targets=size)  # fmt: skip
        one, many = (
            min(
                ((examples, size) for size in sizes[examples]),
                key=lambda each: timings[each].median / steps[each].targets,
            )
            for examples in sizes
        )
        times = timings[one].over(timings[many]) * steps[many].targets / steps[one].targets
        words = backbone.replace("-", "_")
        results.ratio(f"ml1m_all_positions_vs_every_prefix_{words}", times, ">= 10")


def recipes(results: Results, options: argparse.Namespace) -> None:
    """The ``best`` preset as it is trained, for information."""
    for dataset in ("beauty",) if options.quick else ("beauty", "toys", "ml-1m"):
        name, split = split_of(dataset, options.data_dir, options.seed)
        steps = Steps(
            best(split.train.vocabulary, seed=options.seed), split, RECIPES["best"], 4 if options.quick else 32
        )
        timings = compare({"best": steps}, **effort(options, 15))
        recipe = RECIPES["best"]
        add(results, timings["best"], steps.targets, dataset=name, model="best", precision=FASTEST,
            examples=recipe.examples, batch_targets=recipe.batch_targets)  # fmt: skip


def effort(options: argparse.Namespace, budget: float) -> dict[str, float]:
    """How long to measure."""
    return {"repeats": 3 if options.quick else 15, "budget": 1 if options.quick else budget}


def add(results: Results, timing: Timing, targets: int, **measured: str | int) -> None:
    """One row; the seconds are those of a step over the whole sample, ``targets`` of them."""
    results.add({**measured, "targets": targets, "targets_per_second": targets / timing.median}, timing)


def sampled(batches: TrainingBatches, count: int) -> list[Batch]:
    """Batches of the first epoch, one at random from each of ``count`` strata of like width."""
    pool = sorted(islice(batches.epoch(0), LOOKED_AT), key=lambda batch: batch.items.shape[1])
    generator = np.random.default_rng(batches.seed)
    strata = np.array_split(np.arange(len(pool)), min(count, len(pool)))
    return [pool[generator.choice(stratum)] for stratum in strata]


if __name__ == "__main__":
    main()
