"""Sun et al. 2019, *Sequential Recommendation with Bidirectional Encoder Representations*: BERT4Rec."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from diffusers_rec.core.entrances import explained
from diffusers_rec.core.errors import check_int
from diffusers_rec.data.vocabulary import Vocabulary
from diffusers_rec.recommenders.diffrec import DiffRec


@explained
def bert4rec(
    items: Vocabulary | Iterable[Hashable],
    *,
    dim: int = 64,
    max_length: int = 50,
    dropout: float = 0.5,
    mask_share: float = 0.6,
    seed: int = 0,
) -> DiffRec:
    r"""Build BERT4Rec with the settings of its code for Beauty: two blocks, two heads, D 64, 60 % of the items masked.

    Sun, Liu, Wu, Pei, Lin, Ou & Jiang 2019, *BERT4Rec*, CIKM; arXiv 1904.06690; code ``FeiSun/BERT4Rec``, commit
    615eaf2, Apache 2.0. For ML-1M it has ``max_length=200, dropout=0.2, mask_share=0.2``. The paper's numbers rank a
    target among 100 drawn items, and are not printed here. Du et al. 2023 print in Table 2, HR@10 and NDCG@10, without
    their settings:

    ========  ======  =======
    data      HR@10   NDCG@10
    ========  ======  =======
    Beauty    .0598   .0306
    Toys      .0524   .0309
    ML-1M     .2219   .1097
    ========  ======  =======

    **The cloze task is the absorbing process at a fixed level.** Each item of a window is lost with the probability
    ``mask_share``; one step restores it. With ``noising={"gaps": "drawn", "share": None, "last_share": 0.0}`` the level
    is drawn as well, and the model is a diffusion model, as :func:`~diffusers_rec.presets.maskgr` is. ``recommend``
    masks the next position, ``complete`` and ``slate`` fill several.

    Given the same weights and masks, outputs, scores and loss are those of RecBole 1.2.1. What differs, and why:

    - The softmax covers the items. That of RecBole also has the padding as a class.
    - The first item of a window is never masked, because ``complete`` needs an item in front of a gap.
    - Each item is masked on its own, as in RecBole, and one in eleven windows has a mask at the end alone. The code
      masks a fixed number of items, in ten copies of each sequence, and the last item in an eleventh.
    - All dropout has one rate, also within the feed-forward. The code has .2 in the attention.
    - Serving shows all items of a history that fit. RecBole removes the first one, whatever the length.
    - The recipe has 200 epochs, with a rate of 1e-3 that decays to 0. The code has 400,000 batches of 256 sequences,
      4,600 epochs of Beauty, with a rate of 1e-4. BERT4Rec is known to need long training (Petrov & Macdonald 2022).
    - Weight decay also applies to biases and layer norms.

    Args:
        items: Items that can be recommended.
        dim: Latent width D, even.
        max_length: Largest number of positions in a sequence, including the masked ones.
        dropout: Dropout rate of the network.
        mask_share: Probability that an item is masked in training.
        seed: Seed of the initial weights.
    """
    return DiffRec(
        items,
        dim=dim,
        max_length=max_length,
        schedule={"name": "linear-alpha-bar", "num_timesteps": 1},
        process="mask",
        noising={
            "name": "whole-windows",
            "k": check_int("max_length", max_length, minimum=2) - 1,
            "gaps": "share",
            "share": mask_share,
            "last_share": 1 / 11,
        },
        timesteps="uniform",
        embedding={"name": "table", "scale": "learned", "init_std": 0.02},
        denoiser={"name": "cloze", "dropout": dropout},
        head="tied",
        objective={"name": "weighted", "terms": ["cross-entropy"]},
        sampler="one-step",
        seeds=1,
        seed=seed,
    )
