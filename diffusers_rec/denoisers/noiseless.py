"""The control: a denoiser that never sees noise, which leaves a plain next-item model.

Whatever a diffusion recommender claims is measured against it: the same parts, the same loss and data, and no xn.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from diffusers_rec.denoisers.base import Denoiser
from diffusers_rec.schedules import NoiseSchedule


class NoiselessDenoiser(Denoiser, name="noiseless"):
    """Asks ``base`` about zero at step N, whatever xn and the step are.

    Args:
        base: a denoiser, its name or its config.
        schedule: says N; shared, not owned.
        dim: D, for a ``base`` given by name.
        max_length: for a ``base`` given by name.
        seed: of the initial weights of a ``base`` given by name.
    """

    context = frozenset({"schedule"})

    def __init__(
        self,
        base: Denoiser | str | Mapping[str, Any] = "conditional-mlp",
        *,
        schedule: NoiseSchedule,
        dim: int = 256,
        max_length: int = 50,
        seed: int = 0,
    ) -> None:
        built = Denoiser.build_with({"dim": dim, "max_length": max_length, "seed": seed}, base)
        super().__init__(built.dim, built.max_length, seed)
        self.base = built
        self._shared = (schedule,)  # outside the module tree, as its owner's

    @property
    def schedule(self) -> NoiseSchedule:
        return self._shared[0]

    def encode(self, history: Tensor, mask: Tensor) -> Any:
        return self.base.encode(history, mask)

    def forward(
        self, xn: Tensor, timesteps: Tensor, visible: Tensor, context: Any, count: Tensor | None = None
    ) -> Tensor:
        last = torch.full_like(visible, self.schedule.num_timesteps)
        return self.base(torch.zeros_like(xn), last, visible, context, count)
