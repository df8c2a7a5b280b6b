r"""A causal Transformer whose noised target is one more token of its last layer.

The history passes all layers but the last, to which it gives keys and values. It never sees the target or the step, so
every prefix of a window shares one encoding, S noise draws share it, and a reverse step costs one layer for K tokens a
question instead of a sequence. A token starts where the last visible item stands before the last layer, with the noised
latent and the step added: at initialisation it hardly differs from the state of a plain next-item model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from einops import rearrange
from torch import Tensor, nn

from diffusers_rec.core.randomness import isolated_rng
from diffusers_rec.denoisers.base import Denoiser, check_shapes
from diffusers_rec.nn.attention import (
    CausalEncoder,
    StepEmbedding,
    TransformerBlock,
    check_architecture,
    last_visible,
    question_key,
    real_positions,
    same_questions,
)
from diffusers_rec.nn.dropout import dropout


@dataclass
class _Context:
    """What the encoder keeps of the history, and what the questions asked last need of it.

    Attributes:
        last_input: of the encoder's last layer, ``(B, L, D)``.
        key: of the last layer, ``(B, H, L, D/H)``.
        value: of the last layer.
        asked: key of the questions asked last.
        start: of their tokens, without noise and step, ``(B, Q, 1, D)``.
        bias: what is added to their scores over the history and among their own positions.
    """

    last_input: Tensor
    key: Tensor
    value: Tensor
    asked: tuple[Tensor | int | None, ...] = ()
    start: Tensor = field(default_factory=lambda: torch.empty(0))
    bias: tuple[Tensor, Tensor] = field(default_factory=lambda: (torch.empty(0), torch.empty(0)))


class CausalTransformerDenoiser(Denoiser, name="causal-transformer"):
    """Noised tokens over a cached causal history.

    Args:
        dim: D.
        max_length: positions in a sequence, the noised ones included.
        num_layers: Transformer blocks. The history passes all but the last, the noised tokens the last alone.
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
            self.unknown = nn.Parameter(torch.randn(dim) * 0.02)
            self.take = nn.Linear(dim, dim, bias=False)
            nn.init.normal_(self.take.weight, std=0.1 / dim**0.5)
        for parameter in self.step.layers[-1].parameters():
            nn.init.zeros_(parameter)
        # Among noised positions the past and the future differ, so their distances are signed.
        self.among_bias = nn.Parameter(torch.zeros(num_heads, 2 * max_length - 1))

    def encode(self, history: Tensor, mask: Tensor) -> _Context:  # padding lies behind all that is visible
        last_input, keys_values = self.encoder.cache(history)
        key, value = keys_values[-1]
        # Contiguous, or every reverse step's matrix products would copy them.
        return _Context(last_input, key.contiguous(), value.contiguous())

    def forward(
        self, xn: Tensor, timesteps: Tensor, visible: Tensor, context: _Context, count: Tensor | None = None
    ) -> Tensor:
        check_shapes(xn, timesteps, visible, count)
        questions, noised = xn.shape[1:3]
        if timesteps.ndim == 2:
            timesteps = timesteps[..., None]
        asked = question_key(visible, count, noised)
        if not same_questions(asked, context.asked):  # a chain asks the same at every step
            context.start = (last_visible(context.last_input, visible) + self.unknown)[:, :, None]
            context.bias = self._bias(visible, noised, count, context)
            context.asked = asked
        x = rearrange(context.start + self.take(xn) + self.step(timesteps), "b q k d -> b (q k) d")
        x = self._block(self.encoder.layers[-1], x, context, questions)
        return rearrange(self.encoder.norm(x), "b (q k) d -> b q k d", q=questions)

    def _bias(self, visible: Tensor, noised: int, count: Tensor | None, context: _Context) -> tuple[Tensor, Tensor]:
        place = torch.arange(context.key.shape[2], device=visible.device)
        offset = torch.arange(noised, device=visible.device)
        distance = visible[..., None, None] + offset[:, None] - place
        distance = torch.where(place < visible[..., None, None], distance, -1)
        over_history = rearrange(self.encoder.bias(self.num_layers - 1, distance), "h b q k s -> b h q k s")
        among = self.among_bias[:, offset[:, None] - offset + self.max_length - 1].unsqueeze(1)
        real = real_positions(noised, visible, count)
        return over_history.contiguous(), among.masked_fill(~real[:, None, :, None], -math.inf)

    def _block(self, block: TransformerBlock, x: Tensor, context: _Context, questions: int) -> Tensor:
        """One softmax over the history's keys, shared by all questions, and the question's own tokens."""
        attention = block.attention
        key, value = context.key, context.value
        source = block.attention_input(x)
        query = attention.project_query(source) * (self.dim // self.num_heads) ** -0.5
        own_key, own_value = (
            rearrange(part, "b h (q k) d -> b h q k d", q=questions) for part in attention.project_key_value(source)
        )
        over_history, among = context.bias
        scores = rearrange(query @ key.mT, "b h (q k) s -> b h q k s", q=questions) + over_history
        query = rearrange(query, "b h (q k) d -> b h q k d", q=questions)
        joint = torch.cat([scores, query @ own_key.mT + among], dim=-1).softmax(-1).to(value.dtype)
        joint = dropout(joint, self.dropout) if self.training else joint
        on_history, on_own = joint[..., : key.shape[2]], joint[..., key.shape[2] :]
        attended = rearrange(on_history, "b h q k s -> b h (q k) s") @ value
        attended = attended + rearrange(on_own @ own_value, "b h q k d -> b h (q k) d")
        return block.add_attention(x, attention.merge(attended))
