r"""A causal low-pass filter beside the attention: what a user has lately been about, whatever the items attend to."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

PERIOD = 50
"""Positions, of which the filter's highest frequency has two waves."""


class LowPass(nn.Module):
    r"""Mixes attention with a smoothed and a sharpened view of the sequence.

    .. math:: y_t = \alpha \Big( s_t + \beta^2 \odot (x_t - s_t) \Big) + (1 - \alpha)\, \mathrm{attention}_t,
              \qquad s_t = \sum_{k \ge 0} w_k\, x_{t-k}

    w is the first lobe of the ideal low-pass of frequencies 0, 1 and 2 over :data:`PERIOD` positions, so that nothing
    of the future is seen; beta is learned, one number a dimension. After BSARec (Shin et al. 2024), whose filter runs
    over the whole sequence.

    Args:
        dim: D.
        share: alpha.
    """

    kernel: Tensor

    def __init__(self, dim: int, share: float) -> None:
        super().__init__()
        self.share = share
        self.sharpness = nn.Parameter(torch.randn(dim))
        wave = 2 * math.pi / PERIOD * torch.arange(PERIOD)
        kernel = (1 + 2 * wave.cos() + 2 * (2 * wave).cos()) / PERIOD
        in_lobe = (kernel > 0).cumprod(0).bool()
        self.register_buffer("kernel", kernel.where(in_lobe, 0), persistent=False)

    def forward(self, sequence: Tensor, x: Tensor, distance: Tensor, attended: Tensor) -> Tensor:
        """Mix.

        Args:
            sequence: what is smoothed, ``(B, L, D)``.
            x: Its states at the queried positions, ``(B, Q, D)``.
            distance: From each queried position back to each of the sequence, negative for later ones, ``(Q, L)`` or
                ``(B, Q, L)``.
            attended: What the attention gives there, ``(B, Q, D)``.
        """
        weights = self.kernel[distance.clamp(0, PERIOD - 1)].masked_fill(distance < 0, 0)
        smooth = weights.to(sequence.dtype) @ sequence
        return self.share * (smooth + self.sharpness**2 * (x - smooth)) + (1 - self.share) * attended
