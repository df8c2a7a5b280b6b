from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffusers_rec.data import Holdout, Sequences, Vocabulary

NUM_ITEMS = 12
lists = st.lists(st.lists(st.integers(0, NUM_ITEMS - 1), max_size=7), min_size=1, max_size=8)


def sequences_of(lists):
    offsets = np.cumsum([0, *map(len, lists)])
    items = np.array([item for items in lists for item in items], dtype=np.int64)
    return Sequences(items, offsets, Vocabulary([f"u{u}" for u in range(len(lists))]), Vocabulary(range(NUM_ITEMS)))


def by_user(sequences):
    return dict(zip(sequences.users.ids, (sequence.tolist() for sequence in sequences), strict=True))


@given(lists=lists)
def test_rows_come_back(lists):
    sequences = sequences_of(lists)
    assert len(sequences) == len(lists)
    assert [sequences[u].tolist() for u in range(len(lists))] == [row.tolist() for row in sequences] == lists
    assert sequences[-1].tolist() == lists[-1]
    assert sequences.lengths.tolist() == list(map(len, lists))
    with pytest.raises(IndexError, match="expected a user index below"):
        sequences[len(lists)]
    with pytest.raises(TypeError, match=r"expected one user index, got slice.* take\(\)"):
        sequences[:1]


@given(lists=lists, data=st.data())
def test_take_is_indexing(lists, data):
    users = data.draw(st.lists(st.integers(0, len(lists) - 1), min_size=1, unique=True))
    taken = sequences_of(lists).take(users)
    assert [row.tolist() for row in taken] == [lists[u] for u in users]
    assert list(taken.users.ids) == [f"u{u}" for u in users]


@given(lists=lists, short=st.sampled_from(["error", "drop", "train"]))
def test_leave_one_out_puts_every_item_where_it_belongs(lists, short):
    sequences = sequences_of(lists)
    long = {user: row for user, row in by_user(sequences).items() if len(row) >= 3}
    if not long or (short == "error" and len(long) < len(lists)):
        with pytest.raises(ValueError, match=r"at least 3 items, but .*k_core\(3\), or pass short='drop'"):
            sequences.leave_one_out(short)
        return
    split = sequences.leave_one_out(short)
    assert by_user(split.validation.histories) == {user: row[:-2] for user, row in long.items()}
    assert by_user(split.test.histories) == {user: row[:-1] for user, row in long.items()}
    assert split.validation.targets.tolist() == [row[-2] for row in long.values()]
    assert split.test.targets.tolist() == [row[-1] for row in long.values()]
    kept = {user: row[:-2] if user in long else row for user, row in by_user(sequences).items()}
    assert by_user(split.train) == (kept if short == "train" else {user: kept[user] for user in long})
    assert split.train.vocabulary is split.validation.histories.vocabulary is sequences.vocabulary
    assert len(split.test) == len(long)


def test_short_users_are_named():
    sequences = sequences_of([[1, 2], [1, 2, 3], [], [4], [5], [6], [7]])
    with pytest.raises(ValueError, match=r"6 of 7 have fewer \(first: 'u0', 'u2', 'u3', 'u4', 'u5'\)"):
        sequences.leave_one_out()
    with pytest.raises(ValueError, match="short must be one of 'error', 'drop', 'train', got 'keep'"):
        sequences.leave_one_out("keep")


@given(lists=lists, order=st.permutations(range(NUM_ITEMS + 3)))
def test_another_vocabulary_changes_indices_and_no_ids(lists, order):
    sequences, other = sequences_of(lists), Vocabulary(order)
    moved = sequences.reindexed(other)
    assert moved.vocabulary is other
    assert [other.decode(row) for row in moved] == lists
    targets = np.arange(len(lists)) % NUM_ITEMS
    holdout = Holdout(sequences, targets).reindexed(other)
    assert [other.decode(row) for row in holdout.histories] == lists
    assert other.decode(holdout.targets) == targets.tolist()
    assert sequences.reindexed(Vocabulary(range(NUM_ITEMS))) is sequences


@given(lists=lists, known=st.sets(st.integers(0, NUM_ITEMS - 1), min_size=1))
def test_the_items_that_occur_must_be_in_the_other_vocabulary(lists, known):
    sequences, other = sequences_of(lists), Vocabulary(sorted(known))
    unknown = {item for items in lists for item in items} - known
    if not unknown:
        assert [other.decode(row) for row in sequences.reindexed(other)] == lists
        return
    shown = ", ".join(map(str, sorted(unknown)[:5]))
    with pytest.raises(ValueError, match=f"not know all items of the sequences.* {len(unknown)} unknown .*: {shown}"):
        sequences.reindexed(other)


def test_unknown_targets_are_refused_too():
    with pytest.raises(ValueError, match=r"not know all items of the holdout.* 1 unknown id among 2 known: 3\."):
        Holdout(sequences_of([[1, 2]]), np.array([3])).reindexed(Vocabulary([2, 1]))


def test_statistics_count_what_occurs():
    statistics = sequences_of([[1, 2], [], [2, 2]]).statistics()
    assert (statistics.num_users, statistics.num_items, statistics.num_actions) == (2, 2, 4)
    with pytest.raises(ValueError, match="An empty log has no statistics"):
        sequences_of([[]]).statistics()


@pytest.mark.parametrize("offsets", [[0], [0, 1], [0, 3, 2], [1, 2, 2], [0, 1, 1], []])
def test_refuses_offsets_that_do_not_fit(offsets):
    with pytest.raises(ValueError, match=r"Sequences\.?.*offsets"):
        Sequences(
            np.zeros(2, np.int64), np.array(offsets, np.int64), Vocabulary("ab"[i] for i in (0, 1)), Vocabulary([0])
        )


def test_refuses_indices_outside_the_vocabulary():
    with pytest.raises(ValueError, match=r"Sequences\.items: expected indices in 0\.\.11, got 12\.\.12"):
        sequences_of([[12]])
    with pytest.raises(ValueError, match="one target a history, got 2 for 1"):
        Holdout(sequences_of([[1]]), np.zeros(2, np.int64))
    with pytest.raises(
        TypeError, match=r"Holdout: histories must be Sequences, got list\. Use read_interactions\(\.\.\.\)\.sequences"
    ):
        Holdout([[1]], np.zeros(1, np.int64))
    with pytest.raises(TypeError, match=r"Sequences: users must be Vocabulary, got list\. Use Vocabulary\(ids\)\."):
        Sequences(np.zeros(1, np.int64), np.array([0, 1]), ["u"], Vocabulary([0]))
    with pytest.raises(TypeError, match=r"Holdout: targets must be ndarray, got list"):
        Holdout(sequences_of([[1]]), [0])


@pytest.mark.parametrize(
    ("users", "seed", "error", "message"),
    [
        (1.5, 0, TypeError, r"users must be an integer >= 1, got 1\.5"),
        (0, 0, ValueError, "users must be an integer >= 1, got 0"),
        (1, None, TypeError, "seed must be an integer >= 0, got None"),
    ],
)
def test_a_sample_takes_integers(users, seed, error, message):
    with pytest.raises(error, match=rf"Holdout\.sample: {message}"):
        Holdout(sequences_of([[1], [2]]), np.zeros(2, np.int64)).sample(users, seed)
