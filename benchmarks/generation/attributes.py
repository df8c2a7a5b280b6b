"""Attributes of items as vectors of zeros and ones, and what is predicted from them without a network."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from diffusers_rec import AttributeBags

STRENGTHS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
"""Strengths of the ridge that are compared."""


def multi_hot(bags: AttributeBags) -> Tensor:
    """Whether each item has each attribute, ``(V, A)``."""
    found = torch.zeros(len(bags), len(bags.attributes) + 1)
    return found.scatter_(1, bags.indices % found.shape[1], 1.0)[:, :-1]  # the padding, -1, is the last column


def similarity(one: Tensor, other: Tensor) -> Tensor:
    """Jaccard similarities ``(N, V)`` of attributes ``(N, A)`` and ``(V, A)``; 0 if both items have none."""
    common = one @ other.T
    return common / (one.sum(1, keepdim=True) + other.sum(1) - common).clamp(min=1)


def nearest(similarities: Tensor, neighbours: int = 10) -> Tensor:
    """Shares of the most similar items in a weighted mean, ``(N, V)``; rows sum to one."""
    best = similarities.topk(min(neighbours, similarities.shape[1]), dim=1)
    weights = best.values.clamp(min=1e-6)  # equal weights where nothing is similar
    return torch.zeros_like(similarities).scatter_(1, best.indices, weights / weights.sum(1, keepdim=True))


def ridge_regression(x: Tensor, y: Tensor, new: Tensor, seed: int) -> Tensor:
    """Vectors of new items, ``(N, D)``; the strength is the best one for a tenth of the rows, given the others.

    Args:
        x: Attributes of known items, ``(V, A)``.
        y: Their vectors, ``(V, D)``.
        new: Attributes of the new items, ``(N, A)``.
        seed: Seed of the choice of the tenth.
    """

    def predicted(rows: Tensor, strength: float, at: Tensor) -> Tensor:
        centre, mean = x[rows].mean(0), y[rows].mean(0)
        own = x[rows] - centre
        weights = torch.linalg.solve(own.T @ own + strength * torch.eye(x.shape[1]), own.T @ (y[rows] - mean))
        return mean + (at - centre) @ weights

    order = torch.randperm(len(x), generator=Generator().manual_seed(seed))
    held, rest = order.tensor_split([len(x) // 10])
    strength = min(STRENGTHS, key=lambda each: float((predicted(rest, each, x[held]) - y[held]).square().sum()))
    return predicted(order, strength, new)
