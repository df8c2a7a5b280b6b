r"""Item heads: the last transition of the reverse process, latent to a distribution over items (Eq. 8).

Every head is an inner product, :math:`\mathrm{logits}_v = q(x) \cdot k_v + b_v`, so a ranking can process a large
catalogue in chunks. A subclass implements the queries, the keys and optionally the bias.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffusers_rec.core.errors import check_bool, check_float, check_int, check_same
from diffusers_rec.core.randomness import isolated_rng
from diffusers_rec.core.registry import Component
from diffusers_rec.items.cross_entropy import chunked_cross_entropy
from diffusers_rec.items.embeddings import ItemEmbedding
from diffusers_rec.items.negatives import NegativeSample, sampled_cross_entropy
from diffusers_rec.nn.gaussians import gaussian_points


class ItemHead(nn.Module, Component, ABC, kind="head"):
    """Scores items by an inner product with the latent, always in float32 or float64, also under autocast."""

    made_by: ClassVar[str] = "model.head"
    entrances = "queries", "keys", "bias", "scoring_keys", "logits", "loss", "pair_scores"
    fixed_dims: int = 0
    """Number of trailing dimensions of queries and keys that the loss gives no gradient."""

    def check_fit(self, model: Any) -> None:
        """See :meth:`Component.check_fit <diffusers_rec.Component>`."""
        if "embedding" in self.requires and not model.embedding.complete:
            return  # no keys yet
        keys, dim = self.keys(), model.embedding.dim
        length = self.queries(keys.new_zeros(1, dim)).shape[1]  # a head may map latents to vectors of another length
        expected = "dim of the embedding" if length == dim else "length of its queries"
        check_same("dim of the head", keys.shape[1], expected, length)
        check_same("items of the head", len(keys), "items of the vocabulary", len(model.vocabulary))

    @abstractmethod
    def queries(self, latent: Tensor) -> Tensor:
        """Map latents ``(..., D)`` to query vectors ``(..., F)``; usually F = D."""

    @abstractmethod
    def keys(self, items: Tensor | None = None) -> Tensor:
        """Key vectors of ``items`` ``(N,)``, ``(N, F)``; of all items, ``(V, F)``, if None."""

    def bias(self, items: Tensor | None = None) -> Tensor | None:
        """Biases of ``items`` ``(N,)``, ``(N,)``; of all items, ``(V,)``, if None. Returns None if there is no bias."""
        return None

    def scoring_keys(self, items: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Keys and bias in the dtype of the scores."""
        keys, bias = self.keys(items), self.bias(items)
        dtype = torch.promote_types(keys.dtype, torch.float32)
        return keys.to(dtype), None if bias is None else bias.to(dtype)

    def logits(self, latent: Tensor) -> Tensor:
        """Map latents ``(..., D)`` to unnormalised log-probabilities ``(..., V)``."""
        with torch.autocast(latent.device.type, enabled=False):
            keys, bias = self.scoring_keys()
            return F.linear(self.queries(latent.to(keys.dtype)), keys, bias)

    def loss(
        self,
        latent: Tensor,
        target: Tensor,
        negatives: NegativeSample | None = None,
        *,
        weights: Tensor | None = None,
    ) -> Tensor:
        """Mean cross-entropy of the targets among all items, or against sampled negatives.

        Args:
            latent: Predicted latents, ``(..., D)``.
            target: Item indices of the targets, ``(...)``.
            negatives: Negatives of the targets; all items if None.
            weights: Weights of the targets in the mean, ``(M,)`` for M targets; all equal if None.
        """
        if negatives is not None:
            positive, negative = self.pair_scores(latent, target, negatives)
            return sampled_cross_entropy(positive, negative, target.flatten(), negatives, weights)
        device, target = latent.device.type, target.flatten()
        # Autocast does not apply to scores and softmax, but to the matrix products of the gradient.
        gradient_dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
        with torch.autocast(device, enabled=False):
            keys, bias = self.scoring_keys()
            queries = self.queries(latent.to(keys.dtype)).reshape(-1, keys.shape[-1])
            return chunked_cross_entropy(
                queries, keys, bias, target, gradient_dtype=gradient_dtype, fixed=self.fixed_dims, weights=weights
            )

    def pair_scores(
        self, latent: Tensor, target: Tensor, negatives: NegativeSample | None = None
    ) -> tuple[Tensor, Tensor]:
        """Scores of the targets, and of the items that they are compared with.

        Args:
            latent: Predicted latents, ``(..., D)``.
            target: Item indices of the targets, ``(...)``.
            negatives: Negatives of the targets; all items if None.

        Returns:
            Scores of M targets, ``(M,)``, and of N items for each, ``(M, N)``.
        """
        with torch.autocast(latent.device.type, enabled=False):
            keys, bias = self.scoring_keys(target.flatten())
            queries = self.queries(latent.to(keys.dtype)).reshape(-1, keys.shape[-1])
            positive = (queries * keys).sum(-1)
            positive = positive if bias is None else positive + bias
            if negatives is None or negatives.items.ndim == 1:
                return positive, F.linear(queries, *self.scoring_keys(None if negatives is None else negatives.items))
            keys, bias = self.scoring_keys(negatives.items.flatten())
            keys = keys.view(*negatives.items.shape, -1)
            negative = (keys @ queries[..., None])[..., 0]
            return positive, negative if bias is None else negative + bias.view_as(negative)


class LinearHead(ItemHead, name="linear"):
    r"""A linear layer, :math:`\mathrm{softmax}(W x + b)` (Eq. 8). The paper's default.

    Args:
        num_items: Number of items V.
        dim: Latent width D.
        seed: Seed of the initial weights.
    """

    def __init__(self, num_items: int, dim: int = 256, *, seed: int = 0) -> None:
        super().__init__()
        self.num_items = check_int("num_items", num_items, minimum=1)
        self.dim = check_int("dim", dim, minimum=1)
        self.seed = check_int("seed", seed, minimum=0)
        with isolated_rng(self.seed):
            self.weight = nn.Parameter((torch.rand(self.num_items, self.dim) * 2 - 1) / math.sqrt(self.dim))
        self.offset = nn.Parameter(torch.zeros(self.num_items))

    def queries(self, latent: Tensor) -> Tensor:
        return latent

    def keys(self, items: Tensor | None = None) -> Tensor:
        return _rows(self.weight, items)

    def bias(self, items: Tensor | None = None) -> Tensor:
        return _rows(self.offset, items)


class _SharedHead(ItemHead):
    """A head whose keys come from the item embedding.

    The embedding is kept outside the module tree, because its owner trains and saves it.
    """

    requires = frozenset({"embedding"})

    def __init__(self, embedding: ItemEmbedding) -> None:
        super().__init__()
        self._held = (embedding,)

    @property
    def embedding(self) -> ItemEmbedding:
        return self._held[0]


class TiedHead(_SharedHead, name="tied"):
    r"""The unscaled item vectors as weights, :math:`\mathrm{logits}_v = x \cdot E_v + b_v`.

    Args:
        embedding: Item embedding, shared and not owned.
        use_bias: Whether to learn a bias b.
    """

    def __init__(self, embedding: ItemEmbedding, *, use_bias: bool = True) -> None:
        super().__init__(embedding)
        self.use_bias = check_bool("use_bias", use_bias)
        self.offset = nn.Parameter(torch.zeros(embedding.num_items)) if self.use_bias else None

    def queries(self, latent: Tensor) -> Tensor:
        return latent

    def keys(self, items: Tensor | None = None) -> Tensor:
        return self.embedding.vectors(items)

    def bias(self, items: Tensor | None = None) -> Tensor | None:
        return None if self.offset is None else _rows(self.offset, items)


class CosineHead(_SharedHead, name="cosine"):
    r"""Cosine similarity, :math:`\mathrm{logits}_v = \cos(x, E_v) / \tau`.

    Args:
        embedding: Item embedding, shared and not owned.
        temperature: Temperature tau.
    """

    def __init__(self, embedding: ItemEmbedding, *, temperature: float = 0.07) -> None:
        super().__init__(embedding)
        self.temperature = check_float("temperature", temperature, above=0)

    def queries(self, latent: Tensor) -> Tensor:
        return F.normalize(latent, dim=-1) / self.temperature

    def keys(self, items: Tensor | None = None) -> Tensor:
        return F.normalize(self.embedding.vectors(items), dim=-1)


class NormalizedHead(_SharedHead, name="normalized"):
    r"""Item vectors of any length, and the direction of the latent: :math:`\mathrm{logits}_v = E_v \cdot x / \|x\|`.

    The length of the latent does not count, and that of an item does. It ranks as ``tied`` without a bias.

    Lee & Kim 2024, *EDiffuRec: An Enhanced Diffusion Model for Sequential Recommendation*: the normalised loss.

    Args:
        embedding: Item embedding, shared and not owned.
    """

    def queries(self, latent: Tensor) -> Tensor:
        return F.normalize(latent, dim=-1)

    def keys(self, items: Tensor | None = None) -> Tensor:
        return self.embedding.vectors(items)


class WassersteinHead(_SharedHead, name="wasserstein"):
    r"""Minus the squared 2-Wasserstein distance of Gaussians with diagonal covariance.

    .. math:: \mathrm{logits}_v = -\|\mu - \mu_v\|^2 - \|\sigma - \sigma_v\|^2
              = 2\, (\mu;\, \sigma) \cdot (\mu_v;\, \sigma_v) - \|(\mu_v;\, \sigma_v)\|^2 - \|(\mu;\, \sigma)\|^2

    Latents and item vectors hold the mean in their first half and what the covariance is computed from in the second
    (:mod:`diffusers_rec.nn.gaussians`). Fan et al. 2022, *STOSA*.

    Args:
        embedding: Item embedding of an even width, shared and not owned.
    """

    def __init__(self, embedding: ItemEmbedding) -> None:
        super().__init__(embedding)
        if embedding.dim % 2:
            raise ValueError(
                f"WassersteinHead: dim must be even, for means and covariances of the same width, got {embedding.dim}."
            )

    def check_fit(self, model: Any) -> None:
        """See :meth:`Component.check_fit <diffusers_rec.Component>`."""
        super().check_fit(model)
        scale = getattr(model.embedding, "scale", "learned")
        if scale != "learned":
            raise ValueError(
                "The parts do not fit: the head 'wasserstein' reads item vectors as they are, but the embedding's "
                f"scale={scale!r} changes latents. Use scale='learned'."
            )

    def queries(self, latent: Tensor) -> Tensor:
        point = gaussian_points(latent)
        return torch.cat([2 * point, -_norms(point)], dim=-1)

    def keys(self, items: Tensor | None = None) -> Tensor:
        point = gaussian_points(self.embedding.vectors(items))
        return torch.cat([point, torch.ones_like(point[..., :1])], dim=-1)

    def bias(self, items: Tensor | None = None) -> Tensor:
        return -_norms(gaussian_points(self.embedding.vectors(items)))[..., 0]


def _norms(points: Tensor) -> Tensor:
    """Squared norms, ``(..., 1)``."""
    return points.square().sum(-1, keepdim=True)


def _rows(table: Tensor, items: Tensor | None) -> Tensor:
    return table if items is None else table.index_select(0, items)
