"""The geometric noise levels of score matching."""

from __future__ import annotations

import math

from torch import Tensor

from diffusers_rec.core.errors import check_float
from diffusers_rec.processes.schedules.base import NoiseSchedule


class GeometricSchedule(NoiseSchedule, name="geometric"):
    r"""Noise-to-signal levels in geometric progression: :math:`\bar\alpha_n = 1 / (1 + \sigma_n^2)` with
    :math:`\sigma_n = \sigma_{min}^{1 - n/N}\, \sigma_{max}^{n/N}`.

    The variance-preserving form of :math:`x_0 + \sigma_n \epsilon` (Song & Ermon 2019, *NCSN*; the VE SDE of Song et
    al. 2021). The log signal-to-noise ratio decreases linearly with n.

    Args:
        num_timesteps: Number of steps N.
        sigma_min: Noise-to-signal ratio in the limit n = 0, positive.
        sigma_max: Noise-to-signal ratio at n = N, above ``sigma_min``.
        log_snr_shift: See :class:`NoiseSchedule`.
    """

    def __init__(
        self,
        num_timesteps: int = 1000,
        *,
        sigma_min: float = 0.01,
        sigma_max: float = 100.0,
        log_snr_shift: float = 0.0,
    ) -> None:
        self.sigma_min = check_float("sigma_min", sigma_min, above=0)
        self.sigma_max = check_float("sigma_max", sigma_max, above=self.sigma_min)
        super().__init__(num_timesteps, log_snr_shift=log_snr_shift)

    def _alpha_bar(self, fraction: Tensor) -> Tensor:
        log_sigma = (1 - fraction) * math.log(self.sigma_min) + fraction * math.log(self.sigma_max)
        return (-2 * log_sigma).sigmoid()
