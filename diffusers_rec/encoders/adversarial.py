r"""A recurrent variational autoencoder whose latents have no density: noise enters its layers, not a Gaussian.

With :math:`\nu(h) = h + \tanh(W \epsilon + b)`, :math:`\epsilon \sim \mathcal N(0, I)`, and S the softplus,

.. math:: g = \mathrm{GRU}(e_1, \dots, e_i), \qquad u = S(A\, \nu(g)), \qquad
          v = S\big( \mathrm{Conv}_5(\nu(u)) \big), \qquad z = C\big( g + S(B v) \big), \qquad s = \tanh(F z).

All layers but C and F have biases, and so have these; the convolution reads a place and the four before it. Training
draws :math:`\epsilon`. Serving replaces :math:`\tanh(W \epsilon + b)` by its mean, a Gauss-Hermite sum over
:math:`W_d \epsilon \sim \mathcal N(0, \|W_d\|^2)`. What a density would give, two more networks estimate:

- The *discriminator* T separates latents from draws of the prior :math:`p = \mathcal N(0, I)` (adversarial variational
  Bayes, Mescheder et al. 2017). The best one is :math:`\log q(z \mid x) - \log p(z)`, the integrand of the divergence.
- The *critic* K separates the latents of a history from those of another one. It bounds the mutual information of items
  and latents from below, by Jensen and Shannon's divergence (Hjelm et al. 2019).

At the last of the i items x of a query, with :math:`z' \sim p` and the latent :math:`\bar z` of the next history of the
batch that has items, at the same place or its last one, the penalties are

.. math:: \mathtt{kl} = \overline{T(x, z)}, \qquad
          \mathtt{discriminator} = -\overline{\log \sigma(T(x, z)) + \log \sigma(-T(x, z'))}, \qquad
          \mathtt{information} = S(-K(x, z)) + S(K(x, \bar z)).

The bar is a mean over the dimensions of z. The gradient of ``discriminator`` reaches T alone, and that of ``kl`` never
does. Thus one optimizer trains both sides. Without a next history, ``information`` is 0.

Xie et al. 2021, *Adversarial and Contrastive Variational Autoencoder for Sequential Recommendation* (ACVAE), WWW, in
the form of its code.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from diffusers_rec.core.errors import check_float, check_int
from diffusers_rec.data.history import History
from diffusers_rec.encoders.base import HistoryEncoder, at_last
from diffusers_rec.nn.dropout import Dropout

WINDOW = 5
"""Number of places that the convolution reads."""


class _Context(NamedTuple):
    """Items ``(B, L, D)``, their latents ``(B, L, Z)``, states ``(B, L, D)``, and lengths ``(B,)``."""

    items: Tensor
    latents: Tensor
    states: Tensor
    lengths: Tensor


class AdversarialEncoder(HistoryEncoder, name="adversarial"):
    """The encoder of ACVAE. The docstring of the module has the equations.

    Args:
        dim: Width D of items and states.
        max_length: Largest number of items.
        hidden_dim: Width of the recurrent state and of the layers with noise; D if None.
        latent_dim: Width Z of the latents; D if None.
        judge_dim: Width of discriminator and critic; D if None.
        dropout: Dropout rate of the items and of what C reads.
        judge_dropout: Dropout rate of the first and the last layer of the discriminator.
        seed: Seed of the initial weights; None draws them from torch's random state.
    """

    any_length = False
    penalised = "kl", "discriminator", "information"

    def __init__(
        self,
        dim: int = 128,
        max_length: int = 50,
        *,
        hidden_dim: int | None = None,
        latent_dim: int | None = None,
        judge_dim: int | None = None,
        dropout: float = 0.5,
        judge_dropout: float = 0.2,
        seed: int | None = 0,
    ) -> None:
        super().__init__(dim, max_length, seed)
        self.hidden_dim, self.latent_dim, self.judge_dim = hidden_dim, latent_dim, judge_dim
        hidden, width, judge = (
            dim if value is None else check_int(name, value, minimum=1)
            for name, value in (("hidden_dim", hidden_dim), ("latent_dim", latent_dim), ("judge_dim", judge_dim))
        )
        self.dropout = check_float("dropout", dropout, minimum=0, below=1)
        self.judge_dropout = check_float("judge_dropout", judge_dropout, minimum=0, below=1)
        with self.seeded():
            self.units = nn.GRU(dim, hidden, batch_first=True)
            self.noise = _Noise(hidden)
            self.before = nn.Linear(hidden, hidden)
            self.window = nn.Conv1d(hidden, 2 * hidden, WINDOW, padding=WINDOW - 1)
            self.behind = nn.Linear(2 * hidden, hidden)
            self.latent = nn.Linear(hidden, width)
            self.out = nn.Linear(width, dim)
            nn.init.xavier_normal_(self.out.weight)
            self.discriminator = _Discriminator(dim, width, judge, self.judge_dropout)
            self.critic = _Critic(dim + width, judge)
        self.drop = Dropout(self.dropout)

    def encode(self, history: History) -> _Context:  # padding is after all visible items
        items = history.latent()
        recurrent, _ = self.units(self.drop(items))
        inner = F.softplus(self.before(self.noise(recurrent)))
        wide = self.window(self.noise(inner).mT).mT[:, : items.shape[1]]
        inner = F.softplus(self.behind(F.softplus(wide)))
        latents = self.latent(self.drop(recurrent + inner))
        return _Context(items, latents, self.out(latents).tanh(), history.lengths)

    def states(self, context: _Context, visible: Tensor) -> Tensor:
        return at_last(context.states, visible)

    def penalties(self, context: _Context, visible: Tensor) -> dict[str, Tensor]:
        items, latents = context.items, context.latents
        prior = torch.randn_like(latents) if self.training else torch.zeros_like(latents)
        fixed = {name: weight.detach() for name, weight in self.discriminator.named_parameters()}
        divergence = functional_call(self.discriminator, fixed, (items, latents))
        own = self.discriminator(items.detach(), latents.detach())
        of_prior = self.discriminator(items.detach(), prior)
        told_apart = F.softplus(-own) + F.softplus(of_prior)
        own, other = self.critic(items, latents), self.critic(items, self._of_next(context))
        alone = (context.lengths > 0).sum() < 2
        penalties = {
            "kl": divergence,
            "discriminator": told_apart,
            "information": (F.softplus(-own) + F.softplus(other)).masked_fill(alone, 0),
        }
        return {name: at_last(values, visible).mean(-1) for name, values in penalties.items()}

    def _of_next(self, context: _Context) -> Tensor:
        """Latents of the next history of the batch that has items, at the same places or its last one."""
        rows = (context.lengths > 0).nonzero()[:, 0]
        following = torch.zeros_like(context.lengths).scatter(0, rows, rows.roll(-1))
        place = torch.arange(context.latents.shape[1], device=context.latents.device)
        place = torch.minimum(place, context.lengths.clamp(min=1)[:, None] - 1)
        return at_last(context.latents, place + 1)[following]


class _Noise(nn.Module):
    """Adds a layer of noise in training, and its mean in serving."""

    def __init__(self, dim: int, nodes: int = 32) -> None:
        super().__init__()
        self.layer = nn.Linear(dim, dim)
        points, weights = (torch.from_numpy(part) for part in np.polynomial.hermite_e.hermegauss(nodes))
        self.register_buffer("points", points, persistent=False)
        self.register_buffer("weights", weights / weights.sum(), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            return x + self.layer(torch.randn_like(x)).tanh()
        size = self.layer.weight.norm(dim=1, keepdim=True)
        at_points = (self.layer.bias[:, None] + size * self.points.to(size.dtype)).tanh()
        return x + at_points @ self.weights.to(size.dtype)


class _Discriminator(nn.Module):
    """Two residual layers, and half the squared latent, which is a part of the logarithm of the prior."""

    def __init__(self, dim: int, latent_dim: int, width: int, dropout: float) -> None:
        super().__init__()
        self.inner = nn.Linear(dim + latent_dim, width)
        self.first, self.second = (nn.ModuleList(nn.Linear(width, width) for _ in range(2)) for _ in range(2))
        self.out = nn.Linear(width, latent_dim)
        self.drop = Dropout(dropout)

    def forward(self, items: Tensor, latents: Tensor) -> Tensor:
        x = self.drop(self.inner(torch.cat([items, latents], dim=-1)))
        for first, second in zip(self.first, self.second, strict=True):
            x = F.elu(x + second(first(x)))
        return self.drop(self.out(x)) + latents.square() / 2


class _Critic(nn.Module):
    """Recurrent units over items and latents, with one output."""

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.units = nn.GRU(dim, width, batch_first=True)
        self.out = nn.Linear(width, 1)

    def forward(self, items: Tensor, latents: Tensor) -> Tensor:
        output: Tensor = self.out(F.gelu(self.units(torch.cat([items, latents], dim=-1))[0]))
        return output
