r"""A causal Transformer whose noised target is one more token: history keys and values are computed once and kept.

The history never sees the target or the step, so every prefix of a window shares one encoding, S noise draws share it,
and a reverse step costs K tokens a question instead of a sequence. The step embedding enters the queries alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from einops import rearrange
from torch import Tensor, nn

from diffusers_rec.denoisers.base import Denoiser
from diffusers_rec.denoisers.blocks import (
    CausalEncoder,
    StepEmbedding,
    TransformerBlock,
    check_architecture,
    real_positions,
)
from diffusers_rec.denoisers.dropout import dropout
from diffusers_rec.randomness import isolated_rng

Bias = tuple[Tensor, Tensor]


@dataclass
class _Context:
    """What the encoder keeps of the history, and what the questions asked last need of it.

    Attributes:
        keys_values: of each layer, ``(B, H, L, D/H)``.
        asked: ``visible`` and ``count`` of the questions asked last.
        biases: of each layer, what they add to their scores over the history and among their own positions.
    """

    keys_values: list[tuple[Tensor, Tensor]]
    asked: tuple[Tensor | None, Tensor | None] = (None, None)
    biases: list[Bias] = field(default_factory=list)


class CausalTransformerDenoiser(Denoiser, name="causal-transformer"):
    """Noised query tokens over a cached causal history.

    Args:
        dim: D.
        max_length: positions in a sequence, the noised ones included.
        num_layers: Transformer blocks, which history and query tokens share.
        num_heads: attention heads.
        dropout: on the input, the attention, and every residual.
        seed: of the initial weights.
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
            self.encoder = CausalEncoder(dim, max_length, num_layers, num_heads, self.dropout)
            self.step = StepEmbedding(dim)
            self.unknown = nn.Parameter(torch.randn(dim))
            self.take = nn.Linear(dim, dim, bias=False)
            nn.init.normal_(self.take.weight, std=0.1 / dim**0.5)
        # Among noised positions the past and the future differ, so their distances are signed.
        self.among_bias = nn.Parameter(torch.zeros(num_layers, num_heads, 2 * max_length - 1))

    def encode(self, history: Tensor, mask: Tensor) -> _Context:  # padding lies behind all that is visible
        # Contiguous, or every reverse step's matrix products would copy them.
        return _Context([(key.contiguous(), value.contiguous()) for key, value in self.encoder.cache(history)[1]])

    def forward(
        self, xn: Tensor, timesteps: Tensor, visible: Tensor, context: _Context, count: Tensor | None = None
    ) -> Tensor:
        _, questions, noised, _ = xn.shape
        if timesteps.ndim == 2:
            timesteps = timesteps[..., None]
        x = rearrange(self.unknown + self.take(xn) + self.step(timesteps), "b q k d -> b (q k) d")
        if context.asked[0] is not visible or context.asked[1] is not count:  # a chain asks the same at every step
            context.biases, context.asked = self._biases(visible, noised, count, context), (visible, count)
        for block, (key, value), bias in zip(self.encoder.layers, context.keys_values, context.biases, strict=True):
            x = self._block(block, x, key, value, bias, questions)
        return rearrange(self.encoder.norm(x), "b (q k) d -> b q k d", q=questions)

    def _biases(self, visible: Tensor, noised: int, count: Tensor | None, context: _Context) -> list[Bias]:
        place = torch.arange(context.keys_values[0][0].shape[2], device=visible.device)
        offset = torch.arange(noised, device=visible.device)
        distance = visible[..., None, None] + offset[:, None] - place
        distance = torch.where(place < visible[..., None, None], distance, -1)
        among = offset[:, None] - offset + self.max_length - 1
        real = real_positions(noised, visible, count)
        return [
            (
                rearrange(self.encoder.bias(layer, distance), "h b q k s -> b h q k s").contiguous(),
                self.among_bias[layer][:, among].unsqueeze(1).masked_fill(~real[:, None, :, None], -math.inf),
            )
            for layer in range(self.num_layers)
        ]

    def _block(
        self,
        block: TransformerBlock,
        x: Tensor,
        key: Tensor,
        value: Tensor,
        bias: Bias,
        questions: int,
    ) -> Tensor:
        """One softmax over the history's keys, shared by all questions, and the question's own tokens."""
        attention = block.attention
        source = block.attention_input(x)
        query = attention.project_query(source) * (self.dim // self.num_heads) ** -0.5
        own_key, own_value = (
            rearrange(part, "b h (q k) d -> b h q k d", q=questions) for part in attention.project_key_value(source)
        )
        over_history, among = bias
        scores = rearrange(query @ key.mT, "b h (q k) s -> b h q k s", q=questions) + over_history
        query = rearrange(query, "b h (q k) d -> b h q k d", q=questions)
        joint = torch.cat([scores, query @ own_key.mT + among], dim=-1).softmax(-1).to(value.dtype)
        joint = dropout(joint, self.dropout) if self.training else joint
        on_history, on_own = joint[..., : key.shape[2]], joint[..., key.shape[2] :]
        attended = rearrange(on_history, "b h q k s -> b h (q k) s") @ value
        attended = attended + rearrange(on_own @ own_value, "b h q k d -> b h (q k) d")
        return block.add_attention(x, attention.merge(attended))
