"""Augmented histories and histories with the same target."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffusers_rec import Interactions
from diffusers_rec.data.augment import MASKED, Augmentations, crop, mask, reorder
from diffusers_rec.data.batching import TrainingBatches, pad
from diffusers_rec.data.same_target import SameTarget

histories = st.lists(st.lists(st.integers(0, 30), max_size=9), min_size=1, max_size=6).filter(any)
shares = st.floats(0, 1)
seeds = st.integers(0, 2**31)
each_way = pytest.mark.parametrize("change", [crop, mask, reorder])


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def rows(history):
    return [row[:length] for row, length in zip(history.items.tolist(), history.lengths.tolist(), strict=True)]


def share_of(row, share):
    return int(np.floor(len(row) * share))


@given(given=histories, share=shares, seed=seeds)
def test_crop_keeps_consecutive_items_and_their_times(given, share, seed):
    history = pad(given, times=[np.arange(100, 100 + len(row)) for row in given])
    cropped = crop(history, seeded(seed), share)
    for row, kept, times in zip(given, rows(cropped), cropped.times.tolist(), strict=True):
        assert len(kept) == min(len(row), max(1, share_of(row, share)))
        start = times[0] - 100 if kept else 0
        assert kept == row[start : start + len(kept)]
        assert times[: len(kept)] == [*range(start + 100, start + 100 + len(kept))]


@given(given=histories, share=shares, seed=seeds)
def test_mask_hides_a_share_of_the_items_in_place(given, share, seed):
    masked = mask(pad(given), seeded(seed), share)
    for row, left in zip(given, rows(masked), strict=True):
        assert len(left) == len(row)
        assert left.count(MASKED) == share_of(row, share)
        assert all(now in (MASKED, item) for item, now in zip(row, left, strict=True))
    padding = ~masked.mask
    assert torch.equal(masked.items[padding], pad(given).items[padding])


@given(given=histories, share=shares, seed=seeds)
def test_reorder_shuffles_consecutive_items_and_nothing_else(given, share, seed):
    history = pad([range(len(row)) for row in given], times=[np.arange(len(row)) for row in given])
    shuffled = reorder(history, seeded(seed), share)
    assert torch.equal(shuffled.times, history.times)
    for row, now in zip(rows(history), rows(shuffled), strict=True):
        assert sorted(now) == row
        moved = [place for place, item in enumerate(now) if item != place]
        assert not moved or moved[-1] - moved[0] < share_of(row, share)


@each_way
@given(given=histories, seed=seeds)
def test_a_seed_determines_the_view_and_the_history_stays(change, given, seed):
    history, before = pad(given), pad(given)
    one, other = change(history, seeded(seed)), change(history, seeded(seed))
    assert torch.equal(one.items, other.items)
    assert torch.equal(one.lengths, other.lengths)
    assert torch.equal(history.items, before.items)


@each_way
def test_a_view_depends_on_no_item_behind_the_history(change):
    history = pad([[1, 2, 3, 4, 5, 6, 7], [5, 6, 7, 8, 9, 10, 11]])
    cut = history.first(7)
    cut = type(cut)(cut.items, torch.tensor([4, 6]))
    other = type(cut)(cut.items.where(cut.mask, 25), cut.lengths)
    assert rows(change(cut, seeded())) == rows(change(other, seeded()))


@pytest.mark.parametrize(
    ("change", "share", "possible"),
    [(crop, 0.5, 4), (mask, 0.4, 10), (reorder, 0.6, 14)],
)
def test_all_outcomes_occur(change, share, possible):
    """Crops of 2 of 5 items; 2 of 5 masks; orders that shuffle 3 of 5 (3 starts of 6 orders, some of them equal)."""
    history = pad([[0, 1, 2, 3, 4]] * 3000)
    found = Counter(map(tuple, rows(change(history, seeded(), share))))
    assert len(found) == possible
    if change is not reorder:
        assert min(found.values()) > 0.7 * 3000 / possible


def test_the_views_of_a_history_are_made_in_different_ways():
    history = pad([range(1, 11)] * 500)
    views = [rows(view) for view in Augmentations().any_of(history, 2, seeded())]

    def way(row):
        return "crop" if len(row) < 10 else "mask" if MASKED in row else "reorder"

    pairs = Counter((way(one), way(other)) for one, other in zip(*views, strict=True))
    assert len(pairs) == 6  # a reorder that changes nothing would count as one of "reorder", too
    assert min(pairs.values()) > 50


def test_a_history_of_one_item_stays_as_it_is():
    for view in Augmentations().any_of(pad([[3], [4]]), 3, seeded()):
        assert rows(view) == [[3], [4]]
    ways = [rows(view) for view in Augmentations(mask=1.0).any_of(pad([[3]]), 3, seeded())]
    assert sorted(ways) == [[[MASKED]], [[3]], [[3]]]


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_shares_out_of_range_are_refused(share):
    with pytest.raises(ValueError, match="share"):
        crop(pad([[1, 2]]), seeded(), share)
    with pytest.raises(ValueError, match="mask"):
        Augmentations(mask=share)


# Same target

ROWS = [["a", "b", "t", "c"], ["c", "t"], ["d", "e", "a", "t"], ["b", "x"], ["t", "x"]]


def sequences():
    users = [user for user, row in enumerate(ROWS) for _ in row]
    items = [item for row in ROWS for item in row]
    return Interactions.from_arrays(users, items, range(len(items))).sequences(times=True)


def ids(history, vocabulary):
    return ["".join(vocabulary.decode(row)) for row in rows(history)]


def asked(data, *histories):
    """Histories of many repeats, with their targets."""
    encoded = [data.vocabulary.encode(list(history)).tolist() for history in histories]
    return pad([row[:-1] for row in encoded]), torch.tensor([row[-1] for row in encoded])


def test_another_example_with_the_same_target_is_drawn_uniformly():
    data = sequences()
    same = SameTarget(data)
    drawn = ids(same.draw(*asked(data, *["abt"] * 900, *["ct"] * 900), seeded()), data.vocabulary)
    assert set(drawn[:900]) == {"c", "dea"}
    assert set(drawn[900:]) == {"ab", "dea"}
    assert all(350 < count < 550 for half in (drawn[:900], drawn[900:]) for count in Counter(half).values())
    unknown = ids(same.draw(*asked(data, *["eet"] * 900), seeded()), data.vocabulary)
    assert all(220 < count < 380 for count in Counter(unknown).values())


def test_a_history_without_another_example_stays_as_it_is():
    data = sequences()
    drawn = SameTarget(data).draw(*asked(data, "abtc", "deat", "aa", "ab"), seeded())
    assert ids(drawn, data.vocabulary)[0] == "abt"
    assert ids(drawn, data.vocabulary)[2:] == ["a", "a"]


def test_last_targets_and_cut_histories_are_those_of_the_training_batches():
    data = sequences()
    drawn = SameTarget(data, examples="last-target", max_length=3).draw(*asked(data, *["ct"] * 50, "bt"), seeded())
    assert set(ids(drawn, data.vocabulary)[:50]) == {"ea"}
    assert set(ids(drawn, data.vocabulary)[50:]) <= {"c", "ea"}


@given(seed=seeds)
def test_draws_are_training_examples_and_depend_on_the_seed_alone(seed):
    generator = np.random.default_rng(seed)
    items = generator.integers(0, 6, 40)
    data = Interactions.from_arrays(np.repeat(np.arange(8), 5), items, np.arange(40)).sequences()
    batches = TrainingBatches(data, max_length=4, batch_targets=8)
    known = {(tuple(row[:-1]), row[-1]) for batch in batches.epoch(0) for row in rows(batch.history)}
    same = SameTarget(data, max_length=4)
    batch = next(batches.epoch(1))
    targets = batch.items.gather(1, batch.positions)[:, 0]
    history = type(batch.history)(batch.items, batch.lengths - 1)
    one, other = (same.draw(history, targets, seeded(seed)) for _ in range(2))
    assert rows(one) == rows(other)
    for row, target in zip(rows(one), targets.tolist(), strict=True):
        assert (tuple(row), target) in known


@pytest.mark.parametrize("examples", ["every-prefix", "all-positions"])
def test_an_example_is_known_by_its_place_wherever_its_window_begins(examples):
    """Times are those of the log, no two equal; equal histories of other users are other examples."""
    items = np.random.default_rng(0).integers(0, 5, 240)
    data = Interactions.from_arrays(np.repeat(np.arange(8), 30), items, np.arange(240)).sequences(times=True)
    same, seen = SameTarget(data, examples=examples, max_length=5), Counter()
    for batch in TrainingBatches(data, examples=examples, max_length=5).epoch(0):
        for column in batch.positions.T:
            rows = (column > 0).nonzero()[:, 0]
            history, length = batch.history.take(rows), column[rows]
            target = batch.items[rows].gather(1, length[:, None])[:, 0]
            places = batch.starts[rows] + length
            assert torch.equal(torch.from_numpy(data.items)[places], target)
            drawn = same.draw(replace(history, lengths=length), target, seeded(), places)
            last = drawn.times.gather(1, drawn.lengths[:, None] - 1)[:, 0]
            assert not (last == history.times.gather(1, length[:, None] - 1)[:, 0]).any()
            seen.update(last.tolist())
    assert len(seen) > 100


def test_features_and_times_are_those_of_the_drawn_example():
    data = sequences().with_features({"age": np.arange(len(ROWS))})
    item, target = data.vocabulary.encode(["c", "t"]).tolist()
    history = pad([[item]], times=[[4]], features={"age": np.array([1])})
    drawn = SameTarget(data).draw(history, torch.tensor([target]), seeded())
    expected = {"ab": ([0, 1], 0), "dea": ([6, 7, 8], 2)}[ids(drawn, data.vocabulary)[0]]
    assert drawn.times[0, : drawn.lengths[0]].tolist() == expected[0]
    assert drawn.features["age"].tolist() == [expected[1]]


def test_copies_of_a_model_share_the_examples():
    same = SameTarget(sequences())
    assert copy.deepcopy([same])[0] is same
