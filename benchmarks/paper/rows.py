"""Rows of the result tables: published ones, those of a report, and means over them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness import Row, read_csv
from diffusers_rec.evaluation import Report

PUBLISHED = Path(__file__).with_name("published.csv")


def published(dataset: str, model: str | None = None, *, file: Path = PUBLISHED) -> list[Row]:
    """The published rows of a data set, or those of one model, in a CSV; by default, those beside Table 2."""
    rows = (row for row in read_csv(file) if row["dataset"] == dataset and model in (None, row["model"]))
    return [{key: value for key, value in row.items() if value != ""} for row in rows]


def rows_of(report: Report, dataset: str, model: str) -> list[Row]:
    """A report as two rows: items of the history masked, and unmasked."""
    return [
        {"dataset": dataset, "model": model, "history": history, **metrics}
        for history, metrics in (("masked", report.metrics()), ("unmasked", report.metrics(exclude_seen=False)))
    ]


def mean_score(rows: Sequence[Row], metric: str = "ndcg@10", **where: str) -> float:
    """A metric with the history masked, averaged over the rows whose columns have the values of ``where``."""
    wanted = where | {"history": "masked"}
    found = [float(row[metric]) for row in rows if all(row.get(key) == value for key, value in wanted.items())]
    return math.fsum(found) / len(found)
