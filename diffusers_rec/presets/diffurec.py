"""Li, Sun & Li 2023, *DiffuRec: A Diffusion Model for Sequential Recommendation*, ACM TOIS 42(3), Article 66."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from diffusers_rec.core.entrances import explained
from diffusers_rec.data.vocabulary import Vocabulary
from diffusers_rec.recommenders.diffrec import DiffRec


@explained
def diffurec(
    items: Vocabulary | Iterable[Hashable],
    *,
    dim: int = 128,
    max_length: int = 51,
    dropout: float = 0.1,
    seed: int = 0,
) -> DiffRec:
    """Build DiffuRec with the settings of its public code: four blocks, four heads, D 128, 50 items, N 32.

    Published accuracy, leave-one-out, ranked among all items with seen items kept:

    ======  =====  =======
    data    HR@10  NDCG@10
    ======  =====  =======
    Beauty  .0791  .0475
    Toys    .0746  .0477
    ML-1M   .2626  .1479
    ======  =====  =======

    Given the same weights and draws, predictions, loss and reverse step are those of the authors' code
    (github.com/WHUIR/DiffuRec, commit f6f70c9, MIT licence), for histories of full length. Elsewhere it differs:

    - **Padding.** The code masks queries instead of keys, so the items attend to padding, whose learned vector is also
      a class of the softmax and of the ranking. Here, padding has no effect and is no item.
    - **Draws in serving.** The code draws lambda at every reverse step and noise for every user. Here, lambda is its
      mean, and all users share one noise draw, so that a prediction is repeatable.
    - **Steps.** The code names an importance sampler and never shows it a loss. It draws steps uniformly, as here.
    - **Selection.** The code keeps the last validation that improved any of six metrics. The recipe selects by NDCG@10.

    The code defines position embeddings and does not use them: the order of all items but the last has no effect. With
    lambda near .001 and items of unit variance, the noised latent changes the input of the network by about .1 %;
    :func:`control` shows what it adds.

    Args:
        items: Items that can be recommended.
        dim: Latent width D.
        max_length: Largest number of positions in a sequence, including the corrupted one.
        dropout: Dropout rate of the Transformer. That of the item embeddings is .3.
        seed: Seed of the initial weights.
    """
    num_timesteps = 32
    return DiffRec(
        items,
        dim=dim,
        max_length=max_length,
        schedule={"name": "truncated-linear", "num_timesteps": num_timesteps},
        noising="target",
        timesteps="uniform",
        embedding={"name": "table", "scale": "learned", "init_std": 1.0},
        denoiser={
            "name": "added-latent",
            "num_layers": 4,
            "num_heads": 4,
            "dropout": dropout,
            "embedding_dropout": 0.3,
            "uncertainty": 0.001,
            "step_scale": 1000 / num_timesteps,
        },
        head={"name": "tied", "use_bias": False},
        objective={"name": "weighted", "terms": ["cross-entropy"]},
        sampler={"name": "ddpm", "variance": "beta"},
        seeds=1,
        seed=seed,
    )
