"""Liu et al. 2025, *Flow Matching based Sequential Recommender Model*: FMRec, a rectified flow to the next item."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from diffusers_rec.core.entrances import explained
from diffusers_rec.data.vocabulary import Vocabulary
from diffusers_rec.recommenders.diffrec import DiffRec


@explained
def fmrec(
    items: Vocabulary | Iterable[Hashable],
    *,
    dim: int = 128,
    max_length: int = 51,
    dropout: float = 0.1,
    seed: int = 0,
) -> DiffRec:
    r"""Build FMRec with the settings of its public code: four blocks, four heads, D 128, 50 items, 30 steps.

    Liu et al. 2025, *Flow Matching based Sequential Recommender Model*, IJCAI; arXiv 2505.16298. Code
    github.com/FengLiu-1/FMRec, commit 1c39b17, without a licence: compared, not copied.

    The network is that of :func:`~diffusers_rec.presets.diffurec`. The path is straight,
    :math:`x_n = (1 - t)\, x_0 + t\, \epsilon` with t = n / N, and the prediction is the clean latent. The loss is its
    squared error plus .2 times the cross-entropy of the items. Steps follow the mode law of
    :class:`~diffusers_rec.ModeTimestepSampler`, unweighted. The other law of the code is
    ``timesteps={"name": "logit-normal", "mean": -1.0, "std": 0.6, "estimate": "drawn"}``: the code's time is 1 - t, so
    that its mean of 1 prefers little noise.

    **The sample is the mean of 30 predictions.** The code's velocity subtracts the prediction from the noise that the
    chain started from, not from the noise in the present latent; see :class:`~diffusers_rec.StraightSampler`. With
    lambda near .001, the noised latent changes the input of the network by about .1 %, and the 30 predictions are
    almost one. :func:`control` shows what the flow adds.

    The paper states an average improvement of 6.53 % over the best of its baselines, on Beauty, Steam, MovieLens-100k
    and Yelp. Its tables were not readable for us, so no printed number is repeated here.

    Given the same weights and draws, prediction, loss, gradient and chain are those of the code, for histories of full
    length. Elsewhere it differs:

    - **Reconstruction of the history.** The code adds .4 times the squared error with which a perceptron, of widths
      512 and 2048, restores the set of items of the history from the second block. It is left out. The code divides it
      by the number of all items, seen or not, although it sums over a few per user: at the initial weights on 12,000
      items, its gradient with respect to all other weights is 2e5 times smaller than that of the cross-entropy. The
      perceptron has 26 million weights.
    - **Time.** The code trains with continuous t, here with 900 steps. When serving, the network of the code is given a
      time up to .001 ahead of that of the latent; here both are the same, as in training. The code embeds
      999 (1 - n / N), here it is 999 (n - 1) / N: the weights are the same after a rotation of the first layer of the
      step embedding.
    - **Padding.** The code masks queries instead of keys, so the items attend to padding, whose learned vector is also
      a class of the softmax and of the ranking. Here, padding has no effect and is no item.
    - **Draws in serving.** The code draws lambda at every step and noise for every user. Here, lambda is its mean, and
      all users share one noise draw, so that a prediction is repeatable.
    - **Selection.** The code keeps the last validation that improved any of six metrics, and averages metrics over
      batches of unequal size. The recipe selects by NDCG@10 over all users.

    Args:
        items: Items that can be recommended.
        dim: Latent width D.
        max_length: Largest number of positions in a sequence, including the corrupted one.
        dropout: Dropout rate of the Transformer. That of the item embeddings is .3.
        seed: Seed of the initial weights.
    """
    num_timesteps = 900
    return DiffRec(
        items,
        dim=dim,
        max_length=max_length,
        schedule={"name": "rectified", "num_timesteps": num_timesteps},
        noising="target",
        timesteps={"name": "mode", "heaviness": 1.0, "estimate": "drawn"},
        embedding={"name": "table", "scale": "learned", "init_std": 1.0},
        denoiser={
            "name": "added-latent",
            "num_layers": 4,
            "num_heads": 4,
            "dropout": dropout,
            "embedding_dropout": 0.3,
            "uncertainty": 0.001,
            "step_scale": 999 / num_timesteps,
        },
        head={"name": "tied", "use_bias": False},
        objective={"name": "weighted", "terms": ["squared", {"name": "cross-entropy", "weight": 0.2}]},
        sampler={"name": "straight", "num_steps": 30},
        seeds=1,
        seed=seed,
    )
