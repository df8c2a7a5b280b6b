"""A model that proposes several items together and fills gaps, beside ranking the next item."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from diffusers_rec.core.entrances import explained
from diffusers_rec.data.vocabulary import Vocabulary
from diffusers_rec.recommenders.diffrec import DiffRec


@explained
def joint(
    items: Vocabulary | Iterable[Hashable],
    *,
    dim: int = 64,
    max_length: int = 50,
    k: int = 5,
    per_row: int = 12,
    dropout: float = 0.5,
    low_pass: float = 0.7,
    seed: int = 0,
) -> DiffRec:
    """Build the model for :meth:`DiffRec.complete <diffusers_rec.DiffRec.complete>` and
    :meth:`DiffRec.slate <diffusers_rec.DiffRec.slate>`.

    The history encoder, the head and the memory are those of :func:`best`. A small bidirectional network over up to k
    positions predicts items, from Gaussian noise in half of the queries and from blanks in the other half, with any
    number of gaps among them. The next item is trained at every position, as in ``best``, so that ``recommend`` ranks
    as well.

    Args:
        items: Items that can be recommended.
        dim: Latent width D.
        max_length: Largest number of positions in a sequence, including the corrupted ones.
        k: Largest number of positions that are filled in together.
        per_row: Number of queries that a row of a training batch gives.
        dropout: Dropout rate of the history encoder; sparse data need a higher rate.
        low_pass: Share of the low-pass filter in the attention of the history encoder.
        seed: Seed of the initial weights.
    """
    return DiffRec(
        items,
        dim=dim,
        max_length=max_length,
        schedule={"name": "cosine", "num_timesteps": 1000, "log_snr_shift": -1.0},
        process={"name": "mixed", "blank": 0.5},
        noising={"name": "gaps", "k": k, "per_row": per_row},
        timesteps={"name": "uniform", "start_share": 0.25},
        embedding={"name": "table", "scale": "unit", "init_std": 0.02},
        denoiser={"name": "joint", "dropout": dropout, "low_pass": low_pass},
        head="tied",
        objective="items",
        memory={"name": "transitions", "share": 0.4},
        sampler="one-step",
        seeds=1,
        seed=seed,
    )
