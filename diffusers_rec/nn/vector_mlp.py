r"""A perceptron on whole vectors, which is given a number that says how much noise they hold.

.. math:: h_0 = [\mathrm{dropout}(x),\; W z(t) + b], \qquad h_l = \tanh(W_l h_{l-1} + b_l), \qquad
          f(x, t) = W_L h_{L-1} + b_L
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from diffusers_rec.nn.dropout import Dropout
from diffusers_rec.nn.step_embedding import step_embedding


class VectorMLP(nn.Module):
    """Maps vectors of V numbers to vectors of V numbers.

    The weights start as Xavier's normal distribution has them (Glorot & Bengio 2010), the biases at zero.

    Args:
        size: Width V of the vectors.
        widths: Widths of the hidden layers, one at least.
        step_dim: Width of the sinusoids z(t), even.
        dropout: Dropout rate of the vectors.
        hidden_dropout: Dropout rate of the hidden layers.
    """

    def __init__(
        self, size: int, widths: Sequence[int], *, step_dim: int = 10, dropout: float = 0.0, hidden_dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.step_dim = step_dim
        self.step = nn.Linear(step_dim, step_dim)
        self.dropout, self.hidden_dropout = Dropout(dropout), Dropout(hidden_dropout)
        inputs, outputs = [size + step_dim, *widths], [*widths, size]
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in zip(inputs, outputs, strict=True))
        for layer in (self.step, *self.layers):
            nn.init.xavier_normal_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Map vectors ``(B, V)`` at t, ``(B,)``, to vectors ``(B, V)``."""
        hidden = torch.cat([self.dropout(x), self.step(step_embedding(t, self.step_dim).to(x.dtype))], dim=-1)
        first, *others = self.layers
        hidden = first(hidden)
        for layer in others:
            hidden = layer(self.hidden_dropout(hidden.tanh()))
        return hidden
