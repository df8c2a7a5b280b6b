r"""DiffuRec's approximator: the noised latent is added to every item of the history, at a small random scale.

.. math:: u_l = \mathrm{LN}(h_l) + \lambda_l \odot (x_n + z_n), \qquad \lambda_l \sim \mathcal N(\delta, \delta^2 I),
          \qquad \hat x_0 = \mathrm{LN}\big(\mathrm{Transformer}(u_1, \dots, u_L)[L]\big)

There is no token of the target: the output at the last item is the prediction. Attention is bidirectional, and all
items are read again at every reverse step. There are no position embeddings, so only the last item has a place.

Li, Sun & Li 2023, *DiffuRec: A Diffusion Model for Sequential Recommendation*, with the settings of its public code.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from diffusers_rec.core.errors import check_float
from diffusers_rec.core.randomness import isolated_rng
from diffusers_rec.data.history import History
from diffusers_rec.denoisers.base import Denoiser, check_shapes
from diffusers_rec.nn.attention import TransformerBlock, check_architecture
from diffusers_rec.nn.dropout import Dropout
from diffusers_rec.nn.step_embedding import StepEmbedding
from diffusers_rec.processes.noising import Queries
from diffusers_rec.processes.schedules.lookup import unexpanded

EPS = 1e-12
"""Added to the variance in every layer norm."""


class _Condition(NamedTuple):
    """Condition of Q queries of K positions.

    Attributes:
        items: Normalised items that each query sees, the last one at the end, ``(B, Q, L, D)``.
        keys: Mask of these items, ``(B, Q, L)``; the rest is padding.
        share: Weight of each position in the mean over a query, ``(B, Q, K, 1)``.
    """

    items: Tensor
    keys: Tensor
    share: Tensor


class AddedLatentDenoiser(Denoiser, name="added-latent"):
    r"""A bidirectional Transformer over the history, with the noised latent added to every item.

    In training, :math:`\lambda` is drawn for each item and dimension. In serving it is its mean :math:`\delta`, because
    a prediction is a function of the noise, the step and the history; the public code draws it there, too.

    Each of K > 1 positions of a query is predicted from the mean of its own latent and that of all K. Their order is
    not known to the network. A query that sees no item has one learned token instead. The paper has neither case.

    Args:
        dim: Latent width D.
        max_length: Largest number of positions in a sequence, including noised ones.
        num_layers: Number of Transformer blocks.
        num_heads: Number of attention heads.
        dropout: Dropout rate of the attention, of every residual, and of the output of every block.
        embedding_dropout: Dropout rate of the items, before their layer norm.
        uncertainty: Mean and standard deviation delta of lambda. The larger it is, the more a prediction depends on
            the noised latent.
        step_scale: Factor of n - 1 in the step embedding; 1000 / N in the public code.
        seed: Seed of the initial weights.
    """

    def __init__(
        self,
        dim: int = 128,
        max_length: int = 50,
        *,
        num_layers: int = 4,
        num_heads: int = 4,
        dropout: float = 0.1,
        embedding_dropout: float = 0.3,
        uncertainty: float = 0.001,
        step_scale: float = 31.25,
        seed: int = 0,
    ) -> None:
        super().__init__(dim, max_length, seed)
        self.num_layers, self.num_heads, self.dropout = check_architecture(dim, num_layers, num_heads, dropout)
        self.embedding_dropout = check_float("embedding_dropout", embedding_dropout, minimum=0, below=1)
        self.uncertainty = check_float("uncertainty", uncertainty, above=0)
        self.step_scale = check_float("step_scale", step_scale, above=0)
        with isolated_rng(self.seed):
            self.step = StepEmbedding(dim, hidden=4 * dim)
            self.empty = nn.Parameter(torch.randn(dim))
            self.blocks = nn.ModuleList(self._block() for _ in range(num_layers))
        self.item_dropout = Dropout(self.embedding_dropout)
        self.item_norm = nn.LayerNorm(dim, EPS)
        self.output_dropout = Dropout(self.dropout)
        self.norm = nn.LayerNorm(dim, EPS)

    @property
    def mean_scale(self) -> float:
        """Mean of lambda, by which the noised latent is multiplied."""
        return self.uncertainty

    def encode(self, history: History) -> Tensor:
        """Normalised items after the token of an empty history, ``(B, 1 + L, D)``."""
        items = self.item_norm(self.item_dropout(history.latent()))
        return torch.cat([self.empty.to(items.dtype).expand(items.shape[0], 1, -1), items], dim=1)

    def condition(self, context: Tensor, queries: Queries, *, null: bool | Tensor = False) -> _Condition:
        queries = queries.blind(null)
        longest = max(1, queries.longest(context.shape[1] - 1))
        place = queries.visible[..., None] - longest + torch.arange(longest, device=context.device)
        keys = place >= 0
        keys[..., -1] = True  # without any item, the token of an empty history
        index = repeat((place + 1).clamp(min=0), "b q l -> b (q l) d", d=self.dim)
        items = rearrange(context.gather(1, index), "b (q l) d -> b q l d", l=longest)
        return _Condition(items, keys, queries.share)

    def forward(self, xn: Tensor, timesteps: Tensor, condition: _Condition) -> Tensor:
        check_shapes(xn, timesteps)
        if timesteps.ndim == 2:
            timesteps = timesteps[..., None]
        latents = xn + self.step((unexpanded(timesteps) - 1) * self.step_scale)
        mean = (latents * condition.share.to(latents.dtype)).sum(2, keepdim=True)
        added = rearrange((latents + mean) / 2, "b q k d -> b q k 1 d")
        items, keys = condition.items[:, :, None], condition.keys[:, :, None]
        x = items + self._uncertain(added.expand(*added.shape[:3], *items.shape[3:])) * added
        mask = rearrange(keys.expand(x.shape[:-1]), "b q k l -> (b q k) 1 1 l")
        x = rearrange(x, "b q k l d -> (b q k) l d")
        for number, block in enumerate(self.blocks, 1):
            x = self.output_dropout(block(x, mask, last=1 if number == self.num_layers else None))
        return self.norm(self.output_dropout(x)).view(xn.shape)

    def _uncertain(self, like: Tensor) -> Tensor | float:
        """Lambda of every item and dimension, ``(B, Q, K, L, D)``; its mean unless in training."""
        return self.uncertainty * (1 + torch.randn_like(like)) if self.training else self.mean_scale

    def _block(self) -> TransformerBlock:
        """Build a block with the activation, the layer norms and the initial weights of the public code."""
        gelu = nn.GELU(approximate="tanh")
        return with_normal_weights(
            TransformerBlock(self.dim, self.num_heads, self.dropout, norm_first=True, activation=gelu, eps=EPS)
        )


def with_normal_weights(block: TransformerBlock) -> TransformerBlock:
    """Draw the weights of the feed-forwards and of the output of the attention from Xavier's normal distribution."""
    feed_forwards = (layers for layers in block.children() if isinstance(layers, nn.Sequential))
    for layer in (block.attention.out, *(layer for layers in feed_forwards for layer in layers)):
        if isinstance(layer, nn.Linear):
            nn.init.xavier_normal_(layer.weight)
    return block
