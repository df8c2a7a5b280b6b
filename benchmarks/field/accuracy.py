"""Accuracy of the field's models and their noise-free controls: leave-one-out, all items, seen items out and in.

Beside them stand popularity, item-to-item, and `best` and its control without their memory; the control is a plain
model trained well. These rows are read from Table 2 (`benchmarks.paper.table2`). A training ends after its recipe's
epochs, or at the time limit.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from benchmarks import plots
from benchmarks.field.settings import PUBLISHED, add_options, callbacks_of, limited, minutes_of, split_of, trials
from benchmarks.harness import RESULTS, Results, Row, argument_parser, command, read_csv
from benchmarks.paper.options import parse_trials, seeds_of
from benchmarks.paper.rows import published
from benchmarks.paper.running import run
from benchmarks.paper.settings import DATASETS

BEST_CONTROL = "best-control, network alone"
RIVALS = ("popularity", "item-to-item", BEST_CONTROL, "best, network alone")
METRICS = ("hr@5", "ndcg@5", "hr@10", "ndcg@10", "hr@20", "ndcg@20")

ORDER = (*RIVALS, *trials(DATASETS[0]))
"""Models as they are in the table."""

draw = partial(plots.dots, names=["model", "dataset", "history"], panels={"ndcg@10": "NDCG@10", "hr@10": "HR@10"})


def main(argv: Sequence[str] | None = None) -> None:
    parser = argument_parser(__doc__)
    add_options(parser)
    options = parse_trials(parser, argv)
    results = Results("accuracy", options, place=place)
    for dataset in options.datasets:
        for row in (*rivals(dataset), *measure(dataset, options)):
            results.add(row)
        results.write(draw)  # after each data set, so that finished ones are recorded
    marks(results)
    results.write(draw)


def rivals(dataset: str) -> list[Row]:
    """Rows of Table 2 that every model is compared with."""
    kept = ("dataset", "model", "history", "trained_seed", "epochs", "training_seconds", *METRICS)
    return [
        {key: row[key] for key in kept}
        for row in read_csv(RESULTS / "table2.csv")
        if row["dataset"] == dataset and row["model"] in RIVALS
    ]


def measure(dataset: str, options: argparse.Namespace) -> Iterator[Row]:
    """The printed rows of each model, then those of its trainings."""
    split, by_name, options = split_of(dataset, options), trials(dataset), limited(dataset, options)
    for name in options.models:
        yield from published(dataset, name, file=PUBLISHED)
        for seed in seeds_of(options):
            trial = by_name[name]
            for row in run(trial, split, seed, options, callbacks=callbacks_of(trial, split, options)):
                yield row | {"minutes": minutes_of(dataset, options)}


def marks(results: Results) -> None:
    """NDCG@10 of each model over that of its control, of item-to-item and of a plain model; seen items out."""
    rows = [row for row in results.table() if row["history"] == "masked" and not row.get("source")]

    def mean(dataset: str, model: str) -> float | None:
        found = [float(row["ndcg@10"]) for row in rows if (row["dataset"], row["model"]) == (dataset, model)]
        return sum(found) / len(found) if found else None

    for dataset in DATASETS:
        for name in trials(dataset):
            ours = mean(dataset, name)
            rivals = {"control": f"{name}-control", "item-to-item": "item-to-item", "plain_model": BEST_CONTROL}
            for words, rival in rivals.items():
                other = mean(dataset, rival)
                if ours is not None and other:
                    results.ratio(f"{dataset}_{name}_over_{words}_ndcg@10", ours / other)


def place(row: Row) -> tuple[Any, ...]:
    """The order of the table: by data set; the rivals, then the models as they are entered; printed rows first."""
    seed, model = str(row.get("trained_seed", "")), ORDER.index(row["model"])
    return DATASETS.index(row["dataset"]), model, bool(seed), seed.zfill(9), row["history"], row.get("source", "")


if __name__ == "__main__":
    command(main)
