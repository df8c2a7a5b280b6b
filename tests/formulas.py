"""Numbers from formulas, for weights, inputs and noise of recorded outputs of other code."""

from __future__ import annotations

import torch


def wave(shape, phase, offset=0.0, size=1.0, *, frequency=1.0):
    """``offset + size * sin(frequency * index + phase)`` in float64, from the index of each number."""
    index = torch.arange(torch.Size(shape).numel(), dtype=torch.float64)
    return (offset + size * torch.sin(frequency * index + phase)).view(shape)
