"""Liu et al. 2025, *Flow Matching for Collaborative Filtering*: FlowCF, a discrete flow from popular items."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from diffusers_rec.core.entrances import explained
from diffusers_rec.data.vocabulary import Vocabulary
from diffusers_rec.recommenders.user_flow import UserVectorFlow


@explained
def flowcf(
    items: Vocabulary | Iterable[Hashable],
    *,
    dim: int = 300,
    max_length: int = 1000,
    dropout: float = 0.1,
    seed: int = 0,
) -> UserVectorFlow:
    """Build FlowCF with the settings of the authors' code: N 9, two steps when ranking, two hidden layers of 300.

    Liu, Zhang, Wang, Ying & Caverlee 2025, *Flow Matching for Collaborative Filtering*, KDD; code
    ``chengkai-liu/FlowCF`` (c7db8f3), whose ``flowcf.yaml`` has the settings for ML-1M. The paper reports recall and
    NDCG at 10 and 20 on random splits; we could not read its table, and no table of this library has these splits.

    **The first of the two steps is almost inert.** It adds an item where (x + f) / 2 exceeds 1/2, and so, where x is 0,
    if the predicted number exceeds 1, the largest value of its targets. The ranked prediction is then that of one step
    from the history, at t = 8/9. With more steps, the first ones are stricter still: step n adds an item if f exceeds
    n / 2.

    What differs from the code, and why:

    - A comment of the code allows changes from 0 to 1 alone. The code, as this library, keeps the ones of the history,
      but those that the chain has added may vanish again.
    - The items' shares are of the users in training. The code counts one user more, that of its padding, and draws a
      padding item for almost every user.
    - Dropout of the first layer leaves out the features of the step.
    - Users of one item are left out in training, and a row has the latest ``max_length`` items.

    Args:
        items: Items that can be recommended.
        dim: Width of both hidden layers.
        max_length: Largest number of items in a user's vector.
        dropout: Dropout rate of the corrupted vector and of the hidden layers.
        seed: Seed of the initial weights.
    """
    return UserVectorFlow(
        items, num_timesteps=9, num_steps=2, widths=[dim, dim], max_length=max_length, dropout=dropout, seed=seed
    )
