r"""Figure 2: the three noise schedules, and NDCG@10 and HR@10 of training with each, N = 1000.

The curves are the paper's :math:`\bar\alpha_n`, signal :math:`\sqrt{\bar\alpha_n}` and noise
:math:`\sqrt{1 - \bar\alpha_n}` of the schedules in the trainings, the preset's ``log_snr_shift`` included.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import plots
from benchmarks.harness import command
from benchmarks.paper.settings import base
from benchmarks.paper.trial import Trial, converted, with_parts
from benchmarks.paper.variants import compare_variants
from diffusers_rec import NoiseSchedule

SCHEDULES = ("sqrt", "cosine", "linear")
DEFAULT = "sqrt"


def variants(preset: str, dataset: str) -> dict[str, Trial]:
    default = base(preset, dataset)
    others = (name for name in SCHEDULES if name != DEFAULT)
    return {DEFAULT: default} | {
        name: with_parts(default, name, schedule=converted(default, "schedule", name)) for name in others
    }


def draw(path: Path, rows: list[dict[str, str]]) -> None:
    """Curves at the top, scores at the bottom."""
    height = plots.score_height(rows)
    figure = plots.canvas(7.8, 3 + height)
    above, below = figure.subfigures(2, 1, height_ratios=[3, height])
    trained = {row["setting"]: json.loads(row["settings"])["model"]["schedule"] for row in rows if row["settings"]}
    curves(above, trained)
    plots.score_dots(below, rows, label="noise schedule")
    figure.savefig(path)


def curves(figure: Any, trained: dict[str, dict[str, Any]]) -> None:
    """As in the paper on the left, as in the trainings on the right."""
    printed, shifted = figure.subplots(1, 2)
    for place, (name, config) in enumerate(trained.items()):
        schedule = NoiseSchedule.build(config)
        alpha_bar = NoiseSchedule.build(name, num_timesteps=schedule.num_timesteps).alpha_bar
        printed.plot(alpha_bar, color=f"C{place}", label=name)
        shifted.plot(schedule.alpha_bar.sqrt(), color=f"C{place}", label=f"{name}, signal")
        shifted.plot((1 - schedule.alpha_bar).sqrt(), "--", color=f"C{place}", label=f"{name}, noise")
    printed.set(xlabel="timestep n", ylabel=r"$\bar\alpha_n$", title="as in the paper")
    shift = sorted({f"{config['log_snr_shift']:.3g}" for config in trained.values()})
    words = f"in the trainings: log-SNR shifted by {', '.join(shift)}"
    shifted.set(xlabel="timestep n", ylabel=r"$\sqrt{\bar\alpha_n}$, $\sqrt{1-\bar\alpha_n}$", title=words)
    for axis in (printed, shifted):
        axis.legend()


def main(argv: Sequence[str] | None = None) -> None:
    compare_variants("figure2", __doc__, variants, DEFAULT, draw, argv)


if __name__ == "__main__":
    command(main)
