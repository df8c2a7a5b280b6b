"""Hidasi et al. 2016, *Session-based Recommendations with Recurrent Neural Networks*: GRU4Rec, without diffusion."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from diffusers_rec.core.entrances import explained
from diffusers_rec.core.errors import check_int
from diffusers_rec.data.vocabulary import Vocabulary
from diffusers_rec.recommenders.diffrec import DiffRec


@explained
def gru4rec(
    items: Vocabulary | Iterable[Hashable],
    *,
    dim: int = 64,
    max_length: int = 51,
    dropout: float = 0.3,
    hidden_dim: int = 128,
    seed: int = 0,
) -> DiffRec:
    r"""Build GRU4Rec in the form of RecBole, with the paper's BPR loss: one layer of 128 units, D 64.

    Hidasi, Karatzoglou, Baltrunas & Tikk 2016, *Session-based Recommendations with Recurrent Neural Networks*, ICLR;
    arXiv 1511.06939; code ``hidasib/GRU4Rec``, commit a4ed5fb, for research and education only. The network is that of
    RecBole 1.2.1 (MIT). Du et al. 2023 print in Table 2, HR@10 and NDCG@10, without their settings:

    ========  ======  =======
    data      HR@10   NDCG@10
    ========  ======  =======
    Beauty    .0332   .0175
    Toys      .0184   .0097
    ML-1M     .1344   .0649
    ========  ======  =======

    **There is no diffusion.** The prediction is the state of the encoder, whatever the noise.
    ``model.replace(denoiser="conditional-mlp")`` is a diffusion model with the same encoder and loss. Add
    ``objective={"name": "simplified", "recommend_from": "final"}`` to train it at step N, where one step serves.

    Given the same weights, states, scores and the loss of one pair are those of RecBole. What differs, and why:

    - The loss is that of the paper, BPR against the other targets of the batch. RecBole has a full softmax or one drawn
      negative; ``model.replace(objective={"name": "weighted", "terms": ["cross-entropy"]}, negatives="all")`` is the
      former. The paper's TOP1 loss, and the later BPR-max and additional negatives of its code, are left out.
    - A batch holds 500 targets of some users, all positions of their windows. The paper's holds the present items of 50
      sessions side by side, and carries the state of a session over from batch to batch.
    - Input and output share the item vectors. The paper has one-hot inputs, and an output layer of its own.
    - The recipe has Adam with RecBole's rate of 1e-3. The paper has Adagrad, with rates for each data set.
    - A history may be empty. Its state is a vector that training leaves as it is.

    Args:
        items: Items that can be recommended.
        dim: Latent width D.
        max_length: Largest number of positions in a sequence, including the one to predict.
        dropout: Dropout rate of the items.
        hidden_dim: Number of units.
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
        denoiser={
            "name": "plain",
            "encoder": {
                "name": "gru",
                "hidden_dim": check_int("hidden_dim", hidden_dim, minimum=1),
                "dropout": dropout,
            },
        },
        head={"name": "tied", "use_bias": False},
        objective={"name": "weighted", "terms": ["bpr"]},
        negatives="in-batch",
        sampler="one-step",
        seeds=1,
        seed=seed,
    )
