"""Histories and questions about them, for denoisers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from diffusers_rec.denoisers import Denoiser
from diffusers_rec.testing.inputs import gaussian, seeded


@dataclass(frozen=True)
class Asked:
    """B histories with Q questions each, of K noised positions, of which ``count`` are real.

    Attributes:
        history: ``(B, L, D)``; what lies behind an item's length is not zero.
        lengths: ``(B,)``.
        xn: ``(B, Q, K, D)``.
        timesteps: ``(B, Q)`` or ``(B, Q, K)``.
        visible: ``(B, Q)``.
        count: ``(B, Q)``.
    """

    history: Tensor
    lengths: Tensor
    xn: Tensor
    timesteps: Tensor
    visible: Tensor
    count: Tensor

    @property
    def mask(self) -> Tensor:
        """``(B, L)``, True where an item is real."""
        return torch.arange(self.history.shape[1]) < self.lengths[:, None]

    @property
    def real(self) -> Tensor:
        """``(B, Q, K)``, True where a noised position is."""
        return torch.arange(self.xn.shape[2]) < self.count[..., None]

    def of(self, denoiser: Denoiser) -> Tensor:
        """What the denoiser answers, ``(B, Q, K, D)``."""
        return denoiser(self.xn, self.timesteps, self.visible, denoiser.encode(self.history, self.mask), self.count)

    def at(self, rows: Any = slice(None), questions: Any = slice(None)) -> Asked:
        """Some of the rows and questions alone."""
        parts = {name: getattr(self, name)[rows][:, questions] for name in ("xn", "timesteps", "visible", "count")}
        return replace(self, history=self.history[rows], lengths=self.lengths[rows], **parts)

    def to(self, dtype: torch.dtype) -> Asked:
        """The same in another precision."""
        return replace(self, history=self.history.to(dtype), xn=self.xn.to(dtype))

    def at_step(self, n: int) -> Asked:
        """All questions at one step."""
        return replace(self, timesteps=torch.full_like(self.timesteps, n))

    def in_full(self) -> Asked:
        """Every history as long as it can be and seen whole, every noised position real."""
        batch, longest = self.history.shape[:2]
        return replace(
            self,
            lengths=torch.full((batch,), longest),
            visible=torch.full_like(self.visible, longest),
            count=torch.full_like(self.count, self.xn.shape[2]),
        )


def steps_of(denoiser: Denoiser, otherwise: int = 30) -> int:
    """N, where the denoiser has a schedule or says how many steps it knows."""
    schedule = getattr(denoiser, "schedule", denoiser)
    return int(getattr(schedule, "num_timesteps", otherwise))


def ask(
    denoiser: Denoiser, rows: int, questions: int, noised: int, length: int, *, own_steps: bool = False, seed: int = 0
) -> Asked:
    """B ``rows`` of ``length`` items with Q ``questions`` of K ``noised`` positions, all else as ``seed`` has it.

    Args:
        denoiser: says D and N.
        rows: B.
        questions: Q.
        noised: K.
        length: L.
        own_steps: each noised position has a timestep of its own.
        seed: of all that is drawn.
    """
    generator = seeded(seed)

    def integers(low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high + 1, shape, generator=generator)

    lengths = integers(0, length, rows)
    return Asked(
        history=gaussian(rows, length, denoiser.dim, seed=seed),
        lengths=lengths,
        xn=gaussian(rows, questions, noised, denoiser.dim, seed=seed + 1),
        timesteps=integers(1, steps_of(denoiser), rows, questions, *([noised] if own_steps else [])),
        visible=(torch.rand(rows, questions, generator=generator) * (lengths[:, None] + 1)).long(),
        count=integers(1, noised, rows, questions),
    )
