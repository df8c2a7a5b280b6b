"""Layers of the backbones: attention and the Transformer block."""

from __future__ import annotations

import math

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from diffusers_rec.core.errors import check_float, check_int
from diffusers_rec.nn.dropout import Dropout, dropout
from diffusers_rec.nn.step_embedding import check_even

MAX_LAYERS = 1000
"""Upper bound of ``num_layers``; useful models have far fewer."""


class Attention(nn.Module):
    """Multi-head attention whose keys and values are projected separately, so that they can be reused."""

    def __init__(self, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.dropout = dropout
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.out = nn.Linear(dim, dim)

    def project_query(self, x: Tensor) -> Tensor:
        """Project ``(B, L, D)`` to queries, ``(B, H, L, D/H)``."""
        return rearrange(self.query(x), "b l (h d) -> b h l d", h=self.num_heads)

    def project_key_value(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Project ``(B, L, D)`` to keys and values, ``(B, H, L, D/H)``."""
        key, value = rearrange(self.key_value(x), "b l (two h d) -> two b h l d", two=2, h=self.num_heads)
        return key, value

    def merge(self, x: Tensor) -> Tensor:
        """Merge the heads, ``(B, H, L, D/H)`` to ``(B, L, D)``, and apply the output projection."""
        return self.out(rearrange(x, "b h l d -> b l (h d)"))

    def forward(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
        """Attend; ``mask`` is boolean (True: visible) or added to the scores, broadcastable to ``(B, H, Lq, Lk)``."""
        share = self.dropout if self.training else 0.0
        if not share or query.device.type != "cpu":
            return self.merge(F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=share))
        # On the CPU, PyTorch has no fused attention with dropout, and its mask is slow.
        scores = (query * query.shape[-1] ** -0.5) @ key.mT
        scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
        return self.merge(dropout(scores.softmax(-1).to(value.dtype), share) @ value)


class TransformerBlock(nn.Module):
    """Attention and feed-forward with residuals, each with a layer norm after (Vaswani et al. 2017) or before it.

    Args:
        dim: Width D.
        num_heads: Number of attention heads H.
        dropout: Dropout rate of the attention, the feed-forward and both residuals.
        norm_first: Whether layer norms precede attention and feed-forward, instead of following them.
        activation: Activation of the feed-forward; ReLU if None.
        eps: Constant that layer norms add to the variance.
        hidden_dim: Hidden width of the feed-forward; 4 D if None.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int,
        dropout: float,
        *,
        norm_first: bool,
        activation: nn.Module | None = None,
        eps: float = 1e-5,
        hidden_dim: int | None = None,
    ) -> None:
        super().__init__()
        self.norm_first = norm_first
        self.attention = Attention(dim, num_heads, dropout)
        activation, hidden_dim = activation or nn.ReLU(), hidden_dim or 4 * dim
        self.feed_forward = nn.Sequential(
            nn.Linear(dim, hidden_dim), activation, Dropout(dropout), nn.Linear(hidden_dim, dim)
        )
        self.attention_norm = nn.LayerNorm(dim, eps)
        self.feed_forward_norm = nn.LayerNorm(dim, eps)
        self.dropout = Dropout(dropout)

    def attention_input(self, x: Tensor) -> Tensor:
        """Input of the projections of queries, keys and values."""
        return self.attention_norm(x) if self.norm_first else x

    def add_attention(self, x: Tensor, attended: Tensor) -> Tensor:
        """Add the residual of the attention, then run the feed-forward."""
        x = x + self.dropout(attended)
        if self.norm_first:
            return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))
        x = self.attention_norm(x)
        return self.feed_forward_norm(x + self.dropout(self.feed_forward(x)))

    def forward(self, x: Tensor, mask: Tensor, last: int | None = None) -> Tensor:
        """Map ``(B, L, D)`` to ``(B, L, D)``; with ``last``, compute only that many positions at the end."""
        source = self.attention_input(x)
        key, value = self.attention.project_key_value(source)
        if last is not None:
            x, source, mask = x[:, -last:], source[:, -last:], mask[..., -last:, :]
        return self.add_attention(x, self.attention(self.attention.project_query(source), key, value, mask))

    def beside(self, x: Tensor, key: Tensor, value: Tensor, over_history: Tensor, among: Tensor) -> Tensor:
        """Apply the block to the tokens of Q queries, each with one softmax over a shared history and its own tokens.

        Args:
            x: Tokens, ``(B, Q, K, D)``.
            key: Keys of the history, ``(B, H, L, D/H)``.
            value: Values of the history, like ``key``.
            over_history: Scores added between tokens and history, broadcastable to ``(B, H, Q, K, L)``.
            among: Scores added between the tokens of a query, broadcastable to ``(B, H, Q, K, K)``.

        Returns:
            Tokens, ``(B, Q, K, D)``.
        """
        attention, queries = self.attention, x.shape[1]
        x = rearrange(x, "b q k d -> b (q k) d")
        source = self.attention_input(x)
        query = attention.project_query(source)
        query = query * query.shape[-1] ** -0.5
        own_key, own_value = (
            rearrange(part, "b h (q k) d -> b h q k d", q=queries) for part in attention.project_key_value(source)
        )
        scores = rearrange(query @ key.mT, "b h (q k) s -> b h q k s", q=queries) + over_history
        query = rearrange(query, "b h (q k) d -> b h q k d", q=queries)
        joint = torch.cat([scores, query @ own_key.mT + among], dim=-1).softmax(-1).to(value.dtype)
        joint = dropout(joint, attention.dropout) if self.training else joint
        on_history, on_own = joint[..., : key.shape[2]], joint[..., key.shape[2] :]
        attended = rearrange(on_history, "b h q k s -> b h (q k) s") @ value
        attended = attended + rearrange(on_own @ own_value, "b h q k d -> b h (q k) d")
        return rearrange(self.add_attention(x, attention.merge(attended)), "b (q k) d -> b q k d", q=queries)


def check_architecture(dim: int, num_layers: int, num_heads: int, dropout: float) -> tuple[int, int, float]:
    """Check settings that all attention backbones share, and return layers, heads and dropout.

    Raises:
        ValueError: The width is odd, the heads do not divide it, or the dropout is outside
            [0, 1).
    """
    num_layers = check_int("num_layers", num_layers, minimum=1, maximum=MAX_LAYERS)
    num_heads = check_int("num_heads", num_heads, minimum=1)
    dropout = check_float("dropout", dropout, minimum=0, below=1)
    check_even(dim)
    if dim % num_heads:
        raise ValueError(f"num_heads must divide dim, got num_heads={num_heads} and dim={dim}.")
    return num_layers, num_heads, dropout
