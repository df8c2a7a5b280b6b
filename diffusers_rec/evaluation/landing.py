"""Where reverse chains end: the nearest items, their predicted probability, and how many differ."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

SCORES_AT_ONCE = 2**24
"""The most scores (users x items, or latents x items) held at once, 64 MiB in float32; one row at the least."""


def rows_at_once(width: int) -> int:
    """Number of rows of ``width`` scores that are held at once."""
    return max(1, SCORES_AT_ONCE // max(1, width))


def landing(drawn: Iterable[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """Of items ``(B, S)`` and predicted probabilities ``(B, V)``, chunk by chunk: what an audit says of chains."""
    return mean_landing([landed(items, probabilities) for items, probabilities in drawn])


def landed(items: Tensor, probabilities: Tensor) -> Tensor:
    """Each user's mean probability of the items, and how many of them differ: ``(B, 2)``."""
    ordered = items.sort(-1).values
    distinct = 1 + (ordered[:, 1:] != ordered[:, :-1]).sum(-1)
    return torch.stack([probabilities.gather(1, items).double().mean(-1), distinct.double()], dim=-1)


def mean_landing(parts: list[Tensor]) -> dict[str, float]:
    """Means over the users of all chunks of :func:`landed`."""
    probability, distinct = torch.cat(parts).mean(0).tolist()
    return {"probability": probability, "distinct": distinct}


def nearest(latents: Tensor, table: Tensor) -> Tensor:
    """The item whose clean latent is nearest: ``(..., D)`` and ``(V, D)`` to ``(...)``, some items at a time."""
    flat = latents.reshape(-1, latents.shape[-1])
    best = flat.new_full((len(flat),), math.inf)
    items = torch.zeros_like(best, dtype=torch.int64)
    size = rows_at_once(len(flat))
    for start in range(0, len(table), size):
        chunk = table[start : start + size]
        # The latent's own square is the same for all items.
        distance, item = torch.addmm(chunk.square().sum(-1), flat, chunk.T, alpha=-2).min(-1)
        items = torch.where(distance < best, start + item, items)
        best = torch.minimum(distance, best)
    return items.view(latents.shape[:-1])
