r"""A perceptron on the noised latent, the state of a history encoder, and the step.

.. math:: \hat x_0 = \mathrm{MLP}\big( [\, x_n;\; s;\; z_{n-1} \,] \big)

The state s is that of a history encoder after the visible items, by default one causal Transformer layer,
:mod:`~diffusers_rec.encoders.single_layer`.

Without history, s is one learned vector. The step embedding z is sinusoidal, :math:`\sin(n\, 10^{-4j/(D/2-1)})` and
then the cosines, followed by two layers. Yang et al. 2023, *DreamRec*, and its code, which counts steps from 0.

A reverse step does not encode the history. With one layer, the prediction is affine in x_n, s and z: the effect of the
history is the same at every step and for every x_n.
"""

from __future__ import annotations

import math
from itertools import chain, pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffusers_rec.core.errors import check_int
from diffusers_rec.core.randomness import isolated_rng
from diffusers_rec.data.history import History
from diffusers_rec.denoisers.base import Denoiser, check_shapes
from diffusers_rec.encoders import EncoderSpec, HistoryEncoder, encoder_of
from diffusers_rec.nn.attention import MAX_LAYERS
from diffusers_rec.nn.step_embedding import check_even
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

    encoder: HistoryEncoder
    empty: nn.Parameter
    join: nn.Linear

    def encode(self, history: History) -> Any:
        return self.encoder(history)

    def condition(self, context: Any, queries: Queries, *, null: bool | Tensor = False) -> Condition:
        queries = queries.blind(null)
        states = self.encoder.after(context, queries.visible, self.empty)
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
        encoder: History encoder.
        mlp_layers: Number of layers of the perceptron; hidden ones have width 2 D and a GELU. 1 and 2 are ``mlp1`` and
            ``mlp2`` of the source's code.
        seed: Seed of the initial weights.
    """

    def __init__(
        self,
        dim: int = 64,
        max_length: int = 50,
        *,
        encoder: EncoderSpec = "single-layer",
        mlp_layers: int = 1,
        seed: int = 0,
    ) -> None:
        super().__init__(dim, max_length, seed)
        check_even(dim)
        self.mlp_layers = check_int("mlp_layers", mlp_layers, minimum=1, maximum=MAX_LAYERS)
        with isolated_rng(self.seed):
            self.encoder = encoder_of(encoder, dim, max_length)
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
