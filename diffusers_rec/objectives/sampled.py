r"""Terms that compare the score of the true item with those of its negatives, one pair or one item at a time.

A full softmax compares all items at once. These terms see N negatives of each target, as the component ``negatives``
draws them, or all other items without a sample. The scores s are those of the head, without log-Q correction. An item
of a shared sample that is the target itself is left out.

Without noise, each is the loss of a plain model; the timesteps do not weight it, as they do not the cross-entropy.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from diffusers_rec.core.errors import check_float
from diffusers_rec.core.registry import Config
from diffusers_rec.objectives.base import TrainingStep
from diffusers_rec.objectives.terms import LossTerm


class BPRTerm(LossTerm, name="bpr"):
    r"""Bayesian personalised ranking: the true item scores above each negative.

    .. math:: \mathcal L = -\frac{1}{M} \sum_i \frac1N \sum_j \log \sigma(s_{i v_i} - s_{i v_j})

    Rendle et al. 2009, *BPR*; of GRU4Rec (Hidasi et al. 2016), whose negatives are the other targets of the batch.

    Args:
        weight: Weight of the term.
    """

    def __call__(self, step: TrainingStep) -> Tensor:
        positive, negative, other = _scores(step)
        losses = F.softplus(negative - positive[:, None]).where(other, 0.0)
        return (losses.sum(1) / other.sum(1).clamp(min=1)).mean()

    def without_noise(self) -> Config:
        return self.config()


class SampledBCETerm(LossTerm, name="sampled-bce"):
    r"""Binary cross-entropy of the true item and its negatives, each on its own, and its calibrated form gBCE.

    .. math:: \mathcal L = -\frac1M \sum_i \frac{1}{N+1} \Big( \beta \log \sigma(s_{i v_i})
              + \sum_j \log \sigma(-s_{i v_j}) \Big), \qquad \beta = 1 - t \Big( 1 - \frac{N}{V-1} \Big)

    With t = 0 it is the loss of SASRec (Kang & McAuley 2018), with one negative for each target: ``negatives={"name":
    "uniform", "count": 1, "shared": False}``. Probabilities that are trained with few of V items as negatives are far
    too high. The power :math:`\beta` of the target's probability corrects them, completely with t = 1. gSASRec has
    t = .75 and 256 negatives (Petrov & Macdonald 2023, *gSASRec: Reducing Overconfidence in Sequential Recommendation
    Trained with Negative Sampling*). Its :math:`\beta = \alpha \big( t (1 - 1/\alpha) + 1/\alpha \big)`, where
    :math:`\alpha = N / (V - 1)`, is the same.

    Args:
        weight: Weight of the term.
        calibration: Calibration t, from 0 (plain) to 1 (fully calibrated).
    """

    def __init__(self, weight: float = 1.0, *, calibration: float = 0.0) -> None:
        super().__init__(weight)
        self.calibration = check_float("calibration", calibration, minimum=0, maximum=1)

    def __call__(self, step: TrainingStep) -> Tensor:
        positive, negative, other = _scores(step)
        number = other.sum(1).to(positive.dtype)
        losses = self._power(step, number) * F.softplus(-positive) + F.softplus(negative).where(other, 0.0).sum(1)
        return (losses / (number + 1)).mean()

    def _power(self, step: TrainingStep, number: Tensor) -> Tensor:
        """Power of the probability of each target, next to ``number`` negatives."""
        return 1 - self.calibration * (1 - number / max(1, _catalogue(step) - 1))

    def without_noise(self) -> Config:
        return self.config()


class RewardedBCETerm(SampledBCETerm, name="rewarded-bce"):
    r"""Binary cross-entropy whose targets have the penalty ``reward`` as their power beta, in place of a calibration.

    The reward has no gradient. The loss of the generator of MFGAN (Ren et al. 2020), with one negative for each target;
    the denoiser ``judged`` computes the reward.

    Args:
        weight: Weight of the term.
    """

    penalties = ("reward",)

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__(weight)

    def _power(self, step: TrainingStep, number: Tensor) -> Tensor:
        return step.penalty("reward").detach()


class SeparationTerm(LossTerm, name="separation"):
    r"""The true item is farther from each negative than from the prediction.

    .. math:: \mathcal L = \frac1M \sum_i \frac1N \sum_j \big[ s(E_{v_i}, v_j) - s_{i v_i} \big]_+

    The first score is that of the negative for the clean latent of the true item, :math:`E_{v_i}`. With the head
    ``wasserstein``, scores are minus distances. Fan et al. 2022, *STOSA*, add it to ``bpr``, which leaves open how near
    a negative is to the true item.

    Args:
        weight: Weight of the term.
    """

    def __call__(self, step: TrainingStep) -> Tensor:
        positive, _, other = _scores(step)
        _, between, _ = _scores(step, step.x0)
        losses = F.relu(between - positive[:, None]).where(other, 0.0)
        return (losses.sum(1) / other.sum(1).clamp(min=1)).mean()

    def without_noise(self) -> Config:
        return self.config()


def _scores(step: TrainingStep, latents: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Scores of the targets, ``(M,)``, of what they are compared with, ``(M, N)``, and which of those are others.

    They are scores for M predictions, or for other latents ``(M, D)``.
    """
    latents = step.sampled.prediction if latents is None else latents
    positive, negative = step.head.pair_scores(latents, step.items, step.negatives)
    every = torch.arange(negative.shape[1], device=negative.device)
    return positive, negative, (every if step.negatives is None else step.negatives.items) != step.items[:, None]


def _catalogue(step: TrainingStep) -> int:
    """Number V of items."""
    embedding = step.sampled.embedding
    return len(step.head.keys()) if embedding is None else embedding.num_items
