r"""Terms that compare a prediction with the corrupted latent of its item and with those of other items.

Both divide by the step: the nearer to the items, the larger the weight. Without noise, both compare with the clean
latent of the item, at weight 1. Wang et al. 2024, *CDDRec*.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from diffusers_rec.core.errors import check_bool, check_float
from diffusers_rec.core.registry import Config
from diffusers_rec.objectives.base import Pass, TrainingStep
from diffusers_rec.objectives.info_nce import pair_losses
from diffusers_rec.objectives.terms import LossTerm


class BinaryTerm(LossTerm, name="binary"):
    r"""Binary cross-entropy of the corrupted latent against the clean latents of sampled negatives.

    .. math:: \mathcal L = \frac1n \Big( -\log \sigma(\hat x_0 \cdot x_n)
              - \frac1N \sum_{j=1}^N \log \sigma(-\hat x_0 \cdot E_{v_j}) \Big)

    Negatives that are the true item are left out. Without sampled negatives, all other items are compared.

    Args:
        weight: Weight of the term.
        noised: Whether to compare with the corrupted latent and to divide by n. If False, :math:`x_n` is the clean
            latent, and n is 1.
    """

    def __init__(self, weight: float = 1.0, *, noised: bool = True) -> None:
        super().__init__(weight)
        self.noised = check_bool("noised", noised)

    def __call__(self, step: TrainingStep) -> Tensor:
        sampled = step.sampled
        with torch.autocast(sampled.x0.device.type, enabled=False):
            predicted, own, steps = _pairs(sampled, self.noised)
            items = None if step.negatives is None else step.negatives.items
            others = _latents(sampled, items).to(predicted)
            if items is None:
                items = torch.arange(len(others), device=others.device)
            wrong = sampled.items[:, None] != items
            scores = predicted @ others.T if others.ndim == 2 else (others @ predicted[..., None])[..., 0]
            negative = F.softplus(scores).where(wrong, 0.0).sum(1) / wrong.sum(1).clamp(min=1)
            return (F.softplus(-(predicted * own).sum(-1)) + negative) / steps

    def without_noise(self) -> Config:
        return {**self.config(), "noised": False}


class PairTerm(LossTerm, name="pair-contrastive"):
    r"""Pulls each prediction and the corrupted latent of its item together, and pushes all other pairs apart.

    For the M predictions a and the M corrupted latents b of a batch, as 2 M vectors c,

    .. math:: \mathcal L = \frac1M \sum_{i=1}^M \frac{1}{2 n_i} \sum_{c \in \{a_i, b_i\}}
              -\log \frac{e^{\cos(a_i, b_i) / \tau}}{\sum_{c' \neq c} e^{\cos(c, c') / \tau}}

    which is NT-Xent (Chen et al. 2020, *SimCLR*) with a weight for each step.

    Args:
        weight: Weight of the term.
        temperature: Temperature tau.
        noised: As in :class:`BinaryTerm`.
    """

    def __init__(self, weight: float = 0.3, *, temperature: float = 0.5, noised: bool = True) -> None:
        super().__init__(weight)
        self.temperature = check_float("temperature", temperature, above=0)
        self.noised = check_bool("noised", noised)

    def __call__(self, step: TrainingStep) -> Tensor:
        sampled = step.sampled
        with torch.autocast(sampled.x0.device.type, enabled=False):
            one, other, steps = _pairs(sampled, self.noised)
            one, other = F.normalize(one, dim=-1), F.normalize(other, dim=-1)
            return (pair_losses(one, other, self.temperature) / steps.repeat(2)).mean()

    def without_noise(self) -> Config:
        return {**self.config(), "noised": False}


def _pairs(sampled: Pass, noised: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Predictions and latents in the dtype of the latents, float32 or wider, ``(M, D)`` each, and steps ``(M,)``.

    The latents are the corrupted ones; without noise they are clean, and all steps are 1.
    """
    dtype = torch.promote_types(sampled.x0.dtype, torch.float32)
    latents, steps = (sampled.xn, sampled.timesteps) if noised else (sampled.x0, torch.ones_like(sampled.timesteps))
    return sampled.prediction.to(dtype), latents.to(dtype), steps


def _latents(sampled: Pass, items: Tensor | None) -> Tensor:
    """Clean latents of items, of all items if None.

    Raises:
        ValueError: The pass has no embedding.
    """
    if sampled.embedding is None:
        raise ValueError("The term 'binary' compares clean latents of items. Pass(embedding=...) gives them.")
    return sampled.embedding.table() if items is None else sampled.embedding(items)
