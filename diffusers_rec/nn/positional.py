r"""A Transformer with learned absolute positions, in the form of BERT.

.. math:: x^0 = \mathrm{dropout}(\mathrm{LN}(e_i + p_i)), \qquad u = \mathrm{LN}(x + \mathrm{Attention}(x)), \qquad
          x' = \mathrm{LN}(u + W_2\, \mathrm{GELU}(W_1 u + b_1) + b_2)

Places count from the oldest item. Weights start from :math:`N(0, .02^2)`, biases from zero. Devlin et al. 2019, *BERT*;
in recommendation Sun et al. 2019, *BERT4Rec*. RecBole's SASRec, CL4SRec and DuoRec have the same network with a causal
mask.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from diffusers_rec.nn.attention import TransformerBlock
from diffusers_rec.nn.dropout import Dropout

EPS = 1e-12
"""Constant that BERT's layer norms add to the variance."""


class PositionalTransformer(nn.Module):
    """The network of the module's docstring.

    Args:
        dim: Width D.
        max_length: Largest number of tokens.
        num_layers: Number of Transformer blocks.
        num_heads: Number of attention heads.
        dropout: Dropout rate of the input, the attention, the feed-forward and every residual.
        hidden_dim: Hidden width of the feed-forward; 4 D if None.
    """

    def __init__(
        self, dim: int, max_length: int, num_layers: int, num_heads: int, dropout: float, hidden_dim: int | None = None
    ) -> None:
        super().__init__()
        self.place = nn.Embedding(max_length, dim)
        self.norm = nn.LayerNorm(dim, EPS)
        self.dropout = Dropout(dropout)
        self.blocks = nn.ModuleList(
            TransformerBlock(
                dim, num_heads, dropout, norm_first=False, activation=nn.GELU(), eps=EPS, hidden_dim=hidden_dim
            )
            for _ in range(num_layers)
        )
        self.apply(bert_weights)

    def forward(self, x: Tensor, mask: Tensor, places: Tensor | None = None) -> Tensor:
        """Map tokens ``(N, L, D)`` to the outputs at some places, ``(N, K, D)``; at all places if None.

        Args:
            x: Latents of the tokens, ``(N, L, D)``.
            mask: Keys that every token attends to, ``(N, 1, 1, L)``, or those of each, ``(1, 1, L, L)``.
            places: Places whose outputs are wanted, ``(N, K)``; only where all tokens attend to the same keys.
        """
        x = self.dropout(self.norm(x + self.place.weight[: x.shape[1]]))
        *earlier, last = cast(list[TransformerBlock], list(self.blocks))
        for block in earlier:
            x = block(x, mask)
        if places is None:
            return last(x, mask)
        key, value = last.attention.project_key_value(x)
        x = x.gather(1, places[..., None].expand(-1, -1, x.shape[-1]))
        return last.add_attention(x, last.attention(last.attention.project_query(x), key, value, mask))


def bert_weights(layer: nn.Module) -> None:
    """Draw the initial weights of BERT for a linear layer or an embedding."""
    if isinstance(layer, nn.Linear | nn.Embedding):
        nn.init.normal_(layer.weight, std=0.02)
    if isinstance(layer, nn.Linear):
        nn.init.zeros_(layer.bias)
