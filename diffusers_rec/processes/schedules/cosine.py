"""The cosine schedule of Improved DDPM."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from diffusers_rec.core.errors import check_float
from diffusers_rec.processes.schedules.base import NoiseSchedule


class CosineSchedule(NoiseSchedule, name="cosine"):
    r"""Smooth at both ends: :math:`\bar\alpha_n = g(n) / g(0)`, :math:`g(n) = \cos^2\frac{n/N + s}{1 + s}\frac\pi2`.

    As in the source, betas are clipped to ``max_beta``, because the formula reaches beta = 1 at the last step.

    Nichol & Dhariwal 2021, *Improved DDPM*, Eq. 17; Du et al. 2023, Sec. 5.3.1.

    Args:
        num_timesteps: Number of steps N.
        offset: Offset s, which keeps the first betas away from zero.
        max_beta: Largest beta, in (0, 1).
        log_snr_shift: See :class:`NoiseSchedule`.
    """

    def __init__(
        self, num_timesteps: int = 1000, *, offset: float = 0.008, max_beta: float = 0.999, log_snr_shift: float = 0.0
    ) -> None:
        self.offset = check_float("offset", offset, minimum=0)
        self.max_beta = check_float("max_beta", max_beta, above=0, below=1)
        super().__init__(num_timesteps, log_snr_shift=log_snr_shift)

    def _alpha_bar(self, fraction: Tensor) -> Tensor:
        from_zero = torch.cat([torch.zeros(1, dtype=torch.float64), fraction])
        g = torch.cos((from_zero + self.offset) / (1 + self.offset) * math.pi / 2) ** 2
        beta = (1 - g[1:] / g[:-1]).clamp(max=self.max_beta)
        return (1 - beta).cumprod(0)
