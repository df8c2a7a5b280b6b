"""The control: a denoiser that never sees noise, which leaves a plain next-item model.

Whatever a diffusion recommender claims is measured against it: the same parts, the same loss and data, and no xn.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from diffusers_rec.denoisers.base import Denoiser, check_shapes
from diffusers_rec.items.embeddings import ItemEmbedding
from diffusers_rec.items.heads import ItemHead
from diffusers_rec.processes.schedules import NoiseSchedule


class NoiselessDenoiser(Denoiser, name="noiseless"):
    """Asks ``base`` about zero at step N, whatever xn and the step are.

    Args:
        base: a denoiser, its name or its config.
        schedule: says N; shared, not owned.
        embedding: for a ``base`` given by name that shares it.
        head: for a ``base`` given by name that shares it.
        dim: D, for a ``base`` given by name.
        max_length: for a ``base`` given by name.
        seed: of the initial weights of a ``base`` given by name.
    """

    requires = frozenset({"embedding", "head", "schedule"})

    def __init__(
        self,
        base: Denoiser | str | Mapping[str, Any] = "conditional-mlp",
        *,
        schedule: NoiseSchedule,
        embedding: ItemEmbedding | None = None,
        head: ItemHead | None = None,
        dim: int = 256,
        max_length: int = 50,
        seed: int = 0,
    ) -> None:
        shared = {"schedule": schedule, "embedding": embedding, "head": head}
        given = {name: part for name, part in shared.items() if part is not None}
        built = Denoiser.build_with({"dim": dim, "max_length": max_length, "seed": seed, **given}, base)
        super().__init__(built.dim, built.max_length, seed)
        self.base = built
        self._shared = (embedding, head, schedule)  # outside the module tree: their owner trains and saves them

    @property
    def embedding(self) -> ItemEmbedding | None:
        return self._shared[0]

    @property
    def head(self) -> ItemHead | None:
        return self._shared[1]

    @property
    def schedule(self) -> NoiseSchedule:
        return self._shared[2]

    def encode(self, history: Tensor, mask: Tensor) -> Any:
        return self.base.encode(history, mask)

    def forward(
        self, xn: Tensor, timesteps: Tensor, visible: Tensor, context: Any, count: Tensor | None = None
    ) -> Tensor:
        check_shapes(xn, timesteps, visible, count)
        last = torch.full_like(visible, self.schedule.num_timesteps)
        return self.base(torch.zeros_like(xn), last, visible, context, count)
