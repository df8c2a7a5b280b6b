"""Reports of the accuracy of a model, of its network and memory, and of popularity."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.box import SIMPLE
from rich.table import Table

from diffusers_rec.data import Holdout
from diffusers_rec.evaluation import ProbabilityReport, Report, evaluate, evaluate_memory, evaluate_popularity
from diffusers_rec.recommenders.base import Recommender
from diffusers_rec.recommenders.diffrec import DiffRec
from diffusers_rec.recommenders.memory import NoMemory


def compare(model: Recommender, holdout: Holdout, *, probabilities: bool = False, **settings: Any) -> dict[str, Report]:
    """Evaluate a model, its network and its memory separately if it has a memory, and popularity."""
    holdout = holdout.reindexed(model.vocabulary)
    reports = {"model": evaluate(model, holdout, probabilities=probabilities, **settings)}
    if model.without_memory() is not model:
        reports["network alone"] = evaluate(model, holdout, memory=False, **settings)
    if isinstance(model, DiffRec) and not isinstance(model.memory, NoMemory):
        reports["memory alone"] = evaluate_memory(model.memory, holdout)
    # Popularity may use what the model may use: all items before the held-out one.
    return {**reports, "popularity": evaluate_popularity(holdout.histories, holdout)}


def plain_reports(reports: dict[str, Report]) -> dict[str, Any]:
    """Convert reports to JSON values."""
    return {name.replace(" ", "_"): asdict(report) for name, report in reports.items()}


def describe_probabilities(report: ProbabilityReport) -> str:
    """Compare the reported probabilities with what users took, in lines of at most 80 columns."""
    return (
        "Probabilities, compared with the items that users took\n"
        f"  negative log-likelihood  {report.nll:.3f} nats "
        f"(popularity {report.nll_popularity:.3f}, uniform {report.nll_uniform:.3f})\n"
        f"  first item               stated {report.first_stated:.4f}, came true {report.first_true:.4f}, "
        f"Brier score {report.brier:.4f}\n"
        f"  ten listed items         calibration error {report.ece:.4f}\n"
        f"  ranking                  the first item is also the likeliest for {report.first_is_likeliest:.0%} of users"
    )


def report_table(reports: dict[str, Report], split: str, models: int = 1) -> Table:
    """Format reports as a table of at most 80 columns."""
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
