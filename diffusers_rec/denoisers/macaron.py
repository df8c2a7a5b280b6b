r"""EDiffuRec's approximator: the network ``added-latent`` with a feed-forward on both sides of every attention.

.. math:: h \leftarrow h + \mathrm{FFN}_1(\mathrm{LN}(h)), \qquad h \leftarrow h + \mathrm{Attention}(\mathrm{LN}'(h)),
          \qquad h \leftarrow h + \mathrm{FFN}_2(\mathrm{LN}(h))

Both feed-forwards of a block share one layer norm. The scale :math:`\lambda_l` of the noised latent is
:math:`\delta\, w_l`, with Weibull noise w as in :class:`~diffusers_rec.WeibullProcess`, instead of a Gaussian draw.

Lee & Kim 2024, *EDiffuRec: An Enhanced Diffusion Model for Sequential Recommendation*, with the settings of its public
code; Lu et al. 2019, *Understanding and Improving Transformer From a Multi-Particle Dynamic System Point of View*, for
the block. There, both feed-forwards have the factor 1/2; in EDiffuRec's code they have none.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from diffusers_rec.core.errors import check_float
from diffusers_rec.denoisers.added_latent import EPS, AddedLatentDenoiser, with_normal_weights
from diffusers_rec.nn.attention import TransformerBlock
from diffusers_rec.nn.dropout import Dropout
from diffusers_rec.processes.weibull import LEAST_SHAPE, weibull, weibull_mean


class MacaronDenoiser(AddedLatentDenoiser, name="macaron"):
    r"""``added-latent`` with two feed-forwards in a block, and with Weibull noise in the scale of the noised latent.

    In training, :math:`\lambda` is drawn for each item and dimension. In serving it is its mean, because a prediction
    is a function of the noise, the step and the history; the public code draws it there, too.

    Args:
        dim: Latent width D.
        max_length: Largest number of positions in a sequence, including noised ones.
        num_layers: Number of blocks.
        num_heads: Number of attention heads.
        dropout: Dropout rate of the attention, of every residual, and of the output of every block.
        embedding_dropout: Dropout rate of the items, before their layer norm.
        uncertainty: Factor delta of the Weibull noise in lambda.
        step_scale: Factor of n - 1 in the step embedding; 1000 / N in the public code.
        shape: Shape k of the Weibull noise.
        scale: Scale of the Weibull noise.
        offset: Number c added to the Weibull noise.
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
        shape: float = 0.5,
        scale: float = 2.0,
        offset: float = -1.0,
        seed: int = 0,
    ) -> None:
        super().__init__(
            dim,
            max_length,
            num_layers=num_layers,
            num_heads=num_heads,
            dropout=dropout,
            embedding_dropout=embedding_dropout,
            uncertainty=uncertainty,
            step_scale=step_scale,
            seed=seed,
        )
        self.shape = check_float("shape", shape, minimum=LEAST_SHAPE)
        self.scale = check_float("scale", scale, above=0)
        self.offset = check_float("offset", offset)

    @property
    def mean_scale(self) -> float:
        """Mean of lambda, by which the noised latent is multiplied."""
        return self.uncertainty * weibull_mean(self.shape, self.scale, self.offset)

    def _block(self) -> TransformerBlock:
        return with_normal_weights(_MacaronBlock(self.dim, self.num_heads, self.dropout))

    def _uncertain(self, like: Tensor) -> Tensor | float:
        if not self.training:
            return self.mean_scale
        return self.uncertainty * weibull(torch.empty_like(like).exponential_(), self.shape, self.scale, self.offset)


class _MacaronBlock(TransformerBlock):
    """A block with layer norms first, whose feed-forward is preceded by another one before the attention."""

    def __init__(self, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__(dim, num_heads, dropout, norm_first=True, activation=nn.GELU(approximate="tanh"), eps=EPS)
        self.first = nn.Sequential(
            nn.Linear(dim, 4 * dim), nn.GELU(approximate="tanh"), Dropout(dropout), nn.Linear(4 * dim, dim)
        )

    def forward(self, x: Tensor, mask: Tensor, last: int | None = None) -> Tensor:
        return super().forward(x + self.dropout(self.first(self.feed_forward_norm(x))), mask, last)
