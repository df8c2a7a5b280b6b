"""What the denoiser suite predicts from: histories, queries about them, corrupted latents and their steps."""

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
        history: B histories with latents and times; the latents of the padding are not zero.
        queries: Q queries a history, of K positions.
        xn: Corrupted latents, ``(B, Q, K, D)``.
        timesteps: Step n of each query, ``(B, Q)``, or of each position, ``(B, Q, K)``.
    """

    history: History
    queries: Queries
    xn: Tensor
    timesteps: Tensor

    @property
    def real(self) -> Tensor:
        """True where a corrupted position is real, ``(B, Q, K)``."""
        return self.queries.mask

    def predict(self, denoiser: Denoiser, *, null: bool | Tensor = False) -> Tensor:
        """The prediction from an encoding and a condition of its own, ``(B, Q, K, D)``."""
        condition = denoiser.condition(denoiser.encode(self.history), self.queries, null=null)
        prediction: Tensor = denoiser(self.xn, self.timesteps, condition)
        return prediction

    def select(self, rows: Any = slice(None), queries: Any = slice(None)) -> DenoiserInput:
        """Some of the rows and queries."""
        return DenoiserInput(
            self.history.take(rows),
            each_part(self.queries, lambda part: part[rows][:, queries]),
            self.xn[rows][:, queries],
            self.timesteps[rows][:, queries],
        )

    def to(self, dtype: torch.dtype) -> DenoiserInput:
        """The same latents in another precision."""
        history = self.history.with_latents(self.history.latent().to(dtype))
        return replace(self, history=history, xn=self.xn.to(dtype))

    def at_step(self, n: int) -> DenoiserInput:
        """All queries at step n."""
        return replace(self, timesteps=torch.full_like(self.timesteps, n))

    def with_latents(self, latents: Tensor) -> DenoiserInput:
        """Other latents of the history."""
        return replace(self, history=self.history.with_latents(latents))

    def with_visible(self, visible: Tensor, count: Tensor | None = None) -> DenoiserInput:
        """Queries that see other numbers of items, with other numbers of real positions."""
        count = self.queries.count if count is None else count
        return replace(self, queries=queries_of(visible, count, self.xn.shape[2]))

    def full(self) -> DenoiserInput:
        """The longest histories, visible as a whole, with all corrupted positions real."""
        batch, longest = self.history.items.shape
        whole = replace(self, history=replace(self.history, lengths=torch.full((batch,), longest)))
        visible = torch.full_like(self.queries.visible, longest)
        return whole.with_visible(visible, torch.full_like(self.queries.count, self.xn.shape[2]))


def each_part(queries: Queries, change: Any) -> Queries:
    """Queries with each of their tensors changed."""
    return Queries(*(change(part) for part in (queries.visible, queries.positions, queries.count, queries.answer)))


def queries_of(visible: Tensor, count: Tensor, width: int) -> Queries:
    """Queries about the positions that follow ``visible`` items, ``width`` of them with padding."""
    positions = visible[..., None] + torch.arange(width)
    return Queries(visible, positions, count, (count - 1).clamp(min=0))


def num_timesteps(denoiser: Denoiser, default: int = 30) -> int:
    """N of the denoiser's schedule or of the denoiser itself, where it has one."""
    return int(getattr(getattr(denoiser, "schedule", denoiser), "num_timesteps", default))


def random_input(
    denoiser: Denoiser, rows: int, queries: int, width: int, length: int, *, own_steps: bool = False, seed: int = 0
) -> DenoiserInput:
    """A random input.

    Args:
        denoiser: Denoiser, from which D and N are read.
        rows: Number of histories B.
        queries: Number of queries Q.
        width: Number of positions K, the padding included.
        length: Number of positions L of the histories, the padding included.
        own_steps: A timestep for each corrupted position instead of one for each query.
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
