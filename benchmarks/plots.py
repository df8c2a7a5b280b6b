"""Pictures of a program's CSV: lines over a number, dots or shares by name, scores by setting and data set.

All have one style, ``style.mplstyle``: a transparent ground, and colours that are readable on light and dark pages.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from benchmarks.words import words

Rows = list[dict[str, str]]

STYLE = Path(__file__).with_name("style.mplstyle")
METRICS = {"ndcg@10": "NDCG@10", "hr@10": "HR@10"}
PRINTED = {"color": "C4", "ls": "--", "lw": 1.2}
"""Line of the printed DiffRec."""


def canvas(width: float, height: float) -> Any:
    """An empty figure in the common style, for files alone.

    Args:
        width: Width in inches.
        height: Height in inches.
    """
    from matplotlib import style  # noqa: PLC0415 - only drawing needs it
    from matplotlib.figure import Figure  # noqa: PLC0415

    style.use(STYLE)
    return Figure(figsize=(width, height), layout="constrained")


def lines(path: Path, rows: Rows, *, x: str, panels: dict[str, str], by: str, log: bool = True) -> None:
    """Draw columns over another one, in panels below each other: a line per value of ``by``.

    Measured points have a dot; extrapolated ones lie on the line alone.

    Args:
        path: Path of the PNG.
        rows: Rows of the CSV; those that lack a panel's column are left out of it.
        x: Column of the horizontal axis.
        panels: Label of each panel by its column.
        by: Column whose values have a line each.
        log: Whether the axes are logarithmic.
    """
    figure = canvas(6, 0.8 + 2.4 * len(panels))
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axis, (column, label) in zip(axes, panels.items(), strict=True):
        for place, name in enumerate(dict.fromkeys(row[by] for row in rows)):
            found = sorted((row for row in rows if row[by] == name and row[column]), key=lambda row: float(row[x]))
            measured = [index for index, row in enumerate(found) if not row.get("extrapolated")]
            points = [[float(row[each]) for row in found] for each in (x, column)]
            axis.plot(*points, "o-", color=f"C{place}", markevery=measured, label=words(name))
        scale = "log" if log else "linear"
        axis.set(xscale=scale, yscale=scale, ylabel=label)
    axes[-1].set_xlabel(words(x.replace("_", " ")))
    legend(figure, axes)
    figure.savefig(path)


def dots(path: Path, rows: Rows, *, names: list[str], panels: dict[str, str], log: bool = False) -> None:
    """Draw columns as dots, a line per row of the CSV, with bars of their spread.

    Args:
        path: Path of the PNG.
        rows: Rows of the CSV.
        names: Columns that together name a row; rows with the same first one have the same colour.
        panels: Label of each panel by its column.
        log: Whether the axes are logarithmic.
    """
    from matplotlib.ticker import EngFormatter  # noqa: PLC0415

    figure = canvas(3.6 + 2.1 * len(panels), 0.7 + 0.22 * len(rows))
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    labels = [", ".join(words(row[name]) for name in names if row[name]) for row in rows]
    for axis, (column, label) in zip(axes, panels.items(), strict=True):
        for color, group in enumerate(dict.fromkeys(row[names[0]] for row in rows)):
            places = [place for place, row in enumerate(rows) if row[names[0]] == group and row[column]]
            values = [float(rows[place][column]) for place in places]
            spread = zip(*(_spread(rows[place], column) for place in places), strict=True)
            axis.errorbar(values, places, xerr=[*spread], fmt="o", color=f"C{color}")
        axis.set_xlabel(label)
        if log:
            axis.set_xscale("log")
        elif column.endswith("seconds"):
            axis.xaxis.set_major_formatter(EngFormatter("s"))
            axis.locator_params(axis="x", nbins=6)
    axes[0].set_yticks(range(len(rows)), labels)
    axes[0].set_ylabel(", ".join(names).replace("_", " "))
    axes[0].invert_yaxis()
    figure.savefig(path)


def _spread(row: Mapping[str, str], column: str) -> tuple[float, float]:
    """Distances from a value to the ends of its bar: the 10th and 90th percentile, or a standard deviation."""
    value = float(row[column])
    if noise := row.get(f"{column}_noise"):
        return float(noise), float(noise)
    if column == "targets_per_second":
        low, high = (float(row["targets"]) / float(row[f"p{share}_seconds"]) for share in (90, 10))
    elif column.endswith("median_seconds"):
        low, high = (float(row[column.replace("median", f"p{share}")]) for share in (10, 90))
    else:
        low = high = value
    return value - low, high - value


def shares(path: Path, rows: Rows, *, names: list[str], part: str, value: str) -> None:
    """Draw shares of a whole as stacked bars, in per cent.

    Args:
        path: Path of the PNG.
        rows: Rows of the CSV.
        names: Columns that together name a bar.
        part: Column that names the parts of a bar.
        value: Column of the shares, which add up to 1 in each bar.
    """
    bars = list(dict.fromkeys(", ".join(words(row[name]) for name in names) for row in rows))
    figure = canvas(7, 1.3 + 0.36 * len(bars))
    axis = figure.subplots()
    starts = [0.0] * len(bars)
    for color, name in enumerate(dict.fromkeys(row[part] for row in rows)):
        widths = [100 * float(row[value]) for row in rows if row[part] == name]
        axis.barh(bars, widths, left=starts, height=0.7, color=f"C{color}", label=name)
        starts = [start + width for start, width in zip(starts, widths, strict=True)]
    axis.set(xlabel="per cent", xlim=(0, 100))
    axis.grid(visible=False)
    axis.invert_yaxis()
    legend(figure, [axis], columns=4)
    figure.savefig(path)


def recipes(path: Path, rows: Rows, *, metric: str, label: str) -> None:
    """Draw a metric as dots, a line per recipe and a panel per data set.

    Args:
        path: Path of the PNG.
        rows: Rows of the CSV, with the columns ``dataset`` and ``recipe``; rows that share both are seeds.
        metric: Column of the metric.
        label: Label of the metric.
    """
    datasets, names = (list(dict.fromkeys(row[column] for row in rows)) for column in ("dataset", "recipe"))
    figure = canvas(3.4 + 1.2 * len(datasets), 0.9 + 0.22 * len(names))
    axes = figure.subplots(1, len(datasets), sharey=True, squeeze=False)[0]
    for axis, dataset in zip(axes, datasets, strict=True):
        values = [
            [float(row[metric]) for row in rows if (row["dataset"], row["recipe"]) == (dataset, name)] for name in names
        ]
        row_dots(axis, values)
        axis.set_title(words(dataset))
        start_at_zero(axis)
    figure.supxlabel(label, x=1, ha="right", fontsize="medium")
    axes[0].set_yticks(range(len(names)), [words(name) for name in names])
    axes[0].invert_yaxis()
    figure.savefig(path)


def row_dots(axis: Any, values: Sequence[Sequence[float]], *, first: int = 0, **style: Any) -> None:
    """Draw the mean of each of several sets as a dot, one below the other, with a bar of the standard deviation.

    Args:
        axis: Axis to draw on.
        values: Sets of values; an empty one leaves its place empty, and one of a single value has no bar.
        first: Place of the first set.
        style: Arguments of matplotlib's ``errorbar``.
    """
    places = [first + index for index, each in enumerate(values) if each]
    means = [fmean(each) for each in values if each]
    bars = [stdev(each) if len(each) > 1 else 0.0 for each in values if each]
    axis.errorbar(means, places, xerr=bars if any(bars) else None, **{"fmt": "o", "color": "C0", **style})


def start_at_zero(axis: Any) -> None:
    """Let the horizontal axis start at zero, so that a difference looks as large as it is."""
    axis.set_xlim(0, 1.06 * axis.dataLim.x1 or 1)


def score_figure(path: Path, rows: Rows, *, label: str, by: str | None = None, numbers: bool = False) -> None:
    """Draw :func:`score_dots`, or :func:`score_lines` for settings that are numbers, as a picture.

    Args:
        path: Path of the PNG.
        rows: Rows of the CSV.
        label: Label of the settings.
        by: Column whose values have a line each.
        numbers: Whether the settings are numbers.
    """
    columns = len({row["dataset"] for row in rows})
    if numbers:
        figure = canvas(3.6 * max(2, len(METRICS) * columns), 3.4)
        score_lines(figure, rows, label=label, by=by)
    else:
        figure = canvas(1.2 + 2.2 * max(2, columns), score_height(rows))
        score_dots(figure, rows, label=label)
    figure.savefig(path)


def score_height(rows: Rows) -> float:
    """Height of :func:`score_dots` in inches."""
    return 0.4 + len(METRICS) * (1 + 0.24 * len({row["setting"] for row in rows}))


def score_dots(figure: Any, rows: Rows, *, label: str) -> None:
    """Draw NDCG@10 and HR@10, seen items excluded, as dots: a line per setting, a column of panels per data set.

    Rows of the same setting are seeds: their mean is drawn with the standard deviation. Rows that name a ``source`` are
    published scores, drawn as vertical lines.

    Args:
        figure: Figure or subfigure to draw on.
        rows: Rows of the CSV, with the columns ``dataset``, ``setting``, ``history``, ``source`` and the metrics.
        label: Label of the settings.
    """
    axes = figure.subplots(len(METRICS), len({row["dataset"] for row in rows}), sharey=True, squeeze=False)
    for axis, metric, dataset in _score_panels(axes, rows):
        ours, printed = _ours_and_printed(rows, dataset)
        settings = list(dict.fromkeys(row["setting"] for row in rows if not row["source"]))
        row_dots(axis, [[float(row[metric]) for row in ours if row["setting"] == each] for each in settings])
        for row in printed:
            axis.axvline(float(row[metric]), label=f"{row['model']} as printed", **PRINTED)
        axis.set_yticks(range(len(settings)), settings)
        axis.set(title=words(dataset), xlabel=METRICS[metric], ylim=(len(settings) - 0.5, -0.5))
        start_at_zero(axis)
    for axis in axes[:, 0]:
        axis.set_ylabel(label)
    legend(figure, axes.flat)


def score_lines(figure: Any, rows: Rows, *, label: str, by: str | None = None) -> None:
    """Draw the scores of :func:`score_dots` as lines over settings that are numbers, a published score as a star.

    Args:
        figure: Figure or subfigure to draw on.
        rows: Rows of the CSV, as in :func:`score_dots`.
        label: Label of the settings.
        by: Column whose values have a line each.
    """
    axes = figure.subplots(1, len(METRICS) * len({row["dataset"] for row in rows}), squeeze=False)
    for axis, metric, dataset in _score_panels(axes, rows):
        ours, printed = _ours_and_printed(rows, dataset)
        settings = sorted({row["setting"] for row in ours}, key=float)
        for name in dict.fromkeys(row[by] for row in ours) if by else ["this library"]:
            named = [row for row in ours if not by or row[by] == name]
            values = [[float(row[metric]) for row in named if row["setting"] == each] for each in settings]
            places = [place for place, each in enumerate(values) if each]
            bars = [stdev(each) if len(each) > 1 else 0.0 for each in values if each]
            means = [fmean(each) for each in values if each]
            axis.errorbar(places, means, yerr=bars if any(bars) else None, fmt="o-", label=words(name))
        for row in printed:
            if row["setting"] in settings:
                place = settings.index(row["setting"])
                axis.plot(place, float(row[metric]), "*", ms=11, color="C4", label=f"{row['model']} as printed")
        shown = range(0, len(settings), 1 + len(settings) // 11)
        axis.set_xticks(shown, [settings[place] for place in shown])
        axis.set(title=words(dataset), xlabel=label, ylabel=METRICS[metric])
        axis.set_ylim(0, 1.12 * axis.dataLim.y1 or 1)  # from zero, so that a difference looks as large as it is
    legend(figure, axes.flat)


def _score_panels(axes: Any, rows: Rows) -> Iterator[tuple[Any, str, str]]:
    """Axis, metric and data set of each panel."""
    panels = [(metric, dataset) for metric in METRICS for dataset in dict.fromkeys(row["dataset"] for row in rows)]
    for axis, panel in zip(axes.flat, panels, strict=True):
        yield axis, *panel


def _ours_and_printed(rows: Rows, dataset: str) -> tuple[Rows, Rows]:
    here = [row for row in rows if row["dataset"] == dataset]
    ours = [row for row in here if row["history"] == "masked" and not row["source"]]
    return ours, [row for row in here if row["source"]]


def legend(figure: Any, axes: Any, *, columns: int = 5) -> None:
    """Draw one legend above all panels, unless they have no labels.

    Args:
        figure: Figure or subfigure with the panels.
        axes: Panels.
        columns: Maximum number of columns.
    """
    handles = {label: handle for axis in axes for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    if handles:
        place = {"loc": "outside upper center", "ncols": min(columns, len(handles))}
        figure.legend(handles.values(), handles.keys(), **place)
