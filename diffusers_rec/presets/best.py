"""The settings with the best accuracy in this library."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable

from diffusers_rec.core.entrances import explained
from diffusers_rec.data.vocabulary import Vocabulary
from diffusers_rec.recommenders.diffrec import DiffRec


@explained
def best(
    items: Vocabulary | Iterable[Hashable],
    *,
    dim: int = 64,
    max_length: int = 50,
    dropout: float = 0.5,
    low_pass: float = 0.7,
    seed: int = 0,
) -> DiffRec:
    """Build the model with the best accuracy so far.

    The denoiser is a causal history encoder, with a low-pass filter in its attention, and a small perceptron. The
    cross-entropy is trained at step N, where serving starts. The reconstruction at a sampled step is a cosine distance
    with .1 of the weight of the cross-entropy. Latents have unit variance. The signal-to-noise ratio of every step is
    .1 of that of the sqrt schedule, because weaker noise does not hide an item at this width. A memory of transitions
    has a share of .4 in the ranking. ``benchmarks/paper/recipes.py`` measures the effect of most of these choices.

    Args:
        items: Items that can be recommended.
        dim: Latent width D.
        max_length: Largest number of positions in a sequence, including the corrupted one.
        dropout: Dropout rate of the history encoder; sparse data need a higher rate.
        low_pass: Share of the low-pass filter in the attention.
        seed: Seed of the initial weights.
    """
    return DiffRec(
        items,
        dim=dim,
        max_length=max_length,
        schedule={"name": "sqrt", "num_timesteps": 1000, "log_snr_shift": -math.log(10)},
        noising="target",
        timesteps="importance",
        embedding={"name": "table", "scale": "unit", "init_std": 0.02},
        denoiser={
            "name": "conditional-mlp",
            "encoder": {"name": "causal-transformer", "dropout": dropout, "low_pass": low_pass},
        },
        head="tied",
        objective={
            "name": "simplified",
            "distance": "cosine",
            "reconstruction_weight": 0.1,
            "recommend_from": "final",
        },
        memory={"name": "transitions", "share": 0.4},
        sampler="one-step",
        seeds=10,
        seed=seed,
    )
