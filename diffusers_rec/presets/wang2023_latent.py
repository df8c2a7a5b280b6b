"""Wang et al. 2023, *Diffusion Recommender Model*: L-DiffRec, which diffuses latents of users."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence

from diffusers_rec.core.entrances import explained
from diffusers_rec.core.errors import check_choice
from diffusers_rec.data.vocabulary import Vocabulary
from diffusers_rec.processes.schedules import LinearVarianceSchedule
from diffusers_rec.recommenders.user_latents import UserLatentDiffusion

_SETTINGS = {  # N, scale, minimum and maximum of the variance, and lambda
    "amazon-book": (5, 0.5, 1e-3, 5e-3, 0.05),
    "yelp": (5, 1e-2, 5e-3, 1e-2, 0.03),
    "ml-1m": (40, 5e-3, 5e-3, 2e-2, 0.03),
}


@explained
def wang2023_latent(
    items: Vocabulary | Iterable[Hashable],
    *,
    clusters: Sequence[int] | None = None,
    dim: int = 300,
    max_length: int = 1000,
    dropout: float = 0.5,
    settings: str = "amazon-book",
    seed: int = 0,
) -> UserLatentDiffusion:
    r"""Build L-DiffRec with the settings of one of the authors' checkpoints ("clean"): latents and layers of width 300.

    See :func:`~diffusers_rec.presets.wang2023.wang2023` for the paper. The folder ``L-DiffRec`` of its code gives:

    ===========  ==  =====  ============  ======  ==============  ======================
    data         N   scale  variance      lambda  learning rates  :math:`1-\bar\alpha_N`
    ===========  ==  =====  ============  ======  ==============  ======================
    Amazon-book  5   .5     1e-3 to 5e-3  .05     5e-4, 1e-4      2.5e-3
    Yelp         5   1e-2   5e-3 to 1e-2  .03     5e-4, 1e-4      1.0e-4
    ML-1M        40  5e-3   5e-3 to 2e-2  .03     1e-3, 5e-4      1.0e-4
    ===========  ==  =====  ============  ======  ==============  ======================

    The recipe has the first rate of Amazon-book. For ML-1M, the paper is quoted with recall .1060 and
    NDCG .0868 at 10, and the quoting students reached .0535 and .0598 (``ilayda-bilgin/RS``, Table 14).

    **The encoder's noise is larger than the diffusion's.** A tanh keeps the means of the latents in [-1, 1] and
    their standard deviations in [.61, 1.65]. The diffusion adds noise of at most .05. Ranking uses neither.

    As in the code, the cross-entropy predicts the vector after dropout, and the gradient of the bound passes through
    the clean latent, which it predicts. The first beta is not fixed.

    What differs from the code, and why:

    - All checkpoints have two clusters, by k-means of LightGCN's item vectors. Such vectors are not part of this
      library; give ``clusters``, or have one. The code fails for a cluster of one item.
    - Lambda is constant. In the code, it decreases by 1/500 of its first value an epoch, to .005 at least.
    - One learning rate. The code's second one is that of the denoiser.
    - What :func:`~diffusers_rec.presets.wang2023.wang2023` says of flags, metrics and rows holds here, too.

    Args:
        items: Items that can be recommended.
        clusters: Cluster of each item, from 0, in the order of the items; one cluster if None.
        dim: Width of the latents and of the hidden layer.
        max_length: Largest number of items in a user's vector.
        dropout: Dropout rate of the corrupted latent; that of the user's vector is .1.
        settings: Data set of the paper: ``"amazon-book"``, ``"yelp"`` or ``"ml-1m"``.
        seed: Seed of the initial weights.
    """
    steps, scale, minimum, maximum, bound_scale = _SETTINGS[check_choice("settings", settings, tuple(_SETTINGS))]
    return UserLatentDiffusion(
        items,
        schedule=LinearVarianceSchedule(steps, scale=scale, minimum=minimum, maximum=maximum),
        clusters=clusters,
        latent_dim=dim,
        widths=[dim],
        max_length=max_length,
        bound_scale=bound_scale,
        dropout=dropout,
        seed=seed,
    )
