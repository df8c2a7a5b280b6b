r"""A perceptron on the noised latent, the state of a one-layer history encoder, and the step.

.. math:: \hat x_0 = \mathrm{MLP}\big( [\, x_n;\; s;\; z_{n-1} \,] \big)

The state s is that of the last visible item. One causal Transformer layer computes it, as in SASRec (Kang & McAuley
2018): the queries and their residual are normalised, the keys and values are not, and there is no output projection.
For items :math:`e_i` at the places :math:`i`, counted from the oldest of the window, and a single head,

.. math:: e_i' = e_i + p_i, \qquad q_i = \mathrm{LN}(e_i'), \qquad
          a_i = q_i + \sum_{j \le i} \mathrm{softmax}_j\big( W_q q_i \cdot W_k e_j' / \sqrt D \big) W_v e_j',

.. math:: u_i = \mathrm{LN}(a_i), \qquad f_i = \mathrm{LN}( u_i + \mathrm{FF}(u_i) ), \qquad s_i = \mathrm{LN}(f_i).

PreferDiff (Liu et al. 2025) adds what enters attention and feed-forward to what leaves them once more,
:math:`a_i + e_i'` in place of :math:`a_i`, and then :math:`s_i = \mathrm{LN}(f_i + a_i)`. With several heads, scores
are still divided by :math:`\sqrt D`.

Without history, s is one learned vector. The step embedding z is sinusoidal, :math:`\sin(n\, 10^{-4j/(D/2-1)})` and
then the cosines, followed by two layers. Yang et al. 2023, *DreamRec*, and its code, which counts steps from 0.

A reverse step computes no attention. With one layer, the prediction is affine in x_n, s and z: the effect of the
history is the same at every step and for every x_n.
"""

from __future__ import annotations

import math
from itertools import chain, pairwise
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from diffusers_rec.core.errors import check_bool, check_int
from diffusers_rec.core.randomness import isolated_rng
from diffusers_rec.data.history import History
from diffusers_rec.denoisers.base import Denoiser, check_shapes
from diffusers_rec.nn.attention import MAX_LAYERS, check_architecture
from diffusers_rec.nn.dropout import Dropout
from diffusers_rec.nn.rotary import rotated
from diffusers_rec.processes.noising import Queries
from diffusers_rec.processes.schedules.lookup import unexpanded


class Condition(NamedTuple):
    """Condition of Q queries of K positions.

    Attributes:
        joined: Contribution of the state and the bias to the first layer, ``(B, Q, 1, F)``.
        share: Weight of each position in the mean over a query, ``(B, Q, K, 1)``; None if K = 1.
    """

    joined: Tensor
    share: Tensor | None


class StateDenoiser(Denoiser):
    """What the denoisers on a state share: the state of the history, and the layer that joins it to the latents.

    A subclass builds the parts below. Of K positions, each reads half of its own latent and half of their mean, which
    for K = 1 is the latent.

    Attributes:
        encoder: History encoder.
        empty: State without history, ``(D,)``.
        join: First layer of the prediction, from latent, state and embedded step, D each.
    """

    encoder: StateEncoder
    empty: nn.Parameter
    join: nn.Linear

    def encode(self, history: History) -> Tensor:  # causal, so the padding behind changes no visible state
        states: Tensor = self.encoder(history.latent())
        return states

    def condition(self, context: Tensor, queries: Queries, *, null: bool | Tensor = False) -> Condition:
        queries = queries.blind(null)
        states = queries.last_visible(context)
        states = torch.where(queries.visible[..., None] == 0, self.empty.to(states.dtype), states)
        share = queries.share if queries.positions.shape[-1] > 1 else None
        _, of_state, _ = self.join.weight.chunk(3, dim=1)
        return Condition(F.linear(states, of_state, self.join.bias)[:, :, None], share)

    def _joined(self, xn: Tensor, step: Tensor, condition: Condition) -> Tensor:
        """The first layer, of latents ``(B, Q, K, D)`` and embedded steps."""
        if condition.share is not None:
            mean = (xn * condition.share.to(xn.dtype)).sum(2, keepdim=True)
            xn = (xn + mean) / 2
        of_xn, _, of_step = self.join.weight.chunk(3, dim=1)
        return F.linear(xn, of_xn) + condition.joined + F.linear(step, of_step)


class StateMLPDenoiser(StateDenoiser, name="state-mlp"):
    """A perceptron on noised latent, state and step.

    The source defines one corrupted position. Of K positions, each reads half of its own latent and half of their
    mean, which for K = 1 is the latent.

    Args:
        dim: Latent width D.
        max_length: Largest number of positions in a sequence, including noised ones.
        mlp_layers: Number of layers of the perceptron; hidden ones have width 2 D and a GELU. 1 and 2 are ``mlp1`` and
            ``mlp2`` of the source's code.
        num_heads: Number of attention heads; they must divide D.
        skip: Whether the inputs of attention and feed-forward are added to their outputs once more (PreferDiff).
        dropout: Dropout rate of the history encoder.
        seed: Seed of the initial weights.
    """

    def __init__(
        self,
        dim: int = 64,
        max_length: int = 50,
        *,
        mlp_layers: int = 1,
        num_heads: int = 1,
        skip: bool = False,
        dropout: float = 0.1,
        seed: int = 0,
    ) -> None:
        super().__init__(dim, max_length, seed)
        _, self.num_heads, self.dropout = check_architecture(dim, 1, num_heads, dropout)
        self.skip = check_bool("skip", skip)
        self.mlp_layers = check_int("mlp_layers", mlp_layers, minimum=1, maximum=MAX_LAYERS)
        with isolated_rng(self.seed):
            self.encoder = StateEncoder(dim, max_length, self.num_heads, self.skip, self.dropout)
            self.empty = nn.Parameter(torch.randn(dim))
            self.step = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))
            widths = [*[2 * dim] * (self.mlp_layers - 1), dim]
            self.join = nn.Linear(3 * dim, widths[0])
            hidden = ((nn.GELU(), nn.Linear(*pair)) for pair in pairwise(widths))
            self.layers = nn.Sequential(*chain.from_iterable(hidden))

    def forward(self, xn: Tensor, timesteps: Tensor, condition: Condition) -> Tensor:
        check_shapes(xn, timesteps)
        if timesteps.ndim == 2:
            timesteps = timesteps[..., None]
        step = self.step(sinusoids(unexpanded(timesteps) - 1, self.dim, self.empty.dtype))
        prediction: Tensor = self.layers(self._joined(xn, step, condition))
        return prediction


def sinusoids(steps: Tensor, dim: int, dtype: torch.dtype = torch.float32) -> Tensor:
    r"""Sines and then cosines of :math:`n\, 10^{-4j/(d/2-1)}` for :math:`0 \le j < d/2`.

    Args:
        steps: Steps n, of any shape.
        dim: Width d, even.
        dtype: Dtype of the embeddings; they are computed in float32 or wider.

    Returns:
        Embeddings, of the shape of ``steps`` followed by d.
    """
    wide = torch.promote_types(dtype, torch.float32)
    place = torch.arange(dim // 2, device=steps.device, dtype=wide)
    angle = steps[..., None].to(wide) * torch.exp(-math.log(10000) / max(1, dim // 2 - 1) * place)
    return torch.cat([angle.sin(), angle.cos()], dim=-1).to(dtype)


class StateEncoder(nn.Module):
    """The Transformer layer of the module's docstring.

    Args:
        dim: Latent width D.
        max_length: Largest number of items.
        num_heads: Number of attention heads.
        skip: Whether residuals pass by the norms.
        dropout: Dropout rate.
        rotary: Whether items are rotated by their places, as in :mod:`~diffusers_rec.nn.rotary`, instead of added to
            learned vectors.
    """

    def __init__(
        self, dim: int, max_length: int, num_heads: int, skip: bool, dropout: float, *, rotary: bool = False
    ) -> None:
        super().__init__()
        self.num_heads, self.skip = num_heads, skip
        self.place = None if rotary else nn.Embedding(max_length, dim)
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.feed_forward = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim))
        self.query_norm, self.input_norm, self.output_norm, self.norm = (nn.LayerNorm(dim) for _ in range(4))
        self.dropout = Dropout(dropout)

    def forward(self, history: Tensor) -> Tensor:
        """Map ``(B, L, D)`` to states, ``(B, L, D)``."""
        length, dim = history.shape[1:]
        x = self.dropout(_rotated(history) if self.place is None else history + self.place.weight[:length])
        source = self.query_norm(x)
        key, value = map(self._heads, self.key_value(x).chunk(2, dim=-1))
        scores = self._heads(self.query(source)) @ key.mT * dim**-0.5
        later = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
        attention = self.dropout(scores.masked_fill(later, -math.inf).softmax(-1).to(value.dtype))
        attended = source + rearrange(attention @ value, "b h l d -> b l (h d)")
        if self.skip:
            attended = attended + x
        inner = self.input_norm(attended)
        output = self.output_norm(inner + self.dropout(self.feed_forward(inner)))
        return self.norm(output + attended if self.skip else output)

    def _heads(self, x: Tensor) -> Tensor:
        return rearrange(x, "b l (h d) -> b h l d", h=self.num_heads)


def _rotated(history: Tensor) -> Tensor:
    r"""Rotate items ``(B, L, D)`` by their places: dimensions j and j + D/2 of item l by :math:`l\, 10^{-8j/D}`."""
    pairs = rearrange(history, "b l (two d) -> b l (d two)", two=2)
    turned = rotated(pairs, torch.arange(history.shape[1], device=history.device))
    return rearrange(turned, "b l (d two) -> b l (two d)", two=2)
