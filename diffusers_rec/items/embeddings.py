r"""The first transition of the forward process: item to clean latent, :math:`x_0 = E(v)` (Eq. 6, with beta_0 = 0)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffusers_rec.core.errors import check_choice, check_float, check_int, check_same
from diffusers_rec.core.randomness import isolated_rng
from diffusers_rec.core.registry import Component


class ItemEmbedding(nn.Module, Component, kind="embedding", name="table"):
    r"""One learned vector an item, and the scale at which diffusion sees it.

    The noise has unit variance per dimension, so the scale of :math:`x_0` decides how much of it drowns.

    Args:
        num_items: V.
        dim: D.
        scale: ``"learned"``: :math:`x_0` is the learned vector (the paper). ``"unit"``: the vector over its root mean
            square, so that every item has :math:`\|x_0\|^2 = D` whatever the optimiser does to its length.
        init_std: standard deviation of the initial vectors, which the paper does not say. With ``"learned"``, latents
            of unit variance at D 256 stay recognisable at most steps of the sqrt schedule, and training learns to copy.
        seed: of the initial vectors.
    """

    entrances = ("forward",)

    def __init__(
        self, num_items: int, dim: int = 256, *, scale: str = "learned", init_std: float = 0.1, seed: int = 0
    ) -> None:
        super().__init__()
        self.num_items = check_int("num_items", num_items, minimum=1)
        self.dim = check_int("dim", dim, minimum=1)
        self.scale = check_choice("scale", scale, ("learned", "unit"))
        self.init_std = check_float("init_std", init_std, above=0)
        self.seed = check_int("seed", seed, minimum=0)
        with isolated_rng(self.seed):
            self.weight = nn.Parameter(torch.randn(self.num_items, self.dim) * self.init_std)

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the vectors."""
        return self.weight.dtype

    def check_fit(self, model: Any) -> None:
        """See :meth:`Component.check_fit <diffusers_rec.Component>`."""
        check_same("items of the embedding", self.num_items, "items of the vocabulary", len(model.vocabulary))

    def forward(self, items: Tensor) -> Tensor:
        """Item indices in 0..V-1, any shape, to clean latents, that shape with D behind it.

        Raises:
            ValueError: an index that is no item's (noticed on the CPU alone).
        """
        try:  # not looked for beforehand, for which a GPU would be waited
            vectors = F.embedding(items, self.weight)
        except IndexError as error:
            bounds = f"{int(items.min())}..{int(items.max())}"
            raise ValueError(f"items must hold indices in 0..{self.num_items - 1}, got {bounds}.") from error
        return self._scaled(vectors)

    def table(self) -> Tensor:
        """The clean latent of every item, ``(V, D)``."""
        return self._scaled(self.weight)

    def _scaled(self, vectors: Tensor) -> Tensor:
        if self.scale == "learned":
            return vectors
        return F.normalize(vectors, dim=-1) * math.sqrt(self.dim)
