"""Splits by time and of one's own parts, the last fit, and evaluation of several held-out items a user."""

from __future__ import annotations

from datetime import date
from functools import lru_cache

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import perturbed

from diffusers_rec import DiffRec, Holdout, Interactions, Sequences, Split, SyntheticWorld, Vocabulary
from diffusers_rec.evaluation import (
    audit,
    evaluate,
    evaluate_item_to_item,
    evaluate_memory,
    evaluate_popularity,
    metric_by_user,
)
from diffusers_rec.recommenders.memory import NoMemory
from diffusers_rec.recommenders.ranking import UNRANKED
from diffusers_rec.training import TrainingConfig, train

rows = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 6), st.integers(0, 40)), min_size=6, max_size=60)


def log_of(rows):
    return Interactions.from_arrays(*map(list, zip(*rows, strict=True)))


def by_user(sequences):
    return {user: sequences.vocabulary.decode(row) for user, row in zip(sequences.users, sequences, strict=True)}


def chronological(rows, start, stop):
    """Each user's items of a span of time."""
    found = {}
    for user, item, time in sorted(rows, key=lambda row: row[2]):
        if start <= time < stop:
            found.setdefault(user, []).append(item)
    return found


# By time


@given(rows=rows, first=st.integers(1, 39), span=st.integers(1, 20))
def test_time_decides_where_an_interaction_belongs(rows, first, span):
    before, between = chronological(rows, 0, first), chronological(rows, first, first + span)
    after, known = chronological(rows, first + span, 41), chronological(rows, 0, first + span)
    sequences = log_of(rows).sequences(times=True)
    if not (before.keys() & between.keys() and known.keys() & after.keys()):
        with pytest.raises(ValueError, match=r"there is no (validation|test)|training sequences have no items|times"):
            sequences.split_by_time(first, first + span)
        return
    try:
        split = sequences.split_by_time(first, first + span)
    except ValueError as error:
        assert "the times are places" in str(error)  # noqa: PT017 - such logs are rare, and refused
        return
    assert by_user(split.train) == before
    assert by_user(split.final()) == known
    for holdout, histories, following in ((split.validation, before, between), (split.test, known, after)):
        users = histories.keys() & following.keys()
        assert by_user(holdout.histories) == {user: histories[user] for user in users}
        assert by_user(holdout.following) == {user: following[user] for user in users}
        assert holdout.following.vocabulary.decode(holdout.targets) == [following[user][0] for user in
                                                                        holdout.histories.users]  # fmt: skip
    assert split.final().times.max() < split.test.following.times.min()


def log_of_days(days):
    """One user for every two days, who takes an item on the day and on each of three later days."""
    rows = [(f"u{day}", f"i{step}", f"2024-01-{day + 3 * step:02}") for day in range(1, days, 2) for step in range(4)]
    return log_of(rows).sequences(times=True)


@pytest.mark.parametrize(
    "point", ["2024-01-08", date(2024, 1, 8), np.datetime64("2024-01-08"), " 2024-01-08T00:00 "], ids=repr
)
def test_points_of_time_are_dates_in_any_form(point):
    sequences = log_of_days(10)
    day = np.datetime64("2024-01-08", "ns").astype(np.int64)
    assert by_user(sequences.split_by_time(point, "2024-01-12").train) == by_user(
        sequences.split_by_time(int(day), "2024-01-12").train
    )


@pytest.mark.parametrize("share", [25, 50, 62.5])
def test_a_share_is_that_of_the_interactions(share):
    rows = [(user, step, 10 * step + user) for user in range(10) for step in range(8)]
    split = log_of(rows).sequences(times=True).split_by_time(f"{share}%", f"{share + 20} %")
    assert len(split.train.items) == 80 * share // 100
    assert len(split.final().items) == 80 * (share + 20) // 100


SPLITS = {
    "no times": (log_of([(0, 0, 1), (1, 1, 2)]).sequences(), 1, 2, r"have no times\. Keep them with sequences\(times="),
    "places": (log_of([(0, 0, 0), (0, 1, 1), (1, 1, 0)]).sequences(times=True), 1, 2, "places in each user's sequence"),
    "no time": (
        log_of_days(9),
        "soon",
        "2024-01-12",
        r"validation must be a time of the log, .* got 'soon'\. Times of",
    ),
    "all": (log_of_days(9), "50%", "100%", "test must be a time of the log"),
    "a list": (log_of_days(9), [1], 2, r"validation must be a time of the log, .* got \[1\]"),
    "backwards": (log_of_days(9), "2024-01-12", "2024-01-08", "validation must start before the test"),
    "too early": (log_of_days(9), "2023-01-01", "2024-01-08", "2023-01-01.* outside the times of the log"),
    "too late": (log_of_days(9), "2024-01-08", "2025-01-01", "2025-01-01.* outside the times of the log"),
    "seconds": (log_of_days(9), 1704700000, 1704800000, "1704700000, outside .* a date is in nanoseconds"),
    "a date for a log of seconds": (
        log_of([(0, 0, 1704700000), (0, 1, 1704800000), (1, 1, 1704900000)]).sequences(times=True),
        "2024-01-08",
        "2024-01-09",
        "Use the unit of the log",
    ),
}


@pytest.mark.parametrize("case", SPLITS)
def test_points_that_do_not_split_are_refused(case):
    sequences, validation, test, message = SPLITS[case]
    with pytest.raises(ValueError, match=message):
        sequences.split_by_time(validation, test)


# Of one's own parts


@given(data=st.data())
def test_parts_are_matched_by_id(data):
    parts = [data.draw(rows) for _ in range(3)]
    own = [log_of(part).sequences(times=True) for part in parts]
    before, between, after = (chronological(part, 0, 41) for part in parts)
    known = {user: before.get(user, []) + between.get(user, []) for user in {*before, *between}}
    if not (before.keys() & between.keys() and known.keys() & after.keys()):
        with pytest.raises(ValueError, match=r"Split\.of: there is no (validation|test)"):
            Split.of(*own)
        return
    split = Split.of(*own)
    assert by_user(split.train) == before
    assert by_user(split.final()) == known
    assert by_user(split.validation.histories) == {user: before[user] for user in before.keys() & between.keys()}
    assert by_user(split.test.histories) == {user: known[user] for user in known.keys() & after.keys()}
    assert by_user(split.test.following) == {user: after[user] for user in known.keys() & after.keys()}
    assert split.train.vocabulary == split.test.following.vocabulary == split.final().vocabulary


def test_features_need_the_same_users():
    sequences = log_of_days(9).with_features({"age": np.arange(4)})
    split = sequences.split_by_time("2024-01-08", "2024-01-12")
    ages = dict(zip(sequences.users, sequences.features["age"], strict=True))
    for part in (split.train, split.test.histories, split.final()):
        assert dict(zip(part.users, part.features["age"], strict=True)) == {user: ages[user] for user in part.users}
    with pytest.raises(ValueError, match="features need the same users in every part"):
        Split.of(sequences, sequences.take([0]), sequences)


@pytest.mark.parametrize("short", ["drop", "train"])
def test_the_last_fit_after_leaving_one_out_has_all_but_the_last_item(short):
    rows = [(user, step, step) for user in range(4) for step in range(2 + user)]  # the first user has two items
    split = log_of(rows).sequences(times=True).leave_one_out(short)
    expected = {user: list(range(1 + user)) for user in range(1, 4)}
    assert by_user(split.final()) == ({0: [0, 1], **expected} if short == "train" else expected)
    assert split.final().times.tolist() == [step for row in split.final() for step in row.tolist()]
    with pytest.raises(ValueError, match=r"has no before_test\. Build it with Split\.of"):
        Split(split.train, split.validation, split.test).final()


# Holdouts of several items


def test_a_holdout_of_several_items():
    histories = log_of([("a", 0, 0), ("b", 1, 0), ("c", 2, 0)]).sequences()
    later = log_of([("a", 2, 1), ("a", 0, 2), ("b", 1, 1), ("c", 2, 1), ("c", 1, 2)]).sequences()
    later = later.reindexed(histories.vocabulary)
    holdout = Holdout.of(histories, later)
    assert holdout.targets.tolist() == [2, 1, 2]
    assert by_user(holdout.take([2, 0]).following) == {"c": [2, 1], "a": [2, 0]}
    assert by_user(holdout.sample(2, seed=0).following).items() < by_user(later).items()
    moved = holdout.reindexed(Vocabulary([2, 1, 0]))
    assert by_user(moved.following) == by_user(later)
    assert moved.targets.tolist() == [0, 1, 0]
    assert by_user(later.without_repeats()) == by_user(later)
    repeated = log_of([("a", 0, 0), ("a", 1, 1), ("a", 0, 2), ("b", 0, 3)]).sequences()
    assert by_user(repeated.without_repeats()) == {"a": [0, 1], "b": [0]}
    with pytest.raises(ValueError, match=r"targets must be the first items of following"):
        Holdout(histories, np.array([0, 1, 2]), later)
    with pytest.raises(ValueError, match=r"following must have the users and items of histories"):
        Holdout.of(histories, later.take([1, 0]))
    with pytest.raises(ValueError, match="none of 2 users has an item in the history and one after it"):
        Holdout.of(histories.take([0, 1])._where(np.zeros(2, bool)), later.take([0, 1]))
    empty = Sequences(later.items[:1], np.array([0, 1, 1, 1]), histories.users, histories.vocabulary)
    with pytest.raises(ValueError, match=r"every user needs an item that followed\. Holdout\.of"):
        Holdout(histories, holdout.targets, empty)


# Evaluation of several items


def timed():
    """Sequences of a world whose users begin at different times."""
    log = SyntheticWorld(40, num_groups=4).sample(150, min_length=3, max_length=25)
    users = log.user_vocabulary.decode(log.users)
    start = np.random.default_rng(0).integers(0, 20, len(log.user_vocabulary))
    times = log.times + start[log.users]
    return Interactions.from_arrays(users, log.item_vocabulary.decode(log.items), times).sequences(times=True)


@lru_cache
def split():
    return timed().split_by_time("60%", "80%")


@lru_cache
def model():
    built = DiffRec(
        split().train.vocabulary,
        dim=16,
        max_length=8,
        schedule={"name": "sqrt", "num_timesteps": 6},
        denoiser={"name": "causal-transformer", "num_layers": 1, "num_heads": 2},
        seeds=3,
    )
    return perturbed(built)


def dense_ranks(holdout, trained):
    """Ranks by user and item, from the whole table of probabilities."""
    scores = trained.predict_proba([holdout.histories.vocabulary.decode(row) for row in holdout.histories])
    excluding, including = {}, {}
    for user, row, history, following in zip(
        holdout.histories.users, scores, holdout.histories, holdout.following, strict=True
    ):
        for item in following.tolist():
            above = {other for other, score in enumerate(row.tolist()) if score >= float(row[item])}
            including[user, item] = len(above)
            seen = set(history.tolist())
            excluding[user, item] = UNRANKED if item in seen else len(above - seen)
    return excluding, including


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_every_held_out_item_is_ranked(batch_size):
    holdout = split().test
    assert holdout.following.lengths.max() > 3
    report = evaluate(model(), holdout, batch_size=batch_size)
    excluding, including = dense_ranks(holdout, model())
    items = report.ranks.items
    keys = [(user, item) for user, row in zip(items.users, items, strict=True) for item in row.tolist()]
    assert dict(zip(keys, report.ranks.excluding_seen.tolist(), strict=True)) == excluding
    assert dict(zip(keys, report.ranks.including_seen.tolist(), strict=True)) == including
    rows = torch.tensor([list(holdout.histories.users).index(user) for user, _ in excluding])
    ranks = torch.tensor([*excluding.values()])
    names = ["hr@5", "ndcg@20", "recall@10", "precision@10", "mrr", "mrr@5"]
    expected = {name: float(metric_by_user(name, ranks, rows).mean()) for name in names}
    assert report.metrics(names) == pytest.approx(expected)
    assert report.metrics()["ndcg@20"] == pytest.approx(expected["ndcg@20"])
    assert report.num_users == len(report.ranks) == len(holdout)


def test_several_items_in_chunks_of_items_and_users(monkeypatch):
    expected = evaluate(model(), split().test).ranks
    monkeypatch.setattr("diffusers_rec.recommenders.head_scores.head_scores.__kwdefaults__", {"chunk_scores": 64})
    found = evaluate(model(), split().test).ranks
    assert found.including_seen.tolist() == expected.including_seen.tolist()
    assert found.excluding_seen.tolist() == expected.excluding_seen.tolist()


def test_an_item_that_is_taken_twice_counts_once():
    histories = Sequences(np.array([0, 1]), np.array([0, 1, 2]), Vocabulary(["a", "b"]), Vocabulary(range(5)))
    following = Sequences(np.array([2, 3, 2, 4]), np.array([0, 3, 4]), histories.users, histories.vocabulary)
    counts = Sequences(np.array([2, 2, 3]), np.array([0, 3]), Vocabulary(["c"]), histories.vocabulary)
    report = evaluate_popularity(counts, Holdout.of(histories, following), ks=[2])
    assert report.metrics(["recall@1", "recall@2"]) == {"recall@1": 0.25, "recall@2": 0.5}
    assert len(report.ranks.items.items) == 3


def test_every_evaluator_takes_several_items():
    parts, holdout = split(), split().test
    for report in (
        evaluate_popularity(parts.train, holdout),
        evaluate_item_to_item(parts.train, holdout),
        evaluate_memory(NoMemory(), holdout),
    ):
        assert report.num_users == len(holdout)
        assert len(report.ranks.including_seen) == len(holdout.following.without_repeats().items)
    first = Holdout(holdout.histories, holdout.targets)
    settings = {"users": 20, "seeds": 2, "steps": [2], "levels": 1}
    found, expected = (audit(model(), each, **settings) for each in (holdout, first))
    assert (found.timesteps, found.chains) == (expected.timesteps, expected.chains)  # of the next item alone


def test_training_validates_on_several_items_and_fits_all_of_them_last():
    parts = split()
    trained = DiffRec.from_config(parts.train.vocabulary, model().config())
    config = TrainingConfig(epochs=2, examples="all-positions", batch_targets=200)
    result = train(trained, parts.train, parts.validation, config, device="cpu")
    found = evaluate(trained, parts.validation, seeds=config.validation_seeds).metrics()["ndcg@10"]
    assert result.best_score == pytest.approx(found)
    last = train(trained, parts.final(), None, config, device="cpu")
    assert last.best_epoch == 2


def test_the_last_items_are_the_test_and_short_users_train_whole():
    sequences = SyntheticWorld(30, seed=0).sample(40, min_length=3, max_length=9, seed=1).sequences()
    split = sequences.leave_last_out(3)
    by_name = {name: split.train[row] for row, name in enumerate(split.train.users.ids)}
    held = dict(zip(split.test.histories.users.ids, range(len(split.test)), strict=True))
    for row, name in enumerate(sequences.users.ids):
        whole = sequences[row]
        if len(whole) < 6:
            assert np.array_equal(by_name[name], whole)
            assert name not in held
        else:
            user = held[name]
            assert np.array_equal(by_name[name], whole[:-4])
            assert np.array_equal(split.test.histories[user], whole[:-3])
            assert np.array_equal(split.test.following[user], whole[-3:])


def test_leave_last_out_needs_a_user_with_enough_items():
    sequences = SyntheticWorld(30, seed=0).sample(5, min_length=4, max_length=5, seed=1).sequences()
    with pytest.raises(ValueError, match="no user has the 6 items that k=3 needs"):
        sequences.leave_last_out(3)
