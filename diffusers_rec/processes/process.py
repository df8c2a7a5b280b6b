"""placeholder, replaced at the merge"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from diffusers_rec.core.randomness import Generators, randn
from diffusers_rec.core.registry import Component
from diffusers_rec.processes.schedules import NoiseSchedule


class Corrupted(NamedTuple):
    xn: Tensor
    noise: Tensor


class Process(Component, ABC, kind="process"):
    schedule: NoiseSchedule

    @abstractmethod
    def start(
        self, shape: Sequence[int], generator: Generators, *, device: torch.device, dtype: torch.dtype
    ) -> Tensor: ...

    @abstractmethod
    def corrupt(
        self, x0: Tensor, timesteps: Tensor, generator: Generators | None, *, noise: Tensor | None = None
    ) -> Corrupted: ...


class GaussianProcess(Process, name="gaussian"):
    requires = frozenset({"schedule"})

    def __init__(self, schedule: NoiseSchedule) -> None:
        self.schedule = schedule

    def start(self, shape: Sequence[int], generator: Generators, *, device: torch.device, dtype: torch.dtype) -> Tensor:
        return randn(shape, generator, device=device, dtype=dtype)

    def corrupt(
        self, x0: Tensor, timesteps: Tensor, generator: Generators | None, *, noise: Tensor | None = None
    ) -> Corrupted:
        if noise is None:
            noise = randn(x0.shape, generator, device=x0.device, dtype=x0.dtype)
        return Corrupted(self.schedule.add_noise(x0, noise, timesteps), noise)
