"""Whether one model is better than another: the paired bootstrap over users."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from diffusers_rec.core.entrances import explained
from diffusers_rec.core.errors import check_float, check_int
from diffusers_rec.evaluation.full_ranking import Report
from diffusers_rec.evaluation.ranks import UserRanks

DRAWS_AT_ONCE = 2**22
"""The most users drawn at once, over all samples of a chunk: 64 MiB."""


@dataclass(frozen=True)
class PairedDifference:
    """What :func:`paired_bootstrap` finds.

    Attributes:
        metric: Name of the metric.
        difference: Mean over users of the first model's metric minus the second's.
        low: Lower end of the confidence interval of the difference.
        high: Upper end.
        p_value: Probability of a difference at least as large, in either direction, if the true one is zero.
        num_users: U.
    """

    metric: str
    difference: float
    low: float
    high: float
    p_value: float
    num_users: int


@explained
def paired_bootstrap(
    first: Report,
    second: Report,
    *,
    metric: str = "ndcg@10",
    exclude_seen: bool = True,
    samples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> PairedDifference:
    r"""Compare two models on the same held-out items by resampling users (Efron and Tibshirani 1993; Sakai 2006).

    With :math:`d_u` the difference of user u and :math:`\bar d` their mean, a sample draws U users with replacement and
    has the mean :math:`\bar d^*`. The interval is between percentiles of :math:`\bar d^*`; the p-value is the share of
    samples with :math:`|\bar d^* - \bar d| \ge |\bar d|`, counting the data as one sample.

    Users are the only source of variation here: two trainings of one model can differ significantly in this sense.

    Args:
        first: Report of :func:`evaluate` or a baseline.
        second: Report of another model on the same holdout.
        metric: Name such as ``"mrr"`` or ``"recall@20"``, see :func:`metric_by_user`.
        exclude_seen: Whether the items of the user's history are left out of the ranking.
        samples: Number of samples.
        confidence: Share of the confidence interval, between 0 and 1.
        seed: Seed of the samples.

    Raises:
        ValueError: Reports of different held-out items, or without ranks; another name; settings out of range.
        TypeError: Settings that are no numbers, or arguments of another class.
    """
    check_int("samples", samples, minimum=1)
    check_float("confidence", confidence, above=0, below=1)
    generator = Generator().manual_seed(check_int("seed", seed, minimum=0))
    ours, theirs = (report.ranks.by_user(metric, exclude_seen=exclude_seen) for report in (first, second))
    differences = ours - theirs[_rows_of_same_users(first.ranks, second.ranks)]
    mean, means = differences.mean(), _resampled_means(differences, samples, generator)
    tails = torch.tensor([(1 - confidence) / 2, (1 + confidence) / 2], dtype=means.dtype)
    low, high = means.quantile(tails).tolist()
    extreme = int(((means - mean).abs() >= mean.abs()).sum())
    return PairedDifference(metric, float(mean), low, high, (1 + extreme) / (1 + samples), len(differences))


def _rows_of_same_users(first: UserRanks, second: UserRanks) -> Tensor:
    """Rows of ``second`` in the order of the users of ``first``, ``(U,)``.

    Raises:
        ValueError: Other users or other held-out items.
    """
    different = ValueError("Expected reports of the same holdout, got other users or other held-out items.")
    if set(first.items.users) != set(second.items.users):
        raise different
    rows = second.items.users.encode(first.items.users.ids)
    matched = second.items.take(rows)
    if matched.lengths.tolist() != first.items.lengths.tolist():
        raise different
    if matched.vocabulary.decode(matched.items) != first.items.vocabulary.decode(first.items.items):
        raise different
    return torch.from_numpy(rows)


def _resampled_means(values: Tensor, samples: int, generator: Generator) -> Tensor:
    """Means of ``samples`` draws of U values with replacement, ``(samples,)``."""
    users = len(values)
    at_once = max(1, DRAWS_AT_ONCE // users)
    sizes = [min(at_once, samples - done) for done in range(0, samples, at_once)]
    drawn = (torch.randint(users, (size, users), generator=generator) for size in sizes)
    return torch.cat([values[rows].mean(1) for rows in drawn])
