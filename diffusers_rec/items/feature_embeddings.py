r"""Embeddings that compute the vector of an item from its features.

.. math:: E_v = W f_v, \qquad E_v = W \phi(W_1 f_v + b_1), \qquad
          E_v = \frac{1}{|A_v|} \sum_{a \in A_v} w_a, \qquad E_v = e_v + E'(f_v)

The first two are functions of a feature vector :math:`f_v`, linear or with a hidden layer. The third is the mean over a
set of attributes :math:`A_v`. The fourth is a learned vector of the item plus one of the others. A config contains
sizes; the features are a buffer that is saved with the weights. The first three also have vectors for items that were
in no training sequence.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffusers_rec.core.errors import check_float, check_int, check_same
from diffusers_rec.core.randomness import isolated_rng, weight_seed
from diffusers_rec.items.embeddings import ItemEmbedding, TableEmbedding, rows
from diffusers_rec.items.features import AttributeBags, as_bags, as_vectors


class _ComputedEmbedding(ItemEmbedding):
    """Vectors computed from the rows of a buffer, which is ``empty`` until it is set."""

    features: Tensor
    empty: ClassVar[int]
    _set = False

    @property
    def takes_features(self) -> bool:
        return True

    @property
    def complete(self) -> bool:
        if not self._set and not self.features.is_meta:
            self._set = bool((self.features != self.empty).any())  # once, because each check would wait for the GPU
        return self._set

    def set_features(self, features: Any, *, first: int = 0) -> Self:
        check_int("first", first, minimum=0, maximum=self.num_items - 1)
        if first:
            self._check_complete()
        given = self._checked(features).to(self.features)
        if len(given) != self.num_items - first:
            raise ValueError(
                f"Expected features of {self.num_items - first} items, one row each in the order of their indices, "
                f"got {len(given)} rows."
            )
        if not first and not bool((given != self.empty).any()):
            raise ValueError("Expected features that distinguish items, got none at all: every row is empty.")
        parts = [self.features[:first], given] if first else [given]
        width = max(part.shape[1] for part in parts)
        self.features = torch.cat([F.pad(part, (0, width - part.shape[1]), value=self.empty) for part in parts])
        return self

    def vectors(self, items: Tensor | None = None) -> Tensor:
        self._check_complete()
        with torch.autocast(self.device.type, enabled=False):
            return self._computed(self.features if items is None else rows(self.features, items))

    def _check_complete(self) -> None:
        if not self.complete:
            raise ValueError(
                f"The features of {type(self).__name__} are not set. Build it by {type(self).__name__}.from_features("
                "features, dim), or call model.embedding.set_features(features)."
            )

    @abstractmethod
    def _checked(self, features: Any) -> Tensor:
        """Convert features to a tensor ``(N, ...)``."""

    @abstractmethod
    def _computed(self, features: Tensor) -> Tensor:
        """Compute vectors ``(..., D)`` from rows of features."""


class FeatureEmbedding(_ComputedEmbedding, name="features"):
    """A linear map, or a network with one hidden layer, of a feature vector of each item.

    Features are not standardised; standardise them if their entries differ in scale.

    Args:
        num_items: Number of items V.
        dim: Latent width D.
        num_features: Length F of the feature vectors.
        hidden: Width of the hidden layer (GELU); no hidden layer if 0.
        scale: See :class:`ItemEmbedding`.
        init_std: Standard deviation of the initial item vectors, for features of unit variance and no hidden layer.
        seed: Seed of the initial weights.
    """

    empty = 0

    def __init__(
        self,
        num_items: int,
        dim: int = 256,
        *,
        num_features: int,
        hidden: int = 0,
        scale: str = "learned",
        init_std: float = 0.1,
        seed: int = 0,
    ) -> None:
        super().__init__(num_items, dim, scale=scale)
        self.num_features = check_int("num_features", num_features, minimum=1)
        self.hidden = check_int("hidden", hidden, minimum=0)
        self.init_std = check_float("init_std", init_std, above=0)
        self.seed = check_int("seed", seed, minimum=0)
        width = self.hidden or self.num_features
        with isolated_rng(self.seed):
            self.inner = nn.Linear(self.num_features, self.hidden) if self.hidden else None
            self.weight = nn.Parameter(torch.randn(self.dim, width) * self.init_std / math.sqrt(width))
        self.register_buffer("features", torch.zeros(self.num_items, self.num_features))

    @classmethod
    def from_features(cls, features: Any, dim: int = 256, **settings: Any) -> Self:
        """Build an embedding from feature vectors.

        Args:
            features: Feature vectors in the order of the vocabulary, ``(V, F)``; :func:`feature_vectors` builds them
                from a mapping.
            dim: Latent width D.
            settings: Further constructor parameters.

        Raises:
            ValueError: The features have a wrong shape, are not finite, or are all zero.
        """
        given = as_vectors(features)
        return cls(len(given), dim, num_features=given.shape[1], **settings).set_features(given)

    def _checked(self, features: Any) -> Tensor:
        given = as_vectors(features)
        check_same("length of the given vectors", given.shape[1], "num_features of the embedding", self.num_features)
        return given

    def _computed(self, features: Tensor) -> Tensor:
        return F.linear(features if self.inner is None else F.gelu(self.inner(features)), self.weight)


class AttributeEmbedding(_ComputedEmbedding, name="attributes"):
    """Mean of the learned vectors of the attributes of an item; zero for an item without attributes.

    Args:
        num_items: Number of items V.
        dim: Latent width D.
        num_attributes: Number of different attributes.
        max_attributes: Maximum number of attributes per item; :meth:`set_features` updates it.
        scale: See :class:`ItemEmbedding`.
        init_std: Standard deviation of the initial attribute vectors.
        seed: Seed of the initial attribute vectors.
    """

    empty = -1

    def __init__(
        self,
        num_items: int,
        dim: int = 256,
        *,
        num_attributes: int,
        max_attributes: int = 1,
        scale: str = "learned",
        init_std: float = 0.1,
        seed: int = 0,
    ) -> None:
        super().__init__(num_items, dim, scale=scale)
        self.num_attributes = check_int("num_attributes", num_attributes, minimum=1)
        width = check_int("max_attributes", max_attributes, minimum=1)
        self.init_std = check_float("init_std", init_std, above=0)
        self.seed = check_int("seed", seed, minimum=0)
        with isolated_rng(self.seed):
            self.weight = nn.Parameter(torch.randn(self.num_attributes, self.dim) * self.init_std)
        self.register_buffer("features", torch.full((self.num_items, width), self.empty))

    @property
    def max_attributes(self) -> int:
        return self.features.shape[1]

    @classmethod
    def from_features(cls, features: AttributeBags | Any, dim: int = 256, **settings: Any) -> Self:
        """Build an embedding from attributes.

        Args:
            features: Result of :func:`attribute_bags`, or attribute indices in the order of the vocabulary, ``(V, A)``,
                padded with -1.
            dim: Latent width D.
            settings: Further constructor parameters.

        Raises:
            TypeError: The indices are not integers.
            ValueError: The indices have a wrong shape, or are all padding.
        """
        given = as_bags(features)
        number = len(features.attributes) if isinstance(features, AttributeBags) else int(given.max()) + 1
        return cls(len(given), dim, **{"num_attributes": max(1, number), **settings}).set_features(given)

    def _checked(self, features: Any) -> Tensor:
        given = as_bags(features)
        if int(given.max()) >= self.num_attributes:
            raise ValueError(
                f"Attribute indices must be below num_attributes={self.num_attributes}, got {int(given.max())}. For "
                "new items, call attribute_bags(items, attributes, known=bags.attributes) with the bags of the model."
            )
        return given

    def _computed(self, features: Tensor) -> Tensor:
        bags = features.reshape(-1, features.shape[-1])
        given = bags >= 0
        share = given.to(self.weight.dtype) / given.sum(-1, keepdim=True).clamp(min=1)
        means = F.embedding_bag(bags.clamp(min=0), self.weight, mode="sum", per_sample_weights=share)
        return means.view(*features.shape[:-1], self.dim)


class SummedEmbedding(TableEmbedding, name="table+features"):
    """Sum of a learned vector per item and a vector that another embedding computes from features.

    Args:
        num_items: Number of items V.
        dim: Latent width D.
        features: Embedding that computes vectors from features, or its config. Its ``scale`` must be ``"learned"``,
            because the sum is scaled.
        scale: See :class:`ItemEmbedding`.
        init_std: Standard deviation of the initial learned vectors.
        seed: Seed of the initial weights.
    """

    def __init__(
        self,
        num_items: int,
        dim: int = 256,
        *,
        features: ItemEmbedding | str | Mapping[str, Any],
        scale: str = "learned",
        init_std: float = 0.1,
        seed: int = 0,
    ) -> None:
        super().__init__(num_items, dim, scale=scale, init_std=init_std, seed=seed)
        size = {"num_items": self.num_items, "dim": self.dim, "seed": weight_seed(self.seed, "features")}
        self.features = ItemEmbedding.build_with(size, features)
        for name in ("num_items", "dim"):
            check_same(f"{name} of the features", getattr(self.features, name), f"{name} of the sum", size[name])
        check_same("scale of the features", self.features.scale, "what a part of a sum must have", "learned")

    @property
    def takes_features(self) -> bool:
        return self.features.takes_features

    @property
    def complete(self) -> bool:
        return self.features.complete

    def set_features(self, features: Any, *, first: int = 0) -> Self:
        self.features.set_features(features, first=first)
        return self

    def vectors(self, items: Tensor | None = None) -> Tensor:
        return super().vectors(items) + self.features.vectors(items)
