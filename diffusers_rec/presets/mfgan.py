"""Ren et al. 2020: MFGAN, a generator of next items and a discriminator for each factor of the items."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from diffusers_rec.core.entrances import explained
from diffusers_rec.data.vocabulary import Vocabulary
from diffusers_rec.items.feature_embeddings import AttributeEmbedding
from diffusers_rec.items.features import AttributeBags
from diffusers_rec.recommenders.diffrec import DiffRec


@explained
def mfgan(
    items: Vocabulary | Iterable[Hashable],
    *,
    categories: AttributeBags | None = None,
    dim: int = 50,
    max_length: int = 51,
    dropout: float = 0.2,
    seed: int = 0,
) -> DiffRec:
    r"""Build MFGAN: SASRec, whose loss is weighted by the verdict of discriminators, without diffusion.

    Ren, Liu, Li, Zhao, Wang, Ding & Wen 2020, *Sequential Recommendation with Self-Attentive Multi-Adversarial
    Network*, SIGIR; arXiv 2005.10602; code ``ReyonRen/MFGAN``, commit 4584d94, which has no licence. We read the
    abstract and the code, and could not read the text. Du et al. 2023 ran the code, and print (leave-one-out over all
    items; whether items of the history are excluded is not said):

    ======  =====  =====  =====  ======  =======  =======
    data    HR@5   HR@10  HR@20  NDCG@5  NDCG@10  NDCG@20
    ======  =====  =====  =====  ======  =======  =======
    Beauty  .0382  .0605  .0916  .0254   .0310    .0405
    Toys    .0395  .0641  .0892  .0257   .0328    .0381
    ML-1M   .1275  .2086  .3166  .0778   .1040    .1309
    ======  =====  =====  =====  ======  =======  =======

    The judges of :class:`~diffusers_rec.JudgedDenoiser` read the items, their popularity, which is counted in training,
    and their categories, if given. Losses and gradients are tested against plain loops: the code needs TensorFlow 1 and
    files that are not in the repository. What it does otherwise than one would expect:

    - **There is no policy gradient**, which the abstract announces. Nothing is sampled. The reward of a user is the
      mean probability that the item ranked first is real. It multiplies the positive term of SASRec's loss at all of
      the user's places, so the generator never learns which item was rewarded. This is kept here.
    - **The discriminators train on the item of the test**, as the last one of the real sequences. Here, they read the
      longest history of a row and its target, which is a training item.
    - 10 % of the users have the items generated for the 10 % before them. Nothing is selected by validation.

    What differs, and why:

    - **One optimizer trains both sides at every step.** The code trains the generator for 400 epochs, then 100 times
      the generator for 80 epochs and the discriminators for one. The gradients of the two sides are disjoint. To train
      the generator first, train ``model.replace(objective={"name": "weighted", "terms": ["sampled-bce"]})``, and call
      its ``replace(objective=model.objective)``.
    - **The generator is that of the preset** ``sasrec``. The code has a second feed-forward before each attention, and
      halves the residuals of feed-forwards.
    - **There is no knowledge graph.** The code also has a discriminator of its vectors. Any item embedding can be a
      factor: ``model.replace(denoiser={"factors": [FeatureEmbedding.from_features(vectors, dim)]})``.
    - An item may have several categories. Popularity has ten classes, which are quantiles.
    - Judges have one block with layer norms behind attention and feed-forward, and one logit. The code normalises the
      queries alone, and has two logits; our decay of .1 is its .2 at the optimum.
    - Rewards and generated items are computed with dropout. Users count by their number of targets.
    - What SASRec's preset does otherwise than the code of SASRec: negatives, epochs, Adam's second decay.

    Args:
        items: Items that can be recommended.
        categories: Categories of the items, see :func:`~diffusers_rec.attribute_bags`.
        dim: Latent width D, even.
        max_length: Largest number of positions in a sequence, including the one to predict.
        dropout: Dropout rate of the generator; that of the discriminators is .25.
        seed: Seed of the initial weights.
    """
    encoder = {"name": "positional-transformer", "dropout": dropout}
    factors = [] if categories is None else [AttributeEmbedding.from_features(categories, dim, seed=seed)]
    return DiffRec(
        items,
        dim=dim,
        max_length=max_length,
        schedule="sqrt",
        noising="target",
        timesteps="uniform",
        embedding={"name": "table", "scale": "learned", "init_std": 0.02},
        denoiser={"name": "judged", "encoder": encoder, "factors": factors},
        head={"name": "tied", "use_bias": False},
        objective={"name": "weighted", "terms": ["rewarded-bce", "discriminator"]},
        negatives={"name": "uniform", "count": 1, "shared": False},
        sampler="one-step",
        seeds=1,
        seed=seed,
    )
