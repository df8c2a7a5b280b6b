"""One look for the pictures of the examples: mid-tones, readable on light and on dark pages, on no ground of its own.

``plt.style.use(STYLE)`` applies it; the colours are then "C0" to "C5", and ``GREY`` for text and what is not compared.
"""

from __future__ import annotations

from math import sqrt

from matplotlib import cycler, rc_context
from matplotlib.figure import Figure

GREY = "#808a9a"
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.titlecolor": GREY,
    "axes.labelcolor": GREY,
    "axes.edgecolor": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": cycler(color=["#4f83d6", "#dd7a2b", "#2a9d8f", "#c9598f", "#8d6cd0", "#b58a1b"]),
    "text.color": GREY,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 1.6,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "savefig.dpi": 150,
}


def rates_figure(rates: dict[str, float], num_users: int, limits: dict[str, float]) -> Figure:
    """Hit rates as dots, one row each, with their standard errors over the users, and dotted lines as marks.

    Args:
        rates: Hit rates by name, drawn from the top.
        num_users: Number of users U that each is measured on; the standard error is sqrt(rate (1 - rate) / U).
        limits: Rates by name, such as the best possible one, drawn as vertical lines.
    """
    rows, values = range(len(rates)), list(rates.values())
    errors = [sqrt(rate * (1 - rate) / num_users) for rate in values]
    with rc_context(STYLE):
        figure = Figure(figsize=(8, 1.2 + 0.32 * len(rates)), layout="constrained")
        axis = figure.subplots()
        axis.errorbar(values, rows, xerr=errors, fmt="o", ms=6)
        for name, limit in limits.items():
            axis.axvline(limit, color=GREY, ls=":")
            axis.annotate(name, (limit, 1), (0, 3), xycoords=("data", "axes fraction"), textcoords="offset points",
                          ha="center")  # fmt: skip
        axis.set_yticks(rows, list(rates))
        axis.set(xlim=(0, None), ylim=(len(rates) - 0.5, -0.5), xlabel="HR@10 on the test items, ± standard error")
    return figure
