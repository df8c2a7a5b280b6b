r"""A bidirectional Transformer with learned places, which predicts the items at blanks: BERT4Rec.

The visible items and the K positions of a query are one sequence of tokens. A blank is the learned vector m; any other
token is its latent. For the output :math:`h_k` of the network of :mod:`diffusers_rec.nn.positional` at a position,

.. math:: y_k = \mathrm{LN}\big( \mathrm{GELU}(W h_k + b) \big),

which the head turns into logits. The step is not an input: the blanks, which the network sees, imply it. Trained by a
cross-entropy at blanks this is the cloze task, and the absorbing process in one step. Sun et al. 2019, *BERT4Rec*.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from diffusers_rec.core.errors import check_int
from diffusers_rec.core.randomness import isolated_rng
from diffusers_rec.data.history import History
from diffusers_rec.denoisers.base import Denoiser, check_shapes
from diffusers_rec.nn.attention import check_architecture
from diffusers_rec.nn.positional import EPS, PositionalTransformer, bert_weights
from diffusers_rec.processes.mask import is_blank
from diffusers_rec.processes.noising import Queries


class _Condition(NamedTuple):
    """Condition of Q queries of K positions.

    Attributes:
        history: Latents of the history, as far as any query sees it, ``(B, L, D)``.
        source: Places of the S tokens among the latents of the history followed by those of the query, ``(B, Q, S)``.
        keys: Mask of the tokens that are there, ``(B, Q, S)``.
        places: Places of the corrupted positions among the tokens, ``(B, Q, K)``.
    """

    history: Tensor
    source: Tensor
    keys: Tensor
    places: Tensor


class ClozeDenoiser(Denoiser, name="cloze"):
    """Predicts the items at blanks from all other positions, on either side, with places counted from the oldest item.

    A reverse step reads the whole sequence of each query. The encoder ``bidirectional-transformer`` is the same network
    over a history alone.

    Args:
        dim: Latent width D.
        max_length: Largest number of positions in a sequence, including noised ones.
        num_layers: Number of Transformer blocks.
        num_heads: Number of attention heads.
        hidden_dim: Hidden width of the feed-forward layers; 4 D if None.
        dropout: Dropout rate of the input, the attention, the feed-forward and every residual.
        seed: Seed of the initial weights.
    """

    prediction = "items"

    def __init__(
        self,
        dim: int = 64,
        max_length: int = 50,
        *,
        num_layers: int = 2,
        num_heads: int = 2,
        hidden_dim: int | None = None,
        dropout: float = 0.2,
        seed: int = 0,
    ) -> None:
        super().__init__(dim, max_length, seed)
        self.num_layers, self.num_heads, self.dropout = check_architecture(dim, num_layers, num_heads, dropout)
        self.hidden_dim = None if hidden_dim is None else check_int("hidden_dim", hidden_dim, minimum=1)
        with isolated_rng(self.seed):
            self.network = PositionalTransformer(dim, max_length, num_layers, num_heads, self.dropout, self.hidden_dim)
            self.blank = nn.Parameter(torch.randn(dim) * 0.02)
            self.out = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.LayerNorm(dim, EPS))
            self.out.apply(bert_weights)

    def encode(self, history: History) -> History:
        return history

    def condition(self, context: History, queries: Queries, *, null: bool | Tensor = False) -> _Condition:
        queries = queries.blind(null)
        visible, width = queries.visible[..., None], queries.positions.shape[-1]
        history = context.first(queries.longest(context.items.shape[1]))
        longest, length = history.items.shape[1], visible + queries.keys.sum(-1, keepdim=True)
        tokens = longest + width if torch.compiler.is_compiling() else int(length.max())
        place = torch.arange(tokens, device=visible.device)
        # The positions of a query follow the last item that it sees.
        source = torch.where(place < visible, place, (place - visible + longest).clamp(max=longest + width - 1))
        own = visible + torch.arange(width, device=visible.device)
        return _Condition(history.latent(), source, place < length, own.minimum(length - 1))

    def forward(self, xn: Tensor, timesteps: Tensor, condition: _Condition) -> Tensor:
        check_shapes(xn, timesteps)
        batch, queries, *_ = xn.shape
        tokens = torch.where(is_blank(xn)[..., None], self.blank.to(xn.dtype), xn)
        tokens = torch.cat([repeat(condition.history, "b l d -> b q l d", q=queries), tokens], dim=2)
        source, keys, places = (
            rearrange(part.expand(batch, queries, -1), "b q s -> (b q) s")
            for part in (condition.source, condition.keys, condition.places)
        )
        tokens = rearrange(tokens, "b q s d -> (b q) s d")
        tokens = tokens.gather(1, source[..., None].expand(-1, -1, self.dim))
        outputs = self.out(self.network(tokens, keys[:, None, None], places))
        return rearrange(outputs, "(b q) k d -> b q k d", b=batch)
