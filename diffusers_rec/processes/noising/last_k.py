"""The strategy ``last-k``."""

from __future__ import annotations

import torch
from torch import Tensor

from diffusers_rec.core.errors import check_bool, check_int
from diffusers_rec.processes.noising.base import NoisingStrategy
from diffusers_rec.processes.noising.queries import Queries


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
        return Queries.ending_at(targets, self.k, width)

    def serving(self, lengths: Tensor, width: int) -> Queries:
        if not self.ahead:
            return super().serving(lengths, width)
        last = lengths[:, None] + self.k - 1
        joint = self.queries(last, width)
        return Queries(joint.visible, joint.positions, joint.count, torch.zeros_like(joint.answer))
