"""Xie et al. 2021: ACVAE, an adversarial and contrastive variational autoencoder."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from diffusers_rec.core.entrances import explained
from diffusers_rec.data.vocabulary import Vocabulary
from diffusers_rec.recommenders.diffrec import DiffRec


@explained
def acvae(
    items: Vocabulary | Iterable[Hashable],
    *,
    dim: int = 128,
    max_length: int = 51,
    dropout: float = 0.5,
    seed: int = 0,
) -> DiffRec:
    r"""Build ACVAE: recurrent units, latents with noise in their layers, and two adversaries, without diffusion.

    Xie, Liu, Zhang, Lu, Wang & Ding 2021, *Adversarial and Contrastive Variational Autoencoder for Sequential
    Recommendation*, WWW; code ``ACVAE/ACVAE-PyTorch``, commit 9a1dac6, which has no licence. Its own protocol splits
    the last fifth of each sequence off, which no table here has. Du et al. 2023 ran it, and print (leave-one-out over
    all items; whether items of the history are excluded is not said):

    ======  =====  =====  =====  ======  =======  =======
    data    HR@5   HR@10  HR@20  NDCG@5  NDCG@10  NDCG@20
    ======  =====  =====  =====  ======  =======  =======
    Beauty  .0438  .0690  .1059  .0272   .0354    .0453
    Toys    .0457  .0663  .0984  .0291   .0364    .0432
    ML-1M   .1356  .2033  .3085  .0837   .1145    .1392
    ======  =====  =====  =====  ======  =======  =======

    .. math:: \mathcal L = -\log p(v \mid z) + 0.05\, \mathtt{kl} + 0.1\, \mathtt{information} + \mathtt{discriminator}

    with the penalties of :class:`~diffusers_rec.AdversarialEncoder`. Given the same weights, histories of full length
    and noise, states, losses and gradients are those of the code to 1e-7. What differs, and why:

    - **One optimizer.** The code has three. AdamW (1e-3) trains the network; SGD (3e-4) trains the critic, and the
      layers between the recurrent units and z a second time, with a decay of .1; SGD (5e-4) trains the discriminator,
      after the other two have stepped. Here, AdamW trains all at once. The gradients are the same, because that of the
      discriminator's loss reaches the discriminator alone, and that of ``kl`` never does.
    - **Sums and means.** The code sums over positions and divides by the number of users. Here, the loss is a mean over
      positions: all terms have the same factor, which Adam ignores.
    - **Serving draws no noise.** The code draws it in evaluation, too: a user's ranking changes from call to call.
    - **The other history.** Where it is shorter, the code takes a latent of its padding. Here, it is the last one.
    - **The discriminator's loss** is the stable form of the code's logarithms, to which it adds 1e-9.
    - **Selection.** The code validates on its test set.
    - **Padding** is no item. The code's softmax includes it as item 0.

    In the paper, the latents are Gaussian with a mean and a variance. The code has neither: noise enters two layers,
    which share their weights, and an ``Encoder`` class that it never builds.

    Args:
        items: Items that can be recommended.
        dim: Width D of the items and of what the head reads.
        max_length: Largest number of positions in a sequence, including the target; the code's windows have 200 items.
        dropout: Dropout rate of the encoder; that of the discriminator is .2.
        seed: Seed of the initial weights.
    """
    widths = {"hidden_dim": 100, "latent_dim": 64, "judge_dim": 128}
    encoder = {"name": "adversarial", **widths, "dropout": dropout}
    return DiffRec(
        items,
        dim=dim,
        max_length=max_length,
        noising="target",
        timesteps="uniform",
        embedding={"name": "table", "scale": "learned", "init_std": 1.0},
        denoiser={"name": "plain", "encoder": encoder},
        head="linear",
        objective={
            "name": "weighted",
            "terms": [
                "cross-entropy",
                {"name": "kl", "weight": 0.05},
                {"name": "information", "weight": 0.1},
                "discriminator",
            ],
        },
        sampler="one-step",
        seeds=1,
        seed=seed,
    )
