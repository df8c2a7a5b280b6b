r"""Timestep samplers that follow a continuous law of t = n / N: the probability of step n is that of the interval

.. math:: p_n = F(n / N) - F((n - 1) / N).

Both laws were proposed for rectified flows by Esser et al. 2024, *Scaling Rectified Flow Transformers for
High-Resolution Image Synthesis* (Sec. 3.1). There, the law itself weights the losses; ``estimate="drawn"`` does so.
"""

from __future__ import annotations

import torch
from torch import Tensor

from diffusers_rec.core.errors import check_float
from diffusers_rec.processes.timesteps import TimestepSampler

MAX_HEAVINESS = 1.75
"""Above 2 / (pi - 2), t would not be monotone in u."""

LEAST = 1e-30
"""Probability of a step below which its weight would overflow."""


class ModeTimestepSampler(TimestepSampler, name="mode"):
    r"""Mode sampling with heavy tails: of a uniform u,

    .. math:: t = 1 - u - h\, \big(\cos^2(\tfrac{\pi}{2} u) - 1 + u\big).

    The law is symmetric. Positive h prefers the middle steps, negative h the ends; h = 0 is uniform.

    Args:
        num_timesteps: Number of steps N.
        heaviness: Heaviness h of the middle, in [-1, 1.75].
        estimate: See :class:`TimestepSampler`.
        start_share: See :class:`TimestepSampler`.
    """

    def __init__(
        self, num_timesteps: int = 1000, *, heaviness: float = 1.0, estimate: str = "mean", start_share: float = 0.0
    ) -> None:
        super().__init__(num_timesteps, estimate=estimate, start_share=start_share)
        self.heaviness = check_float("heaviness", heaviness, minimum=-1, maximum=MAX_HEAVINESS)
        self._table = _normalised(_mode_distribution(_edges(self.num_timesteps), self.heaviness).diff())

    def _probabilities(self) -> Tensor:
        return self._table.clone()


class LogitNormalTimestepSampler(TimestepSampler, name="logit-normal"):
    r"""A normal law of the log-odds: :math:`\log \frac{t}{1 - t} \sim \mathcal N(\mu, \sigma^2)`.

    Args:
        num_timesteps: Number of steps N.
        mean: Mean mu; negative values prefer small n, with little noise.
        std: Standard deviation sigma, positive.
        estimate: See :class:`TimestepSampler`.
        start_share: See :class:`TimestepSampler`.
    """

    def __init__(
        self,
        num_timesteps: int = 1000,
        *,
        mean: float = 0.0,
        std: float = 1.0,
        estimate: str = "mean",
        start_share: float = 0.0,
    ) -> None:
        super().__init__(num_timesteps, estimate=estimate, start_share=start_share)
        self.mean = check_float("mean", mean)
        self.std = check_float("std", std, above=0)
        z = (torch.logit(_edges(self.num_timesteps)) - self.mean) / self.std
        below, above = torch.special.ndtr(z).diff(), -torch.special.ndtr(-z).diff()
        self._table = _normalised(torch.where(z[:-1] > 0, above, below))  # no difference of numbers near 1

    def _probabilities(self) -> Tensor:
        return self._table.clone()


def _edges(num_timesteps: int) -> Tensor:
    """Ends n / N of the intervals, for n = 0..N."""
    return torch.arange(num_timesteps + 1, dtype=torch.float64, device="cpu") / num_timesteps


def _mode_distribution(t: Tensor, heaviness: float) -> Tensor:
    """F(t) of the mode law, by bisection: the 1 - u at which t is reached."""
    low, high = torch.zeros_like(t), torch.ones_like(t)
    for _ in range(60):
        u = (low + high) / 2
        reached = u - heaviness * ((torch.pi / 2 * (1 - u)).cos().square() - u)
        low, high = u.where(reached < t, low), high.where(reached < t, u)
    return (low + high) / 2


def _normalised(probabilities: Tensor) -> Tensor:
    probabilities = probabilities.clamp(min=LEAST)
    return probabilities / probabilities.sum()
