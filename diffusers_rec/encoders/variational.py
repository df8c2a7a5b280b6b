r"""A variational autoencoder of causal Transformers, with a latent vector at each place.

.. math:: h = \mathrm{Inference}(e_1 + p_1, \dots, e_i + p_i), \qquad \mu_i = W_\mu h_i + b_\mu, \qquad
          \log \sigma_i^2 = W_\sigma h_i + b_\sigma,

.. math:: z_i = \mu_i + \sigma_i \odot \epsilon_i, \quad \epsilon_i \sim \mathcal N(0, I), \qquad
          s_i = \mathrm{Generation}(z_1, \dots, z_i).

In training, :math:`z_i` is drawn. In serving it is the mean :math:`\mu_i`, because a state is a function of its prefix.
The penalty ``kl`` of a query that sees i items is the divergence of the latent at place i from the prior,

.. math:: \mathrm{KL}\big( \mathcal N(\mu_i, \sigma_i^2) \,\|\, \mathcal N(0, I) \big)
          = \tfrac12 \sum_d \big( \mu_{id}^2 + \sigma_{id}^2 - 1 - \log \sigma_{id}^2 \big).

Zhao et al. 2021, *Variational Self-attention Network for Sequential Recommendation* (VSAN), ICDE.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from diffusers_rec.core.errors import check_int
from diffusers_rec.data.history import History
from diffusers_rec.encoders.base import HistoryEncoder, at_last
from diffusers_rec.nn.attention import MAX_LAYERS, TransformerBlock, check_architecture
from diffusers_rec.nn.dropout import Dropout


class _Context(NamedTuple):
    """States, ``(B, L, D)``, and the divergence of the latent at each place, ``(B, L)``."""

    states: Tensor
    divergence: Tensor


class VariationalEncoder(HistoryEncoder, name="variational"):
    """Two causal Transformers with Gaussian latents between them. The docstring of the module has the equations.

    Layer norms follow attention and feed-forward, whose hidden width is D.

    Args:
        dim: Width D of items, latents and states.
        max_length: Largest number of items.
        num_layers: Number of Transformer blocks that infer the latents.
        generation_layers: Number of Transformer blocks that read them.
        num_heads: Number of attention heads.
        dropout: Dropout rate of the items, the attention and every residual.
        seed: Seed of the initial weights; None draws them from torch's random state.
    """

    penalised = ("kl",)

    def __init__(
        self,
        dim: int = 64,
        max_length: int = 50,
        *,
        num_layers: int = 1,
        generation_layers: int = 1,
        num_heads: int = 1,
        dropout: float = 0.3,
        seed: int | None = 0,
    ) -> None:
        super().__init__(dim, max_length, seed)
        self.num_layers, self.num_heads, self.dropout = check_architecture(dim, num_layers, num_heads, dropout)
        self.generation_layers = check_int("generation_layers", generation_layers, minimum=1, maximum=MAX_LAYERS)
        with self.seeded():
            self.place = nn.Embedding(max_length, dim)
            self.inference = self._blocks(self.num_layers)
            self.mean, self.log_variance = nn.Linear(dim, dim), nn.Linear(dim, dim)
            self.generation = self._blocks(self.generation_layers)
        self.drop = Dropout(self.dropout)

    def encode(self, history: History) -> _Context:  # padding is after all visible items
        latents = history.latent()
        length = latents.shape[1]
        mask = torch.ones(length, length, dtype=torch.bool, device=latents.device).tril()
        x = self.drop(latents + self.place.weight[:length])
        for block in self.inference:
            x = block(x, mask)
        mean, log_variance = self.mean(x), self.log_variance(x)
        z = mean + (log_variance / 2).exp() * torch.randn_like(mean) if self.training else mean
        for block in self.generation:
            z = block(z, mask)
        return _Context(z, divergence(mean, log_variance))

    def states(self, context: _Context, visible: Tensor) -> Tensor:
        return at_last(context.states, visible)

    def penalties(self, context: _Context, visible: Tensor) -> dict[str, Tensor]:
        return {"kl": context.divergence.gather(1, visible - 1)}

    def _blocks(self, number: int) -> nn.ModuleList:
        return nn.ModuleList(
            TransformerBlock(self.dim, self.num_heads, self.dropout, norm_first=False, hidden_dim=self.dim)
            for _ in range(number)
        )


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Divergence of Gaussians ``(..., D)`` from the standard one, ``(...)``, in float32 at least."""
    with torch.autocast(mean.device.type, enabled=False):
        dtype = torch.promote_types(mean.dtype, torch.float32)
        mean, log_variance = mean.to(dtype), log_variance.to(dtype)
        return (mean.square() + log_variance.exp() - 1 - log_variance).sum(-1) / 2
