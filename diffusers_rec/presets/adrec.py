"""Chen, Xu & Jiang 2025, *Unlocking the Power of Diffusion Models in Sequential Recommendation*: ADRec, KDD."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from diffusers_rec.core.entrances import explained
from diffusers_rec.data.vocabulary import Vocabulary
from diffusers_rec.recommenders.diffrec import DiffRec


@explained
def adrec(
    items: Vocabulary | Iterable[Hashable],
    *,
    dim: int = 128,
    max_length: int = 51,
    dropout: float = 0.1,
    seed: int = 0,
) -> DiffRec:
    """Build ADRec with the settings of its public code: two causal stacks of two blocks, D 128, 50 items, N 32.

    Chen, Xu & Jiang 2025, *Unlocking the Power of Diffusion Models in Sequential Recommendation: A Simple and Effective
    Approach*, KDD. Code: github.com/Nemo-1024/ADRec, commit 0a30ef7, under a template of the MIT licence. We could not
    read the paper's tables. Its sets are smaller than the usual 5-core ones: Beauty has 10,553 users in the code
    instead of 22,363, Baby 11,761 instead of 19,445.

    The code trains in three stages: item vectors alone, then the network with fixed vectors, then everything. The
    noise-free control trains the vectors:

    .. code-block:: python

        first, recipe = control(model), RECIPES["adrec"]
        train(first, sequences, validation, recipe)
        model.embedding.load_state_dict(first.embedding.state_dict())
        model.embedding.requires_grad_(False)
        train(model, sequences, validation, dataclasses.replace(recipe, epochs=5, decay="constant"))
        model.embedding.requires_grad_(True)
        train(model, sequences, validation, recipe)

    Given the same weights and draws, prediction, loss, gradients and chain are those of the code, for windows of full
    length. Elsewhere it differs:

    - **Fixed vectors.** The code passes zero gradients of the fixed vectors to Adam, whose weight decay then moves each
      number toward zero by about the learning rate at every step. In the five epochs on Baby, the standard deviation of
      the published vectors falls from .105 to .044. Here, fixed vectors stay as they are.
    - **Second and third stage.** The code has one Adam and one cosine decay over 500 epochs for both. In these lines,
      the third stage starts with a new AdamW. The rate of the second is constant; in the code, it falls from 1e-3 by
      .02 %. A callback that fixes the vectors for five epochs has one AdamW as well; ``benchmarks/field`` has it.
    - **First stage.** The code trains the vectors in a network of two blocks, with position embeddings left out. The
      control has all four blocks.
    - **Padding.** The code masks queries instead of keys, so the items attend to padding, whose vector is also a class
      of the softmax and of the ranking. Here, padding has no effect and is no item.
    - **Loss.** Both compute the mean of cross-entropy and squared error. The code averages squared errors over the
      targets of a user and then over users; here, all targets of a batch have the same weight. PCGrad is off by default
      in the code and is not provided.
    - **Draws.** In the code, a noised item is a target and a part of the history of later targets at once. Here, both
      are drawn, from the same distribution. When serving, all users share one noise draw.
    - **Guidance** is off by default in both. The code's unconditional prediction, trained on 30 % of the users, still
      sees the latents of the history. That of ``classifier-free`` sees no history.
    - **Batches.** The code takes 512 users at once, each with its last 50 targets. The recipe takes 2,500 targets,
      which are about 512 users where histories are short, and all targets of long ones. On ML-1M, 22,500 targets are
      as many as the last 50 of 512 users.
    - **Weight decay** is decoupled. The code adds it to the gradient.
    - **Selection.** The code keeps the last validation that improved any of six metrics. The recipe selects by NDCG@20.

    There are no position embeddings; the causal masks alone carry the order. With lambda .001, the noised latents
    change the input of the second stack by about .1 %; :func:`control` shows what they add.

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
        noising="every-item",
        timesteps="uniform",
        embedding={"name": "table", "scale": "learned", "init_std": 0.1},
        denoiser={
            "name": "autoregressive",
            "num_layers": 2,
            "denoiser_layers": 2,
            "num_heads": 4,
            "dropout": dropout,
            "embedding_dropout": 0.3,
            "uncertainty": 0.001,
            "step_scale": 1000 / num_timesteps,
        },
        head={"name": "tied", "use_bias": False},
        objective={
            "name": "weighted",
            "terms": [{"name": "cross-entropy", "weight": 0.5}, {"name": "squared", "weight": 0.5}],
        },
        sampler={"name": "ddpm", "variance": "beta"},
        seeds=1,
        seed=seed,
    )
