"""Han et al. 2025, *Controlling Diversity at Inference*: D3Rec, which is guided by a preference over categories."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from diffusers_rec.core.entrances import explained
from diffusers_rec.core.errors import check_choice
from diffusers_rec.data.vocabulary import Vocabulary
from diffusers_rec.items.features import AttributeBags
from diffusers_rec.processes.schedules import LinearVarianceSchedule
from diffusers_rec.recommenders.user_categories import CategoryVectorDiffusion

_SETTINGS = {  # N; scale, minimum and maximum of the variance; balance, guide, share without, regularisation
    "ml-1m": (5, (1.0, 5e-3, 5e-2), (1.0, 1.6), -0.5, 0.3, 1.0),
    "game": (15, (1e-4, 5e-4, 5e-3), (1.0, 1.3), -0.7, 0.3, 0.01),
    "anime": (15, (1e-4, 5e-4, 5e-3), (0.8, 2.0), -0.5, 0.5, 1.0),
}


@explained
def d3rec(
    items: Vocabulary | Iterable[Hashable],
    *,
    categories: AttributeBags,
    dim: int = 200,
    max_length: int = 1000,
    dropout: float = 0.3,
    settings: str = "ml-1m",
    seed: int = 0,
) -> CategoryVectorDiffusion:
    r"""Build D3Rec with the settings of one of the authors' data sets: an encoder of widths 600 and 200.

    Han, Kweon, Kim & Yu 2025, *Controlling Diversity at Inference: Guiding Diffusion Recommender Models with Targeted
    Category Preferences*, KDD; code ``c0natus/D3Rec`` (e88bf82), whose ``train.sh`` gives:

    =====  ==  =====  ============  =======  =======  ====  ==============  =======  ============
    data   N   scale  variance      balance  guide w  drop  regularisation  dropout  weight decay
    =====  ==  =====  ============  =======  =======  ====  ==============  =======  ============
    ML-1M  5   1      5e-3 to 5e-2  1, 1.6   -.5      .3    1               .3       1e-3
    Game   15  1e-4   5e-4 to 5e-3  1, 1.3   -.7      .3    .01             .3       .1
    Anime  15  1e-4   5e-4 to 5e-3  .8, 2    -.5      .5    1               .1       1e-2
    =====  ==  =====  ============  =======  =======  ====  ==============  =======  ============

    ::

        model = d3rec(items, categories=attribute_bags(items, genres))
        train(model, split.train, split.validation, RECIPES["d3rec"])
        model.recommend(histories, features={"preference": preferences})

    A preference is a row ``(C,)`` of shares of the categories, in the order of ``categories.attributes``. Without one,
    it is the mean of the user's items. The command line does not read categories, so that it has no such preset. The
    paper reports accuracy and diversity on a split by time; we could not read its tables.

    **A negative w does not extrapolate.** With -.5, it is the mean of the predictions with the preference and without.

    **Outside ML-1M there is hardly any noise**: :math:`1 - \bar\alpha_N` is 5e-7. On ML-1M it is .045.

    What the code does otherwise than one would expect, kept here:

    - The chain is run twice, from N to 1 and again: the list of steps is doubled with those of the guide.
    - The term of the angle is the sum over the batch, 400 users, beside means.

    What differs from the code, and why:

    - Its schedule is in float32, where :math:`1 - \bar\alpha_1` of ML-1M is off by .14 %. So are the weights at n = 2.
    - Sinusoids have the frequencies of the library. The code divides the exponents by one less.
    - Equal preferences for all items give the smallest balance. The code divides 0 by 0.
    - A hidden layer whose part of the categories is as narrow as that of the latents has its own projection, too.
    - Its metrics divide by all users, those without a held-out item included. Biases start at 0.

    Args:
        items: Items that can be recommended.
        categories: Categories of the items, see :func:`~diffusers_rec.attribute_bags`.
        dim: Width of the latents, a multiple of 4; the first layer is three times as wide.
        max_length: Largest number of items in a user's vector.
        dropout: Dropout rate of the corrupted vector.
        settings: Data set of the paper: ``"ml-1m"``, ``"game"`` or ``"anime"``.
        seed: Seed of the initial weights.
    """
    steps, (scale, low, high), balance, guide, drop, regularisation = _SETTINGS[
        check_choice("settings", settings, tuple(_SETTINGS))
    ]
    first = 1e-5 if scale * low > 1e-5 else 0.0
    return CategoryVectorDiffusion(
        items,
        num_categories=len(categories.attributes),
        schedule=LinearVarianceSchedule(steps, scale=scale, minimum=low, maximum=high, first_beta=first),
        widths=[3 * dim, dim],
        max_length=max_length,
        balance=balance,
        scale=guide,
        drop=drop,
        regularisation=regularisation,
        rounds=2,
        dropout=dropout,
        seed=seed,
    ).set_categories(categories)
