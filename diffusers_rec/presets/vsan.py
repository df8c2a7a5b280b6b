"""Zhao et al. 2021, *Variational Self-attention Network for Sequential Recommendation*: VSAN."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from diffusers_rec.core.entrances import explained
from diffusers_rec.data.vocabulary import Vocabulary
from diffusers_rec.recommenders.diffrec import DiffRec


@explained
def vsan(
    items: Vocabulary | Iterable[Hashable],
    *,
    dim: int = 200,
    max_length: int = 51,
    dropout: float = 0.5,
    seed: int = 0,
) -> DiffRec:
    r"""Build VSAN: Gaussian latents between two causal Transformers, without diffusion.

    Zhao, Zhao, Zhao, Liu, Sheng & Zhou 2021, *Variational Self-attention Network for Sequential Recommendation*, ICDE.
    We found no public code of the authors, and could not read the text. Du et al. 2023 implemented it themselves, and
    print (leave-one-out over all items; whether items of the history are excluded is not said):

    ======  =====  =====  =====  ======  =======  =======
    data    HR@5   HR@10  HR@20  NDCG@5  NDCG@10  NDCG@20
    ======  =====  =====  =====  ======  =======  =======
    Beauty  .0475  .0759  .1086  .0298   .0389    .0471
    Toys    .0481  .0719  .1029  .0286   .0363    .0441
    ML-1M   .1220  .2015  .3003  .0751   .1007    .1257
    ======  =====  =====  =====  ======  =======  =======

    The loss is the negative evidence lower bound with an annealed weight of the divergence, at every position:

    .. math:: -\log p(v_{i+1} \mid z_1, \dots, z_i)
              + \beta_t\, \mathrm{KL}\big( \mathcal N(\mu_i, \sigma_i^2) \,\|\, \mathcal N(0, I) \big).

    The encoder is :class:`~diffusers_rec.VariationalEncoder`, with one block on either side. Its states and divergence
    are tested against plain loops and closed forms, not against other code. Serving uses the mean of each latent.

    What is ours, and why:

    - **The largest beta is .2, reached in 10,000 steps.** We do not know the paper's. These are the numbers of the
      public code of ContrastVAE (Wang et al. 2022) for an attentive variational autoencoder of this form.
    - **The dropout of .5 is SASRec's on sparse data.** On ML-1M, SASRec uses .2.
    - **One next item is predicted.**
    - **The encoder outputs the logarithm of the variance**, so that the variance is positive.
    - **Layer norms follow** attention and feed-forward, as in Vaswani et al. 2017.

    Args:
        items: Items that can be recommended.
        dim: Width D of items, latents and states.
        max_length: Largest number of positions in a sequence, including the target.
        dropout: Dropout rate of the encoder.
        seed: Seed of the initial weights.
    """
    return DiffRec(
        items,
        dim=dim,
        max_length=max_length,
        noising="target",
        timesteps="uniform",
        embedding={"name": "table", "init_std": 0.02},
        denoiser={"name": "plain", "encoder": {"name": "variational", "dropout": dropout}},
        head="linear",
        objective={
            "name": "weighted",
            "terms": ["cross-entropy", {"name": "kl", "weight": 0.2, "annealing_steps": 10_000}],
        },
        sampler="one-step",
        seeds=1,
        seed=seed,
    )
