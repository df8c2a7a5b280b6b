"""Shah et al. 2025, *Masked Diffusion for Generative Recommendation*: MaskGR, with items in place of semantic ids."""

from __future__ import annotations

from collections.abc import Hashable, Iterable

from diffusers_rec.core.entrances import explained
from diffusers_rec.core.errors import check_int
from diffusers_rec.data.vocabulary import Vocabulary
from diffusers_rec.recommenders.diffrec import DiffRec


@explained
def maskgr(
    items: Vocabulary | Iterable[Hashable],
    *,
    dim: int = 128,
    max_length: int = 24,
    dropout: float = 0.25,
    num_layers: int = 8,
    hidden_dim: int = 3072,
    seed: int = 0,
) -> DiffRec:
    """Build MaskGR at the level of items: eight blocks, eight heads, D 128, feed-forward width 3072.

    Shah, Kumar, Shah & Collins 2025, *Masked Diffusion for Generative Recommendation*, arXiv 2511.23021; code
    ``snap-research/MaskGR``, commit b2d44f2, with a licence for non-commercial use. The settings are those of its
    ``discrete_diffusion_train``, whose 120 tokens are 24 items of five tokens.

    **There are no semantic ids.** The paper replaces each item by a few tokens of a codebook learned from text. Here, a
    token is an item. Notes on the paper quote it for Beauty:

    ============  ========  =========
    tokens        Recall@5  Recall@10
    ============  ========  =========
    item ids      .0469     .0671
    semantic ids  .0538     .0815
    ============  ========  =========

    We could not read the paper's own tables. Those of Toys and ML-1M are of semantic ids alone.

    The share of masked items is uniform on (0, 1]. A bidirectional network predicts them, trained by cross-entropy
    divided by that share. ``recommend`` masks the next position: with one mask, one step is the whole chain.
    ``complete`` and ``slate`` fill several masks, one or more per step; as in the code, the most confident first with
    ``sampler={"name": "unmask", "order": "confidence"}``.

    Given the same weights and masks, outputs, loss and the filling of masks are those of the code with one token per
    item. What differs, and why:

    - The softmax covers the items. That of the code also has the mask and the padding as classes, for which it trains
      probability that serving removes (the mask) or keeps (the padding).
    - The first item of a window is never masked, because ``complete`` needs an item in front of a gap.
    - Each pair of dimensions of a head rotates by its own frequency, as in RoFormer. The code looks frequencies up in a
      table of another layout, so that half of them occur twice and half never.
    - There is no beam search: one token is an item, so that one softmax ranks all items exactly.
    - The most confident position is filled next. The code draws it from a softmax of the confidences at temperature
      .01, which chooses at random among nearly equal ones. It requires ``left-to-right`` to fill several masks per
      step.
    - A window without a mask adds nothing. If no window of a batch has one, all its items are masked.
    - The recipe has 200 epochs, with a learning rate of 1e-3 that decays to 0. The code has up to 700,000 batches of
      2,048 sequences, which is far longer, and a peak rate of 3e-3 after a warm-up of 10,000 batches.

    Args:
        items: Items that can be recommended.
        dim: Latent width D, a multiple of 16.
        max_length: Largest number of positions in a sequence, including the masked ones.
        dropout: Dropout rate of the network.
        num_layers: Number of Transformer blocks.
        hidden_dim: Width of the feed-forward layers. Narrower ones are much faster.
        seed: Seed of the initial weights.
    """
    if check_int("dim", dim, minimum=16) % 16:
        raise ValueError(
            f"dim must be a multiple of 16, because each of 8 heads rotates pairs of dimensions, got {dim}."
        )
    return DiffRec(
        items,
        dim=dim,
        max_length=max_length,
        schedule={"name": "linear-alpha-bar", "num_timesteps": 1000},
        process="mask",
        noising={"name": "whole-windows", "k": check_int("max_length", max_length, minimum=2) - 1, "gaps": "all"},
        timesteps="uniform",
        embedding={"name": "table", "scale": "learned", "init_std": 1.0},
        denoiser={
            "name": "bidirectional",
            "num_layers": num_layers,
            "num_heads": 8,
            "hidden_dim": hidden_dim,
            "dropout": dropout,
        },
        head={"name": "tied", "use_bias": False},
        objective={"name": "weighted", "terms": ["bound"]},
        sampler="one-step",
        seeds=1,
        seed=seed,
    )
