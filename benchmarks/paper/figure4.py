"""Figure 4: the Denoise Sequential Recommender with both embeddings, position and diffusion step, with one, with none.

Only the paper's bidirectional Transformer has the two as parts of its own, so the ``best`` preset takes it in place of
its denoiser, with what it needs to learn there: a projection of the noised latent, and directions alone in the head.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from benchmarks import plots
from benchmarks.harness import command
from benchmarks.paper.trials import DROPOUT, Trial, short_windows
from benchmarks.paper.variants import compare_variants

DEFAULT = "both"
WITHOUT = {  # label: which embeddings stay
    "neither": {"position_embedding": False, "step_embedding": False},
    "no position": {"position_embedding": False},
    "no step": {"step_embedding": False},
    DEFAULT: {},
}


def variants(preset: str, dataset: str) -> dict[str, Trial]:
    default = short_windows(preset, dataset)
    if preset != "paper":
        denoiser = {"name": "transformer", "target_token": "projected", "dropout": DROPOUT[dataset]}
        default = default.varied("transformer", denoiser=denoiser, head={"name": "cosine"})
    return {
        label: default.varied(label.replace(" ", "-"), denoiser=embeddings) if embeddings else default
        for label, embeddings in WITHOUT.items()
    }


def main(argv: Sequence[str] | None = None) -> None:
    draw = partial(plots.score_figure, xlabel="embeddings")
    compare_variants("figure4", __doc__, variants, DEFAULT, draw, argv)


if __name__ == "__main__":
    command(main)
