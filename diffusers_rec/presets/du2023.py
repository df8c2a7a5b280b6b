"""Du et al. 2023, *Sequential Recommendation with Diffusion Models*: the paper's DiffRec."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from diffusers_rec.core.entrances import explained
from diffusers_rec.data.vocabulary import Vocabulary
from diffusers_rec.recommenders.diffrec import DiffRec


@explained
def du2023(
    items: Vocabulary | Iterable[Hashable],
    *,
    dim: int = 256,
    max_length: int = 50,
    dropout: float = 0.3,
    seed: int = 0,
) -> DiffRec:
    """Build DiffRec as in Sec. 5.1.4: two layers, two heads, D 256, L 50, sqrt schedule, N 1000, ten noise draws.

    Published accuracy (Table 2), ranked among all items:

    ======  =====  =======
    data    HR@10  NDCG@10
    ======  =====  =======
    Beauty  .0847  .0518
    Toys    .0834  .0534
    ML-1M   .2900  .1657
    ======  =====  =======

    The paper does not state two scales. Here, the losses are means over the D dimensions and over n (Eq. 18). The
    initial item vectors have a standard deviation of .1 in each dimension. With 1, the item would be recognisable at
    most steps, and the model would learn to copy it. The results page compares the published numbers with ours.

    Args:
        items: Items that can be recommended.
        dim: Latent width D.
        max_length: Largest number of positions in a sequence, including the corrupted one.
        dropout: Dropout rate of the backbone. In the paper, .3 on Beauty and Toys, .2 on ML-1M.
        seed: Seed of the initial weights.
    """
    return DiffRec(
        items,
        dim=dim,
        max_length=max_length,
        schedule={"name": "sqrt", "num_timesteps": 1000},
        noising="target",
        timesteps="importance",
        embedding={"name": "table", "scale": "learned", "init_std": 0.1},
        denoiser={"name": "transformer", "num_layers": 2, "num_heads": 2, "dropout": dropout},
        head="linear",
        objective="simplified",
        sampler="one-step",
        seeds=10,
        seed=seed,
    )
