"""The straight path of rectified flow."""

from __future__ import annotations

import torch
from torch import Tensor

from diffusers_rec.processes.schedules.base import NoiseSchedule


class RectifiedSchedule(NoiseSchedule, name="rectified"):
    r"""The straight line from data to noise: :math:`x_n = (1 - t)\, x_0 + t\, \epsilon` with t = n / N.

    Nothing of the signal is left at n = N, where a prediction of the noise tells nothing of x0. The velocity is that of
    the flow, :math:`v = \epsilon - x_0 = \mathrm dx / \mathrm dt`. With a ``log_snr_shift`` the line stays and t moves.

    Liu et al. 2023, *Flow Straight and Fast: Learning to Generate and Transfer Data with Rectified Flow*.
    """

    def _levels(self, fraction: Tensor) -> tuple[Tensor, Tensor]:
        return 1 - fraction, fraction

    def _velocity_signal(self, signal: Tensor, sigma: Tensor) -> Tensor:
        return torch.ones_like(signal)
