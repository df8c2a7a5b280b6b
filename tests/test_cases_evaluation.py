"""Reports about evaluation that people file against recommender libraries: small logs with their right answers."""

from __future__ import annotations

import random
import warnings
from dataclasses import replace

import pytest

from diffusers_rec import DiffRec, Interactions
from diffusers_rec.evaluation import audit, evaluate, evaluate_item_to_item, evaluate_popularity
from diffusers_rec.training import TrainingConfig, train

CONFIG = TrainingConfig(epochs=2, examples="all-positions", batch_targets=100, learning_rate=1e-2)


def split_of(rows):
    """Of rows of user, item and time."""
    return Interactions.from_arrays(*zip(*rows, strict=True)).sequences().leave_one_out()


def build(split):
    return DiffRec(
        split.train.vocabulary,
        dim=16,
        max_length=8,
        schedule={"name": "sqrt", "num_timesteps": 10},
        denoiser={
            "name": "conditional-mlp",
            "encoder": {"name": "causal-transformer", "num_layers": 1, "num_heads": 2},
        },
        memory="transitions",
        seeds=2,
    )


# Four pages, all of which every user has seen: the next one is always in the history


FOUR_PAGES = [(f"v{user}", "ABCD"[(user + time) % 4], time) for user in range(10) for time in range(8)]


def test_a_target_that_is_never_recommended_is_never_a_hit():
    split = split_of(FOUR_PAGES)
    model = build(split)
    model.memory.fit(split.train)
    assert model.recommend([["A", "B", "C", "D"]], k=4).items == [[]]
    for report in (
        evaluate(model, split.test),
        evaluate_popularity(split.train, split.test),
        evaluate_item_to_item(split.train, split.test),
    ):
        assert set(report.metrics().values()) == {0}
        assert report.metrics(exclude_seen=False)["hr@5"] == 1


# Listeners who repeat five songs: every next song is in the history


def repeat_listening():
    songs = {user: random.Random(user).sample(range(30), 5) for user in range(80)}
    return [(f"u{user}", f"song{songs[user][time % 5]}", time) for user in songs for time in range(20)]


def test_a_validation_that_cannot_choose_is_reported_with_what_to_use_instead():
    split = split_of(repeat_listening())
    model = build(split)
    with pytest.warns(UserWarning, match="exclude_seen=") as told:
        result = train(model, split.train, split.validation, CONFIG, device="cpu")
    assert (result.best_epoch, result.best_score) == (1, 0)
    repeats, zeros = (str(warning.message) for warning in told)
    assert "80 of 80 validation targets are in their own histories" in repeats
    assert "TrainingConfig(exclude_seen=False), on the command line --include-seen" in repeats
    assert "ndcg@10 was 0 in every validation" in zeros
    assert {warning.filename for warning in told} == {__file__}


def test_seen_items_can_be_counted():
    split = split_of(repeat_listening())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = train(build(split), split.train, split.validation, replace(CONFIG, exclude_seen=False), device="cpu")
    assert result.best_score > 0.2


@pytest.mark.parametrize(("repeating", "expected"), [(20, 0), (21, 1)])
def test_a_few_repeats_are_no_reason_to_warn(repeating, expected):
    rows = [(user, (user + time) % (3 if user < repeating else 40), time) for user in range(100) for time in range(6)]
    split = split_of(rows)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        train(build(split), split.train, split.validation, CONFIG, device="cpu")
    assert len(told) == expected


# One log twice, its rows in another order: the items come by other indices


LOG = [(f"u{user}", f"i{(3 * user + time * time) % 40}", time) for user in range(60) for time in range(7)]
OTHER_ORDER = random.Random(0).sample(LOG, len(LOG))


@pytest.fixture(scope="module")
def trained():
    split = split_of(LOG)
    model = build(split)
    train(model, split.train, split.validation, CONFIG, device="cpu")
    return model


def test_rows_in_another_order_have_the_same_figures(trained):
    one, other = split_of(LOG), split_of(OTHER_ORDER)
    assert one.test.histories.vocabulary != other.test.histories.vocabulary
    ours, theirs = evaluate(trained, one.test), evaluate(trained, other.test)
    assert theirs.metrics() == pytest.approx(ours.metrics(), abs=1e-9)
    assert theirs.metrics(exclude_seen=False) == pytest.approx(ours.metrics(exclude_seen=False), abs=1e-9)
    assert ours.metrics()["hr@10"] > 0
    for baseline in (evaluate_popularity, evaluate_item_to_item):
        assert baseline(one.train, other.test).metrics() == pytest.approx(
            baseline(one.train, one.test).metrics(), abs=1e-9
        )


def test_rows_in_another_order_are_audited_and_trained_on(trained):
    other = split_of(OTHER_ORDER)
    assert audit(trained, other.test, seeds=2, steps=[2], levels=1).num_users == 60
    assert train(build(split_of(LOG)), other.train, other.validation, CONFIG, device="cpu").best_score > 0


def test_a_log_with_fewer_items_is_evaluated(trained):
    some = split_of([row for row in OTHER_ORDER if row[0] in ("u1", "u2")])
    assert len(some.test.histories.vocabulary) < 40
    assert evaluate(trained, some.test).num_users == 2
