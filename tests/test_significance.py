"""Ranks of every user, and the paired bootstrap between two models."""

from __future__ import annotations

import math
from dataclasses import asdict

import numpy as np
import pytest
import torch

from diffusers_rec import Sequences, SyntheticWorld, Vocabulary
from diffusers_rec.evaluation import Report, UserRanks, evaluate_popularity, paired_bootstrap
from diffusers_rec.recommenders.ranking import UNRANKED

ITEMS = Vocabulary(["a", "b", "c", "d"])


def report(ranks, users=None):
    """Of one held-out item a user, with these ranks whether or not seen items are left out."""
    count = len(ranks)
    users = Vocabulary([f"u{user}" for user in (range(count) if users is None else users)])
    items = Sequences(np.array([int(user[1:]) % 4 for user in users]), np.arange(count + 1), users, ITEMS)
    ranks = torch.as_tensor(ranks)
    return Report({}, {}, count, user_ranks=UserRanks(items, ranks, ranks))


def several():
    """Items b and d of one user, c of another, who has seen it."""
    items = Sequences(np.array([1, 3, 2]), np.array([0, 2, 3]), Vocabulary(["ann", "bob"]), ITEMS)
    return UserRanks(items, torch.tensor([1, 3, UNRANKED]), torch.tensor([2, 4, 1]))


@pytest.mark.parametrize("backend", ["polars", "pandas"])
def test_ranks_go_to_a_frame(backend):
    frame = several().to_frame(backend)
    assert list(frame["user"]) == ["ann", "ann", "bob"]
    assert list(frame["item"]) == ["b", "d", "c"]
    assert list(frame["rank_including_seen"]) == [2, 4, 1]
    assert list(frame["rank_excluding_seen"])[:2] == [1, 3]
    missing = frame["rank_excluding_seen"].is_null() if backend == "polars" else frame["rank_excluding_seen"].isna()
    assert missing.to_list() == [False, False, True]


def test_metrics_of_ranks():
    ranks = several()
    assert ranks.by_user("recall@1").tolist() == [0.5, 0]
    assert ranks.by_user("mrr", exclude_seen=False).tolist() == [0.5, 1]
    assert ranks.metrics(["mrr", "recall@3"]) == {"mrr": 0.5, "recall@3": 0.5}
    with pytest.raises(TypeError, match=r"names must be a list of metrics, got 'mrr'\. One alone is \['mrr'\]"):
        ranks.metrics("mrr")
    with pytest.raises(ValueError, match="A metric must be"):
        ranks.metrics(["map@5"])


def test_a_report_has_the_ranks_of_its_users():
    split = SyntheticWorld(20, num_groups=2).sample(30, min_length=3, max_length=8).sequences().leave_one_out()
    found = evaluate_popularity(split.train, split.test, ks=[1, 5])
    assert set(asdict(found)) == {"excluding_seen", "including_seen", "num_users", "probabilities"}
    assert set(found.ranks.items.users) == set(split.test.histories.users)
    for exclude_seen in (True, False):
        metrics = found.metrics(exclude_seen=exclude_seen)
        assert found.metrics([*metrics], exclude_seen=exclude_seen) == metrics
    held_out = dict(zip(split.test.histories.users, split.test.targets.tolist(), strict=True))
    assert dict(zip(found.ranks.items.users, found.ranks.items.items.tolist(), strict=True)) == held_out
    counts = np.bincount(split.train.items, minlength=20)
    expected = {user: int((counts >= counts[item]).sum()) for user, item in held_out.items()}
    assert dict(zip(found.ranks.items.users, found.ranks.including_seen.tolist(), strict=True)) == expected
    with pytest.raises(ValueError, match="The report has no ranks"):
        Report({}, {}, 1).metrics(["mrr"])


# Paired bootstrap


def test_the_difference_is_that_of_the_metrics():
    first, second = report([1, 2, 3, 40]), report([2, 1, 50, 60])
    found = paired_bootstrap(first, second, metric="mrr", samples=200)
    expected = first.metrics(["mrr"])["mrr"] - second.metrics(["mrr"])["mrr"]
    assert found.difference == pytest.approx(expected)
    assert found.low <= found.difference <= found.high
    assert (found.metric, found.num_users) == ("mrr", 4)
    reverse = paired_bootstrap(second, first, metric="mrr", samples=200)
    assert (reverse.difference, reverse.low, reverse.high) == pytest.approx((-expected, -found.high, -found.low))
    assert reverse.p_value == found.p_value


def test_models_that_do_not_differ_have_a_p_value_of_one():
    found = paired_bootstrap(report([1, 5, 9]), report([1, 5, 9]), samples=50)
    assert (found.difference, found.low, found.high, found.p_value) == (0, 0, 0, 1)


def test_a_difference_of_every_user_has_the_smallest_p_value():
    found = paired_bootstrap(report([1] * 20), report([30] * 20), samples=99)
    assert (found.difference, found.low, found.high, found.p_value) == (1, 1, 1, 0.01)


def test_users_are_matched_by_id():
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    ranks = torch.arange(1, 31)
    first, second = report(ranks), report(ranks[order] + 1, users=order.tolist())
    found = paired_bootstrap(first, second, metric="hr@10", samples=100)
    assert found.difference == pytest.approx(1 / 30)  # the user of rank 10 alone
    assert found.high <= 4 / 30


def test_the_seed_decides_and_chunks_do_not(monkeypatch):
    first, second = report([1, 12, 3, 40, 5]), report([2, 1, 50, 60, 5])
    found = paired_bootstrap(first, second, samples=300, seed=1)
    assert found == paired_bootstrap(first, second, samples=300, seed=1)
    assert found != paired_bootstrap(first, second, samples=300, seed=2)
    monkeypatch.setattr("diffusers_rec.evaluation.significance.DRAWS_AT_ONCE", 35)
    again = paired_bootstrap(first, second, samples=300, seed=1)
    assert asdict(again) == pytest.approx(asdict(found))


def test_intervals_cover_the_true_difference_as_often_as_they_promise():
    """On made hits of 150 users: 90 of 100 intervals hold the true difference, and a true 0 is rejected 10 times."""
    generator = torch.Generator().manual_seed(0)
    trials, users = 400, 150
    covered = rejected = 0
    for trial in range(trials):
        shared = torch.rand(users, generator=generator)  # what the models have in common about a user
        own = torch.rand(3, users, generator=generator)
        hits = [(0.5 * shared + 0.5 * own[model] < rate) for model, rate in enumerate((0.5, 0.4, 0.5))]
        ranks = [torch.where(hit, 1, 100) for hit in hits]
        truth = 0.5 - 0.32  # P(a triangular variable on [0, 1] < .4) is 2 * .4^2
        found = paired_bootstrap(
            report(ranks[0]), report(ranks[1]), metric="hr@10", samples=300, confidence=0.9, seed=trial
        )
        covered += found.low <= truth <= found.high
        null = paired_bootstrap(report(ranks[0]), report(ranks[2]), metric="hr@10", samples=300, seed=trial)
        rejected += null.p_value <= 0.1
    error = 4 * math.sqrt(0.9 * 0.1 / trials)
    assert covered / trials == pytest.approx(0.9, abs=error)
    assert rejected / trials == pytest.approx(0.1, abs=error)


def test_reports_of_other_users_or_items_are_refused():
    with pytest.raises(ValueError, match="reports of the same holdout"):
        paired_bootstrap(report([1, 2]), report([1, 2, 3]))
    shifted = several()
    other = UserRanks(Sequences(np.array([0, 3, 2]), shifted.items.offsets, shifted.items.users, ITEMS),
                      shifted.excluding_seen, shifted.including_seen)  # fmt: skip
    with pytest.raises(ValueError, match="other held-out items"):
        paired_bootstrap(Report({}, {}, 2, user_ranks=shifted), Report({}, {}, 2, user_ranks=other))
    with pytest.raises(ValueError, match="The report has no ranks"):
        paired_bootstrap(report([1]), Report({}, {}, 1))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"samples": 0}, "samples must be an integer >= 1"),
        ({"confidence": 1.0}, "confidence must be a finite number above 0 and below 1"),
        ({"metric": "accuracy"}, "A metric must be"),
        ({"seed": -1}, "seed must be an integer >= 0"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        paired_bootstrap(report([1]), report([2]), **settings)
