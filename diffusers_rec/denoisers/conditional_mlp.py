r"""A history encoder followed by a small perceptron that denoises the latents.

The inputs of the perceptron are the noised latents, the state of the history and the step. Its output is added to the
state. Its last layer is initialised with zeros, so the initial prediction is the state, as in a plain next-item model.
A reverse step does not encode the history.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffusers_rec.core.errors import check_int
from diffusers_rec.core.randomness import isolated_rng
from diffusers_rec.data.history import History
from diffusers_rec.denoisers.base import Denoiser, check_shapes
from diffusers_rec.encoders import EncoderSpec, encoder_of
from diffusers_rec.nn.attention import MAX_LAYERS
from diffusers_rec.nn.step_embedding import StepEmbedding, check_even
from diffusers_rec.processes.noising import Queries


class _Context(NamedTuple):
    """Context of the encoder, and the number L of places of the history."""

    encoded: Any
    length: int


class _Condition(NamedTuple):
    """Condition of Q queries of K positions.

    Attributes:
        state: State of the visible history, ``(B, Q, 1, D)``.
        joined: Contribution of the state to the first layer, ``(B, Q, 1, D)``.
        weight: Weight of the corrupted latents in the first layer, ``(D, D)``.
        mean_weight: Weight of their mean over a query, ``(D, D)``; None if K = 1, where ``weight`` includes it.
        share: Weight of each position in this mean, ``(B, Q, K, 1)``.
    """

    state: Tensor
    joined: Tensor
    weight: Tensor
    mean_weight: Tensor | None
    share: Tensor


class ConditionalMLPDenoiser(Denoiser, name="conditional-mlp"):
    """A residual perceptron, modulated by the step, on the state of a history encoder.

    The K positions of a query see each other through their mean.

    Args:
        dim: Latent width D.
        max_length: Largest number of positions in a sequence, including noised ones.
        encoder: History encoder.
        mlp_layers: Number of residual layers of the perceptron.
        seed: Seed of the initial weights.
    """

    moved: ClassVar[dict[str, str]] = {
        name: f"It is a setting of the history encoder: {{'encoder': {{{name!r}: ...}}}}."
        for name in ("num_layers", "num_heads", "dropout", "low_pass")
    }

    def __init__(
        self,
        dim: int = 256,
        max_length: int = 50,
        *,
        encoder: EncoderSpec = "causal-transformer",
        mlp_layers: int = 2,
        seed: int = 0,
    ) -> None:
        super().__init__(dim, max_length, seed)
        check_even(dim)
        self.mlp_layers = check_int("mlp_layers", mlp_layers, minimum=1, maximum=MAX_LAYERS)
        with isolated_rng(self.seed):
            self.encoder = encoder_of(encoder, dim, max_length)
            self.empty = nn.Parameter(torch.randn(dim) * 0.02)
            self.step = StepEmbedding(dim)
            self.offset = nn.Embedding(max_length, dim)
            self.join = nn.Linear(3 * dim, dim)
            self.layers = nn.ModuleList(_ModulatedLayer(dim) for _ in range(self.mlp_layers))
            self.out = nn.Linear(dim, dim)
        nn.init.zeros_(self.offset.weight)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def encode(self, history: History) -> _Context:
        return _Context(self.encoder(history), history.items.shape[1])

    def penalties(self, context: _Context, queries: Queries, items: Tensor) -> dict[str, Tensor]:
        return super().penalties(context.encoded, queries, items)

    def condition(self, context: _Context, queries: Queries, *, null: bool | Tensor = False) -> _Condition:
        queries = queries.blind(null)
        state, joined = self._state(queries.visible, context)
        of_own, of_mean, _ = self.join.weight.chunk(3, dim=1)
        if queries.positions.shape[-1] == 1:
            return _Condition(state, joined, of_own + of_mean, None, queries.share)
        return _Condition(state, joined, of_own, of_mean, queries.share)

    def forward(self, xn: Tensor, timesteps: Tensor, condition: _Condition) -> Tensor:
        check_shapes(xn, timesteps)
        if timesteps.ndim == 2:
            timesteps = timesteps[..., None]
        x = F.linear(xn, condition.weight)
        if condition.mean_weight is not None:
            mean = (xn * condition.share.to(xn.dtype)).sum(2, keepdim=True)
            x = x + F.linear(mean, condition.mean_weight)
        x = x + condition.joined + self.offset.weight[: xn.shape[2]]
        step = F.silu(self.step(timesteps))
        for layer in self.layers:
            x = layer(x, step)
        return condition.state + self.out(x)

    def _state(self, visible: Tensor, context: _Context) -> tuple[Tensor, Tensor]:
        """State that each query sees and its contribution to the first layer, each ``(B, Q, 1, D)``."""
        encoded, longest = context
        repeated = visible.shape[1] > longest  # encode each prefix once, the empty one first
        prefixes = torch.arange(longest + 1, device=visible.device).expand(len(visible), -1) if repeated else visible
        states = self.encoder.after(encoded, prefixes, self.empty)
        parts = states, F.linear(states, self.join.weight[:, 2 * self.dim :], self.join.bias)
        if repeated:
            index = visible[..., None].expand(-1, -1, self.dim)
            parts = parts[0].gather(1, index), parts[1].gather(1, index)
        return parts[0][:, :, None], parts[1][:, :, None]


class _ModulatedLayer(nn.Module):
    """A residual two-layer perceptron; the step scales and shifts its normalised input."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim, elementwise_affine=False)
        self.modulate = nn.Linear(dim, 2 * dim)
        self.layers = nn.Sequential(nn.Linear(dim, 2 * dim), nn.SiLU(), nn.Linear(2 * dim, dim))

    def forward(self, x: Tensor, step: Tensor) -> Tensor:
        scale, shift = self.modulate(step).chunk(2, dim=-1)
        return x + self.layers(self.norm(x) * (1 + scale) + shift)
