"""Fan et al. 2022, *Sequential Recommendation via Stochastic Self-Attention*: STOSA, items and users as Gaussians."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from diffusers_rec.core.entrances import explained
from diffusers_rec.core.errors import check_choice
from diffusers_rec.data.vocabulary import Vocabulary
from diffusers_rec.recommenders.diffrec import DiffRec


@explained
def stosa(
    items: Vocabulary | Iterable[Hashable],
    *,
    dim: int = 128,
    max_length: int = 101,
    dropout: float = 0.3,
    settings: str = "code",
    seed: int = 0,
) -> DiffRec:
    r"""Build STOSA with the settings of its public command: one layer, four heads, means and covariances of width 64.

    Fan, Liu, Wang, Nazari, Zheng, Peng & Yu 2022, *Sequential Recommendation via Stochastic Self-Attention*, WWW; code
    ``zfan20/STOSA``, commit 1f00ecb, without a licence. We could not read the tables of the paper. Du et al. 2023,
    Table 2, print these numbers, from runs of the authors' code, ranked among all items:

    ======  =====  =====  =====  ======  =======  =======
    data    HR@5   HR@10  HR@20  NDCG@5  NDCG@10  NDCG@20
    ======  =====  =====  =====  ======  =======  =======
    Beauty  .0460  .0659  .0932  .0318   .0382    .0451
    Toys    .0563  .0769  .1006  .0393   .0460    .0519
    ML-1M   .1230  .1889  .2724  .0810   .1021    .1231
    ======  =====  =====  =====  ======  =======  =======

    **The attention of the code never reaches the means.** The loop over its layers assigns the new means to a misspelt
    name, from the first commit on, so the mean of a state is that of the last item and its place. The layers change the
    covariances alone, and 42 % of their weights are never trained. The printed numbers come from this code, and so does
    ``settings="code"``; with ``"paper"`` the means are attended to, as intended.

    Given the same weights and draws, states, scores, both losses and the gradients of the items are those of the code
    to 1e-8, for full histories. With ``"paper"``, they are those of the code with the name corrected. What differs, and
    why:

    - **Distances are squared**, as in the code, so they need not satisfy the triangle inequality that the abstract
      argues with.
    - **Negatives.** The code draws among the items that occur nowhere in the user's sequence, of which the target of
      the test is one: that item is never a negative of its user. Here, only the target itself is excluded.
    - **Items.** The code also ranks padding and a mask token, which are never trained. They are no items here.
    - **Places** count from the oldest item, so that a state does not depend on the length of the sequence.
    - **Selection.** The code keeps the best reciprocal rank within 40 items; the recipe selects by NDCG@40. It has
      batches of 256 users, here of 1,536 targets, which is about as many on Beauty.
    - The initial items have a mean of 0 instead of .01.
    - A history may be empty. Its state is a vector that training leaves as it is.

    The committed code stops at an import of two functions that do not exist, and its reciprocal rank needs a NumPy
    below 1.24. It builds margins of the users that no loss uses.

    Args:
        items: Items that can be recommended.
        dim: Latent width D, twice the width of means and covariances.
        max_length: Largest number of positions in a sequence, including the predicted one.
        dropout: Dropout rate.
        settings: ``"code"`` or ``"paper"``, see above.
        seed: Seed of the initial weights.
    """
    attend_means = check_choice("settings", settings, ("code", "paper")) == "paper"
    return DiffRec(
        items,
        dim=dim,
        max_length=max_length,
        schedule="sqrt",
        noising="target",
        timesteps="uniform",
        embedding={"name": "table", "scale": "learned", "init_std": 0.02},
        denoiser={
            "name": "plain",
            "encoder": {
                "name": "stochastic",
                "num_layers": 1,
                "num_heads": 4,
                "attend_means": attend_means,
                "dropout": dropout,
            },
        },
        head="wasserstein",
        objective={"name": "weighted", "terms": ["bpr", {"name": "separation", "weight": 0.005}]},
        negatives={"name": "uniform", "count": 1, "shared": False},
        sampler="one-step",
        seeds=1,
        seed=seed,
    )
