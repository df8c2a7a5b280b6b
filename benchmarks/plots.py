"""Pictures of a program's CSV: lines over a number, or bars over names."""

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
        axis.invert_yaxis()
    figure.savefig(path, dpi=110)


def _panels(count: int) -> tuple[Any, Any]:
    import matplotlib as mpl  # noqa: PLC0415 - only who draws needs it

    mpl.use("agg")
    import matplotlib.pyplot as plt  # noqa: PLC0415

    figure, axes = plt.subplots(1, count, figsize=(6.5 * count, 5), layout="constrained", squeeze=False)
    return figure, axes[0]
