"""Liu et al. 2025, *Preference Diffusion for Recommendation*: PreferDiff, a preference between distances."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from diffusers_rec.core.entrances import explained
from diffusers_rec.core.errors import check_choice
from diffusers_rec.data.vocabulary import Vocabulary
from diffusers_rec.recommenders.diffrec import DiffRec

_SETTINGS = {"sports": (0.4, 2.0), "beauty": (0.4, 8.0), "toys": (0.6, 6.0)}  # lambda and guidance strength w


@explained
def preferdiff(
    items: Vocabulary | Iterable[Hashable],
    *,
    dim: int = 3072,
    max_length: int = 11,
    dropout: float = 0.1,
    settings: str = "sports",
    seed: int = 0,
) -> DiffRec:
    r"""Build PreferDiff with the settings of one of the paper's data sets: D 3072, histories of 10 items, N 2000.

    Liu, Zhang, Hu, Qian & Chua 2025, *Preference Diffusion for Recommendation*, ICLR; code ``lswhim/PreferDiff``,
    commit fdf45b0, which has no licence. The commands of its README learn one vector per item, as here, and set
    :math:`\lambda` and w:

    ======  ======  =
    data    lambda  w
    ======  ======  =
    Sports  .4      2
    Beauty  .4      8
    Toys    .6      6
    ======  ======  =

    The code splits users 8:1:1, takes the last item of each as the target, and keeps seen items in the ranking. No
    table of this library has this protocol, and we could not read the tables of the paper. A user of the code reports
    scores far below the paper's on Toys (issue 4).

    .. math:: \mathcal L = \lambda\, d^+ + (1 - \lambda) \big( -\log \sigma(\gamma (d^- - d^+)) \big),
              \qquad d = \big( 1 - \cos(x_0, \hat x_0) \big)^2, \quad \gamma = 5.

    The distance :math:`d^+` is that of the target, and :math:`d^-` that of the mean latent of the other targets of the
    batch, both corrupted to the same step (:class:`~diffusers_rec.PreferenceTerm`). The network is that of DreamRec,
    with two heads and further residuals. Guidance :math:`(1 + w) f(h) - w f(\varnothing)` is the scale 1 + w of
    :class:`~diffusers_rec.ClassifierFreeGuide`. Chains are DDIM over 21 steps, with one sample per user.

    Given the same weights and draws, predictions, loss, gradients and reverse steps are those of the code to 1e-8, for
    histories of full length. What differs, and why:

    - **Steps of the chain.** The code visits the levels of steps 2000, 1900, ..., 100, 1 and announces to the network
      steps 2001, 1901, ..., 101, 1. The first of them never occurs in training. Here, the network gets the step of
      the level, and the 21 steps are spaced evenly, which moves those below 1000 by 1.
    - **Negatives.** The code counts the target itself as a negative where another user of the batch has it too. With
      a single user in a batch, its mean is empty. Here, equal items are left out, and an item is drawn uniformly if no
      other remains.
    - **Weights.** The code draws those of the attention by Xavier's rule; they are PyTorch's here.
    - **Padding.** Its vector is no item. The code drops the attention of an item whose normalised vector sums to
      exactly 0, which depends on rounding at the initial weights.
    - **Noise.** All users share one draw, so that a prediction does not depend on the batch.
    - The code denoises each target a third time, given another user's history, and does not use the result.
    - A history may be empty. Its state is the learned vector of the unconditional prediction.

    The mean of the distances over the batch is taken before the logarithm, as in the code. The term per latent is
    ``over="latent"``.

    Args:
        items: Items that can be recommended.
        dim: Latent width D. The code's 3072 is that of text embeddings; with it, the network has 113 million weights.
        max_length: Largest number of positions in a sequence, including the corrupted one.
        dropout: Dropout rate of the history encoder.
        settings: Data set of the paper whose weight and guidance to use: ``"sports"``, ``"beauty"`` or ``"toys"``.
        seed: Seed of the initial weights.
    """
    share, strength = _SETTINGS[check_choice("settings", settings, tuple(_SETTINGS))]
    distance = {"name": "cosine", "power": 2.0}
    preference = {"name": "preference", "distance": distance, "scale": 5.0, "at": "centroid", "over": "batch"}
    return DiffRec(
        items,
        dim=dim,
        max_length=max_length,
        schedule={"name": "linear", "num_timesteps": 2000, "rescale": False},
        noising="target",
        timesteps="uniform",
        embedding={"name": "table", "scale": "learned", "init_std": 1.0},
        denoiser={
            "name": "classifier-free",
            "base": {
                "name": "state-mlp",
                "encoder": {"name": "single-layer", "num_heads": 2, "skip": True, "dropout": dropout},
                "mlp_layers": 1,
            },
            "drop": 0.1,
            "scale": 1 + strength,
        },
        head={"name": "tied", "use_bias": False},
        objective={
            "name": "weighted",
            "terms": [{**distance, "weight": share}, {**preference, "weight": 1 - share}],
        },
        sampler={"name": "ddim", "num_steps": 21},
        seeds=1,
        seed=seed,
    )
