"""A bidirectional Transformer with learned absolute positions: the encoder of BERT4Rec."""

from __future__ import annotations

import torch
from torch import Tensor

from diffusers_rec.core.errors import check_int
from diffusers_rec.encoders.base import PrefixEncoder
from diffusers_rec.nn.attention import check_architecture
from diffusers_rec.nn.positional import PositionalTransformer


class BidirectionalTransformerEncoder(PrefixEncoder, name="bidirectional-transformer"):
    """The network of :mod:`diffusers_rec.nn.positional`, where all items of a prefix see one another.

    The state of a prefix is the output at its last item. Each prefix is a sequence of its own, which costs as much as
    :class:`~diffusers_rec.PositionalTransformerEncoder` does for a whole history.

    Args:
        dim: Width D.
        max_length: Largest number of items.
        num_layers: Number of Transformer blocks.
        num_heads: Number of attention heads.
        hidden_dim: Hidden width of the feed-forward layers; 4 D if None.
        dropout: Dropout rate of the input, the attention, the feed-forward and every residual.
        seed: Seed of the initial weights; None draws them from torch's random state.
    """

    def __init__(
        self,
        dim: int = 64,
        max_length: int = 50,
        *,
        num_layers: int = 2,
        num_heads: int = 2,
        hidden_dim: int | None = None,
        dropout: float = 0.2,
        seed: int | None = 0,
    ) -> None:
        super().__init__(dim, max_length, seed)
        self.num_layers, self.num_heads, self.dropout = check_architecture(dim, num_layers, num_heads, dropout)
        self.hidden_dim = None if hidden_dim is None else check_int("hidden_dim", hidden_dim, minimum=1)
        with self.seeded():
            self.network = PositionalTransformer(dim, max_length, num_layers, num_heads, self.dropout, hidden_dim)

    def last(self, latents: Tensor, lengths: Tensor) -> Tensor:
        keys = torch.arange(latents.shape[1], device=lengths.device) < lengths[:, None]
        outputs: Tensor = self.network(latents, keys[:, None, None], lengths[:, None] - 1)
        return outputs[:, 0]
