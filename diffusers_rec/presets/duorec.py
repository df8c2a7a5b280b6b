"""Qiu et al. 2022, *Contrastive Learning for Representation Degeneration Problem*: DuoRec, without diffusion."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from diffusers_rec.core.entrances import explained
from diffusers_rec.data.vocabulary import Vocabulary
from diffusers_rec.recommenders.diffrec import DiffRec


@explained
def duorec(
    items: Vocabulary | Iterable[Hashable],
    *,
    dim: int = 64,
    max_length: int = 51,
    dropout: float = 0.5,
    seed: int = 0,
) -> DiffRec:
    r"""Build DuoRec: a causal Transformer, a softmax over all items, and a contrast with histories of the same target.

    Qiu, Huang, Yin & Wang 2022, *Contrastive Learning for Representation Degeneration Problem in Sequential
    Recommendation*, WSDM; arXiv 2110.05730; code ``RuihongQiu/DuoRec``, commit 4ebc30d, MIT. We read the abstract and
    the code; the settings are those of its command, ``contrast=us_x``: two layers, two heads, D 64, histories of 50
    items, a weight of .1 for the contrast, temperature 1, inner products.

    The two views are the history, encoded once more with other dropout, and the history of another training example
    with the same target. Histories of one target are negatives of one another, too, as in the code;
    ``"false_negatives": False`` in the term leaves them out. Du et al. 2023 print these rows, of the authors' code
    (Table 2), without the protocol of seen items:

    =======  ======  ======  ======  ======  =======  =======
    data     HR@5    HR@10   HR@20   NDCG@5  NDCG@10  NDCG@20
    =======  ======  ======  ======  ======  =======  =======
    Beauty   .0541   .0825   .1102   .0362   .0447    .0531
    Toys     .0539   .0744   .1056   .0340   .0406    .0472
    ML-1M    .1679   .2540   .3478   .1091   .1370    .1607
    =======  ======  ======  ======  ======  =======  =======

    For given weights and views, and without dropout, states, scores, both losses and their gradients are those of the
    code. What differs, and why:

    - The padding item is no class of the softmax.
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
            "terms": ["cross-entropy", {"name": "info-nce", "weight": 0.1, "views": ["dropout", "same-target"]}],
        },
        sampler="one-step",
        seeds=1,
        seed=seed,
    )
