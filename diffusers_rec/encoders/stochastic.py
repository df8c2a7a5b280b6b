r"""Stochastic self-attention (STOSA): items and states are Gaussians, and attention falls with their distance.

Latents of width D hold a mean and what a diagonal covariance is computed from (:mod:`diffusers_rec.nn.gaussians`). So
do the states. A layer projects means and covariances to queries, keys and values. For the distance of query and key,

.. math:: a_{ij} = \mathrm{softmax}_{j \le i}\big( -W_2^2(q_i, k_j) / \sqrt{d} \big), \qquad
          \mu_i' = \textstyle\sum_j a_{ij} \mu_j, \qquad \Sigma_i' = \textstyle\sum_j a_{ij}^2 \Sigma_j,

which is the sum of independent Gaussians; d is the width of a head. Residuals, layer norms and a feed-forward with ELU
follow, for means and covariances apart. Expanded, the score of a key is an inner product, less the squared norm of the
key: the norm of the query is the same for all keys.

Fan et al. 2022, *Sequential Recommendation via Stochastic Self-Attention*, WWW.
"""

from __future__ import annotations

import math

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from diffusers_rec.core.errors import check_bool
from diffusers_rec.encoders.base import CausalEncoder
from diffusers_rec.nn.attention import check_architecture
from diffusers_rec.nn.dropout import Dropout
from diffusers_rec.nn.gaussians import gaussian_points

_EPS = 1e-12


class StochasticEncoder(CausalEncoder, name="stochastic"):
    """A causal Transformer over Gaussians with Wasserstein attention.

    Args:
        dim: Width D of means and covariances together, even.
        max_length: Largest number of items.
        num_layers: Number of layers.
        num_heads: Number of attention heads; they must divide D / 2.
        attend_means: Whether attention updates the means, as the paper has it. In the authors' code it does not: the
            mean of a state is that of the last item and its place, and the layers change the covariances alone.
        dropout: Dropout rate of the inputs and every residual.
        seed: Seed of the initial weights; None draws them from torch's random state.
    """

    def __init__(
        self,
        dim: int = 128,
        max_length: int = 50,
        *,
        num_layers: int = 1,
        num_heads: int = 4,
        attend_means: bool = True,
        dropout: float = 0.3,
        seed: int | None = 0,
    ) -> None:
        super().__init__(dim, max_length, seed)
        self.num_layers, self.num_heads, self.dropout = check_architecture(dim, num_layers, num_heads, dropout)
        if dim // 2 % num_heads:
            raise ValueError(
                f"num_heads must divide dim / 2, the width of the means, got num_heads={num_heads} and dim={dim}."
            )
        self.attend_means = check_bool("attend_means", attend_means)
        with self.seeded():
            self.place = nn.Embedding(max_length, dim)
            self.layers = nn.ModuleList(
                _Layer(dim // 2, num_heads, self.dropout, attend_means=self.attend_means) for _ in range(num_layers)
            )
            for name, parameter in self.named_parameters():
                if name.endswith("bias"):
                    nn.init.zeros_(parameter)
                elif "norm" not in name:
                    nn.init.normal_(parameter, mean=0.01, std=0.02)
        self.norm = nn.LayerNorm(dim // 2, _EPS)
        self.drop = Dropout(self.dropout)

    def sequence(self, latents: Tensor) -> Tensor:
        mean, free = (self.drop(self.norm(x)) for x in (latents + self.place.weight[: latents.shape[1]]).chunk(2, -1))
        mean = F.elu(mean)
        for layer in self.layers:
            mean, free = layer(mean, F.elu(free) + 1)
        return torch.cat([mean, free], dim=-1)


class _Layer(nn.Module):
    """Wasserstein attention and feed-forward; the norm after the attention is one for means and covariances."""

    def __init__(self, width: int, num_heads: int, dropout: float, *, attend_means: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attend_means = attend_means
        self.mean = _Stream(width, dropout, updated=attend_means)
        self.covariance = _Stream(width, dropout, updated=True)
        self.norm = nn.LayerNorm(width, _EPS)

    def forward(self, mean: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor]:
        """Map means and covariances to means and what the covariances are computed from, each ``(B, L, W)``."""
        query = self._points(self.mean.query(mean), self.covariance.query(covariance))
        key = self._points(self.mean.key(mean), self.covariance.key(covariance))
        share = self._attention(query, key).to(mean.dtype)
        value = self._heads(F.elu(self.covariance.value(covariance)) + 1)
        free = self.covariance.update(covariance, self._merged(share.square() @ value), self.norm)
        if not self.attend_means:
            return mean, free
        value = self._heads(self.mean.value(mean))
        return self.mean.update(mean, self._merged(share @ value), self.norm), free

    def _attention(self, query: Tensor, key: Tensor) -> Tensor:
        """Shares of the keys, ``(B, H, L, L)``."""
        length, width = query.shape[-2], query.shape[-1] // 2
        with torch.autocast(query.device.type, enabled=False):
            scores = (2 * query @ key.mT - key.square().sum(-1)[..., None, :]) / math.sqrt(width)
        later = torch.ones(length, length, dtype=torch.bool, device=query.device).triu(1)
        return scores.masked_fill(later, -math.inf).softmax(-1)

    def _points(self, mean: Tensor, free: Tensor) -> Tensor:
        """Points of the Gaussians of each head, ``(B, H, L, 2 W/H)``."""
        return gaussian_points(torch.cat([self._heads(mean), self._heads(free)], dim=-1))

    def _heads(self, x: Tensor) -> Tensor:
        return rearrange(x, "b l (h d) -> b h l d", h=self.num_heads)

    def _merged(self, x: Tensor) -> Tensor:
        return rearrange(x, "b h l d -> b l (h d)")


class _Stream(nn.Module):
    """Projections and feed-forward of the means or of the covariances; without an update, queries and keys alone."""

    def __init__(self, width: int, dropout: float, *, updated: bool) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        if updated:
            self.value, self.out = nn.Linear(width, width), nn.Linear(width, width)
            self.feed_forward = nn.Sequential(nn.Linear(width, 4 * width), nn.ELU(), nn.Linear(4 * width, width))
            self.norm = nn.LayerNorm(width, _EPS)
            self.drop = Dropout(dropout)

    def update(self, x: Tensor, attended: Tensor, norm: nn.Module) -> Tensor:
        """Add both residuals to ``x``; ``norm`` follows the attention."""
        inner = norm(x + self.drop(self.out(attended)))
        return self.norm(inner + self.drop(self.feed_forward(inner)))
