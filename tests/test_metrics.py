"""Metrics of several held-out items a user: against torchmetrics, lists worked by hand, and the definitions."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Generator

from diffusers_rec.evaluation import hit_rate, metric_by_user, mrr, ndcg, precision, ranking_metrics, recall
from diffusers_rec.recommenders.ranking import UNRANKED

RANKS = torch.tensor([1, 4, 2, 9, 3, UNRANKED])
USERS = torch.tensor([0, 0, 1, 1, 1, 2])
"""Ranks {1, 4} of the first user, {2, 9, 3} of the second; the third's item is in the history."""


def test_metrics_by_hand():
    ideal = 1 + 1 / math.log2(3)
    assert metric_by_user("recall@3", RANKS, USERS).tolist() == pytest.approx([1 / 2, 2 / 3, 0])
    assert metric_by_user("precision@3", RANKS, USERS).tolist() == pytest.approx([1 / 3, 2 / 3, 0])
    assert metric_by_user("hr@3", RANKS, USERS).tolist() == [1, 1, 0]
    assert metric_by_user("mrr", RANKS, USERS).tolist() == [1, 1 / 2, 0]
    assert metric_by_user("mrr@1", RANKS, USERS).tolist() == [1, 0, 0]
    gain = 1 / math.log2(3) + 1 / math.log2(4)
    expected = [1 / ideal, gain / (ideal + 1 / math.log2(4)), 0]
    assert metric_by_user("ndcg@3", RANKS, USERS).tolist() == pytest.approx(expected)
    assert recall(RANKS, 3, USERS) == pytest.approx((1 / 2 + 2 / 3) / 3)
    assert mrr(RANKS, users=USERS) == pytest.approx(1.5 / 3)
    assert ranking_metrics(RANKS, [3], USERS) == pytest.approx({"hr@3": 2 / 3, "ndcg@3": sum(expected) / 3})


@given(seed=st.integers(0, 10_000), users=st.integers(1, 12), items=st.integers(4, 30), k=st.integers(1, 35))
def test_metrics_of_several_items_are_those_of_torchmetrics(seed, users, items, k):
    from torchmetrics import retrieval

    generator = Generator().manual_seed(seed)
    scores = torch.stack([torch.randperm(items, generator=generator) for _ in range(users)]) + 1.0  # no ties, none of 0
    relevant = torch.rand(users, items, generator=generator) < 0.3
    relevant[:, 0] = True
    rows, targets = relevant.nonzero(as_tuple=True)
    ranks = 1 + (scores[rows] > scores[rows, targets][:, None]).sum(1)
    indexes = torch.arange(users)[:, None].expand(users, items).flatten()
    for ours, theirs in (
        (hit_rate(ranks, k, rows), retrieval.RetrievalHitRate(top_k=k)),
        (recall(ranks, k, rows), retrieval.RetrievalRecall(top_k=k)),
        (precision(ranks, k, rows), retrieval.RetrievalPrecision(top_k=k)),
        (ndcg(ranks, k, rows), retrieval.RetrievalNormalizedDCG(top_k=k)),
        (mrr(ranks, k, rows), retrieval.RetrievalMRR(top_k=k)),
        (mrr(ranks, users=rows), retrieval.RetrievalMRR()),
    ):
        expected = float(theirs(scores.flatten(), relevant.long().flatten(), indexes=indexes))
        assert ours == pytest.approx(expected, abs=1e-6)


@given(ranks=st.lists(st.integers(1, 50), min_size=1, max_size=20), k=st.integers(1, 60))
def test_one_item_a_user_needs_no_rows_and_makes_recall_the_hit_rate(ranks, k):
    ranks = torch.tensor(ranks)
    rows = torch.arange(len(ranks))
    for metric in (hit_rate, recall, precision, ndcg, mrr):
        assert metric(ranks, k) == metric(ranks, k, rows)
    assert recall(ranks, k) == hit_rate(ranks, k) == float((ranks <= k).double().mean())
    assert ndcg(ranks, k) == float((1 / (ranks.double() + 1).log2()).where(ranks <= k, 0.0).mean())
    assert mrr(ranks) == pytest.approx(float((1 / ranks.double()).mean()))


@given(data=st.data())
def test_all_metrics_lie_between_zero_and_one_and_grow_with_k(data):
    counts = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=6))
    users = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    own = [data.draw(st.lists(st.integers(1, 30), min_size=n, max_size=n, unique=True)) for n in counts]
    ranks = torch.tensor([rank for each in own for rank in each])
    for name in ("hr", "recall", "mrr"):
        values = torch.stack([metric_by_user(f"{name}@{k}", ranks, users) for k in range(1, 31)])
        assert bool((values.diff(dim=0) >= 0).all())
        assert bool((values[-1] <= 1).all())
    best = torch.cat([torch.arange(1, n + 1) for n in counts])
    for k in (1, 3, 30):
        assert ndcg(best, k, users) == pytest.approx(1)
        assert 0 <= ndcg(ranks, k, users) <= 1 + 1e-12


@pytest.mark.parametrize("name", ["mrr@0", "recall", "map@10", "ndcg@", "hr@1.5"])
def test_another_name_is_refused(name):
    with pytest.raises(ValueError, match="A metric must be 'hr@K'"):
        metric_by_user(name, RANKS, USERS)
    with pytest.raises(TypeError, match="name must be str, got int"):
        metric_by_user(10, RANKS, USERS)


@pytest.mark.parametrize(
    ("users", "message"),
    [
        (torch.tensor([0, 0, 1]), r"users must be int64 \(6,\)"),
        (torch.zeros(6), r"users must be int64 \(6,\)"),
        (torch.tensor([0, 0, 1, 1, 1, 3]), "users must hold every row"),
        (torch.tensor([0, 0, 1, 1, 1, -1]), "users must hold every row"),
        (torch.tensor([0, 0, 1, 1, 1, 2**60]), "users must hold every row"),
    ],
)
def test_rows_of_users_that_do_not_fit_are_refused(users, message):
    with pytest.raises(ValueError, match=message):
        recall(RANKS, 3, users)
