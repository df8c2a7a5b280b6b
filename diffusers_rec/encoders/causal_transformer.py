"""A causal Transformer over the history, with a learned bias for each distance instead of positions.

Layer norms precede attention and feed-forward. A state depends neither on the start of the window nor on later items.
All prefixes share everything but the last layer, which is computed where a state is wanted.
"""

from __future__ import annotations

import math
from typing import NamedTuple, cast

import torch
from einops import rearrange
from torch import Tensor, nn

from diffusers_rec.core.errors import check_float
from diffusers_rec.data.history import History
from diffusers_rec.encoders.base import HistoryEncoder, at_last
from diffusers_rec.nn.attention import TransformerBlock, check_architecture
from diffusers_rec.nn.dropout import Dropout
from diffusers_rec.nn.low_pass import LowPass
from diffusers_rec.processes.schedules.lookup import unexpanded


class CausalContext(NamedTuple):
    """Input of the last layer, ``(B, L, D)``, and keys and values of this layer, ``(B, H, L, D/H)``."""

    last_input: Tensor
    key: Tensor
    value: Tensor


class CausalTransformerEncoder(HistoryEncoder, name="causal-transformer"):
    """A causal Transformer with distance biases. The default of the conditional denoisers.

    Args:
        dim: Width D.
        max_length: Largest number of items; distances are smaller than this.
        num_layers: Number of Transformer blocks.
        num_heads: Number of attention heads H.
        dropout: Dropout rate of the input, the attention and every residual.
        low_pass: Share of a causal low-pass filter in the attention of each layer, no filter if 0; see
            :class:`~diffusers_rec.nn.low_pass.LowPass`.
        seed: Seed of the initial weights; None draws them from torch's random state.
    """

    def __init__(
        self,
        dim: int = 256,
        max_length: int = 50,
        *,
        num_layers: int = 2,
        num_heads: int = 2,
        dropout: float = 0.3,
        low_pass: float = 0.0,
        seed: int | None = 0,
    ) -> None:
        super().__init__(dim, max_length, seed)
        self.num_layers, self.num_heads, self.dropout = check_architecture(dim, num_layers, num_heads, dropout)
        self.low_pass = check_float("low_pass", low_pass, minimum=0, maximum=1)
        self.input_dropout = Dropout(self.dropout)
        self.input_norm = nn.LayerNorm(dim)
        with self.seeded():
            self.blocks = nn.ModuleList(
                TransformerBlock(dim, num_heads, self.dropout, norm_first=True) for _ in range(num_layers)
            )
            self.filters = nn.ModuleList(LowPass(dim, low_pass) for _ in range(num_layers)) if low_pass else None
        self.distance_bias = nn.Parameter(torch.zeros(num_layers, num_heads, max_length))
        self.norm = nn.LayerNorm(dim)

    @property
    def layers(self) -> list[TransformerBlock]:
        """Blocks in order."""
        return cast(list[TransformerBlock], list(self.blocks))

    def bias(self, layer: int, distance: Tensor) -> Tensor:
        """Scores added at ``distance`` = query position - key position, ``(H, *distance.shape)``; -inf below 0."""
        bias = self.distance_bias[layer][:, distance.clamp(0, self.max_length - 1)]
        return bias.masked_fill(distance < 0, -math.inf)

    def encode(self, history: History) -> CausalContext:  # padding is after all visible items
        x = self.input_dropout(self.input_norm(history.latent()))
        place = torch.arange(x.shape[1], device=x.device)
        distance = place[:, None] - place
        *earlier, last = self.layers
        for layer, block in enumerate(earlier):
            source = block.attention_input(x)
            key, value = block.attention.project_key_value(source)
            query = block.attention.project_query(source)
            mask = self.bias(layer, distance).to(query.dtype)
            attended = block.attention(query, key, value, mask)
            if self.filters is not None:
                attended = self.filters[layer](source, source, distance, attended)
            x = block.add_attention(x, attended)
        return CausalContext(x, *last.attention.project_key_value(last.attention_input(x)))

    def states(self, context: CausalContext, visible: Tensor) -> Tensor:
        sequence, key, value = context
        block, last, position = self.layers[-1], self.num_layers - 1, visible - 1
        x = at_last(sequence, visible)
        source = block.attention_input(x)
        query = block.attention.project_query(source)
        distance = unexpanded(position)[..., None] - torch.arange(key.shape[2], device=x.device)
        mask = rearrange(self.bias(last, distance), "h b q s -> b h q s").to(query.dtype)
        attended = block.attention(query, key, value, mask)
        if self.filters is not None:
            attended = self.filters[last](block.attention_input(sequence), source, distance, attended)
        return self.norm(block.add_attention(x, attended))
