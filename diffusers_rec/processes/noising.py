r"""Noising strategies: which positions of a sequence carry noise, and which step each of them is at.

A sequence of length p + 1 ends with the target at position p. A strategy turns p into a **query**: K corrupted
positions next to one another that see each other, and the first ``visible`` items of the sequence, clean. The paper's
choice (Eq. 7) corrupts the target alone, so K = 1 and ``visible`` = p. For each of B histories there are Q independent
queries.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from diffusers_rec.core.deprecation import warn_deprecated
from diffusers_rec.core.entrances import guarded
from diffusers_rec.core.errors import check_bool, check_int
from diffusers_rec.core.registry import Component
from diffusers_rec.data.history import History


@guarded
@dataclass(frozen=True)
class Queries:
    """Q queries about each of B sequences.

    Attributes:
        visible: ``(B, Q)``, how many of the first items are seen clean.
        positions: ``(B, Q, K)``, the corrupted positions, ``visible``, ``visible + 1``, ...; meaningless where padded.
        count: ``(B, Q)``, how many of the K are real; the rest is padding. 0 where there is no query.
        answer: ``(B, Q)``, which of the K predicts the next item.
    """

    visible: Tensor
    positions: Tensor
    count: Tensor
    answer: Tensor

    @classmethod
    def next_item(cls, lengths: Tensor) -> Queries:
        """One query a history, about the item that follows its ``lengths`` items ``(B,)``: Q = K = 1."""
        return _last(lengths[:, None], 1, 1)

    @property
    def mask(self) -> Tensor:
        """``(B, Q, K)``, True where a corrupted position is real."""
        return torch.arange(self.positions.shape[-1], device=self.count.device) < self.count[..., None]

    @property
    def keys(self) -> Tensor:
        """:attr:`mask`, with one position at least, so that nothing is divided by none: what attention may see."""
        return torch.arange(self.positions.shape[-1], device=self.count.device) < self.count.clamp(min=1)[..., None]

    def last_visible(self, states: Tensor) -> Tensor:
        """The last state that each query sees, zero where it sees none: ``(B, Q, D)``.

        Args:
            states: States or latents of the history, ``(B, L, D)``.
        """
        from_none = F.pad(states, (0, 0, 1, 0))
        return from_none.gather(1, self.visible[..., None].expand(-1, -1, states.shape[-1]))

    def cut(self, history: History) -> History:
        """The history as far as any query of a row sees it: its lengths end there."""
        return replace(history, lengths=torch.minimum(history.lengths, self.visible.amax(1)))

    def blind(self, null: bool | Tensor = True) -> Queries:
        """The same queries without any of the history: all, none, or those where ``null`` ``(B, Q)`` is True."""
        if isinstance(null, Tensor):
            return replace(self, visible=self.visible.masked_fill(null, 0))
        return replace(self, visible=torch.zeros_like(self.visible)) if null else self

    def repeat(self, times: int) -> Queries:
        """Every query so many times, all of them one after another, ``(B, times Q)``."""
        if times == 1:
            return self
        return Queries(
            self.visible.repeat(1, times),
            self.positions.repeat(1, times, 1),
            self.count.repeat(1, times),
            self.answer.repeat(1, times),
        )


class NoisingStrategy(Component, ABC, kind="noising"):
    """Turns target positions into queries. See the module's docstring.

    Args:
        independent_steps: each noised position has a timestep of its own, instead of one for the whole query.
    """

    entrances = "max_noised", "queries", "serving", "timestep_shape"

    def __init__(self, *, independent_steps: bool = False) -> None:
        self.independent_steps = check_bool("independent_steps", independent_steps)

    @property
    def new_items(self) -> int:
        """How many positions a query at serving time adds behind the history."""
        return 1

    @abstractmethod
    def max_noised(self, max_length: int) -> int:
        """The largest K for sequences of at most ``max_length`` items."""

    @abstractmethod
    def queries(self, targets: Tensor, width: int) -> Queries:
        """The queries that train the prediction of the items at ``targets``.

        Args:
            targets: ``(B, Q)`` positions, -1 where there is no query.
            width: K, the number of noised positions to hold, at least that of the longest query.
        """

    def questions(self, targets: Tensor, width: int) -> Queries:
        """Deprecated name of :meth:`queries`."""
        warn_deprecated("NoisingStrategy.questions", "NoisingStrategy.queries")
        return self.queries(targets, width)

    def serving(self, lengths: Tensor, width: int) -> Queries:
        """One query a history, about the item that follows it, Q = 1.

        Args:
            lengths: ``(B,)``, items in each history.
            width: K.
        """
        return self.queries(lengths[:, None], width)

    def timestep_shape(self, queries: Queries) -> torch.Size:
        """``(B, Q)`` for one step a query, ``(B, Q, K)`` with ``independent_steps``."""
        return queries.positions.shape if self.independent_steps else queries.visible.shape


class TargetOnly(NoisingStrategy, name="target"):
    """Noise the target alone (Eq. 7): the history stays bit for bit what it was. The paper's default."""

    def __init__(self) -> None:
        super().__init__()

    def max_noised(self, max_length: int) -> int:
        check_int("max_length", max_length, minimum=1)
        return 1

    def queries(self, targets: Tensor, width: int) -> Queries:
        return _last(targets, 1, width)


class LastK(NoisingStrategy, name="last-k"):
    """Noise the last k items, the target the last of them (Sec. 5.3.4); shorter sequences are noised whole.

    Args:
        k: how many.
        ahead: Query when serving. False: the next item alone, the last k - 1 known items being noised like
            in training, as in the paper's ablation. True: the next k items jointly, after the whole history, which the
            paper leaves to future work; the first of them is the next item.
        independent_steps: see :class:`NoisingStrategy`.
    """

    def __init__(self, k: int = 2, *, ahead: bool = False, independent_steps: bool = False) -> None:
        super().__init__(independent_steps=independent_steps)
        self.k = check_int("k", k, minimum=1)
        self.ahead = check_bool("ahead", ahead)

    @property
    def new_items(self) -> int:
        return self.k if self.ahead else 1

    def max_noised(self, max_length: int) -> int:
        return min(self.k, check_int("max_length", max_length, minimum=1))

    def queries(self, targets: Tensor, width: int) -> Queries:
        return _last(targets, self.k, width)

    def serving(self, lengths: Tensor, width: int) -> Queries:
        if not self.ahead:
            return super().serving(lengths, width)
        last = lengths[:, None] + self.k - 1
        joint = self.queries(last, width)
        return Queries(joint.visible, joint.positions, joint.count, torch.zeros_like(joint.answer))


class WholeSequence(NoisingStrategy, name="whole"):
    """Noise every item (Sec. 5.3.4): nothing of the history is seen clean."""

    def max_noised(self, max_length: int) -> int:
        return check_int("max_length", max_length, minimum=1)

    def queries(self, targets: Tensor, width: int) -> Queries:
        return _last(targets, width, width)


def _last(targets: Tensor, k: int, width: int) -> Queries:
    """Noise the last ``k`` of the positions 0..target."""
    if targets.is_floating_point() or targets.dtype == torch.bool or targets.ndim != 2:
        raise ValueError(f"targets must be integers (B, Q), got {tuple(targets.shape)} of {targets.dtype}.")
    check_int("width", width, minimum=1)
    count = (targets + 1).clamp(max=k)
    visible = (targets + 1 - k).clamp(min=0)
    positions = visible[..., None] + torch.arange(width, device=targets.device)
    return Queries(visible, positions, count, (count - 1).clamp(min=0))
