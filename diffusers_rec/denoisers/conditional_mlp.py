r"""A causal history encoder, then a small perceptron that turns noise into the next latent.

The perceptron sees the noised latents, the state of the history and the step, and adds to the state; its last layer
starts at zero, so at initialisation the prediction *is* the history's state, as in a plain next-item model. A reverse
step costs no attention at all.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffusers_rec.core.errors import check_float, check_int
from diffusers_rec.core.randomness import isolated_rng
from diffusers_rec.denoisers.base import Denoiser, check_shapes
from diffusers_rec.nn.attention import (
    MAX_LAYERS,
    CausalEncoder,
    StepEmbedding,
    check_architecture,
    question_key,
    real_positions,
    same_questions,
)
from diffusers_rec.processes.schedules import unexpanded


@dataclass
class _Context:
    """What the encoder keeps of the history, and what the questions asked last need of it.

    Attributes:
        last_input: of the encoder's last layer, ``(B, L, D)``.
        key: of the last layer.
        value: of the last layer.
        asked: key of the questions asked last.
        state: what they see, and its share in the join, ``(B, Q, 1, D)`` each; one question where all are equal.
    """

    last_input: Tensor
    key: Tensor
    value: Tensor
    asked: tuple[Tensor | int | None, ...] = ()
    state: tuple[Tensor, Tensor] | None = None


class ConditionalMLPDenoiser(Denoiser, name="conditional-mlp"):
    """A step-modulated residual perceptron on a causal history state.

    The K positions of a question see one another through their mean.

    Args:
        dim: D.
        max_length: positions in a sequence, the noised ones included.
        num_layers: Transformer blocks of the history encoder.
        num_heads: attention heads of the history encoder.
        mlp_layers: residual layers of the perceptron.
        dropout: of the history encoder.
        low_pass: share of a causal low-pass filter in the encoder's attention, see
            :class:`~diffusers_rec.nn.low_pass.LowPass`.
        seed: of the initial weights.
    """

    def __init__(
        self,
        dim: int = 256,
        max_length: int = 50,
        *,
        num_layers: int = 2,
        num_heads: int = 2,
        mlp_layers: int = 2,
        dropout: float = 0.3,
        low_pass: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__(dim, max_length, seed)
        self.num_layers, self.num_heads, self.dropout = check_architecture(dim, num_layers, num_heads, dropout)
        self.mlp_layers = check_int("mlp_layers", mlp_layers, minimum=1, maximum=MAX_LAYERS)
        self.low_pass = check_float("low_pass", low_pass, minimum=0, maximum=1)
        with isolated_rng(self.seed):
            self.encoder = CausalEncoder(dim, max_length, num_layers, num_heads, self.dropout, self.low_pass)
            self.empty = nn.Parameter(torch.randn(dim) * 0.02)
            self.step = StepEmbedding(dim)
            self.offset = nn.Embedding(max_length, dim)
            self.join = nn.Linear(3 * dim, dim)
            self.layers = nn.ModuleList(_ModulatedLayer(dim) for _ in range(self.mlp_layers))
            self.out = nn.Linear(dim, dim)
        nn.init.zeros_(self.offset.weight)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def encode(self, history: Tensor, mask: Tensor) -> _Context:  # padding lies behind all that is visible
        last_input, keys_values = self.encoder.cache(history)
        return _Context(last_input, *keys_values[-1])

    def forward(
        self, xn: Tensor, timesteps: Tensor, visible: Tensor, context: _Context, count: Tensor | None = None
    ) -> Tensor:
        check_shapes(xn, timesteps, visible, count)
        if timesteps.ndim == 2:
            timesteps = timesteps[..., None]
        asked = question_key(visible, count, xn.shape[2])
        if context.state is None or not same_questions(asked, context.asked):  # a chain asks the same at every step
            context.state, context.asked = self._state(visible, context), asked
        state, joined = context.state
        x = self._join_noised(xn, visible, count) + joined + self.offset.weight[: xn.shape[2]]
        step = F.silu(self.step(timesteps))
        for layer in self.layers:
            x = layer(x, step)
        return state + self.out(x)

    def _state(self, visible: Tensor, context: _Context) -> tuple[Tensor, Tensor]:
        """The state that each question sees and its share in the join, ``(B, Q, 1, D)``."""
        wanted = unexpanded(visible).expand(len(visible), -1)  # noise draws share their question
        longest = context.last_input.shape[1]
        repeated = wanted.shape[1] > longest  # then some see the same: each prefix once, the empty one first
        asked = torch.arange(longest + 1, device=visible.device).expand(len(visible), -1) if repeated else wanted
        states = self._states(asked, context)
        parts = states, F.linear(states, self.join.weight[:, 2 * self.dim :], self.join.bias)
        if repeated:
            index = wanted[..., None].expand(-1, -1, self.dim)
            parts = parts[0].gather(1, index), parts[1].gather(1, index)
        return parts[0][:, :, None], parts[1][:, :, None]

    def _states(self, visible: Tensor, context: _Context) -> Tensor:
        """After each prefix of ``visible`` items, ``(B, Q, D)``."""
        if not context.last_input.shape[1]:
            return self.empty.expand(*visible.shape, -1)
        last = (unexpanded(visible) - 1).clamp(min=0).expand(visible.shape)
        states = self.encoder.states(context.last_input, context.key, context.value, last)
        return torch.where(visible[..., None] == 0, self.empty.to(states.dtype), states)

    def _join_noised(self, xn: Tensor, visible: Tensor, count: Tensor | None) -> Tensor:
        """The share of the noised latents, and of the mean over their question, in the join."""
        of_own, of_mean, _ = self.join.weight.chunk(3, dim=1)
        noised = xn.shape[2]
        if noised == 1:
            return F.linear(xn, of_own + of_mean)
        real = real_positions(noised, visible, count)
        share = (real / real.sum(-1, keepdim=True)).to(xn.dtype)
        mean = (xn * share[..., None]).sum(2, keepdim=True)
        return F.linear(xn, of_own) + F.linear(mean, of_mean)


class _ModulatedLayer(nn.Module):
    """A residual two-layer perceptron whose normed input is scaled and shifted by the step."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, elementwise_affine=False)
        self.modulate = nn.Linear(dim, 2 * dim)
        self.layers = nn.Sequential(nn.Linear(dim, 2 * dim), nn.SiLU(), nn.Linear(2 * dim, dim))

    def forward(self, x: Tensor, step: Tensor) -> Tensor:
        scale, shift = self.modulate(step).chunk(2, dim=-1)
        return x + self.layers(self.norm(x) * (1 + scale) + shift)
