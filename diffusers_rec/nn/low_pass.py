"""A causal low-pass filter next to the attention: a smoothed view of the most recent items."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

PERIOD = 50
"""Number of positions that contain two periods of the highest frequency."""


class LowPass(nn.Module):
    r"""Mixes attention with a smoothed and a sharpened view of the sequence.

    .. math:: y_t = \alpha \Big( s_t + \beta^2 \odot (x_t - s_t) \Big) + (1 - \alpha)\, \mathrm{attention}_t,
              \qquad s_t = \sum_{k \ge 0} w_k\, x_{t-k}

    w is the first lobe of the ideal low-pass filter of frequencies 0, 1 and 2 over :data:`PERIOD` positions, so the
    filter is causal. beta is learned, one number per dimension. After BSARec (Shin et al. 2024), whose filter is not
    causal but covers the whole sequence.

    Args:
        dim: Width D.
        share: Share alpha of the filter.
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
        """Mix the filtered sequence with the attention.

        Args:
            sequence: States to smooth, ``(B, L, D)``.
            x: States at the queried positions, ``(B, Q, D)``.
            distance: Distance from each queried position back to each position of the sequence, ``(Q, L)`` or
                ``(B, Q, L)``; negative for later positions.
            attended: Output of the attention at the queried positions, ``(B, Q, D)``.
        """
        weights = self.kernel[distance.clamp(0, PERIOD - 1)].masked_fill(distance < 0, 0)
        smooth = weights.to(sequence.dtype) @ sequence
        return self.share * (smooth + self.sharpness**2 * (x - smooth)) + (1 - self.share) * attended
