"""A causal Transformer with learned absolute positions: the encoder of SASRec, CL4SRec and DuoRec."""

from __future__ import annotations

import torch
from torch import Tensor

from diffusers_rec.core.errors import check_int
from diffusers_rec.encoders.base import CausalEncoder
from diffusers_rec.nn.attention import check_architecture
from diffusers_rec.nn.positional import PositionalTransformer


class PositionalTransformerEncoder(CausalEncoder, name="positional-transformer"):
    """The network of :mod:`diffusers_rec.nn.positional` with a causal mask.

    Kang & McAuley 2018, *Self-Attentive Sequential Recommendation* (SASRec), in the form of RecBole.

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
        dropout: float = 0.5,
        seed: int | None = 0,
    ) -> None:
        super().__init__(dim, max_length, seed)
        self.num_layers, self.num_heads, self.dropout = check_architecture(dim, num_layers, num_heads, dropout)
        self.hidden_dim = None if hidden_dim is None else check_int("hidden_dim", hidden_dim, minimum=1)
        with self.seeded():
            self.network = PositionalTransformer(dim, max_length, num_layers, num_heads, self.dropout, hidden_dim)

    def sequence(self, latents: Tensor) -> Tensor:
        length = latents.shape[1]
        earlier = torch.ones(length, length, dtype=torch.bool, device=latents.device).tril()
        states: Tensor = self.network(latents, earlier[None, None])
        return states
