"""Inputs of the denoiser suite: histories, queries, corrupted latents and steps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from diffusers_rec.data.history import History
from diffusers_rec.denoisers import Denoiser
from diffusers_rec.processes.noising import Queries
from diffusers_rec.testing.contract import SIZES
from diffusers_rec.testing.inputs import gaussian, seeded


@dataclass(frozen=True)
class DenoiserInput:
    """Input of one prediction.

    Attributes:
        history: B histories with latents and times; latents of padding are not zero.
        queries: Q queries per history, of K positions.
        xn: Corrupted latents, ``(B, Q, K, D)``.
        timesteps: Step n of each query, ``(B, Q)``, or of each position, ``(B, Q, K)``.
    """

    history: History
    queries: Queries
    xn: Tensor
    timesteps: Tensor

    @property
    def real(self) -> Tensor:
        """Mask of the real corrupted positions, ``(B, Q, K)``."""
        return self.queries.mask

    def predict(self, denoiser: Denoiser, *, null: bool | Tensor = False) -> Tensor:
        """Predict ``(B, Q, K, D)`` with a new encoding and condition."""
        condition = denoiser.condition(denoiser.encode(self.history), self.queries, null=null)
        prediction: Tensor = denoiser(self.xn, self.timesteps, condition)
        return prediction

    def select(self, rows: Any = slice(None), queries: Any = slice(None)) -> DenoiserInput:
        """Select rows and queries."""
        return DenoiserInput(
            self.history.take(rows),
            each_part(self.queries, lambda part: part[rows][:, queries]),
            self.xn[rows][:, queries],
            self.timesteps[rows][:, queries],
        )

    def to(self, dtype: torch.dtype) -> DenoiserInput:
        """Convert latents to another dtype."""
        history = self.history.with_latents(self.history.latent().to(dtype))
        return replace(self, history=history, xn=self.xn.to(dtype))

    def at_step(self, n: int) -> DenoiserInput:
        """Set all queries to step n."""
        return replace(self, timesteps=torch.full_like(self.timesteps, n))

    def with_latents(self, latents: Tensor) -> DenoiserInput:
        """Replace the latents of the history."""
        return replace(self, history=self.history.with_latents(latents))

    def with_visible(self, visible: Tensor, count: Tensor | None = None) -> DenoiserInput:
        """Change the number of visible items and of real positions of each query."""
        count = self.queries.count if count is None else count
        return replace(self, queries=queries_of(visible, count, self.xn.shape[2]))

    def full(self) -> DenoiserInput:
        """Input with the longest histories, completely visible, and all corrupted positions real."""
        batch, longest = self.history.items.shape
        whole = replace(self, history=replace(self.history, lengths=torch.full((batch,), longest)))
        visible = torch.full_like(self.queries.visible, longest)
        return whole.with_visible(visible, torch.full_like(self.queries.count, self.xn.shape[2]))


def each_part(queries: Queries, change: Any) -> Queries:
    """Apply a function to each tensor of the queries."""
    return Queries(*(change(part) for part in (queries.visible, queries.positions, queries.count, queries.answer)))


def queries_of(visible: Tensor, count: Tensor, width: int) -> Queries:
    """Queries for the ``width`` positions after ``visible`` items, including padding."""
    positions = visible[..., None] + torch.arange(width)
    return Queries(visible, positions, count, (count - 1).clamp(min=0))


def num_timesteps(denoiser: Denoiser, default: int = 30) -> int:
    """N of the schedule of the denoiser or of the denoiser, if it has one."""
    return int(getattr(getattr(denoiser, "schedule", denoiser), "num_timesteps", default))


def random_input(
    denoiser: Denoiser, rows: int, queries: int, width: int, length: int, *, own_steps: bool = False, seed: int = 0
) -> DenoiserInput:
    """Draw a random input.

    Args:
        denoiser: Denoiser that defines D and N.
        rows: Number of histories B.
        queries: Number of queries Q.
        width: Number of positions K, including padding.
        length: Number of positions L of the histories, including padding.
        own_steps: Whether each corrupted position has its own timestep, instead of one per query.
        seed: Seed of all random numbers.
    """
    generator = seeded(seed)

    def integers(low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high + 1, shape, generator=generator)

    lengths = integers(0, length, rows)
    timesteps = integers(1, num_timesteps(denoiser), rows, queries, *([width] if own_steps else []))
    visible = (torch.rand(rows, queries, generator=generator) * (lengths[:, None] + 1)).long()
    count = integers(1, width, rows, queries)
    items = integers(0, SIZES["num_items"] - 1, rows, length)
    features = {name: integers(0, 1, rows, *shape) for name, shape in denoiser.user_features.items()}
    return DenoiserInput(
        History(
            items,
            lengths,
            times=torch.arange(length).expand(rows, length),
            features=features,
            latents=gaussian(rows, length, denoiser.dim, seed=seed),
        ),
        queries_of(visible, count, width),
        gaussian(rows, queries, width, denoiser.dim, seed=seed + 1),
        timesteps,
    )
