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
    """DiffRec as in Sec. 5.1.4: two layers, two heads, D 256, L 50, sqrt schedule, N 1000, ten noise draws.

    Published (Table 2), over all items:

    ======  =====  =======
    data    HR@10  NDCG@10
    ======  =====  =======
    Beauty  .0847  .0518
    Toys    .0834  .0534
    ML-1M   .2900  .1657
    ======  =====  =======

    The paper leaves two scales open. The losses here are means, over the D dimensions and over n (Eq. 18). The item
    vectors start with a standard deviation of .1 in each dimension; at 1 the corrupted latent names its item at most
    steps, and training learns to copy. The results page compares the published numbers with ours.

    Args:
        items: Items that can be recommended.
        dim: Latent width D.
        max_length: Positions in a sequence, the corrupted one included.
        dropout: Dropout of the backbone; the paper: .3 on Beauty and Toys, .2 on ML-1M.
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
