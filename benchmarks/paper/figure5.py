"""Figure 5: noising the target alone, the last 2, 3 or 4 items, or the whole sequence.

As in the paper, the known items among the noised ones are noised at serving time too. Each noised item is one more
latent to predict, so the cost of the whole sequence is proportional to the length of the window.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from benchmarks import plots
from benchmarks.harness import command
from benchmarks.paper.settings import short_windows
from benchmarks.paper.trial import Trial, with_parts
from benchmarks.paper.variants import compare_variants

DEFAULT = "target"

draw = partial(plots.score_figure, label="noised items")


def variants(preset: str, dataset: str) -> dict[str, Trial]:
    default = short_windows(preset, dataset)
    last = {f"last {k}": with_parts(default, f"last-{k}", noising={"name": "last-k", "k": k}) for k in (2, 3, 4)}
    return {DEFAULT: default, **last, "whole": with_parts(default, "whole", noising="whole")}


def main(argv: Sequence[str] | None = None) -> None:
    compare_variants("figure5", __doc__, variants, DEFAULT, draw, argv)


if __name__ == "__main__":
    command(main)
