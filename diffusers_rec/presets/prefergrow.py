"""Hu et al. 2025, *Fading to Grow*: PreferGrow, a chain of items that replace one another."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable

from diffusers_rec.core.entrances import explained
from diffusers_rec.core.errors import check_choice, check_int
from diffusers_rec.data.vocabulary import Vocabulary
from diffusers_rec.recommenders.diffrec import DiffRec

_SETTINGS = {  # share of blanks among the replaced, and share of hidden histories
    "steam": (1e-5, 0.1),
    "ml-1m": (1e-4, 0.1),
    "beauty": (1e-3, 0.1),
    "toys": (1e-4, 0.2),
    "sports": (1e-4, 0.2),
}
_RANGE = 1e-3, 1e4
"""Smallest noise level, and the ratio of the largest to it."""

_LEVELS = [_RANGE[0] * _RANGE[1] ** (step / 20) for step in range(21)]


@explained
def prefergrow(
    items: Vocabulary | Iterable[Hashable],
    *,
    dim: int = 256,
    max_length: int = 11,
    dropout: float = 0.1,
    settings: str = "beauty",
    seed: int = 0,
) -> DiffRec:
    r"""Build PreferGrow with the hybrid settings of one of its data sets: D 256, histories of 10 items, w 2.

    Hu et al. 2025, *Fading to Grow: Growing Preference Ratios via Preference Fading Discrete Diffusion for
    Recommendation*, NeurIPS; code ``Hugo-Chinn/PreferGrow`` (commit 7451996), whose commands give these settings:

    ======  =======  ====  =============
    data    1 - b    p     learning rate
    ======  =======  ====  =============
    Steam   .99999   .1    1e-3
    ML-1M   .9999    .1    1e-4
    Beauty  .999     .1    1e-4
    Toys    .9999    .2    1e-3
    Sports  .9999    .2    1e-3
    ======  =======  ====  =============

    b is the share of blanks among the replaced items; the code's hybrid coefficient is 1 - b. Toys and Sports are
    ``ATG`` and ``ASO`` in the code, by their numbers of items. The recipe has the learning rate of Beauty. The printed
    numbers were not readable in a source.

    An item is kept with probability :math:`e^{-\sigma}`, for 21 levels :math:`\sigma` in geometric progression from
    1e-3 to 10. The chain takes 20 reverse steps and one last prediction. Given the same weights, the guided logits at
    b = 0 are those of the code, and given the same ratios, the score entropy and the reverse probabilities at b = 0 and
    b = 1. What differs, and why:

    - **Ratios are differences of logits.** The code reads the logit of y as :math:`\log p(y) / p(x_n)`, and sets that
      of x_n to 0. A bilinear logit cannot subtract :math:`\log p(x_n)` for every y, and the logit of x_n is never
      trained. Here, the softmax of the logits is the distribution at step n.
    - **A blank has no vectors.** Its probability is known at every step. The code learns vectors of a blank, with which
      it also pads the history.
    - **Items are ranked by the last prediction.** The code ranks by the last reverse probabilities, which have nearly
      all of their mass at the item that the chain has drawn, and the others in the order of their logits.
    - **Item vectors** start with variance 1 / D, not 1, where the first score entropies overflow.
    - **Steps.** The last level of the code is 1e-3 up to a factor of 1.0001 in the chain and 1.01 in training.
    - **State.** The code reads the state at the last of 10 places, which is padding behind a shorter history.
    - **Training.** The code draws neither batches nor their order at random, and leaves up to 255 users out of each
      evaluation. It prints test scores beside validation scores and selects no epoch. Its learning rate increases in
      2,500 steps on every data set: 4.9 epochs of Beauty, .65 of ML-1M. The recipe has 5 epochs.

    Errors of the code that this model does not have:

    - ``sample_categorical`` takes the logarithm of probabilities that may be negative, and the largest of the values
      with NaN among them is NaN: the first item with a negative probability is drawn.
    - In ``HybridWise``, ``reverse_prob_ratio`` has the transposed fading matrix, divided by V + 1; ``prob_matrix_row``
      divides the row of the blank by V + 1; ``sample_nonpreference`` draws a blank with probability 1 - b; and
      ``score_entropy`` multiplies the odds of x_0 by (V + 1) / V.
    - ``AdaptiveWise`` has a learned fading distribution, which no optimizer is given. It stays uniform over items and
      blank: b = 1 / (V + 1). The constant of its score entropy is wrong, which changes no gradient.

    Args:
        items: Items that can be recommended.
        dim: Latent width D.
        max_length: Largest number of positions in a sequence, including the corrupted one.
        dropout: Dropout rate of the history encoder.
        settings: Data set whose settings to use: ``"steam"``, ``"ml-1m"``, ``"beauty"``, ``"toys"`` or ``"sports"``.
        seed: Seed of the initial weights.
    """
    blank, drop = _SETTINGS[check_choice("settings", settings, tuple(_SETTINGS))]
    return DiffRec(
        items,
        dim=dim,
        max_length=max_length,
        schedule={"name": "table", "values": [math.exp(-level) for level in _LEVELS]},
        process={"name": "replacement", "blank": blank},
        noising="target",
        timesteps="uniform",
        embedding={"name": "table", "scale": "learned", "init_std": check_int("dim", dim, minimum=1) ** -0.5},
        denoiser={
            "name": "classifier-free",
            "base": {
                "name": "rotary-state",
                "encoder": {"name": "single-layer", "num_heads": 2, "rotary": True, "dropout": dropout},
            },
            "drop": drop,
            "scale": 2.0,
        },
        head={"name": "tied", "use_bias": False},
        objective={"name": "weighted", "terms": [{"name": "score-entropy", "weight": math.log(_RANGE[1])}]},
        sampler="ddpm",
        seeds=1,
        seed=seed,
    )
