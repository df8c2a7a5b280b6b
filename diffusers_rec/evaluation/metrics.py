r"""Metrics of a ranking with one relevant item, from its rank r (1 the best).

.. math:: \mathrm{HR}@k = [r \le k], \qquad \mathrm{NDCG}@k = \frac{[r \le k]}{\log_2(r + 1)},

averaged over users, each user counting once.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from diffusers_rec.errors import check_int


def hit_rate(ranks: Tensor, k: int) -> float:
    """HR@k of ``(U,)`` ranks."""
    return float((ranks <= k).double().mean())


def ndcg(ranks: Tensor, k: int) -> float:
    """NDCG@k of ``(U,)`` ranks."""
    gains = 1 / (ranks.double() + 1).log2()
    return float(gains.where(ranks <= k, 0.0).mean())


def ranking_metrics(ranks: Tensor, ks: Iterable[int] = (5, 10, 20)) -> dict[str, float]:
    """``{"hr@5": ..., "ndcg@5": ..., ...}`` of ``(U,)`` ranks.

    Raises:
        ValueError: a k below 1, or no ranks.
    """
    if not ranks.numel():
        raise ValueError("There is nothing to measure: the holdout is empty.")
    metrics = {}
    for k in ks:
        check_int("each k", k, minimum=1)
        metrics[f"hr@{k}"] = hit_rate(ranks, k)
        metrics[f"ndcg@{k}"] = ndcg(ranks, k)
    return metrics
