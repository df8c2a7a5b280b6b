"""The schedule of the variance-preserving stochastic differential equation."""

from __future__ import annotations

from torch import Tensor

from diffusers_rec.core.errors import check_float
from diffusers_rec.processes.schedules.base import NoiseSchedule


class ExponentialSchedule(NoiseSchedule, name="exponential"):
    r""":math:`\bar\alpha_n = \exp(-\beta_{min} u - \tfrac12 (\beta_{max} - \beta_{min}) u^2)` with u = n / N.

    Exact solution of the stochastic differential equation that the linear schedule approximates. Song et al. 2021,
    *Score-Based Generative Modeling through SDEs*, Eq. 33. Yang et al. 2023, *DreamRec*, call it ``exp`` and set
    ``beta_max`` to 10.

    Args:
        num_timesteps: Number of steps N.
        beta_min: Rate of the noise at u = 0, not negative.
        beta_max: Rate of the noise at u = 1, at least ``beta_min`` and positive.
        log_snr_shift: See :class:`NoiseSchedule`.
    """

    def __init__(
        self, num_timesteps: int = 1000, *, beta_min: float = 0.1, beta_max: float = 20.0, log_snr_shift: float = 0.0
    ) -> None:
        self.beta_min = check_float("beta_min", beta_min, minimum=0)
        self.beta_max = check_float("beta_max", beta_max, above=0, minimum=self.beta_min)
        super().__init__(num_timesteps, log_snr_shift=log_snr_shift)

    def _alpha_bar(self, fraction: Tensor) -> Tensor:
        return (-self.beta_min * fraction - (self.beta_max - self.beta_min) / 2 * fraction.square()).exp()
