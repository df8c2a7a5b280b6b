r"""Noising strategies: which positions of a sequence carry noise, and which step each of them is at.

A sequence of length p + 1 ends with the target at position p. A strategy turns p into a **question**: K noised
positions next to one another that see each other, and the first ``visible`` items of the sequence, clean. The paper's
choice (Eq. 7) noises the target alone, so K = 1 and ``visible`` = p. For each of B histories there are Q independent
questions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusers_rec.core.errors import check_bool, check_int
from diffusers_rec.core.registry import Component


@dataclass(frozen=True)
class Questions:
    """Q questions about each of B sequences.

    Attributes:
        visible: ``(B, Q)``, how many of the first items are seen clean.
        positions: ``(B, Q, K)``, the noised positions, ``visible``, ``visible + 1``, ...; meaningless where padded.
        count: ``(B, Q)``, how many of the K are real; the rest is padding. 0 where there is no question.
        answer: ``(B, Q)``, which of the K predicts the next item.
    """

    visible: Tensor
    positions: Tensor
    count: Tensor
    answer: Tensor

    @property
    def mask(self) -> Tensor:
        """``(B, Q, K)``, True where a noised position is real."""
        return torch.arange(self.positions.shape[-1], device=self.count.device) < self.count[..., None]


class NoisingStrategy(Component, ABC, kind="noising"):
    """Turns target positions into questions. See the module's docstring.

    Args:
        independent_steps: each noised position has a timestep of its own, instead of one for the whole question.
    """

    entrances = "max_noised", "questions", "serving", "timestep_shape"

    def __init__(self, *, independent_steps: bool = False) -> None:
        self.independent_steps = check_bool("independent_steps", independent_steps)

    @property
    def new_items(self) -> int:
        """How many positions a question at serving time adds behind the history."""
        return 1

    @abstractmethod
    def max_noised(self, max_length: int) -> int:
        """The largest K for sequences of at most ``max_length`` items."""

    @abstractmethod
    def questions(self, targets: Tensor, width: int) -> Questions:
        """The questions that train the prediction of the items at ``targets``.

        Args:
            targets: ``(B, Q)`` positions, -1 where there is no question.
            width: K, the number of noised positions to hold, at least that of the longest question.
        """

    def serving(self, lengths: Tensor, width: int) -> Questions:
        """One question a history, about the item that follows it, Q = 1.

        Args:
            lengths: ``(B,)``, items in each history.
            width: K.
        """
        return self.questions(lengths[:, None], width)

    def timestep_shape(self, questions: Questions) -> torch.Size:
        """``(B, Q)`` for one step a question, ``(B, Q, K)`` with ``independent_steps``."""
        return questions.positions.shape if self.independent_steps else questions.visible.shape


class TargetOnly(NoisingStrategy, name="target"):
    """Noise the target alone (Eq. 7): the history stays bit for bit what it was. The paper's default."""

    def __init__(self) -> None:
        super().__init__()

    def max_noised(self, max_length: int) -> int:
        check_int("max_length", max_length, minimum=1)
        return 1

    def questions(self, targets: Tensor, width: int) -> Questions:
        return _last(targets, 1, width)


class LastK(NoisingStrategy, name="last-k"):
    """Noise the last k items, the target the last of them (Sec. 5.3.4); shorter sequences are noised whole.

    Args:
        k: how many.
        ahead: what is asked at serving time. False: the next item alone, the last k - 1 known items being noised like
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

    def questions(self, targets: Tensor, width: int) -> Questions:
        return _last(targets, self.k, width)

    def serving(self, lengths: Tensor, width: int) -> Questions:
        if not self.ahead:
            return super().serving(lengths, width)
        last = lengths[:, None] + self.k - 1
        joint = self.questions(last, width)
        return Questions(joint.visible, joint.positions, joint.count, torch.zeros_like(joint.answer))


class WholeSequence(NoisingStrategy, name="whole"):
    """Noise every item (Sec. 5.3.4): nothing of the history is seen clean."""

    def max_noised(self, max_length: int) -> int:
        return check_int("max_length", max_length, minimum=1)

    def questions(self, targets: Tensor, width: int) -> Questions:
        return _last(targets, width, width)


def _last(targets: Tensor, k: int, width: int) -> Questions:
    """Noise the last ``k`` of the positions 0..target."""
    if targets.is_floating_point() or targets.dtype == torch.bool or targets.ndim != 2:
        raise ValueError(f"targets must be integers (B, Q), got {tuple(targets.shape)} of {targets.dtype}.")
    check_int("width", width, minimum=1)
    count = (targets + 1).clamp(max=k)
    visible = (targets + 1 - k).clamp(min=0)
    positions = visible[..., None] + torch.arange(width, device=targets.device)
    return Questions(visible, positions, count, (count - 1).clamp(min=0))
