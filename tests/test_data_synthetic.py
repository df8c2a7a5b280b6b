from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusers_rec.data import Holdout, Interactions, Sequences, SyntheticWorld, Vocabulary


@pytest.fixture(scope="module")
def world():
    return SyntheticWorld(seed=3)


@pytest.fixture(scope="module")
def test_holdout(world):
    return world.sample(3000, seed=1).sequences().leave_one_out().test


@given(num_items=st.integers(4, 30), num_groups=st.integers(1, 9), data=st.data())
def test_probabilities_are_probabilities(num_items, num_groups, data):
    num_groups = min(num_groups, num_items // 2)
    world = SyntheticWorld(num_items, num_groups=num_groups)
    history = st.lists(st.integers(0, num_items - 1), max_size=num_items - 1, unique=True)
    histories = data.draw(st.lists(history, min_size=1, max_size=4))
    probabilities = world.next_item_probabilities(histories)
    assert probabilities.shape == (len(histories), num_items)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    for row, history in zip(probabilities, histories, strict=True):
        assert set(np.flatnonzero(row == 0)) == set(history)
    alone = np.concatenate([world.next_item_probabilities([history]) for history in histories])
    np.testing.assert_array_equal(alone, probabilities)


def test_the_first_item_comes_from_popularity(world):
    np.testing.assert_allclose(world.next_item_probabilities([[]])[0], world.popularity)


def test_samples_follow_the_probabilities():
    world = SyntheticWorld(6, num_groups=2)
    log = world.sample(40_000, min_length=1, max_length=4)
    sequences = log.sequences()
    own = world.items.encode(log.item_vocabulary.ids)
    whole = [tuple(own[row].tolist()) for row in sequences]
    for history in [(), (2,), (2, 5), (5, 2), (0, 1, 4)]:
        follows = [row[len(history)] for row in whole if len(row) > len(history) and row[: len(history)] == history]
        assert len(follows) > 40
        expected = world.next_item_probabilities([history])[0]
        observed = np.bincount(follows, minlength=6) / len(follows)
        np.testing.assert_allclose(observed, expected, atol=4.5 * np.sqrt(0.25 / len(follows)))
        assert (observed[list(history)] == 0).all()


def test_sample_gives_a_well_formed_log():
    world = SyntheticWorld(40)
    log = world.sample(300, min_length=4, max_length=9)
    assert isinstance(log, Interactions)
    lengths = log.sequences().lengths
    assert set(lengths.tolist()) == set(range(4, 10))
    assert log.user_vocabulary.ids[1] == "user-0001"
    assert set(log.item_vocabulary.ids) <= {f"item-{i:03d}" for i in range(40)}
    assert log.times.dtype == np.int64
    assert all(len(set(row.tolist())) == len(row) for row in log.sequences())
    again, other = world.sample(300, min_length=4, max_length=9), world.sample(300, min_length=4, max_length=9, seed=1)
    assert np.array_equal(log.items, again.items)
    assert log.item_vocabulary == again.item_vocabulary
    assert log.item_vocabulary.decode(log.items[:50]) != other.item_vocabulary.decode(other.items[:50])


def test_a_user_may_see_everything():
    log = SyntheticWorld(8, num_groups=2).sample(20, min_length=8, max_length=8)
    assert np.array_equal(np.sort(log.items.reshape(20, 8), axis=1), np.tile(np.arange(8), (20, 1)))


def test_best_metrics_are_what_the_true_ranking_scores(world, test_holdout):
    best = world.best_metrics(test_holdout)
    own = world.items.encode(test_holdout.histories.vocabulary.ids)
    scores = world.next_item_probabilities([own[row] for row in test_holdout.histories])[:, own]
    target = np.take_along_axis(scores, test_holdout.targets[:, None], axis=1)
    rank = (scores > target).sum(axis=1) + 1
    for k in (5, 10, 20):
        assert best[f"hr@{k}"] == pytest.approx((rank <= k).mean(), abs=0.03)
        assert best[f"ndcg@{k}"] == pytest.approx(((rank <= k) / np.log2(rank + 1)).mean(), abs=0.03)


def test_a_sequence_model_can_beat_popularity(world, test_holdout):
    best = world.best_metrics(test_holdout, ks=[10])["hr@10"]
    assert 0.4 < best < 0.7
    popular = np.argsort(-np.bincount(test_holdout.histories.items))[:10]
    assert np.isin(test_holdout.targets, popular).mean() < best / 4


def test_items_that_never_occur_are_unreachable():
    world = SyntheticWorld(6, num_groups=2)
    few = Vocabulary([world.items.ids[4], world.items.ids[1]])
    histories = Sequences(np.array([1]), np.array([0, 1]), Vocabulary(["u"]), few)  # the history is item 1
    best = world.best_metrics(Holdout(histories, np.array([0])), ks=[1, 50])
    mass = world.next_item_probabilities([[1]])[0, 4]
    assert best == pytest.approx({"hr@1": mass, "hr@50": mass, "ndcg@1": mass, "ndcg@50": mass})


def test_refuses_nonsense(world, test_holdout):
    with pytest.raises(
        ValueError, match=r"every group needs two items, got num_items=5, num_groups=3. Use num_items >= 6"
    ):
        SyntheticWorld(5, num_groups=3)
    with pytest.raises(ValueError, match="min_length must be an integer >= 1 and <= 4, got 5"):
        world.sample(3, min_length=5, max_length=4)
    with pytest.raises(ValueError, match="max_length must be an integer >= 1 and <= 200, got 201"):
        world.sample(3, max_length=201)
    with pytest.raises(ValueError, match="num_users must be an integer >= 1, got 0"):
        world.sample(0)
    for wrong in ({"num_users": 2.5}, {"num_users": 2, "max_length": 5.5}, {"num_users": 2, "seed": 0.5}):
        with pytest.raises(TypeError, match=r"SyntheticWorld\.sample: .* must be an integer .*\.5 \(float\)"):
            world.sample(**wrong)
    for wrong in ({"num_items": 20.5}, {"num_groups": 2.5}, {"seed": 0.5}):
        with pytest.raises(TypeError, match=r"SyntheticWorld: .* must be an integer.*\.5 \(float\)"):
            SyntheticWorld(**wrong)
    with pytest.raises(TypeError, match=r"best_metrics: holdout must be Holdout, got Split\. Use sequences\.leave_one"):
        world.best_metrics(world.sample(9).sequences().leave_one_out())
    with pytest.raises(TypeError, match=r"history 0 has dtype float64; expected item indices"):
        world.next_item_probabilities([[1.5]])
    with pytest.raises(ValueError, match=r"item indices in 0\.\.199, got 0\.\.200"):
        world.next_item_probabilities([[0, 200]])
    with pytest.raises(ValueError, match="contains every item"):
        world.next_item_probabilities([range(200)])
    with pytest.raises(ValueError, match="each of ks must be an integer >= 1, got 0"):
        world.best_metrics(test_holdout, ks=[0])
    stranger = Sequences(np.array([0]), np.array([0, 1]), Vocabulary(["u"]), Vocabulary(["book"]))
    with pytest.raises(ValueError, match="unknown id"):
        world.best_metrics(Holdout(stranger, np.array([0])))
