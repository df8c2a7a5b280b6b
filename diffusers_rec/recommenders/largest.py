"""The largest of many scores."""

from __future__ import annotations

import torch
from torch import Tensor

_BLOCK, _FEW = 64, 2**17
"""Size of the blocks of scores whose maxima are searched first, and the number of scores from which this is faster."""


def largest(scores: Tensor, k: int, above: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The k largest scores of each row ``(b, V)`` and their columns, as ``topk`` gives them up to the order of ties.

    Scores that are not ``above`` a bound, ``(b, 1)``, may be left out.
    """
    blocks = scores.shape[1] // _BLOCK
    if scores.numel() < _FEW or 2 * k > blocks:
        return torch.topk(scores, min(k, scores.shape[1]), dim=1)
    whole = blocks * _BLOCK  # the k largest are in the k blocks of the largest maxima, or in the rest
    maxima = scores[:, :whole].view(len(scores), blocks, _BLOCK).amax(2)
    needed = k if above is None else min(k, int((maxima > above).sum(1).max()))
    places = maxima.topk(needed, dim=1).indices
    within = torch.arange(_BLOCK, device=scores.device)
    rest = torch.arange(whole, scores.shape[1], device=scores.device).expand(len(scores), -1)
    columns = torch.cat([(places[..., None] * _BLOCK + within).flatten(1), rest], dim=1)
    best, order = scores.gather(1, columns).topk(min(k, columns.shape[1]), dim=1)
    return best, columns.gather(1, order)
