r"""An autoencoder of user vectors with a part for the user, a part for the categories, and a preference that guides it.

A preference p over C categories has the vector :math:`e = A^\top p`. The encoder has two parts in each layer,

.. math:: z_l = \tanh(W_l z_{l-1} + b_l), \qquad
          h_l = [\tanh(U_l h_{l-1} + c_l),\; P_l e], \qquad z_0 = h_0 = [x,\; W z(t) + b],

where the last layer has e itself in the place of :math:`P_l e`. The decoder starts from :math:`[z_L, h_L]` and appends
:math:`P_l e` to its hidden layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from diffusers_rec.nn.dropout import Dropout
from diffusers_rec.nn.step_embedding import step_embedding


class Latents(NamedTuple):
    """Parts of the last layer of the encoder.

    Attributes:
        user: Part of the user, ``(B, H)``.
        category: Part of the categories, which ends with the preference's vector, ``(B, D - H)``.
    """

    user: Tensor
    category: Tensor


class CategoryMLP(nn.Module):
    """Maps vectors of V numbers and preferences over C categories to vectors of V numbers.

    Half of the width D of a layer is the user's; a quarter is the category's and a quarter the preference's. Weights
    start as Xavier's normal distribution has them, biases at zero.

    Args:
        size: Width V of the vectors.
        num_categories: Number C of categories.
        widths: Widths of the layers of the encoder, multiples of 4; the last is that of the latents. The decoder has
            them in reverse order.
        step_dim: Width of the sinusoids z(t), even.
        dropout: Dropout rate of the vectors.
    """

    def __init__(
        self, size: int, num_categories: int, widths: Sequence[int], *, step_dim: int = 10, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.step_dim = step_dim
        self.step, self.dropout = nn.Linear(step_dim, step_dim), Dropout(dropout)
        quarter = widths[-1] // 4
        self.categories = nn.Parameter(torch.empty(num_categories, quarter))
        inputs = [size + step_dim, *(width // 2 for width in widths[:-1])]
        self.user = nn.ModuleList(nn.Linear(given, width // 2) for given, width in zip(inputs, widths, strict=True))
        self.category = nn.ModuleList(nn.Linear(given, width // 4) for given, width in zip(inputs, widths, strict=True))
        self.preference = nn.ModuleList(nn.Linear(quarter, width // 4) for width in widths[:-1])
        upwards = widths[::-1]
        outputs = [*(width - width // 4 for width in upwards[1:]), size]
        self.decoder = nn.ModuleList(nn.Linear(*pair) for pair in zip(upwards, outputs, strict=True))
        nn.init.xavier_normal_(self.categories)
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_normal_(layer.weight)
                nn.init.zeros_(layer.bias)

    def encode(self, x: Tensor, t: Tensor, guide: Tensor) -> Latents:
        """Parts of the latents of vectors ``(B, V)`` at t, ``(B,)``, with the preference's vector, ``(B, D / 4)``."""
        steps = self.step(step_embedding(t, self.step_dim).to(x.dtype))
        user = category = torch.cat([self.dropout(x), steps], dim=-1)
        projections = [*self.preference, nn.Identity()]
        for own, shared, project in zip(self.user, self.category, projections, strict=True):
            user, category = own(user).tanh(), torch.cat([shared(category).tanh(), project(guide)], dim=-1)
        return Latents(user, category)

    def decode(self, latents: Latents, guide: Tensor) -> Tensor:
        """Vectors ``(B, V)`` of latents, with the preference's vector, ``(B, D / 4)``."""
        hidden = torch.cat(latents, dim=-1)
        *layers, last = self.decoder
        for layer, project in zip(layers, reversed(self.preference), strict=True):
            hidden = torch.cat([layer(hidden).tanh(), project(guide)], dim=-1)
        vectors: Tensor = last(hidden)
        return vectors

    def decode_category(self, category: Tensor, guide: Tensor) -> Tensor:
        """Vectors ``(B, V)`` of the part of the categories alone, with zeros for that of the user."""
        return self.decode(Latents(torch.zeros_like(category), category), guide)

    def category_vectors(self) -> Tensor:
        """Vectors of the C categories alone, ``(C, V)``."""
        own = self.categories
        return self.decode_category(torch.cat([torch.zeros_like(own), own], dim=-1), own)

    def forward(self, x: Tensor, t: Tensor, preference: Tensor) -> Tensor:
        """Map vectors ``(B, V)`` at t, ``(B,)``, and preferences ``(B, C)``, zero for none, to vectors ``(B, V)``."""
        guide = preference @ self.categories
        return self.decode(self.encode(x, t, guide), guide)
