"""Items that a ranking may return: candidates and exclusions."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Choice:
    """Items that may be recommended to each of B users.

    Attributes:
        excluded: Item indices to exclude, ``(B, E)``, padded with -1; no items if None.
        candidates: Item indices to choose from, ``(C,)`` for all users, or ``(B, C)`` padded with -1; all items if
            None.
    """

    excluded: Tensor | None
    candidates: Tensor | None

    def check(self, num_items: int) -> None:
        """Reject indices that are not items.

        Raises:
            ValueError: An index is outside 0..num_items - 1 and is not padding.
        """
        for name, items in (("excluded", self.excluded), ("candidates", self.candidates)):
            if items is not None and items.numel():
                first = -1 if items.ndim > 1 else 0
                low, high = int(items.min()), int(items.max())
                if low < first or high >= num_items:
                    raise ValueError(f"{name} must hold item indices in 0..{num_items - 1}, got {low}..{high}.")

    def take(self, users: slice) -> Choice:
        """Choice of a slice of the users."""
        excluded, candidates = self.excluded, self.candidates
        if candidates is not None and candidates.ndim > 1:
            candidates = candidates[users]
        return Choice(None if excluded is None else excluded[users], candidates)

    def mask_(self, scores: Tensor, items: slice) -> None:
        """Set the scores ``(B, chunk)`` of all other items in a chunk to -inf, in place."""
        if self.candidates is not None:
            scores.masked_fill_(~among(self.candidates, items), -math.inf)
        if self.excluded is not None and self.excluded.shape[1]:
            scores.masked_fill_(among(self.excluded, items), -math.inf)


def among(indices: Tensor, items: slice) -> Tensor:
    """Mask ``(..., chunk)`` of the items of a chunk that are in ``indices``, ``(..., N)`` padded with -1."""
    size = items.stop - items.start
    column = torch.where((indices >= items.start) & (indices < items.stop), indices - items.start, size)
    marks = torch.zeros(*indices.shape[:-1], size + 1, dtype=torch.bool, device=indices.device)
    return marks.scatter_(-1, column, True)[..., :-1]


def barred(scores: Tensor, items: Tensor) -> Tensor:
    """Scores ``(R, V)`` with minus infinity at some items ``(R, E)``, padded with -1."""
    padded = F.pad(scores, (0, 1))
    return padded.scatter_(1, items.where(items >= 0, scores.shape[1]), -math.inf)[:, :-1]


def inverse_cdf(log_probabilities: Tensor, numbers: Tensor) -> Tensor:
    """Items of distributions over V items, for several numbers each.

    Args:
        log_probabilities: Log-probabilities, ``(..., V)``.
        numbers: Numbers in [0, 1), ``(..., S)``; a number is drawn from a uniform distribution to draw an item.

    Returns:
        Item indices, of the shape of ``numbers`` broadcast to the distributions.
    """
    cumulative = log_probabilities.double().exp().cumsum(-1)
    wanted = (numbers * cumulative[..., -1:]).expand(*cumulative.shape[:-1], numbers.shape[-1])
    found = torch.searchsorted(cumulative, wanted.contiguous(), right=True)
    return found.clamp(max=log_probabilities.shape[-1] - 1)
