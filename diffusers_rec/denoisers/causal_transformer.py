r"""A causal Transformer whose last layer has the noised targets as additional tokens.

The history passes through all layers except the last one, which uses it only as keys and values. The history does not
see the target or the step. All prefixes of a window and all noise draws therefore share one encoding, and a reverse
step costs one layer for K tokens per query. A token is the sum of the last visible item's state before the last layer,
the noised latent and the step embedding. At initialisation, it is close to the state of a plain next-item model.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn

from diffusers_rec.core.randomness import isolated_rng
from diffusers_rec.data.history import History
from diffusers_rec.denoisers.base import Denoiser, check_shapes
from diffusers_rec.encoders.causal_transformer import CausalContext, CausalTransformerEncoder
from diffusers_rec.nn.attention import check_architecture
from diffusers_rec.nn.step_embedding import StepEmbedding
from diffusers_rec.processes.noising import Queries


class _Condition(NamedTuple):
    """Condition of Q queries of K positions.

    Attributes:
        key: Keys of the last layer, ``(B, H, L, D/H)``.
        value: Values of the last layer, like ``key``.
        start: Tokens of the queries without noise and step, ``(B, Q, 1, D)``.
        over_history: Scores added between tokens and history, ``(B, H, Q, K, L)``.
        among: Scores added between the tokens of a query, ``(B, H, Q, K, K)``.
    """

    key: Tensor
    value: Tensor
    start: Tensor
    over_history: Tensor
    among: Tensor


class CausalTransformerDenoiser(Denoiser, name="causal-transformer"):
    """A causal Transformer with noised tokens and a cached history.

    Args:
        dim: Latent width D.
        max_length: Largest number of positions in a sequence, including noised ones.
        num_layers: Number of Transformer blocks. The history passes through all except the last one, the noised tokens
            only through the last one.
        num_heads: Number of attention heads.
        dropout: Dropout rate of the input, the attention and every residual.
        seed: Seed of the initial weights.
    """

    def __init__(
        self,
        dim: int = 256,
        max_length: int = 50,
        *,
        num_layers: int = 2,
        num_heads: int = 2,
        dropout: float = 0.3,
        seed: int = 0,
    ) -> None:
        super().__init__(dim, max_length, seed)
        self.num_layers, self.num_heads, self.dropout = check_architecture(dim, num_layers, num_heads, dropout)
        with isolated_rng(self.seed):
            self.encoder = CausalTransformerEncoder(
                dim, max_length, num_layers=num_layers, num_heads=num_heads, dropout=self.dropout, seed=None
            )
            self.step = StepEmbedding(dim)
            self.unknown = nn.Parameter(torch.randn(dim) * 0.02)
            self.take = nn.Linear(dim, dim, bias=False)
            nn.init.normal_(self.take.weight, std=0.1 / dim**0.5)
        for parameter in self.step.layers[-1].parameters():
            nn.init.zeros_(parameter)
        # Distances between noised positions are signed, because past and future differ.
        self.among_bias = nn.Parameter(torch.zeros(num_heads, 2 * max_length - 1))

    def encode(self, history: History) -> CausalContext:  # padding is after all visible items
        last_input, key, value = self.encoder.encode(history)
        # Contiguous, because the matrix products of every reverse step would copy them otherwise.
        return CausalContext(last_input, key.contiguous(), value.contiguous())

    def condition(self, context: CausalContext, queries: Queries, *, null: bool | Tensor = False) -> _Condition:
        queries = queries.blind(null)
        start = (queries.last_visible(context.last_input) + self.unknown)[:, :, None]
        return _Condition(context.key, context.value, start, *self._bias(queries, context))

    def forward(self, xn: Tensor, timesteps: Tensor, condition: _Condition) -> Tensor:
        check_shapes(xn, timesteps)
        if timesteps.ndim == 2:
            timesteps = timesteps[..., None]
        x = condition.start + self.take(xn) + self.step(timesteps)
        last, keys = self.encoder.layers[-1], (condition.key, condition.value)
        return self.encoder.norm(last.beside(x, *keys, condition.over_history, condition.among))

    def _bias(self, queries: Queries, context: CausalContext) -> tuple[Tensor, Tensor]:
        visible = queries.visible[..., None, None]
        place = torch.arange(context.key.shape[2], device=visible.device)
        offset = torch.arange(queries.positions.shape[-1], device=visible.device)
        distance = torch.where(place < visible, visible + offset[:, None] - place, -1)
        over_history = rearrange(self.encoder.bias(self.num_layers - 1, distance), "h b q k s -> b h q k s")
        among = self.among_bias[:, offset[:, None] - offset + self.max_length - 1].unsqueeze(1)
        return over_history.contiguous(), among.masked_fill(~queries.keys[:, None, :, None], -math.inf)
