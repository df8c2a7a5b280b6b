"""How costs grow with the length of the history: encoding it, serving one step, and a training step.

Full histories, untrained models at the paper's widths. A causal backbone trains on all positions of few rows, the
bidirectional one on one target a row, which is how each is trained at its best; ``targets_per_second`` compares them.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial

import torch
from torch import Generator

from benchmarks import plots
from benchmarks.data import BEAUTY_ITEMS, full_histories
from benchmarks.harness import Results, argument_parser, compare, parse
from benchmarks.models import BACKBONES, untrained
from diffusers_rec import Batch, DiffRec

LENGTHS = (10, 25, 50, 100, 200, 400)
BATCH = 64
ALL_POSITIONS_TARGETS = 1024  # about so many a training step, whatever the length

draw = partial(
    plots.lines,
    x="length",
    panels={
        "median_seconds": "seconds to encode a batch",
        "serving_median_seconds": "seconds to serve a batch, one step",
        "targets_per_second": "training targets per second",
    },
    by="denoiser",
)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argument_parser(__doc__)
    options = parse(parser, argv)
    results = Results("history_length", options)
    for length in (10, 50, 200) if options.quick else LENGTHS:
        for backbone in BACKBONES:
            measure(results, backbone, length, options)
    for backbone in BACKBONES:
        add_ratio(results, backbone)
    results.write(draw)


def measure(results: Results, backbone: str, length: int, options: argparse.Namespace) -> None:
    """One backbone at one length."""
    rows = BATCH // 4 if options.quick else BATCH
    model = untrained(backbone, num_items=BEAUTY_ITEMS, max_length=length + 1)
    history = full_histories(rows, length, BEAUTY_ITEMS, options.seed)
    embedded = history.with_latents(model.embedding(history.items).detach())
    training = Training(model, training_batch(backbone, length, rows, options.seed), options.seed)
    timings = compare(
        {
            "encode": torch.no_grad()(partial(model.denoiser.encode, embedded)),
            "serve": partial(model.next_item_latents, history, seeds=1),
            "train": training.step,
        },
        repeats=7,
        budget=1 if options.quick else 15,
    )
    measured = {"denoiser": backbone, "length": length, "batch": rows}
    measured |= {
        f"{what}_median_seconds": timings[key].median for what, key in (("serving", "serve"), ("training", "train"))
    }
    measured |= {"training_rows": len(training.batch), "training_targets": training.batch.num_targets}
    measured |= {"targets_per_second": training.batch.num_targets / timings["train"].median}
    results.add(measured, timings["encode"])


def add_ratio(results: Results, backbone: str) -> None:
    """How many times longer a history four times as long takes to serve."""
    seconds = {row["length"]: row["serving_median_seconds"] for row in results.rows if row["denoiser"] == backbone}
    results.ratio(f"{backbone.replace('-', '_')}_serving_200_vs_50", seconds[200] / seconds[50])


class Training:
    """Training steps on one batch, in float32."""

    def __init__(self, model: DiffRec, batch: Batch, seed: int) -> None:
        self.model, self.batch = model, batch
        self.generator = Generator().manual_seed(seed)
        self.optimizer = torch.optim.AdamW(model.parameters(), fused=True)

    def step(self) -> None:
        self.model.train()
        self.model.loss(self.batch, self.generator).total.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.model.eval()


def training_batch(backbone: str, length: int, rows: int, seed: int) -> Batch:
    """Windows of ``length`` items before the last target."""
    one_target = backbone == "transformer"
    rows = rows if one_target else max(1, ALL_POSITIONS_TARGETS // length)
    history = full_histories(rows, length + 1, BEAUTY_ITEMS, seed)
    positions = torch.full((rows, 1), length) if one_target else torch.arange(1, length + 1).expand(rows, -1)
    return Batch(history, positions)


if __name__ == "__main__":
    main()
