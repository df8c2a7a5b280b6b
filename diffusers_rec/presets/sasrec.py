"""Kang & McAuley 2018, *Self-Attentive Sequential Recommendation*: SASRec, without diffusion."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from diffusers_rec.core.entrances import explained
from diffusers_rec.data.vocabulary import Vocabulary
from diffusers_rec.recommenders.diffrec import DiffRec


@explained
def sasrec(
    items: Vocabulary | Iterable[Hashable],
    *,
    dim: int = 64,
    max_length: int = 51,
    dropout: float = 0.5,
    seed: int = 0,
) -> DiffRec:
    r"""Build SASRec in the form of RecBole, with the paper's loss: two blocks, two heads, D 64, histories of 50 items.

    Kang & McAuley 2018, *Self-Attentive Sequential Recommendation*, ICDM; arXiv 1808.09781; code ``kang205/SASRec``,
    commit e373896, Apache 2.0. The network is that of RecBole 1.2.1 (MIT). For ML-1M, the paper has histories of 200
    items and a dropout of .2. Its numbers rank a target among 100 drawn items, and are not printed here. Du et al. 2023
    print in Table 2, HR@10 and NDCG@10, without their settings:

    ========  ======  =======
    data      HR@10   NDCG@10
    ========  ======  =======
    Beauty    .0592   .0284
    Toys      .0652   .0320
    ML-1M     .1810   .0918
    ========  ======  =======

    **There is no diffusion.** The prediction is the state of the encoder, whatever the noise.
    ``model.replace(denoiser="conditional-mlp")`` is a diffusion model with the same encoder and loss. Add
    ``objective={"name": "simplified", "recommend_from": "final"}`` to train it at step N, where one step serves.

    The loss is a binary cross-entropy of each target and one drawn item. It decides the accuracy:
    gSASRec (Petrov & Macdonald 2023) is ``model.replace(objective={"name": "weighted", "terms": [{"name":
    "sampled-bce", "calibration": 0.75}]}, negatives={"count": 256})``, and a full softmax is the term
    ``cross-entropy`` with ``negatives="all"``.

    Given the same weights, states, scores, the full softmax and the loss of one pair are those of RecBole. What
    differs, and why:

    - The paper's code has D 50 and one head, layer norms before attention and feed-forward, a ReLU, a feed-forward of
      width D, items scaled by the root of D, and no norm or dropout behind the sum of items and places. RecBole has the
      network of BERT, with a causal mask. Here, dropout also applies within the feed-forward.
    - The negative of a target is any other item. The code draws it among items that the user does not have.
    - An epoch passes over all targets once, 750 a batch: as many as 128 users of Beauty have. The code draws 128 users
      a batch with replacement, and only their last 50 targets.
    - Adam has RecBole's decay of .999 for the second moment. The code has .98.
    - A history may be empty. Its state is a vector that training leaves as it is.

    Args:
        items: Items that can be recommended.
        dim: Latent width D, even.
        max_length: Largest number of positions in a sequence, including the one to predict.
        dropout: Dropout rate of the network.
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
        objective={"name": "weighted", "terms": ["sampled-bce"]},
        negatives={"name": "uniform", "count": 1, "shared": False},
        sampler="one-step",
        seeds=1,
        seed=seed,
    )
