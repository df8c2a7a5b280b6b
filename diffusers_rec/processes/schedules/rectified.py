"""The straight path of rectified flow."""

from __future__ import annotations

import torch
from torch import Tensor

from diffusers_rec.processes.schedules.base import NoiseSchedule


class RectifiedSchedule(NoiseSchedule, name="rectified"):
    r"""The straight line from data to noise: :math:`x_n = (1 - t)\, x_0 + t\, \epsilon` with t = n / N.

    No signal is left at n = N, where a noise prediction does not determine x0. The velocity is that of the flow,
    :math:`v = \epsilon - x_0 = \mathrm dx / \mathrm dt`. ``log_snr_shift`` changes t, but the path stays straight.

    Liu et al. 2023, *Flow Straight and Fast: Learning to Generate and Transfer Data with Rectified Flow*.
    """

    def _levels(self, fraction: Tensor) -> tuple[Tensor, Tensor]:
        return 1 - fraction, fraction

    def _velocity_signal(self, signal: Tensor, sigma: Tensor) -> Tensor:
        return torch.ones_like(signal)
