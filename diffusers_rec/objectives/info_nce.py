r"""InfoNCE between two views of the histories of a batch.

For the states :math:`a_i` and :math:`b_i` of two views of R histories, as 2 R vectors c,

.. math:: \mathcal L = \frac{1}{2 R} \sum_{i=1}^R \sum_{c \in \{a_i, b_i\}}
          -\log \frac{e^{s(a_i, b_i) / \tau}}{\sum_{c' \neq c} e^{s(c, c') / \tau}}

The negatives of a vector are the 2 (R - 1) vectors of the other histories, of both views (Chen et al. 2020, *SimCLR*).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from diffusers_rec.core.errors import check_bool, check_choice, check_float
from diffusers_rec.core.registry import Config
from diffusers_rec.data.augment import Augmentations
from diffusers_rec.objectives.base import TrainingStep
from diffusers_rec.objectives.terms import LossTerm
from diffusers_rec.objectives.views import VIEWS


class InfoNCETerm(LossTerm, name="info-nce"):
    r"""Pulls the states of two views of a history together, and pushes those of different histories apart.

    Xie et al. 2022, *CL4SRec*, and Qiu et al. 2022, *DuoRec*. The equation is that of the module, with the inner
    product or the cosine for s. It compares states of the denoiser's history encoder and does not read the noise.

    Args:
        weight: Weight of the term.
        views: The two views, of those in :mod:`diffusers_rec.objectives.views`: ``("augmented", "augmented")``
            (CL4SRec) or ``("dropout", "same-target")`` (DuoRec).
        temperature: Temperature tau.
        similarity: Similarity s of two states, ``"dot"`` or ``"cosine"``.
        false_negatives: Whether histories with the same next item are negatives of one another, as in the code of both
            papers.
        crop: Share of the items that the view ``crop`` keeps.
        mask: Share of the items that the view ``mask`` hides.
        reorder: Share of the items that the view ``reorder`` shuffles.
    """

    reads_latents = False

    def __init__(
        self,
        weight: float = 0.1,
        *,
        views: Sequence[str] = ("augmented", "augmented"),
        temperature: float = 1.0,
        similarity: str = "dot",
        false_negatives: bool = True,
        crop: float = 0.6,
        mask: float = 0.3,
        reorder: float = 0.6,
    ) -> None:
        super().__init__(weight)
        if isinstance(views, str) or len(views) != 2:
            raise ValueError(f"views must be two of {', '.join(VIEWS)}, such as ('dropout', 'dropout'), got {views!r}.")
        self.views = tuple(check_choice("each of views", view, VIEWS) for view in views)
        self.temperature = check_float("temperature", temperature, above=0)
        self.similarity = check_choice("similarity", similarity, ("dot", "cosine"))
        self.false_negatives = check_bool("false_negatives", false_negatives)
        self.augmentations = Augmentations(crop, mask, reorder)
        self.crop, self.mask, self.reorder = crop, mask, reorder

    def __call__(self, step: TrainingStep) -> Tensor:
        (one, other), items = step.views.of(self.views), step.views.items
        with torch.autocast(one.device.type, enabled=False):
            dtype = torch.promote_types(one.dtype, torch.float32)
            one, other = one.to(dtype), other.to(dtype)
            if self.similarity == "cosine":
                one, other = F.normalize(one, dim=-1), F.normalize(other, dim=-1)
            same = None if self.false_negatives else items[:, None] == items
            return pair_losses(one, other, self.temperature, same).mean() if len(one) else one.sum()

    def without_noise(self) -> Config:
        return self.config()


def pair_losses(one: Tensor, other: Tensor, temperature: float, same: Tensor | None = None) -> Tensor:
    """Loss of each of 2 R vectors, ``(2 R,)``: of the first views, then of the second ones.

    Args:
        one: First views, ``(R, D)``.
        other: Second views, ``(R, D)``.
        temperature: Temperature tau of the inner products.
        same: Pairs of histories that are no negatives of one another, ``(R, R)``; none if None.
    """
    both = torch.cat([one, other])
    number = torch.arange(len(both), device=both.device)
    own = number.roll(len(one))
    scores = (both @ both.T / temperature).fill_diagonal_(-torch.inf)
    if same is not None:
        left_out = same.repeat(2, 2).scatter(1, own[:, None], False)
        scores = scores.masked_fill(left_out, -torch.inf)
    return F.cross_entropy(scores, own, reduction="none")
