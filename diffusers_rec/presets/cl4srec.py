"""Xie et al. 2022, *Contrastive Learning for Sequential Recommendation*: CL4SRec, a model without diffusion."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from diffusers_rec.core.entrances import explained
from diffusers_rec.data.vocabulary import Vocabulary
from diffusers_rec.recommenders.diffrec import DiffRec


@explained
def cl4srec(
    items: Vocabulary | Iterable[Hashable],
    *,
    dim: int = 64,
    max_length: int = 51,
    dropout: float = 0.5,
    seed: int = 0,
) -> DiffRec:
    r"""Build CL4SRec: a causal Transformer, a softmax over all items, and a contrast of two augmented histories.

    Xie, Sun, Liu, Wu, Gao, Zhang, Ding & Cui 2022, *Contrastive Learning for Sequential Recommendation*, ICDE; arXiv
    2010.14395. We could not read its text, and found no code of its authors. The settings are those of the code of
    DuoRec, which has the model, too: ``RuihongQiu/DuoRec``, commit 4ebc30d, MIT. Two layers, two heads, D 64, histories
    of 50 items, a weight of .1 for the contrast, temperature 1, inner products.

    Two of three augmentations are drawn for each history: a crop of 60 % of its items, 30 % of them masked, or 60 %
    shuffled. Du et al. 2023 print these rows of their own implementation (Table 2), without the protocol of seen items:

    =======  ======  ======  ======  ======  =======  =======
    data     HR@5    HR@10   HR@20   NDCG@5  NDCG@10  NDCG@20
    =======  ======  ======  ======  ======  =======  =======
    Beauty   .0396   .0630   .0965   .0232   .0307    .0392
    Toys     .0503   .0736   .0990   .0264   .0339    .0404
    ML-1M    .1142   .1815   .2818   .0705   .0920    .1170
    =======  ======  ======  ======  ======  =======  =======

    For given weights and views, states, scores, both losses and their gradients are those of the code. What differs,
    and why:

    - **Augmentations leave the training data as they are.** In the code, ``seq[:]`` of a tensor is no copy. Masks and
      shuffles change the history that the softmax is trained on, in this epoch and in all later ones. A mask and a
      shuffle of one history are the same tensor, so that both views are equal.
    - The padding item is no class of the softmax.
    - The vector of a masked item starts at zero, not at a standard deviation of .02.
    - The epoch is selected by NDCG@10. The code selects by MRR@10.
    - Dropout also applies within the feed-forward layers.
    - A history may be empty. Its state is a vector that training leaves as it is.

    There is no diffusion: the prediction is the state of the encoder, whatever the noise.
    ``model.replace(denoiser="conditional-mlp")`` is a diffusion model with the same encoder and the same contrast.

    Args:
        items: Items that can be recommended.
        dim: Latent width D.
        max_length: Largest number of positions in a sequence, including the predicted one.
        dropout: Dropout rate of the encoder.
        seed: Seed of the initial weights.
    """
    return DiffRec(
        items,
        dim=dim,
        max_length=max_length,
        schedule="sqrt",
        noising="target",
        timesteps="uniform",
        embedding={"name": "table", "scale": "learned", "init_std": 0.02},
        denoiser={"name": "plain", "encoder": {"name": "positional-transformer", "dropout": dropout}},
        head={"name": "tied", "use_bias": False},
        objective={
            "name": "weighted",
            "terms": ["cross-entropy", {"name": "info-nce", "weight": 0.1, "views": ["augmented", "augmented"]}],
        },
        sampler="one-step",
        seeds=1,
        seed=seed,
    )
