r"""Item embeddings: the first transition of the forward process, :math:`x_0 = E(v)` (Eq. 6, with beta_0 = 0).

An embedding has a learned vector for every item. The clean latent is this vector, or this vector scaled to unit
variance. Heads that share an embedding use the unscaled vectors.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from itertools import chain
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffusers_rec.core.errors import check_choice, check_float, check_int, check_same
from diffusers_rec.core.randomness import isolated_rng
from diffusers_rec.core.registry import Component


class ItemEmbedding(nn.Module, Component, ABC, kind="embedding"):
    r"""Maps items to vectors and clean latents. A subclass implements :meth:`vectors`.

    The noise has unit variance per dimension, so the scale of :math:`x_0` determines the signal-to-noise ratio.

    Args:
        num_items: Number of items V.
        dim: Latent width D.
        scale: Scale of the clean latents. ``"learned"``: :math:`x_0` is the learned vector (the paper). ``"unit"``: the
            vector divided by its root mean square, so that every item has :math:`\|x_0\|^2 = D`.
    """

    entrances = "forward", "vectors", "set_features"

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        if cls is ItemEmbedding:
            raise TypeError(
                "ItemEmbedding is abstract, expected one of its subclasses. Use TableEmbedding(num_items, dim) for one "
                "learned vector per item."
            )
        return super().__new__(cls)

    def __init__(self, num_items: int, dim: int, *, scale: str = "learned") -> None:
        super().__init__()
        self.num_items = check_int("num_items", num_items, minimum=1)
        self.dim = check_int("dim", dim, minimum=1)
        self.scale = check_choice("scale", scale, ("learned", "unit"))

    @abstractmethod
    def vectors(self, items: Tensor | None = None) -> Tensor:
        """Unscaled vectors, in the dtype of the weights.

        Args:
            items: Item indices in 0..V-1, of any shape; all items if None.

        Returns:
            Vectors of the shape of ``items`` followed by D, or ``(V, D)``.

        Raises:
            ValueError: An index is not an item (checked only on the CPU), or features are not set.
        """

    def forward(self, items: Tensor) -> Tensor:
        """Clean latents of items in 0..V-1, of the shape of ``items`` followed by D.

        Raises:
            ValueError: As :meth:`vectors`.
        """
        return self._scaled(self.vectors(items))

    def table(self) -> Tensor:
        """Clean latents of all items, ``(V, D)``."""
        return self._scaled(self.vectors())

    def _scaled(self, vectors: Tensor) -> Tensor:
        if self.scale == "learned":
            return vectors
        return F.normalize(vectors, dim=-1) * math.sqrt(self.dim)

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the weights."""
        return self._a_float().dtype

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self._a_float().device

    def _a_float(self) -> Tensor:
        return next(each for each in chain(self.parameters(), self.buffers()) if each.is_floating_point())

    # Embeddings that compute vectors from features override the following.

    @property
    def takes_features(self) -> bool:
        """Whether the vectors depend on features that :meth:`set_features` sets."""
        return False

    @property
    def complete(self) -> bool:
        """Whether every item has a vector; False until features are set."""
        return True

    def set_features(self, features: Any, *, first: int = 0) -> Self:
        """Set the features of items ``first``..V-1. They are saved with the weights.

        Args:
            features: Features in the order of the item indices, one row per item.
            first: Index of the first item.

        Returns:
            The embedding itself.

        Raises:
            ValueError: The features have a wrong shape, or the embedding takes no features.
        """
        raise ValueError(
            f"{type(self).__name__} takes no features. Use an embedding that does: 'features', 'attributes' or "
            "'table+features'."
        )

    def check_fit(self, model: Any) -> None:
        """See :meth:`Component.check_fit <diffusers_rec.Component>`."""
        check_same("items of the embedding", self.num_items, "items of the vocabulary", len(model.vocabulary))


class TableEmbedding(ItemEmbedding, name="table"):
    """One learned vector per item.

    Args:
        num_items: Number of items V.
        dim: Latent width D.
        scale: See :class:`ItemEmbedding`.
        init_std: Standard deviation of the initial vectors, which the paper does not state. With ``"learned"`` and
            D = 256, latents of unit variance are recognisable at most steps of the sqrt schedule, so the model would
            learn to copy the target.
        seed: Seed of the initial vectors.
    """

    def __init__(
        self, num_items: int, dim: int = 256, *, scale: str = "learned", init_std: float = 0.1, seed: int = 0
    ) -> None:
        super().__init__(num_items, dim, scale=scale)
        self.init_std = check_float("init_std", init_std, above=0)
        self.seed = check_int("seed", seed, minimum=0)
        with isolated_rng(self.seed):
            self.weight = nn.Parameter(torch.randn(self.num_items, self.dim) * self.init_std)

    def vectors(self, items: Tensor | None = None) -> Tensor:
        return self.weight if items is None else rows(self.weight, items)


def rows(table: Tensor, items: Tensor) -> Tensor:
    """Select rows of a table.

    Args:
        table: Table with one row per item, ``(V, N)``.
        items: Item indices in 0..V-1, of any shape.

    Returns:
        Rows, of the shape of ``items`` followed by N.

    Raises:
        ValueError: An index is not an item (checked only on the CPU).
    """
    try:  # a check beforehand would wait for the GPU
        return F.embedding(items, table)
    except IndexError as error:
        bounds = f"{int(items.min())}..{int(items.max())}"
        raise ValueError(f"items must hold indices in 0..{len(table) - 1}, got {bounds}.") from error
