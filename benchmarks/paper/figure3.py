"""Figure 3: NDCG@10 and HR@10 by the number of diffusion steps N that a model is trained with, served in one step."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from benchmarks import plots
from benchmarks.harness import command
from benchmarks.paper.trials import Trial, base
from benchmarks.paper.variants import compare_variants

STEPS = (10, 50, 100, 500, 1000, 1500, 2000)
DEFAULT = 1000


def variants(preset: str, dataset: str) -> dict[str, Trial]:
    default = base(preset, dataset)
    return {
        str(steps): default
        if steps == DEFAULT
        else default.varied(f"steps-{steps}", schedule={"num_timesteps": steps}, timesteps={"num_timesteps": steps})
        for steps in STEPS
    }


def main(argv: Sequence[str] | None = None) -> None:
    draw = partial(plots.score_figure, xlabel="diffusion steps N", lines=True)
    compare_variants("figure3", __doc__, variants, str(DEFAULT), draw, argv)


if __name__ == "__main__":
    command(main)
