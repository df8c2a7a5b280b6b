"""Picture of Table 2: a dot per model with the standard deviation over its trainings."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks import plots
from benchmarks.words import words

METRIC = "ndcg@10"
STYLES: dict[str, dict[str, Any]] = {
    "published by Du et al. 2023": {"color": "C7", "fmt": "o", "mfc": "none"},
    "published elsewhere": {"color": "C7", "fmt": "D"},
    "diffusion": {"color": "C0", "fmt": "o"},
    "noise-free control": {"color": "C1", "fmt": "s"},
    "counts, not trained": {"color": "C2", "fmt": "^"},
}
"""Colour and shape of the dots by kind of row."""

SIZE = 3.6  # small, so that the bars show beside the dots


def draw(path: Path, rows: plots.Rows) -> None:
    """Draw a picture per data set: a line per model, published ones above ours, seen items excluded."""
    for dataset in dict.fromkeys(row["dataset"] for row in rows):
        here = [row for row in rows if row["dataset"] == dataset and is_drawn(row)]
        draw_models(path.with_stem(f"{path.stem}-{dataset}"), here)


def is_drawn(row: dict[str, str]) -> bool:
    """Whether a row is in the picture: not with seen items kept, and of the networks alone only that of ``best``."""
    model = row["model"]
    return row["history"] != "unmasked" and (not model.endswith("network alone") or model == "best, network alone")


def draw_models(path: Path, rows: plots.Rows) -> None:
    """Draw the models of one data set, each group sorted by the metric, the highest of all in bold."""
    scores = {row["model"]: [float(each[METRIC]) for each in rows if each["model"] == row["model"]] for row in rows}
    kinds = {row["model"]: kind_of(row) for row in rows}
    ranking = sorted(scores, key=lambda model: -fmean(scores[model]))
    published = [model for model in ranking if "published" in kinds[model]]
    ours = [model for model in ranking if model not in published]
    lines = ["published", *published, "", "this library", *ours]
    figure = plots.canvas(6.6, 1.1 + 0.2 * len(lines))
    axis = figure.subplots()
    axis.axvline(scores["DiffRec"][0], label="DiffRec as printed", **plots.PRINTED)
    axis.set_yticks(range(len(lines)), map(words, lines))
    for place, (model, text) in enumerate(zip(lines, axis.get_yticklabels(), strict=True)):
        if model in scores:
            plots.row_dots(axis, [scores[model]], first=place, label=kinds[model], ms=SIZE, **STYLES[kinds[model]])
            text.set_weight("bold" if model == ranking[0] else "normal")
        else:
            text.set_style("italic")
    axis.set(title=words(rows[0]["dataset"]), xlabel=plots.METRICS[METRIC], ylim=(len(lines) - 0.5, -0.5))
    plots.start_at_zero(axis)
    plots.legend(figure, [axis], columns=3)
    figure.savefig(path)


def kind_of(row: dict[str, str]) -> str:
    """Key of :data:`STYLES`."""
    if row["source"]:
        return "published by Du et al. 2023" if row["source"].startswith("Du et al.") else "published elsewhere"
    if not row["trained_seed"]:
        return "counts, not trained"
    return "noise-free control" if "control" in row["model"] else "diffusion"
