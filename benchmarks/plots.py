"""Pictures of a program's CSV: lines over a number, bars over names, or scores by setting and data set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

Rows = list[dict[str, str]]


def lines(path: Path, rows: Rows, *, x: str, panels: dict[str, str], by: str) -> None:
    """Draw columns against another, both axes logarithmic, one line for each value of ``by``.

    Args:
        path: of the PNG.
        rows: of the CSV; those that lack a panel's column are left out of it.
        x: column of the horizontal axis.
        panels: column to its words, one panel each.
        by: column that tells the lines apart.
    """
    figure, axes = _panels(len(panels))
    for axis, (column, words) in zip(axes, panels.items(), strict=True):
        for name in dict.fromkeys(row[by] for row in rows if row[column]):
            points = sorted((float(row[x]), float(row[column])) for row in rows if row[by] == name and row[column])
            axis.plot(*zip(*points, strict=True), "o-", label=name)
        axis.set(xscale="log", yscale="log", xlabel=x.replace("_", " "), ylabel=words)
        axis.grid(alpha=0.3)
        axis.legend(fontsize="small")
    figure.savefig(path, dpi=110)


def bars(path: Path, rows: Rows, *, names: list[str], panels: dict[str, str]) -> None:
    """Draw columns as bars, one a row.

    Args:
        path: of the PNG.
        rows: of the CSV.
        names: columns that together name a bar.
        panels: column to its words, one panel each.
    """
    figure, axes = _panels(len(panels))
    labels = [", ".join(row[name] for name in names if row[name]) for row in rows]
    for axis, (column, words) in zip(axes, panels.items(), strict=True):
        axis.barh(range(len(rows)), [float(row[column]) for row in rows])
        axis.set_yticks(range(len(rows)), labels, fontsize="small")
        axis.set(xlabel=words)
        axis.ticklabel_format(axis="x", scilimits=(-3, 5))  # small numbers written out run into one another
        axis.invert_yaxis()
    figure.savefig(path, dpi=110)


METRICS = {"ndcg@10": "NDCG@10", "hr@10": "HR@10"}


def score_figure(path: Path, rows: Rows, *, xlabel: str, lines: bool = False, by: str | None = None) -> None:
    """Draw :func:`scores` as a picture of its own."""
    figure = canvas(max(6.5, 4.5 * len({row["dataset"] for row in rows})), 7)
    scores(figure, rows, xlabel=xlabel, lines=lines, by=by)
    figure.savefig(path, dpi=110)


def scores(figure: Any, rows: Rows, *, xlabel: str, lines: bool = False, by: str | None = None) -> None:
    """Draw NDCG@10 and HR@10, history masked, by setting: a panel for each metric and data set.

    Rows of the same setting are seeds: their mean is drawn, and whiskers from the least to the most. Rows that name a
    ``source`` are published scores, drawn as stars.

    Args:
        figure: a figure or a part of one.
        rows: of the CSV, with the columns ``dataset``, ``setting``, ``history``, ``source`` and the metrics.
        xlabel: what the settings are.
        lines: points along lines, instead of bars.
        by: column that tells several lines or groups of bars apart.
    """
    ours = [row for row in rows if row["history"] == "masked" and not row["source"]]
    datasets = list(dict.fromkeys(row["dataset"] for row in rows))
    axes = figure.subplots(len(METRICS), len(datasets), squeeze=False)
    for line, (metric, words) in zip(axes, METRICS.items(), strict=True):
        for axis, dataset in zip(line, datasets, strict=True):
            here = [row for row in ours if row["dataset"] == dataset]
            settings = list(dict.fromkeys(row["setting"] for row in here))
            names = list(dict.fromkeys(row[by] for row in here)) if by else [""]
            for place, name in enumerate(names):
                group = [row for row in here if not by or row[by] == name]
                values = [[float(row[metric]) for row in group if row["setting"] == each] for each in settings]
                _series(axis, values, place, len(names), name or "this library", lines)
            for row in rows:
                if row["dataset"] == dataset and row["source"] and row["setting"] in settings:
                    words_of_source = f"{row['model']} in the paper"
                    place = settings.index(row["setting"]) + (0 if lines else 0.43)  # beside the bar and its number
                    axis.plot(place, float(row[metric]), "*", ms=13, mfc="gold", mec="black", label=words_of_source)
            axis.set_xticks(range(len(settings)), settings, fontsize="small")
            axis.set(title=dataset, xlabel=xlabel, ylabel=words)
            axis.set_ylim(0, 1.12 * axis.dataLim.y1 or 1)  # lines too: a difference looks as large as it is
            axis.grid(alpha=0.3, axis="y")
            axis.set_axisbelow(True)
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels), fontsize="small")


def _series(axis: Any, values: list[list[float]], place: int, count: int, label: str, lines: bool) -> None:
    """One line, or one group's bars, of the means of ``values``."""
    present = [index for index, each in enumerate(values) if each]
    means = [sum(values[index]) / len(values[index]) for index in present]
    whiskers = [
        [mean - min(values[index]) for index, mean in zip(present, means, strict=True)],
        [max(values[index]) - mean for index, mean in zip(present, means, strict=True)],
    ]
    several = any(len(each) > 1 for each in values)
    error = {"yerr": whiskers if several else None, "capsize": 3, "label": label, "color": f"C{place}"}
    if lines:
        axis.errorbar(present, means, fmt="o-", ms=4, **error)
        return
    width = 0.7 / count
    drawn = axis.bar([index + (place - (count - 1) / 2) * width for index in present], means, width, **error)
    axis.bar_label(drawn, fmt="%.4f", fontsize="x-small", padding=2)


def canvas(width: float, height: float) -> Any:
    """An empty figure, in inches, for files alone."""
    from matplotlib.figure import Figure  # noqa: PLC0415 - only who draws needs it

    return Figure(figsize=(width, height), layout="constrained")


def _panels(count: int) -> tuple[Any, Any]:
    figure = canvas(6.5 * count, 5)
    return figure, figure.subplots(1, count, squeeze=False)[0]
