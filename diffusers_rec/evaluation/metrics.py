r"""Metrics of a ranking, from the ranks r of the held-out items (1 the best), one or several a user.

With :math:`R_u` the ranks of a user's :math:`n_u` items:

.. math:: \mathrm{HR}@k = \max_{r \in R_u} [r \le k], \qquad
          \mathrm{recall}@k = \frac{1}{n_u} \sum_{r \in R_u} [r \le k], \qquad
          \mathrm{precision}@k = \frac{1}{k} \sum_{r \in R_u} [r \le k],

.. math:: \mathrm{NDCG}@k = \sum_{r \in R_u} \frac{[r \le k]}{\log_2(r + 1)}
          \Big/ \sum_{i=1}^{\min(k, n_u)} \frac{1}{\log_2(i + 1)}, \qquad
          \mathrm{MRR}@k = \max_{r \in R_u} \frac{[r \le k]}{r},

averaged over users, each user counting once. MRR without a k has no cut-off. With one item a user, recall is HR.

Sources: Järvelin and Kekäläinen 2002 (NDCG), Voorhees 1999 (MRR), Herlocker et al. 2004 (recall, precision).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from diffusers_rec.core.entrances import explained
from diffusers_rec.core.errors import check_int, shown
from diffusers_rec.recommenders.ranking import UNRANKED

_NO_CUTOFF = UNRANKED - 1
"""No rank is larger, except that of an item which is left out of the ranking."""


@explained
def hit_rate(ranks: Tensor, k: int, users: Tensor | None = None) -> float:
    """HR@k: the share of users with an item among the first k.

    Args:
        ranks: Ranks of the held-out items, int64 ``(n,)``.
        k: Cut-off.
        users: Row of each item's user, ``(n,)``, all rows from 0 on; one item a user if None.

    Raises:
        ValueError: a k below 1, no ranks, ranks below 1, or a user without a rank.
        TypeError: ranks that are not integers.
    """
    return _mean("hr", ranks, k, users)


@explained
def recall(ranks: Tensor, k: int, users: Tensor | None = None) -> float:
    """Recall@k: the share of a user's items among the first k. Arguments and errors as :func:`hit_rate`."""
    return _mean("recall", ranks, k, users)


@explained
def precision(ranks: Tensor, k: int, users: Tensor | None = None) -> float:
    """Precision@k: how much of the first k are items of the user. Arguments and errors as :func:`hit_rate`."""
    return _mean("precision", ranks, k, users)


@explained
def ndcg(ranks: Tensor, k: int, users: Tensor | None = None) -> float:
    """NDCG@k, 1 where a user's items come first. Arguments and errors as :func:`hit_rate`."""
    return _mean("ndcg", ranks, k, users)


@explained
def mrr(ranks: Tensor, k: int | None = None, users: Tensor | None = None) -> float:
    """MRR@k: the reciprocal of a user's best rank; of any rank if k is None. Otherwise as :func:`hit_rate`."""
    return _mean("mrr", ranks, _NO_CUTOFF if k is None else k, users)


@explained
def ranking_metrics(ranks: Tensor, ks: Iterable[int] = (5, 10, 20), users: Tensor | None = None) -> dict[str, float]:
    """``{"hr@5": ..., "ndcg@5": ..., ...}`` of ``(n,)`` ranks.

    Args:
        ranks: Ranks of the held-out items, int64 ``(n,)``.
        ks: Cut-offs.
        users: Row of each item's user, as in :func:`hit_rate`.

    Raises:
        ValueError: a k below 1, no k, no ranks, ranks below 1, or a user without a rank.
        TypeError: ranks or a k that are not integers.
    """
    return {name: float(metric_by_user(name, ranks, users).mean()) for name in metric_names(ks)}


@explained
def metric_by_user(name: str, ranks: Tensor, users: Tensor | None = None) -> Tensor:
    """One metric for every user, for tests of significance.

    Args:
        name: ``"hr@K"``, ``"recall@K"``, ``"precision@K"``, ``"ndcg@K"``, ``"mrr@K"`` or ``"mrr"``.
        ranks: Ranks of the held-out items, int64 ``(n,)``.
        users: Row of each item's user, as in :func:`hit_rate`.

    Returns:
        float64 ``(U,)``, whose mean is the metric.

    Raises:
        ValueError: another name, no ranks, ranks below 1, or a user without a rank.
        TypeError: ranks that are not integers.
    """
    metric, k = parse_metric(name)
    return _by_user(metric, ranks, k, users)


def parse_metric(name: str) -> tuple[str, int]:
    """The metric and the cut-off of a name such as ``"recall@10"``; in ``"mrr"`` a cut-off behind all ranks.

    Raises:
        ValueError: another name.
    """
    found = re.fullmatch(r"(hr|recall|precision|ndcg|mrr)@([1-9][0-9]*)|(mrr)", name)
    if found is None:
        raise ValueError(
            "A metric must be 'hr@K', 'recall@K', 'precision@K', 'ndcg@K', 'mrr@K' or 'mrr', K a whole number >= 1, "
            f"got {shown(name)}."
        )
    return (found[1], int(found[2])) if found[1] else (found[3], _NO_CUTOFF)


def metric_names(ks: Iterable[int]) -> list[str]:
    """HR and NDCG at each cut-off."""
    return [f"{metric}@{k}" for k in check_cutoffs(ks) for metric in ("hr", "ndcg")]


def check_cutoffs(ks: Iterable[int]) -> list[int]:
    """Return the cut-offs as a list; anything but integers from 1 is refused, and so is none."""
    if isinstance(ks, str | bytes | Mapping) or getattr(ks, "ndim", 1) == 0:
        raise TypeError(f"ks must be a list of cut-offs, got {shown(ks)}. One alone is [10].")
    cutoffs = [check_int("each k", k, minimum=1) for k in ks]
    if not cutoffs:
        raise ValueError("ks must hold one cut-off at least, got none.")
    return cutoffs


def _mean(metric: str, ranks: Tensor, k: int, users: Tensor | None) -> float:
    return float(_by_user(metric, ranks, k, users).mean())


def _by_user(metric: str, ranks: Tensor, k: int, users: Tensor | None) -> Tensor:
    check_int("k", k, minimum=1)
    _check(ranks)
    rows = torch.arange(len(ranks), device=ranks.device) if users is None else _check_users(users, len(ranks))
    return _METRICS[metric](ranks.long(), k, rows, torch.bincount(rows))


def _hit_rate(ranks: Tensor, k: int, rows: Tensor, counts: Tensor) -> Tensor:
    return _summed((ranks <= k).double(), rows, counts).clamp(max=1)


def _recall(ranks: Tensor, k: int, rows: Tensor, counts: Tensor) -> Tensor:
    return _summed((ranks <= k).double(), rows, counts) / counts


def _precision(ranks: Tensor, k: int, rows: Tensor, counts: Tensor) -> Tensor:
    return _summed((ranks <= k).double(), rows, counts) / k


def _ndcg(ranks: Tensor, k: int, rows: Tensor, counts: Tensor) -> Tensor:
    gains = (1 / (ranks.double() + 1).log2()).where(ranks <= k, 0.0)
    places = torch.arange(1, int(counts.max()) + 1, device=ranks.device)
    ideal = (1 / (places.double() + 1).log2()).cumsum(0)
    return _summed(gains, rows, counts) / ideal[counts.clamp(max=k) - 1]


def _mrr(ranks: Tensor, k: int, rows: Tensor, counts: Tensor) -> Tensor:
    gains = (1 / ranks.double()).where(ranks <= k, 0.0)
    return torch.zeros_like(counts, dtype=gains.dtype).scatter_reduce(0, rows, gains, "amax")


_METRICS: dict[str, Callable[[Tensor, int, Tensor, Tensor], Tensor]] = {
    "hr": _hit_rate,
    "recall": _recall,
    "precision": _precision,
    "ndcg": _ndcg,
    "mrr": _mrr,
}


def _summed(values: Tensor, rows: Tensor, counts: Tensor) -> Tensor:
    """Sums over each user's items, ``(U,)``."""
    return torch.zeros_like(counts, dtype=values.dtype).index_add(0, rows, values)


def _check(ranks: Tensor) -> None:
    if ranks.is_floating_point() or ranks.is_complex() or ranks.dtype == torch.bool:
        raise TypeError(f"ranks must be integers, got {ranks.dtype}.")
    if ranks.ndim != 1:
        raise ValueError(f"ranks must have the shape (n,), got {tuple(ranks.shape)}.")
    if not ranks.numel() or int(ranks.min()) < 1:
        raise ValueError("There is nothing to measure: ranks must hold numbers from 1, one at least.")


def _check_users(users: Tensor, count: int) -> Tensor:
    if users.dtype not in (torch.int32, torch.int64) or users.shape != (count,):
        raise ValueError(f"users must be int64 ({count},), one row a rank, got {users.dtype} {tuple(users.shape)}.")
    if int(users.min()) < 0 or int(users.max()) >= count or not bool((torch.bincount(users) > 0).all()):
        raise ValueError("users must hold every row from 0 to the last, since every user needs a rank.")
    return users.long()
