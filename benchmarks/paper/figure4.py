"""Figure 4: the Denoise Sequential Recommender with both embeddings, position and diffusion step, with one, with none.

Only the paper's bidirectional Transformer has the two as separate parts, so it replaces the denoiser of the ``best``
preset, together with what it needs to learn there: a projection of the noised latent, and the cosine head.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from benchmarks import plots
from benchmarks.harness import command
from benchmarks.paper.settings import DROPOUT, short_windows
from benchmarks.paper.trial import Trial, converted, with_parts
from benchmarks.paper.variants import compare_variants

DEFAULT = "both"
REMOVED: dict[str, dict[str, bool]] = {  # label: settings that remove embeddings
    "neither": {"position_embedding": False, "step_embedding": False},
    "no position": {"position_embedding": False},
    "no step": {"step_embedding": False},
    DEFAULT: {},
}

draw = partial(plots.score_figure, label="embeddings")


def variants(preset: str, dataset: str) -> dict[str, Trial]:
    default = short_windows(preset, dataset)
    if preset != "paper":
        changes = {"target_token": "projected", "dropout": DROPOUT[dataset]}
        denoiser = converted(default, "denoiser", "transformer") | changes
        default = with_parts(default, "transformer", denoiser=denoiser, head="cosine")
    return {
        label: with_parts(default, label.replace(" ", "-"), denoiser=removed) if removed else default
        for label, removed in REMOVED.items()
    }


def main(argv: Sequence[str] | None = None) -> None:
    compare_variants("figure4", __doc__, variants, DEFAULT, draw, argv)


if __name__ == "__main__":
    command(main)
