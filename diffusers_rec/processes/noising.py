r"""Noising strategies: which positions of a sequence carry noise.

A sequence of length p + 1 ends with the target at position p. A strategy turns p into a **query**: K consecutive
corrupted positions that see each other and the first ``visible`` items of the sequence, which are clean. The paper
(Eq. 7) corrupts only the target, so K = 1 and ``visible`` = p. Each of B histories has Q independent queries.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from diffusers_rec.core.deprecation import warn_deprecated
from diffusers_rec.core.entrances import guarded
from diffusers_rec.core.errors import check_bool, check_int
from diffusers_rec.core.randomness import uniform
from diffusers_rec.core.registry import Component
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
        return _last(lengths[:, None], 1, 1)

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


class NoisingStrategy(Component, ABC, kind="noising"):
    """Turns target positions into queries. See the docstring of the module.

    Args:
        independent_steps: Whether each noised position has its own timestep, instead of one timestep per query.
    """

    entrances = "max_noised", "queries", "training", "serving", "timestep_shape"
    noises_history: ClassVar[bool] = False
    """Whether, in training, the denoiser is also given noised copies of the items of the history."""
    draws_gaps: bool = False
    """Whether training draws which positions of a query keep their items, whatever their steps are."""

    def __init__(self, *, independent_steps: bool = False) -> None:
        self.independent_steps = check_bool("independent_steps", independent_steps)

    @property
    def new_items(self) -> int:
        """Number of positions that a query adds after the history at serving time."""
        return 1

    @abstractmethod
    def max_noised(self, max_length: int) -> int:
        """Largest K for sequences of at most ``max_length`` items."""

    @abstractmethod
    def queries(self, targets: Tensor, width: int) -> Queries:
        """Queries to train the prediction of the items at ``targets``.

        Args:
            targets: Target positions, ``(B, Q)``; -1 where there is no query.
            width: Number of noised positions K, at least that of the longest query.
        """

    def training(self, targets: Tensor, width: int, generator: Generator) -> Queries:
        """Queries of a training batch; by default those of :meth:`queries`, and nothing is drawn.

        Args:
            targets: See :meth:`queries`.
            width: See :meth:`queries`.
            generator: Generator for a strategy that draws its queries.
        """
        return self.queries(targets, width)

    def questions(self, targets: Tensor, width: int) -> Queries:
        """Deprecated name of :meth:`queries`."""
        warn_deprecated("NoisingStrategy.questions", "NoisingStrategy.queries")
        return self.queries(targets, width)

    def serving(self, lengths: Tensor, width: int) -> Queries:
        """One query per history, for the item that follows it, Q = 1.

        Args:
            lengths: Number of items in each history, ``(B,)``.
            width: Number of noised positions K.
        """
        return self.queries(lengths[:, None], width)

    def timestep_shape(self, queries: Queries) -> torch.Size:
        """Shape of the timesteps: ``(B, Q)``, or ``(B, Q, K)`` with ``independent_steps``."""
        return queries.positions.shape if self.independent_steps else queries.visible.shape


class TargetOnly(NoisingStrategy, name="target"):
    """Noises only the target (Eq. 7); the history stays clean. The paper's default."""

    def __init__(self) -> None:
        super().__init__()

    def max_noised(self, max_length: int) -> int:
        check_int("max_length", max_length, minimum=1)
        return 1

    def queries(self, targets: Tensor, width: int) -> Queries:
        return _last(targets, 1, width)


class EveryItem(TargetOnly, name="every-item"):
    """Noises the target and, in training, copies of all items of the history, each item with a step of its own.

    The denoiser sees the history both clean and noised; it must read the copies, as ``autoregressive`` does. When
    serving, they are the clean latents. Chen et al. 2025, *ADRec*; independent levels of noise under a causal mask are
    *diffusion forcing* (Chen et al. 2024).
    """

    noises_history = True

    def check_fit(self, model: Any) -> None:
        """See :meth:`Component.check_fit <diffusers_rec.Component>`."""
        if not model.denoiser.reads_copies:
            raise ValueError(
                f"The parts do not fit: the noising {self.registered_name!r} noises copies of the history, but the "
                f"denoiser {model.denoiser.registered_name!r} does not read them. Use the denoiser 'autoregressive', "
                "or the noising 'target'."
            )
        if model.source.registered_name != "zero":
            raise ValueError(
                f"The parts do not fit: the noising {self.registered_name!r} noises copies of the history about zero, "
                f"but the source {model.source.registered_name!r} centres the target elsewhere. Use source='zero', or "
                "the noising 'target'."
            )


class LastK(NoisingStrategy, name="last-k"):
    """Noises the last k items, up to and including the target (Sec. 5.3.4), or all items of a shorter sequence.

    Args:
        k: Number of noised items.
        ahead: Whether serving predicts the next k items jointly, given the whole history. The first of them is the next
            item. The paper leaves this to future work. If False, serving predicts only the next item, and the last
            k - 1 known items are noised as in training, as in the paper's ablation.
        independent_steps: See :class:`NoisingStrategy`.
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


class Gaps(NoisingStrategy, name="gaps"):
    """Gaps among known items: any number of the k positions up to the target are corrupted, the others are clean.

    In training, each row of a batch gives some queries that end at targets drawn from its own. A query has g of 1..k
    gaps with a probability in proportion to 1/g, at random positions; k gaps are k next items. Among queries of k
    positions, each g therefore gives as many gaps as any other, and a model learns what every order of filling in asks
    for, the first item as often as the last (Hoogeboom et al. 2022, *ARDM*). A query sees one item of the history at
    least, so that it is shorter at the beginning of a row.

    When serving, a query asks for the next item alone, ``recommend``, or has the gaps of a call, ``complete`` and
    ``slate``.

    Args:
        k: Largest number of positions of a query.
        per_row: Largest number of queries that a row of a training batch gives.
        independent_steps: See :class:`NoisingStrategy`.
    """

    draws_gaps = True

    def __init__(self, k: int = 5, *, per_row: int = 12, independent_steps: bool = False) -> None:
        super().__init__(independent_steps=independent_steps)
        self.k = check_int("k", k, minimum=1)
        self.per_row = check_int("per_row", per_row, minimum=1)

    def check_fit(self, model: Any) -> None:
        """See :meth:`Component.check_fit <diffusers_rec.Component>`."""
        if self.k >= model.max_length:
            raise ValueError(
                f"The parts do not fit: gaps of k={self.k} positions leave no room for a history in max_length="
                f"{model.max_length}. Lower k, or raise max_length."
            )

    def max_noised(self, max_length: int) -> int:
        return min(self.k, check_int("max_length", max_length, minimum=1))

    def queries(self, targets: Tensor, width: int) -> Queries:
        return _last(targets, self.k, width)

    def serving(self, lengths: Tensor, width: int) -> Queries:
        return Queries.next_item(lengths)

    def training(self, targets: Tensor, width: int, generator: Generator) -> Queries:
        _check_targets(targets)
        device, shape = targets.device, (len(targets), min(self.per_row, targets.shape[1]))
        number = uniform(shape, generator, device=device)
        found = (targets >= 0).sum(1, keepdim=True)
        # The targets of a row may be anywhere in it: sorted, they are its last ones.
        place = targets.shape[1] - found + (number * found).long()
        chosen = targets.sort(1).values.gather(1, place.clamp(max=targets.shape[1] - 1))
        chosen = chosen.masked_fill(torch.arange(shape[1], device=device) >= found, -1)  # no more than it has targets
        queries = self.queries(chosen, width)
        skipped = ((queries.visible == 0) & (queries.count > 1)).long()
        count = queries.count - skipped
        queries = replace(
            queries,
            visible=queries.visible + skipped,
            positions=queries.positions + skipped[..., None],
            count=count,
            answer=(count - 1).clamp(min=0),
        )
        harmonic = (1 / torch.arange(1, self.k + 1, device=device)).cumsum(0)
        drawn = uniform(shape, generator, device=device) * harmonic[(count - 1).clamp(min=0)]
        gaps = 1 + (drawn[..., None] >= harmonic).sum(-1)
        order = uniform(queries.positions.shape, generator, device=device).masked_fill(~queries.mask, 2.0)
        return replace(queries, known=(order.argsort(-1).argsort(-1) >= gaps[..., None]) & queries.mask)


class WholeSequence(NoisingStrategy, name="whole"):
    """Noises every item, so that no item of the history is clean (Sec. 5.3.4)."""

    def max_noised(self, max_length: int) -> int:
        return check_int("max_length", max_length, minimum=1)

    def queries(self, targets: Tensor, width: int) -> Queries:
        return _last(targets, width, width)


def _last(targets: Tensor, k: int, width: int) -> Queries:
    """Noise the last ``k`` of the positions 0..target."""
    _check_targets(targets)
    check_int("width", width, minimum=1)
    count = (targets + 1).clamp(max=k)
    visible = (targets + 1 - k).clamp(min=0)
    positions = visible[..., None] + torch.arange(width, device=targets.device)
    return Queries(visible, positions, count, (count - 1).clamp(min=0))


def _check_targets(targets: Tensor) -> None:
    if targets.is_floating_point() or targets.dtype == torch.bool or targets.ndim != 2:
        raise ValueError(f"targets must be integers (B, Q), got {tuple(targets.shape)} of {targets.dtype}.")
