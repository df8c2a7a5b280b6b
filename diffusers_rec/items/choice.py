"""Which items a ranking may return: candidates, and what is excluded."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Choice:
    """Which items each of B users may be given.

    Attributes:
        excluded: Item indices to leave out, ``(B, E)``, padded with -1; None where there are none.
        candidates: Item indices to choose among, ``(C,)`` for all users, or ``(B, C)`` padded with -1; None where all
            items are.
    """

    excluded: Tensor | None
    candidates: Tensor | None

    def check(self, num_items: int) -> None:
        """Refuse what is no item.

        Raises:
            ValueError: an index outside 0..num_items - 1 that is no padding.
        """
        for name, items in (("excluded", self.excluded), ("candidates", self.candidates)):
            if items is not None and items.numel():
                first = -1 if items.ndim > 1 else 0
                low, high = int(items.min()), int(items.max())
                if low < first or high >= num_items:
                    raise ValueError(f"{name} must hold item indices in 0..{num_items - 1}, got {low}..{high}.")

    def take(self, users: slice) -> Choice:
        """The choice of some users."""
        excluded, candidates = self.excluded, self.candidates
        if candidates is not None and candidates.ndim > 1:
            candidates = candidates[users]
        return Choice(None if excluded is None else excluded[users], candidates)

    def mask_(self, scores: Tensor, items: slice) -> None:
        """Set the scores of a chunk's other items to -inf, in place, ``(B, chunk)``."""
        if self.candidates is not None:
            scores.masked_fill_(~among(self.candidates, items), -math.inf)
        if self.excluded is not None and self.excluded.shape[1]:
            scores.masked_fill_(among(self.excluded, items), -math.inf)


def among(indices: Tensor, items: slice) -> Tensor:
    """Which items of a chunk are among ``indices``, ``(..., N)`` padded with -1: boolean ``(..., chunk)``."""
    size = items.stop - items.start
    column = torch.where((indices >= items.start) & (indices < items.stop), indices - items.start, size)
    marks = torch.zeros(*indices.shape[:-1], size + 1, dtype=torch.bool, device=indices.device)
    return marks.scatter_(-1, column, True)[..., :-1]
