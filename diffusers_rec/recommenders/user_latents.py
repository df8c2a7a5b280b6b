r"""Diffusion of user latents, between the encoders and the decoder of a variational autoencoder.

The items may be divided into clusters C. Each cluster has an encoder of its own, and the latents of the clusters are
put end to end:

.. math:: (\mu_c, \log \sigma_c^2) = \tanh(W_c\, x_{C} + b_c), \qquad z_0 = \mu + \sigma \epsilon, \qquad
          \mathrm{logits} = W \hat z_0 + b.

The loss is the multinomial cross-entropy of the items, the divergence of :math:`\mathcal N(\mu, \sigma^2)` from
:math:`\mathcal N(0, I)`, and the bound of the diffusion of :math:`z_0`:

.. math:: \mathcal L = - x^\top \log \mathrm{softmax}(\mathrm{logits}) + \gamma\, \mathrm{KL} + \lambda\,
          \frac1D \sum_n \frac{w_n}{N} \|z_0 - f_\theta(z_n, n)\|^2.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Generator, Tensor, nn

from diffusers_rec.core.entrances import guarded
from diffusers_rec.core.errors import check_float, check_int
from diffusers_rec.core.randomness import isolated_rng, randn, weight_seed
from diffusers_rec.data.batching import Batch
from diffusers_rec.data.history import History
from diffusers_rec.data.vocabulary import Vocabulary
from diffusers_rec.nn.dropout import Dropout
from diffusers_rec.processes.schedules import NoiseSchedule
from diffusers_rec.processes.timesteps import TimestepSampler
from diffusers_rec.recommenders.trainable import Loss
from diffusers_rec.recommenders.user_diffusion import GaussianVectorModel


@guarded
class UserLatentDiffusion(GaussianVectorModel, model_name="user-latent-diffusion"):
    r"""Gaussian diffusion of user latents (L-DiffRec of Wang et al. 2023, *Diffusion Recommender Model*).

    See the module for the loss. A chain starts from :math:`\mu` of the history and ends with the decoder's logits.
    With ``oldest_weight`` below 1, it is LT-DiffRec.

    Args:
        items: See :class:`~diffusers_rec.recommenders.user_vectors.UserVectorModel`.
        schedule: Noise levels of the steps.
        clusters: Cluster of each item, from 0, in the order of the items; one cluster if None.
        latent_dim: Width D of the latents. A cluster has a share in proportion to its items, one dimension at least;
            the last cluster has the rest.
        widths: Widths of the hidden layers of the network that denoises.
        max_length: See :class:`~diffusers_rec.recommenders.user_vectors.UserVectorModel`.
        oldest_weight: See :class:`~diffusers_rec.recommenders.user_vectors.UserVectorModel`.
        timesteps: Steps that are trained on; ``"importance"`` learns from the weighted losses.
        weighting: Weights w: ``"bound"``, or ``"uniform"`` for 1 at all steps.
        bound_scale: Factor lambda of the bound of the diffusion.
        divergence_scale: Final factor gamma of the divergence.
        divergence_steps: Number of training steps in which gamma would increase linearly from 0 to 1. It stops at its
            final value; 0 starts there.
        step_dim: See :class:`~diffusers_rec.recommenders.user_vectors.UserVectorModel`.
        dropout: Dropout rate of the corrupted latent.
        encoder_dropout: Dropout rate of the user's vector, which is also the target of the cross-entropy.
        temperature: Temperature of the softmax of the logits.
        seed: See :class:`~diffusers_rec.recommenders.user_vectors.UserVectorModel`.

    Attributes:
        updates: Number of training steps so far.
    """

    updates: Tensor

    def __init__(
        self,
        items: Vocabulary | Iterable[Hashable],
        *,
        schedule: NoiseSchedule | str | Mapping[str, Any],
        clusters: Sequence[int] | None = None,
        latent_dim: int = 300,
        widths: Sequence[int] = (300,),
        max_length: int = 1000,
        oldest_weight: float = 1.0,
        timesteps: TimestepSampler | str | Mapping[str, Any] = "importance",
        weighting: str = "bound",
        bound_scale: float = 0.03,
        divergence_scale: float = 0.3,
        divergence_steps: int = 200,
        step_dim: int = 10,
        dropout: float = 0.5,
        encoder_dropout: float = 0.1,
        temperature: float = 1.0,
        seed: int = 0,
    ) -> None:
        self.latent_dim = check_int("latent_dim", latent_dim, minimum=1)
        super().__init__(
            items,
            schedule=schedule,
            widths=widths,
            max_length=max_length,
            oldest_weight=oldest_weight,
            timesteps=timesteps,
            weighting=weighting,
            step_dim=step_dim,
            dropout=dropout,
            temperature=temperature,
            seed=seed,
        )
        self.bound_scale = check_float("bound_scale", bound_scale, minimum=0)
        self.divergence_scale = check_float("divergence_scale", divergence_scale, minimum=0)
        self.divergence_steps = check_int("divergence_steps", divergence_steps, minimum=0)
        self.encoder_dropout = check_float("encoder_dropout", encoder_dropout, minimum=0, below=1)
        size = len(self.vocabulary)
        self.clusters = None if clusters is None else [check_int("each of clusters", c, minimum=0) for c in clusters]
        self._order, counts = _sorted(self.clusters or [0] * size, size)
        self._counts, self._dims = counts, _shares(counts, latent_dim)
        self.dropped = Dropout(self.encoder_dropout)
        with isolated_rng(weight_seed(self.seed, "autoencoder")):
            pairs = zip(counts, self._dims, strict=True)
            self.encoders = nn.ModuleList(nn.Linear(count, 2 * dim) for count, dim in pairs)
            self.decoder = nn.Linear(latent_dim, size)
            for layer in (*self.encoders, self.decoder):
                nn.init.xavier_normal_(layer.weight)
                nn.init.zeros_(layer.bias)
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    def _new_network(self) -> nn.Module:
        return self._perceptron(self.latent_dim)

    def encode(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the variance of the latents of user vectors, ``(B, D)`` each."""
        order = torch.tensor(self._order, device=vectors.device)
        parts = torch.split(vectors[:, order], self._counts, dim=1)
        found = [encoder(part).tanh() for encoder, part in zip(self.encoders, parts, strict=True)]
        means, log_variances = zip(*(part.chunk(2, dim=1) for part in found), strict=True)
        return torch.cat(means, dim=1), torch.cat(log_variances, dim=1)

    def forward(self, batch: Batch, generator: Generator) -> Loss:
        """The loss of a batch, a mean over rows.

        Args:
            batch: Rows of items; which of them are targets has no effect.
            generator: Source of timesteps, noise and dropout.
        """
        with isolated_rng(generator, self.device):  # dropout draws from torch's global state
            vectors = self.dropped(self.vectors(batch.history))
            mean, log_variance = self.encode(vectors)
            latent = mean
            if self.training:
                drawn = randn(mean.shape, generator, device=mean.device, dtype=mean.dtype)
                latent = mean + (log_variance / 2).exp() * drawn
            bound, predicted = self._bound(latent, generator)
            logits = self.decoder(predicted)
        with torch.autocast(vectors.device.type, enabled=False):
            logits, mean, log_variance = (part.to(vectors.dtype) for part in (logits, mean, log_variance))
            entropy = -(logits.log_softmax(-1) * vectors).sum(-1).mean()
            divergence = (mean.square() + log_variance.exp() - log_variance - 1).sum(-1).mean() / 2
        total = self.bound_scale * bound.total + entropy + self._divergence_weight() * divergence
        named = {"cross-entropy": entropy.detach(), "divergence": divergence.detach(), **bound.named}
        return Loss(total, named, bound.observed)

    def update(self, observed: Mapping[str, Tensor]) -> None:
        """Count the training step, and show the timestep sampler what was observed."""
        super().update(observed)
        self.updates += 1

    def denoise(self, history: History) -> Tensor:
        """Run the chain from the latents of histories to logits of all items, ``(B, V)``."""
        logits: Tensor = self.decoder(self._chain(self.encode(self.vectors(history))[0]))
        return logits

    def _divergence_weight(self) -> Tensor:
        if not self.divergence_steps:
            return torch.tensor(self.divergence_scale, device=self.device)
        return (self.updates / self.divergence_steps).clamp(max=self.divergence_scale)


def _sorted(clusters: Sequence[int], size: int) -> tuple[list[int], list[int]]:
    """Items in the order of their clusters, and the number of items of each."""
    if len(clusters) != size:
        raise ValueError(f"clusters must hold one number for each of the {size} items, got {len(clusters)}.")
    counts = [clusters.count(cluster) for cluster in range(max(clusters) + 1)]
    if 0 in counts:
        raise ValueError(f"Every cluster needs an item, but cluster {counts.index(0)} has none. Number them from 0.")
    return sorted(range(size), key=lambda item: clusters[item]), counts


def _shares(counts: Sequence[int], latent_dim: int) -> list[int]:
    """Dimensions of the latent for each cluster."""
    dims = [max(1, latent_dim * count // sum(counts)) for count in counts[:-1]]
    if sum(dims) >= latent_dim:
        raise ValueError(f"latent_dim={latent_dim} is too small for {len(counts)} clusters. Use a larger one.")
    return [*dims, latent_dim - sum(dims)]
