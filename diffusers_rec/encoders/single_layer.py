r"""One causal Transformer layer, as in SASRec (Kang & McAuley 2018), with the norms of DreamRec's code.

The queries and their residual are normalised, the keys and values are not, and there is no output projection. For items
:math:`e_i` at the places :math:`i`, counted from the oldest of the window, and a single head,

.. math:: e_i' = e_i + p_i, \qquad q_i = \mathrm{LN}(e_i'), \qquad
          a_i = q_i + \sum_{j \le i} \mathrm{softmax}_j\big( W_q q_i \cdot W_k e_j' / \sqrt D \big) W_v e_j',

.. math:: u_i = \mathrm{LN}(a_i), \qquad f_i = \mathrm{LN}( u_i + \mathrm{FF}(u_i) ), \qquad s_i = \mathrm{LN}(f_i).

PreferDiff (Liu et al. 2025) adds what enters attention and feed-forward to what leaves them once more,
:math:`a_i + e_i'` in place of :math:`a_i`, and then :math:`s_i = \mathrm{LN}(f_i + a_i)`. PreferGrow (Hu et al. 2025)
rotates items by their places instead of adding :math:`p_i`. With several heads, scores are still divided by
:math:`\sqrt D`.
"""

from __future__ import annotations

import math

import torch
from einops import rearrange
from torch import Tensor, nn

from diffusers_rec.core.errors import check_bool
from diffusers_rec.encoders.base import CausalEncoder
from diffusers_rec.nn.attention import check_architecture
from diffusers_rec.nn.dropout import Dropout
from diffusers_rec.nn.rotary import rotated


class SingleLayerEncoder(CausalEncoder, name="single-layer"):
    """The Transformer layer of the module's docstring.

    Args:
        dim: Width D, even.
        max_length: Largest number of items.
        num_heads: Number of attention heads; they must divide D.
        skip: Whether the inputs of attention and feed-forward are added to their outputs once more (PreferDiff).
        rotary: Whether items are rotated by their places, as in :mod:`~diffusers_rec.nn.rotary`, instead of added to
            learned vectors (PreferGrow).
        dropout: Dropout rate.
        seed: Seed of the initial weights; None draws them from torch's random state.
    """

    def __init__(
        self,
        dim: int = 64,
        max_length: int = 50,
        *,
        num_heads: int = 1,
        skip: bool = False,
        rotary: bool = False,
        dropout: float = 0.1,
        seed: int | None = 0,
    ) -> None:
        super().__init__(dim, max_length, seed)
        _, self.num_heads, self.dropout = check_architecture(dim, 1, num_heads, dropout)
        self.skip, self.rotary = check_bool("skip", skip), check_bool("rotary", rotary)
        with self.seeded():
            self.place = None if rotary else nn.Embedding(max_length, dim)
            self.query = nn.Linear(dim, dim)
            self.key_value = nn.Linear(dim, 2 * dim)
            self.feed_forward = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim))
        self.query_norm, self.input_norm, self.output_norm, self.norm = (nn.LayerNorm(dim) for _ in range(4))
        self.drop = Dropout(self.dropout)

    def sequence(self, latents: Tensor) -> Tensor:
        length, dim = latents.shape[1:]
        x = self.drop(_rotated(latents) if self.place is None else latents + self.place.weight[:length])
        source = self.query_norm(x)
        key, value = map(self._heads, self.key_value(x).chunk(2, dim=-1))
        scores = self._heads(self.query(source)) @ key.mT * dim**-0.5
        later = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
        attention = self.drop(scores.masked_fill(later, -math.inf).softmax(-1).to(value.dtype))
        attended = source + rearrange(attention @ value, "b h l d -> b l (h d)")
        if self.skip:
            attended = attended + x
        inner = self.input_norm(attended)
        output = self.output_norm(inner + self.drop(self.feed_forward(inner)))
        return self.norm(output + attended if self.skip else output)

    def _heads(self, x: Tensor) -> Tensor:
        return rearrange(x, "b l (h d) -> b h l d", h=self.num_heads)


def _rotated(latents: Tensor) -> Tensor:
    r"""Rotate items ``(B, L, D)`` by their places: dimensions j and j + D/2 of item l by :math:`l\, 10^{-8j/D}`."""
    pairs = rearrange(latents, "b l (two d) -> b l (d two)", two=2)
    turned = rotated(pairs, torch.arange(latents.shape[1], device=latents.device))
    return rearrange(turned, "b l (d two) -> b l (two d)", two=2)
