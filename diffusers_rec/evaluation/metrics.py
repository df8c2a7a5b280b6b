r"""Metrics of a ranking with one relevant item, from its rank r (1 the best).

.. math:: \mathrm{HR}@k = [r \le k], \qquad \mathrm{NDCG}@k = \frac{[r \le k]}{\log_2(r + 1)},

averaged over users, each user counting once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from diffusers_rec.core.entrances import explained
from diffusers_rec.core.errors import check_int, shown


@explained
def hit_rate(ranks: Tensor, k: int) -> float:
    """HR@k of ``(U,)`` ranks.

    Raises:
        ValueError: a k below 1, no ranks, or ranks below 1.
        TypeError: ranks that are not integers.
    """
    _check(ranks, k)
    return float((ranks <= k).double().mean())


@explained
def ndcg(ranks: Tensor, k: int) -> float:
    """NDCG@k of ``(U,)`` ranks.

    Raises:
        ValueError: a k below 1, no ranks, or ranks below 1.
        TypeError: ranks that are not integers.
    """
    _check(ranks, k)
    gains = 1 / (ranks.double() + 1).log2()
    return float(gains.where(ranks <= k, 0.0).mean())


@explained
def ranking_metrics(ranks: Tensor, ks: Iterable[int] = (5, 10, 20)) -> dict[str, float]:
    """``{"hr@5": ..., "ndcg@5": ..., ...}`` of ``(U,)`` ranks.

    Raises:
        ValueError: a k below 1, no k, no ranks, or ranks below 1.
        TypeError: ranks or a k that are not integers.
    """
    metrics = {}
    for k in check_cutoffs(ks):
        metrics[f"hr@{k}"] = hit_rate(ranks, k)
        metrics[f"ndcg@{k}"] = ndcg(ranks, k)
    return metrics


def check_cutoffs(ks: Iterable[int]) -> list[int]:
    """Return the cut-offs as a list; anything but integers from 1 is refused, and so is none."""
    if isinstance(ks, str | bytes | Mapping) or getattr(ks, "ndim", 1) == 0:
        raise TypeError(f"ks must be a list of cut-offs, got {shown(ks)}. One alone is [10].")
    cutoffs = [check_int("each k", k, minimum=1) for k in ks]
    if not cutoffs:
        raise ValueError("ks must hold one cut-off at least, got none.")
    return cutoffs


def _check(ranks: Tensor, k: int) -> None:
    check_int("k", k, minimum=1)
    if ranks.is_floating_point() or ranks.is_complex() or ranks.dtype == torch.bool:
        raise TypeError(f"ranks must be integers, got {ranks.dtype}.")
    if not ranks.numel() or int(ranks.min()) < 1:
        raise ValueError("There is nothing to measure: ranks must hold numbers from 1, one at least.")
