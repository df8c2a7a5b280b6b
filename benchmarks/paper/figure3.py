"""Figure 3: NDCG@10 and HR@10 by the number of diffusion steps N that a model is trained with, served in one step."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from benchmarks import plots
from benchmarks.harness import command
from benchmarks.paper.settings import base
from benchmarks.paper.trial import Trial, with_parts
from benchmarks.paper.variants import compare_variants

STEPS = (10, 50, 100, 500, 1000, 1500, 2000)
DEFAULT = 1000

draw = partial(plots.score_figure, label="diffusion steps N", numbers=True)


def variants(preset: str, dataset: str) -> dict[str, Trial]:
    default = base(preset, dataset)
    return {str(steps): default if steps == DEFAULT else with_steps(default, steps) for steps in STEPS}


def with_steps(trial: Trial, steps: int) -> Trial:
    """A trial with another N."""
    changed = {"num_timesteps": steps}
    return with_parts(trial, f"steps-{steps}", schedule=changed, timesteps=changed)


def main(argv: Sequence[str] | None = None) -> None:
    compare_variants("figure3", __doc__, variants, str(DEFAULT), draw, argv)


if __name__ == "__main__":
    command(main)
