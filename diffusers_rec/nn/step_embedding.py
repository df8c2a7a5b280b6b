"""Embedding of the diffusion step."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from diffusers_rec.processes.schedules.lookup import unexpanded


def check_even(dim: int) -> None:
    """Check the width of a step embedding, whose dimensions are pairs (Eq. 15).

    Raises:
        ValueError: The width is odd.
    """
    if dim % 2:
        raise ValueError(f"dim must be even for the sinusoidal step embedding, got {dim}.")


def step_embedding(timesteps: Tensor, dim: int) -> Tensor:
    r"""Sinusoidal embedding of the diffusion step (Eq. 15).

    .. math:: z_n(2j) = \sin(n / 10000^{2j/d}), \quad z_n(2j + 1) = \cos(n / 10000^{2j/d}), \quad 0 \le j < d/2

    Args:
        timesteps: Steps n, of any shape.
        dim: Width d, even.

    Returns:
        Embeddings in float32, of the shape of ``timesteps`` followed by d.
    """
    even = torch.arange(0, dim, 2, device=timesteps.device, dtype=torch.float32)
    angle = timesteps[..., None].to(torch.float32) * torch.exp(-math.log(10000) / dim * even)
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(-2)


class StepEmbedding(nn.Module):
    """The sinusoids of Eq. 15, followed by a two-layer perceptron, for backbones that are modulated by the step.

    Args:
        dim: Width D.
        hidden: Width of the hidden layer; D if None.
    """

    def __init__(self, dim: int, hidden: int | None = None) -> None:
        super().__init__()
        self.dim = dim
        hidden = hidden or dim
        self.layers = nn.Sequential(nn.Linear(dim, hidden), nn.SiLU(), nn.Linear(hidden, dim))

    def forward(self, timesteps: Tensor) -> Tensor:
        """Map steps of any shape to embeddings, of that shape followed by D; expanded axes have size 1."""
        dtype = next(self.parameters()).dtype
        return self.layers(step_embedding(unexpanded(timesteps), self.dim).to(dtype))
