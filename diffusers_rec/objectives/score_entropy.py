r"""Score entropy: the divergence of the predicted ratios from those of the replacement process.

With :math:`r_y = q(y \mid x_0) / q(x_n \mid x_0)` and the predicted :math:`\hat r_y = p_n(y) / p_n(x_n)`,

.. math:: \mathcal L = \sigma_n\, e_{x_n} \sum_{y \ne x_n}
          \Big( \hat r_y - r_y \log \hat r_y + r_y (\log r_y - 1) \Big), \qquad \sigma_n = -\log \bar\alpha_n.

Every summand is at least 0, and 0 where the ratios agree. Given many :math:`x_0`, the minimum is the ratio of the
marginals. Integrated over :math:`\sigma`, the sum bounds the negative log-likelihood; for steps that are even in
:math:`\log \sigma`, its mean over the steps is that integral up to a factor. Lou et al. 2024, *SEDD*; Hu et al. 2025,
*PreferGrow*.

The sums over y need the logits of all items, but of each latent only four numbers of :math:`\log p_n`: at
:math:`x_n`, at :math:`x_0`, its mean over the items and its normaliser. Without x_n = x_0, for example,
:math:`e_{x_n} r_y = e_y + [y = x_0]\, \bar\alpha_n / (1 - \bar\alpha_n)`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from diffusers_rec.core.registry import Config
from diffusers_rec.items.negatives import AllItems
from diffusers_rec.items.replacement import ReplacementProcess
from diffusers_rec.objectives.base import TrainingStep
from diffusers_rec.objectives.terms import LossTerm


class ScoreEntropyTerm(LossTerm, name="score-entropy"):
    r"""Score entropy of the ratios that the head gives, weighted by :math:`-\log \bar\alpha_n`.

    Args:
        weight: Weight of the term.
    """

    process = "replacement"

    def check_fit(self, model: Any) -> None:
        """See :meth:`Component.check_fit <diffusers_rec.Component>`."""
        super().check_fit(model)
        if not isinstance(model.negatives, AllItems):
            raise ValueError(
                "The parts do not fit: the term 'score-entropy' sums over all items, but the negatives are "
                f"{model.negatives.registered_name!r}. Use negatives='all'."
            )

    def __call__(self, step: TrainingStep) -> Tensor:
        sampled, process = step.sampled, step.sampled.process
        if not isinstance(process, ReplacementProcess):
            raise ValueError("The term 'score-entropy' needs latents that the process 'replacement' has corrupted.")
        logits, items, steps = step.head.logits(sampled.prediction), step.items, sampled.timesteps
        return score_entropy(process, logits, items, process.shown(items, sampled.noise, steps), steps)

    def without_noise(self) -> Config:
        """Config of the cross-entropy, which is left of it without noise."""
        return {"name": "cross-entropy", "weight": self.weight, "at": "sampled"}


def score_entropy(
    process: ReplacementProcess, logits: Tensor, items: Tensor, shown: Tensor, timesteps: Tensor
) -> Tensor:
    """See the docstring of the module.

    Args:
        process: Replacement process.
        logits: Logits of the items at step n, ``(M, V)``.
        items: True items, ``(M,)``.
        shown: Items at step n, -1 at blanks, ``(M,)``.
        timesteps: Steps n, ``(M,)``.

    Returns:
        One loss for each latent, float64 ``(M,)``.
    """
    kept = process.schedule.alpha_bar.to(logits.device)[timesteps].clamp(min=torch.finfo(torch.float64).tiny)
    e, blank, odds = process.replacing, process.blank, kept / (1 - kept)
    log_blank = (blank * (1 - kept)).log()
    normal = (1 - blank + blank * kept).log() - logits.logsumexp(-1).double()  # from logits to log p_n
    at_shown, at_true = (logits.gather(-1, each[:, None])[:, 0] + normal for each in (shown.clamp(min=0), items))
    here = torch.where(shown < 0, log_blank, at_shown)
    mean = (1 - blank) * (logits.mean(-1) + normal) + blank * (log_blank if blank else 0.0)
    same, e_shown, e_true = shown == items, e[shown], e[items]
    stayed = (1 - kept) * e_true / (kept + (1 - kept) * e_true)  # e times the ratio of y is this times e_y
    expected = torch.where(same, stayed * (mean - here), mean - here + odds * (at_true - here))
    predicted = e_shown * ((-here).exp() - 1)
    constant = torch.where(same, _of_kept(e, e_true, stayed, kept), _of_replaced(e, e_true, e_shown, odds))
    return -kept.log() * (predicted - expected + constant)


def _of_kept(e: Tensor, e_true: Tensor, stayed: Tensor, kept: Tensor) -> Tensor:
    """The sum of :math:`e r (log r - 1)` where x_n is x_0."""
    factor = ((1 - kept) / (kept + (1 - kept) * e_true)).log() - 1
    return stayed * ((1 - e_true) * factor + e.xlogy(e).sum() - e_true.xlogy(e_true))


def _of_replaced(e: Tensor, e_true: Tensor, e_shown: Tensor, odds: Tensor) -> Tensor:
    """The sum of :math:`e r (log r - 1)` where x_n is not x_0."""
    there = e_true + odds
    others = e.xlogy(e).sum() - e_true.xlogy(e_true) - e_shown.xlogy(e_shown)
    return others + there.xlogy(there) - (1 - e_true - e_shown + there) * (e_shown.log() + 1)
