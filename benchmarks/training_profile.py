"""Where a training step's time goes: matrix products, and everything else.

The operators' own time in the steps of ``train`` itself, over a sample of an epoch's batches drawn in strata of their
width, by kind of work: the paper's model on every prefix, the ``best`` preset and the causal backbones on all
positions. What an operator calls counts for what is called; ``python and rest`` is what the clock shows beyond them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial

from torch.profiler import ProfilerActivity, profile

from benchmarks import plots
from benchmarks.data import add_data_option, split_of
from benchmarks.harness import Results, argument_parser, parse
from benchmarks.training_throughput import PAPER_BATCH, Steps
from diffusers_rec import DiffRec, Split
from diffusers_rec.presets import best, paper
from diffusers_rec.training import RECIPES, TrainingConfig

KINDS = {
    "matrix products": ("mm", "addmm", "bmm", "addmv", "addmv_", "mv", "linear"),
    "softmax and its loss": ("_softmax", "amax", "scatter_add_", "_softmax_backward_data", "sum"),
    "copies and casts": ("copy_", "_to_copy", "cat", "index", "index_select", "gather", "_index_put_impl_"),
    "dropout": ("ge", "mul"),
    "layer norm": ("native_layer_norm", "native_layer_norm_backward"),
    "optimiser": ("_fused_adamw_",),
}

draw = partial(plots.shares, names=["dataset", "model"], part="work", value="share")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argument_parser(__doc__)
    add_data_option(parser)
    options = parse(parser, argv)
    results = Results("training_profile", options)
    count = 4 if options.quick else 32
    for dataset in ("beauty", "ml-1m"):
        name, split = split_of(dataset, options.data_dir, options.seed)
        for label, steps in steps_of(split, count, options.seed).items():
            shares = profiled(steps)
            for kind, share in shares.items():
                results.add({"dataset": name, "model": label, "work": kind, "share": share})
            words = f"{dataset.replace('-', '')}_{label.replace('-', '_')}_matrix_products_share"
            results.ratio(words, shares["matrix products"])
    results.write(draw)


def steps_of(split: Split, count: int, seed: int) -> dict[str, Steps]:
    """Training steps by model."""
    items = split.train.vocabulary
    every_prefix = TrainingConfig(batch_targets=PAPER_BATCH, precision="auto", seed=seed)
    all_positions = TrainingConfig(examples="all-positions", batch_targets=1024, precision="auto", seed=seed)
    return {
        "paper": Steps(paper(items, seed=seed), split, every_prefix, count),
        "causal-transformer": Steps(
            DiffRec(items, denoiser="causal-transformer", seed=seed), split, all_positions, count
        ),
        "best": Steps(best(items, seed=seed), split, RECIPES["best"], count),
    }


def profiled(steps: Steps) -> dict[str, float]:
    """The share of each kind of work in the wall time, ``python and rest`` included."""
    steps()
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        started = time.perf_counter()
        steps()
        seconds = time.perf_counter() - started
    shares = dict.fromkeys(KINDS, 0.0)
    other = 0.0
    for event in recorded.key_averages():
        operator, own = event.key.removeprefix("aten::"), event.self_cpu_time_total / 1e6 / seconds
        kind = next((kind for kind, operators in KINDS.items() if operator in operators), None)
        if kind is not None:
            shares[kind] += own
        elif event.key.startswith("aten::"):
            other += own
    return shares | {"other operators": other, "python and rest": max(0.0, 1 - other - sum(shares.values()))}


if __name__ == "__main__":
    main()
