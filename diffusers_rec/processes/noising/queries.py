"""Queries: what a prediction is about, and what it may see."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from diffusers_rec.core.entrances import guarded
from diffusers_rec.core.errors import check_int
from diffusers_rec.data.history import History


@guarded
@dataclass(frozen=True)
class Queries:
    """Q queries for each of B sequences.

    Attributes:
        visible: Number of leading items that a query sees clean, ``(B, Q)``.
        positions: Corrupted positions, ``visible``, ``visible + 1``, ..., ``(B, Q, K)``; undefined where padded.
        count: Number of the K positions that are real, ``(B, Q)``; the rest is padding. 0 where there is no query.
        answer: Index, among the K positions, of the one that predicts the next item, ``(B, Q)``.
        known: Which of the K positions hold their item, clean, ``(B, Q, K)``; none if None. The others are gaps.
    """

    visible: Tensor
    positions: Tensor
    count: Tensor
    answer: Tensor
    known: Tensor | None = None

    @classmethod
    def next_item(cls, lengths: Tensor) -> Queries:
        """One query per history, for the item after its ``lengths`` ``(B,)`` items: Q = K = 1."""
        return cls.ending_at(lengths[:, None], 1, 1)

    @classmethod
    def ending_at(cls, targets: Tensor, k: int, width: int) -> Queries:
        """Queries whose corrupted positions are the last ``k`` up to the target, or all of a shorter sequence.

        Args:
            targets: Target positions, ``(B, Q)``; -1 where there is no query.
            k: Largest number of corrupted positions.
            width: Number of positions K, at least that of the longest query.

        Raises:
            ValueError: targets that are not integers ``(B, Q)``, or a width below 1.
        """
        if targets.is_floating_point() or targets.dtype == torch.bool or targets.ndim != 2:
            raise ValueError(f"targets must be integers (B, Q), got {tuple(targets.shape)} of {targets.dtype}.")
        check_int("width", width, minimum=1)
        count = (targets + 1).clamp(max=k)
        visible = (targets + 1 - k).clamp(min=0)
        positions = visible[..., None] + torch.arange(width, device=targets.device)
        return cls(visible, positions, count, (count - 1).clamp(min=0))

    @property
    def mask(self) -> Tensor:
        """Mask of the real corrupted positions, ``(B, Q, K)``."""
        return torch.arange(self.positions.shape[-1], device=self.count.device) < self.count[..., None]

    @property
    def gaps(self) -> Tensor:
        """Mask of the real positions whose item is not known, ``(B, Q, K)``."""
        return self.mask if self.known is None else self.mask & ~self.known

    def steps(self, timesteps: Tensor) -> Tensor:
        """The steps of the positions: 0 where an item is known, else as they are."""
        if self.known is None:
            return timesteps
        steps = timesteps[..., None] if timesteps.ndim < self.known.ndim else timesteps
        return steps.expand_as(self.known).masked_fill(self.known, 0)

    @property
    def keys(self) -> Tensor:
        """Positions that attention may use: :attr:`mask`, but always with one position, so that no sum is empty."""
        return torch.arange(self.positions.shape[-1], device=self.count.device) < self.count.clamp(min=1)[..., None]

    @property
    def share(self) -> Tensor:
        """Weight of each position in a mean over its query, ``(B, Q, K, 1)``."""
        return (self.keys / self.keys.sum(-1, keepdim=True))[..., None]

    def last_visible(self, states: Tensor) -> Tensor:
        """Last state that each query sees, ``(B, Q, D)``; zero where it sees none.

        Args:
            states: States or latents of the history, ``(B, L, D)``.
        """
        from_none = F.pad(states, (0, 0, 1, 0))
        return from_none.gather(1, self.visible[..., None].expand(-1, -1, states.shape[-1]))

    def longest(self, length: int) -> int:
        """Largest number of visible items; ``length``, that of the history, while torch traces."""
        return length if torch.compiler.is_compiling() else int(self.visible.max())

    def cut(self, history: History) -> History:
        """History without the items that no query of the row sees."""
        return replace(history, lengths=torch.minimum(history.lengths, self.visible.amax(1)))

    def blind(self, null: bool | Tensor = True) -> Queries:
        """Hide the history from all queries, from none, or from those where ``null`` ``(B, Q)`` is True."""
        if isinstance(null, Tensor):
            return replace(self, visible=self.visible.masked_fill(null, 0))
        return replace(self, visible=torch.zeros_like(self.visible)) if null else self

    def repeat(self, times: int) -> Queries:
        """Repeat the sequence of queries, ``(B, times Q)``."""
        if times == 1:
            return self
        return Queries(
            self.visible.repeat(1, times),
            self.positions.repeat(1, times, 1),
            self.count.repeat(1, times),
            self.answer.repeat(1, times),
            None if self.known is None else self.known.repeat(1, times, 1),
        )
