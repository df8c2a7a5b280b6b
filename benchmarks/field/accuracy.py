"""Accuracy of the field's models and their noise-free controls: leave-one-out, all items, seen items out and in.

Beside them stand popularity, item-to-item, and `best` and its control without their memory; the control is a plain
model trained well. These rows are read from Table 2 (`benchmarks.paper.table2`). A training ends after its recipe's
epochs, or at the time limit. `adrec` starts from the vectors of its control; its row leaves those epochs
and seconds out.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks import plots
from benchmarks.field.settings import (
    CONTROL,
    FIELD,
    FIXED_EPOCHS,
    PUBLISHED,
    add_options,
    limit_of,
    limited,
    longest,
    minutes_of,
    split_of,
    trials,
)
from benchmarks.field.stages import stages_of
from benchmarks.harness import RESULTS, Results, Row, argument_parser, command, read_csv
from benchmarks.paper.options import parse_trials, seeds_of
from benchmarks.paper.rows import published
from benchmarks.paper.running import run
from benchmarks.paper.settings import DATASETS
from benchmarks.words import words

BEST_CONTROL = "best-control, network alone"
RIVALS = ("popularity", "item-to-item", BEST_CONTROL, "best, network alone")
METRICS = ("hr@5", "ndcg@5", "hr@10", "ndcg@10", "hr@20", "ndcg@20")

ORDER = (*RIVALS, *trials(DATASETS[0]))
"""Models as they are in the table."""

STYLES: dict[str, dict[str, Any]] = {
    "printed": {"color": "C7", "marker": "o", "mfc": "none"},
    "printed, another split": {"color": "C7", "marker": "x"},
    "model": {"color": "C0", "marker": "o"},
    "noise-free control": {"color": "C1", "marker": "s"},
}


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
    kept = ("dataset", "model", "history", "trained_seed", "epochs", "training_seconds", "trained_on", *METRICS)
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
            callbacks = [*limit_of(dataset, options), *stages_of(name, dataset, split, seed, options)]
            for row in run(trial, split, seed, options, callbacks=callbacks):
                yield row | {"minutes": minutes_of(dataset, options)}


def marks(results: Results) -> None:
    """NDCG@10 of each model over that of its control after as many minutes, of item-to-item and of a plain model.

    A model that starts from the vectors of its control has had twice the minutes.
    """
    rows = [row for row in results.table() if row["history"] == "masked" and not row.get("source")]

    def mean(dataset: str, model: str, minutes: str = "") -> float | None:
        wanted = dataset, model, minutes
        found = [
            float(row["ndcg@10"])
            for row in rows
            if (row["dataset"], row["model"], str(row.get("minutes", ""))) == wanted
        ]
        return fmean(found) if found else None

    trained = dict.fromkeys((row["dataset"], row["model"], str(row["minutes"])) for row in rows if row.get("minutes"))
    for dataset, name, minutes in trained:
        ours = mean(dataset, name, minutes)
        in_all = str(int(minutes) * (2 if name in FIXED_EPOCHS else 1))
        others = {
            "control": mean(dataset, f"{name}{CONTROL}", in_all),
            "item-to-item": mean(dataset, "item-to-item"),
            "plain_model": mean(dataset, BEST_CONTROL),
        }
        for said, other in others.items():
            if other:
                results.ratio(f"{dataset}_{name}_{minutes}_minutes_over_{said}_ndcg@10", ours / other)


def draw(path: Path, rows: plots.Rows) -> None:
    """NDCG@10 of each model as printed, as trained here, and without noise; a panel per data set."""

    def spot(row: Row) -> tuple[str, str]:
        if row.get("source"):
            return "printed" if row["split"] == "ours" else "printed, another split", row["model"]
        return "noise-free control" if row["model"].endswith(CONTROL) else "model", row["model"].removesuffix(CONTROL)

    draw_panels(path, [row for row in longest(rows) if row["ndcg@10"]], FIELD, STYLES, spot)


def draw_panels(
    path: Path,
    rows: plots.Rows,
    names: Sequence[str],
    styles: dict[str, dict[str, Any]],
    spot: Callable[[Row], tuple[str, str]],
) -> None:
    """NDCG@10 by name, beside item-to-item and the control of ``best``; a panel per data set.

    Seen items are out, except where printed rows keep them.

    Args:
        path: File to write.
        rows: Rows of a table.
        names: Names from top to bottom.
        styles: Kinds of dots, and how they look.
        spot: Kind and name of a row; other names are left out.
    """
    datasets = list(dict.fromkeys(row["dataset"] for row in rows))
    figure = plots.canvas(1.6 + 3.2 * len(datasets), 1.3 + 0.26 * len(names))
    axes = figure.subplots(1, len(datasets), squeeze=False, sharey=True)[0]
    for axis, dataset in zip(axes, datasets, strict=True):
        here = [row for row in rows if row["dataset"] == dataset and (row.get("source") or row["history"] == "masked")]
        for kind, style in styles.items():
            spots = [(float(row["ndcg@10"]), *spot(row)) for row in here]
            dots = [(score, names.index(name)) for score, its, name in spots if its == kind and name in names]
            axis.plot(*zip(*dots, strict=True) if dots else ([], []), ls="", label=kind, **style)
        for label, rival, line in (("item-to-item", "item-to-item", ":"), ("control of best", BEST_CONTROL, "--")):
            scores = [float(row["ndcg@10"]) for row in here if row["model"] == rival]
            axis.axvline(fmean(scores), color="C7", ls=line, lw=0.8, label=label)
        axis.set_yticks(range(len(names)), names)
        axis.set(title=words(dataset), xlabel="NDCG@10", xlim=(0, None), ylim=(len(names) - 0.5, -0.5))
    plots.legend(figure, [*axes], columns=2 if len(datasets) == 1 else 5)
    figure.savefig(path)


def place(row: Row) -> tuple[Any, ...]:
    """The order of the table: by data set; the rivals, then the models as they are entered; printed rows first."""
    seed, model = str(row.get("trained_seed", "")), ORDER.index(row["model"])
    source, minutes = row.get("source", ""), int(row.get("minutes") or 0)
    return DATASETS.index(row["dataset"]), model, bool(seed), minutes, seed.zfill(9), row["history"], source


if __name__ == "__main__":
    command(main)
