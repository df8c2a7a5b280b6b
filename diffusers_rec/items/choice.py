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
        excluded: indices, ``(B, E)``, padded with -1.
        everyone: whether each item is a candidate for all users, ``(V,)``; None where all are.
        each: candidates of each user, ``(B, C)``, padded with -1; None where all users have the same.
    """

    excluded: Tensor
    everyone: Tensor | None
    each: Tensor | None

    @classmethod
    def of(
        cls, num_items: int, users: int, device: torch.device, excluded: Tensor | None, candidates: Tensor | None
    ) -> Choice:
        """From what :func:`top_k` takes.

        Raises:
            ValueError: an index that is no item's.
        """
        for name, items in (("excluded", excluded), ("candidates", candidates)):
            if items is not None and items.numel():
                first = -1 if items.ndim > 1 else 0
                low, high = int(items.min()), int(items.max())
                if low < first or high >= num_items:
                    raise ValueError(f"{name} must hold item indices in 0..{num_items - 1}, got {low}..{high}.")
        if excluded is None:
            excluded = torch.zeros(users, 0, dtype=torch.int64, device=device)
        if candidates is None or candidates.ndim > 1:
            return cls(excluded, None, None if candidates is None else candidates.to(device))
        everyone = torch.zeros(num_items, dtype=torch.bool, device=device)
        everyone[candidates.to(device)] = True
        return cls(excluded, everyone, None)

    def take(self, users: slice) -> Choice:
        """That of some users."""
        return Choice(self.excluded[users], self.everyone, None if self.each is None else self.each[users])

    def mask_(self, scores: Tensor, chunk: slice) -> None:
        """Set the scores of a chunk's other items to -inf, in place, ``(B, chunk)``."""
        if self.everyone is not None:
            scores.masked_fill_(~self.everyone[chunk], -math.inf)
        if self.each is not None:
            scores.masked_fill_(~among(scores, self.each, chunk), -math.inf)
        if self.excluded.shape[1]:
            scores.masked_fill_(among(scores, self.excluded, chunk), -math.inf)


def among(scores: Tensor, items: Tensor, chunk: slice) -> Tensor:
    """Which columns of a chunk are among each user's ``items`` (padded with -1): boolean, like ``scores``."""
    column = torch.where((items >= chunk.start) & (items < chunk.stop), items - chunk.start, scores.shape[1])
    marks = torch.zeros(len(scores), scores.shape[1] + 1, dtype=torch.bool, device=scores.device)
    return marks.scatter_(1, column, True)[:, :-1]
