"""Training to the printed accuracy: processor seconds of the ``best`` preset on Beauty, by a short form of its recipe.

The recipe is that of :data:`~diffusers_rec.training.RECIPES`, but its cosine ends after ``--epochs``. The seconds are
those of the process, which another one's work hardly changes. They include the counts of the memory, a validation after
each epoch and the calibration. The test split is read once, at the end.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from benchmarks import plots
from benchmarks.data import add_data_option, split_of
from benchmarks.harness import Results, argument_parser, at_least, parse
from diffusers_rec.evaluation import evaluate
from diffusers_rec.presets import best
from diffusers_rec.training import RECIPES, train

PRINTED = 0.0518
"""NDCG@10 of DiffRec on Beauty (Du et al. 2023, Table 2)."""

draw = partial(
    plots.lines, x="cpu_seconds", panels={"validation_ndcg@10": "NDCG@10, validation"}, by="dataset", log=False
)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argument_parser(__doc__)
    add_data_option(parser)
    parser.add_argument("--epochs", type=at_least(1), default=8, help="of the training")
    options = parse(parser, argv)
    results = Results("training_minutes", options)
    name, split = split_of("beauty", options.data_dir, options.seed)
    epochs = 1 if options.quick else options.epochs
    started = time.process_time()

    def record(epoch: dict[str, float]) -> None:
        columns = {"epoch": epoch["epoch"], "epochs": epochs, "validation_ndcg@10": epoch["validation_ndcg@10"]}
        results.add({"dataset": name, **columns, "cpu_seconds": time.process_time() - started})

    model = best(split.train.vocabulary, seed=options.seed)
    config = replace(RECIPES["best"], epochs=epochs, seed=options.seed)
    train(model, split.train, split.validation, config, device="cpu", on_epoch=record)
    seconds = time.process_time() - started
    test = evaluate(model, split.test, ks=[10]).metrics()["ndcg@10"]
    results.ratio("beauty_best_cpu_seconds", seconds, "<= 300")
    results.ratio("beauty_best_test_ndcg10", test, f">= {PRINTED}")
    results.write(draw)


if __name__ == "__main__":
    main()
