"""Reports of a model's accuracy beside its parts and popularity."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.box import SIMPLE
from rich.table import Table

from diffusers_rec.data import Holdout
from diffusers_rec.evaluation import Report, evaluate, evaluate_memory, evaluate_popularity
from diffusers_rec.recommenders.base import Recommender
from diffusers_rec.recommenders.diffrec import DiffRec
from diffusers_rec.recommenders.memory import NoMemory


def compare(model: Recommender, holdout: Holdout, **settings: Any) -> dict[str, Report]:
    """The reports of a model, of its network and its memory alone if it has a memory, and of popularity."""
    holdout = holdout.reindexed(model.vocabulary)
    reports = {"model": evaluate(model, holdout, **settings)}
    if model.without_memory() is not model:
        reports["network alone"] = evaluate(model, holdout, memory=False, **settings)
    if isinstance(model, DiffRec) and not isinstance(model.memory, NoMemory):
        reports["memory alone"] = evaluate_memory(model.memory, holdout)
    # Popularity may count what the model may read: everything before the held-out item.
    return {**reports, "popularity": evaluate_popularity(holdout.histories, holdout)}


def plain_reports(reports: dict[str, Report]) -> dict[str, Any]:
    """The reports, ready for JSON."""
    return {name.replace(" ", "_"): asdict(report) for name, report in reports.items()}


def report_table(reports: dict[str, Report], split: str, models: int = 1) -> Table:
    """The reports as a table, at most 80 columns wide."""
    first = next(iter(reports.values()))
    title = f"{split}, {first.num_users:,} users, every item ranked"
    title += f", ensemble of {models} models" if models > 1 else ""
    # A frame would take the table beyond 80 columns.
    table = Table(title=title, title_justify="left", box=SIMPLE, padding=(0, 1, 0, 0))
    for heading in ("", "seen items", *first.metrics()):
        table.add_column(heading, justify="left" if heading in ("", "seen items") else "right")
    for name, report in reports.items():
        for seen, metrics in (("excluded", report.metrics()), ("included", report.metrics(exclude_seen=False))):
            table.add_row(name, seen, *(f"{value:.4f}" for value in metrics.values()))
    return table
