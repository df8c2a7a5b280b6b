"""Yang et al. 2023, *Generate What You Prefer*: DreamRec, which is trained by the squared error alone."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import Any

from diffusers_rec.core.entrances import explained
from diffusers_rec.core.errors import check_choice
from diffusers_rec.data.vocabulary import Vocabulary
from diffusers_rec.recommenders.diffrec import DiffRec

_SETTINGS: dict[str, tuple[dict[str, Any], float]] = {  # schedule and guidance strength w
    "yoochoose": ({"name": "exponential", "num_timesteps": 500, "beta_min": 0.1, "beta_max": 10.0}, 2.0),
    "kuairec": ({"name": "cosine", "num_timesteps": 2000, "max_beta": 0.9999}, 2.0),
    "zhihu": ({"name": "linear", "num_timesteps": 500, "rescale": False}, 4.0),
}


@explained
def dreamrec(
    items: Vocabulary | Iterable[Hashable],
    *,
    dim: int = 64,
    max_length: int = 11,
    dropout: float = 0.1,
    settings: str = "yoochoose",
    seed: int = 0,
) -> DiffRec:
    r"""Build DreamRec with the settings of one of the paper's data sets: D 64, histories of 10 items, p .1.

    Yang et al. 2023, *Generate What You Prefer: Reshaping Sequential Recommendation via Guided Diffusion*, NeurIPS;
    code ``YangZhengyi98/DreamRec``, whose commands give these settings:

    =========  ===========  ====  ===  =============
    data       schedule     N     w    learning rate
    =========  ===========  ====  ===  =============
    YooChoose  exponential  500   2    1e-3
    KuaiRec    cosine       2000  2    5e-5
    Zhihu      linear       500   4    1e-2
    =========  ===========  ====  ===  =============

    The recipe has the learning rate of YooChoose. The paper reports HR@20 and NDCG@20 on these data, with sequences
    split 8:1:1 by time and the items of the history kept in the ranking. No table of this library has these data. Users
    of the code report that they do not reach the row of Zhihu (issue 6: HR@20 at most .0204 after tuning).

    **Item vectors are trained by the squared error alone.** Its minimum, 0, is reached where all items have the same
    vector. A user of the code raises this (issue 1), and *ADRec* (KDD 2025) reports the collapse of such embeddings.
    The spread of ``model.embedding.table()`` shows it. A cross-entropy keeps items apart:
    ``model.replace(objective={"name": "weighted", "terms": ["squared", "cross-entropy"]})``.

    **The denoiser of the commands has one layer**, ``mlp1``, and is affine: guidance adds the same vector at every step
    and for every x_n. ``model.replace(denoiser={"base": {"mlp_layers": 2}})`` is ``mlp2``.

    The code's :math:`(1 + w) f(h) - w f(\varnothing)` is the scale 1 + w of
    :class:`~diffusers_rec.ClassifierFreeGuide`. The chain takes all N reverse steps, with the variance of the posterior
    and two predictions each. Items are scored by the inner product of their vectors and one sample.

    What differs from the code, and why:

    - The exponential schedule is exact, with :math:`\bar\alpha_N` = .00641. The code ends its linspace one step late,
      which gives .00635. The code's cosine schedule has betas of at least 1e-4, which changes
      :math:`\bar\alpha` by up to .0027.
    - Dropout is off when serving. The code never leaves training mode.
    - The padding item cannot be recommended. The code ranks its vector among the items.
    - Every query attends. The code drops the attention of an item whose normalised vector sums to exactly 0, which
      depends on rounding at the initial weights.
    - An epoch passes over all examples, and all users are evaluated. The code draws every batch independently of the
      others, and leaves up to 99 users out of each evaluation. It prints test scores beside validation scores and
      selects no epoch.
    - A history may be empty. Its state is the learned vector of the unconditional prediction.

    Args:
        items: Items that can be recommended.
        dim: Latent width D.
        max_length: Largest number of positions in a sequence, including the corrupted one.
        dropout: Dropout rate of the history encoder.
        settings: Data set of the paper whose schedule and guidance to use: ``"yoochoose"``, ``"kuairec"`` or
            ``"zhihu"``.
        seed: Seed of the initial weights.
    """
    schedule, strength = _SETTINGS[check_choice("settings", settings, tuple(_SETTINGS))]
    return DiffRec(
        items,
        dim=dim,
        max_length=max_length,
        schedule=schedule,
        noising="target",
        timesteps="uniform",
        embedding={"name": "table", "scale": "learned", "init_std": 1.0},
        denoiser={
            "name": "classifier-free",
            "base": {"name": "state-mlp", "encoder": {"name": "single-layer", "dropout": dropout}, "mlp_layers": 1},
            "drop": 0.1,
            "scale": 1 + strength,
        },
        head={"name": "tied", "use_bias": False},
        objective={"name": "weighted", "terms": ["squared"]},
        sampler={"name": "ddpm", "variance": "posterior"},
        seeds=1,
        seed=seed,
    )
