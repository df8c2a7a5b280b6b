r"""A bidirectional Transformer over the history and the corrupted positions, which predicts items.

The visible items and the K positions of a query are one sequence, :math:`e_1, \dots, e_{L+K}`. A blank is the learned
vector :math:`m`; any other token is its latent. Each of the blocks computes

.. math:: u = x + \mathrm{Attention}(\mathrm{LN}(x)), \qquad x' = u + W_2\, \mathrm{GELU}(W_1\, \mathrm{LN}(u)),

with rotary positions in the attention, so that only distances count. The output at a position is the sum of the
residuals divided by :math:`\sqrt D`; there is no last layer norm. The head turns it into logits. Shah et al. 2025,
*MaskGR*, and its code.

The step is not an input. The number of blanks, which the network sees, implies it. Splitting a sequence into history
and known positions in another way does not change the prediction.
"""

from __future__ import annotations

import math
from typing import NamedTuple, cast

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from diffusers_rec.core.errors import check_int
from diffusers_rec.core.randomness import isolated_rng
from diffusers_rec.data.history import History
from diffusers_rec.denoisers.base import Denoiser, check_shapes
from diffusers_rec.nn.attention import TransformerBlock, check_architecture
from diffusers_rec.nn.rotary import rotated
from diffusers_rec.processes.mask import is_blank
from diffusers_rec.processes.noising import Queries


class _Condition(NamedTuple):
    """Condition of Q queries, whose sequences have L + K tokens.

    Attributes:
        history: Latents of the history, as far as any query sees it, ``(B, L, D)``.
        places: Places of the tokens in the sequence, ``(B, Q, L + K)``.
        keys: Mask of the visible tokens, ``(B, Q, L + K)``.
    """

    history: Tensor
    places: Tensor
    keys: Tensor


class BidirectionalDenoiser(Denoiser, name="bidirectional"):
    """Predicts the items at blanks from all other positions, on either side.

    A reverse step reads the whole sequence of each query.

    Args:
        dim: Latent width D.
        max_length: Largest number of positions in a sequence, including noised ones.
        num_layers: Number of Transformer blocks.
        num_heads: Number of attention heads; D is a multiple of twice this number.
        hidden_dim: Hidden width of the feed-forward layers; 4 D if None.
        dropout: Dropout rate of the attention, the feed-forward and every residual.
        seed: Seed of the initial weights.

    Raises:
        ValueError: The width of a head is odd.
    """

    prediction = "items"

    def __init__(
        self,
        dim: int = 128,
        max_length: int = 50,
        *,
        num_layers: int = 2,
        num_heads: int = 2,
        hidden_dim: int | None = None,
        dropout: float = 0.25,
        seed: int = 0,
    ) -> None:
        super().__init__(dim, max_length, seed)
        self.num_layers, self.num_heads, self.dropout = check_architecture(dim, num_layers, num_heads, dropout)
        if (dim // num_heads) % 2:
            raise ValueError(
                f"Rotary positions need an even width per head, got dim={dim} and num_heads={num_heads}. Use a dim "
                "that is a multiple of twice the number of heads."
            )
        self.hidden_dim = None if hidden_dim is None else check_int("hidden_dim", hidden_dim, minimum=1)
        with isolated_rng(self.seed):
            self.blank = nn.Parameter(torch.randn(dim))
            self.blocks = nn.ModuleList(
                TransformerBlock(
                    dim, num_heads, self.dropout, norm_first=True, activation=nn.GELU(), hidden_dim=self.hidden_dim
                )
                for _ in range(self.num_layers)
            )

    def encode(self, history: History) -> History:
        return history

    def condition(self, context: History, queries: Queries, *, null: bool | Tensor = False) -> _Condition:
        queries = queries.blind(null)
        visible = queries.visible[..., None]
        history = context.first(queries.longest(context.items.shape[1]))
        place = torch.arange(history.items.shape[1], device=visible.device).expand(*visible.shape[:2], -1)
        own = visible + torch.arange(queries.positions.shape[-1], device=visible.device)
        of_history = (place < visible) & history.mask[:, None]
        return _Condition(
            history.latent(), torch.cat([place, own], dim=-1), torch.cat([of_history, queries.keys], dim=-1)
        )

    def forward(self, xn: Tensor, timesteps: Tensor, condition: _Condition) -> Tensor:
        check_shapes(xn, timesteps)
        batch, queries, width, _ = xn.shape
        tokens = torch.where(is_blank(xn)[..., None], self.blank.to(xn.dtype), xn)
        tokens = torch.cat([repeat(condition.history, "b l d -> b q l d", q=queries), tokens], dim=2)
        places, keys = (
            rearrange(each.expand(batch, queries, -1), "b q s -> (b q) 1 s")
            for each in (condition.places, condition.keys)
        )
        x = rearrange(tokens, "b q s d -> (b q) s d")
        *earlier, last = cast(list[TransformerBlock], list(self.blocks))
        for block in earlier:
            x = self._attend(block, x, places, keys, x.shape[1])
        x = self._attend(last, x, places, keys, width)
        return rearrange(x, "(b q) k d -> b q k d", b=batch) / math.sqrt(self.dim)

    def _attend(self, block: TransformerBlock, x: Tensor, places: Tensor, keys: Tensor, last: int) -> Tensor:
        """Apply a block to the ``last`` tokens of a sequence, which attend to all."""
        source = block.attention_input(x)
        key, value = block.attention.project_key_value(source)
        query = block.attention.project_query(source[:, -last:])
        mask = keys[:, :, None].expand(-1, 1, last, -1)
        attended = block.attention(rotated(query, places[..., -last:]), rotated(key, places), value, mask)
        return block.add_attention(x[:, -last:], attended)
