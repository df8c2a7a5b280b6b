from __future__ import annotations

from collections import Counter
from itertools import zip_longest
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from diffusers_rec.data import Batch, History, Sequences, TrainingBatches, Vocabulary, batch_dataset, pad

EXAMPLES = ["every-prefix", "last-target", "all-positions"]


def sequences_of(lengths):
    """Sequences in which every item occurs once, so that an item tells its user and its place."""
    offsets = np.cumsum([0, *lengths])
    users, items = Vocabulary(range(len(lengths))), Vocabulary(range(max(offsets[-1], 1)))
    return Sequences(np.arange(offsets[-1]), offsets, users, items)


sources = st.builds(
    lambda lengths, **settings: TrainingBatches(sequences_of(lengths), **settings),
    st.lists(st.integers(0, 12), min_size=1, max_size=20).filter(lambda lengths: max(lengths) >= 2),
    examples=st.sampled_from(EXAMPLES),
    max_length=st.integers(2, 8),
    batch_targets=st.integers(1, 20),
    seed=st.integers(0, 3),
)


def rows_of(batches):
    """(items of a row, its targets) as tuples."""
    for batch in batches:
        for items, length, positions in zip(batch.items, batch.lengths, batch.positions, strict=True):
            row = items[:length].tolist()
            yield tuple(row), tuple(row[p] for p in positions.tolist() if p >= 0)


@given(source=sources, epoch=st.integers(0, 3))
def test_every_target_comes_exactly_once(source, epoch):
    targets = Counter(target for _, found in rows_of(source.epoch(epoch)) for target in found)
    rows = [row.tolist() for row in source.sequences]
    wanted = [row[-1:] if source.examples == "last-target" else row[1:] for row in rows if len(row) >= 2]
    assert targets == Counter(target for row in wanted for target in row)
    assert source.num_targets == targets.total()


@given(source=sources, epoch=st.integers(0, 3))
def test_a_row_is_what_a_user_last_did(source, epoch):
    for row, targets in rows_of(source.epoch(epoch)):
        assert 2 <= len(row) <= source.max_length
        user = next(items.tolist() for items in source.sequences if row[0] in items)
        start = user.index(row[0])
        assert list(row) == user[start : start + len(row)]
        if source.examples == "all-positions":
            assert targets == row[1:]
        else:
            assert targets == row[-1:]
            assert start == 0 or len(row) == source.max_length  # nothing that fits is left out


@given(source=sources, epoch=st.integers(0, 3))
def test_batches_are_trimmed_padded_and_full(source, epoch):
    batches = list(source.epoch(epoch))
    assert len(batches) == source.num_batches(epoch)
    for batch in batches:
        assert batch.items.dtype == batch.lengths.dtype == batch.positions.dtype == torch.int64
        assert batch.items.shape == (len(batch), batch.lengths.max())
        padding = torch.arange(batch.items.shape[1]) >= batch.lengths[:, None]
        assert (batch.items[padding] == 0).all()
        assert batch.positions.shape[1] == (batch.items.shape[1] - 1 if source.examples == "all-positions" else 1)
        assert (batch.positions < batch.lengths[:, None]).all()
        assert batch.num_targets == (batch.positions >= 0).sum()
        assert batch.num_targets <= source.batch_targets or len(batch) == 1
    if source.examples != "all-positions":
        assert sum(batch.num_targets < source.batch_targets for batch in batches) <= 1


@given(source=sources, epoch=st.integers(0, 3))
def test_seed_and_epoch_decide_the_order_and_nothing_global_does(source, epoch):
    numpy_state, torch_state = np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
    first = list(rows_of(source.epoch(epoch)))
    assert first == list(rows_of(source.epoch(epoch)))
    assert np.random.get_state()[1].tolist() == numpy_state  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), torch_state)


@pytest.mark.parametrize("examples", EXAMPLES)
def test_epochs_and_seeds_differ(examples):
    sequences = sequences_of([9, 30, 4] * 20)
    make = [TrainingBatches(sequences, examples=examples, max_length=8, seed=seed) for seed in (0, 1)]
    orders = [list(rows_of(source.epoch(epoch))) for source in make for epoch in (0, 1)]
    assert all(a != b for i, a in enumerate(orders) for b in orders[:i])
    if examples == "all-positions":  # the cuts move too
        assert len({row for order in orders for row, _ in order}) > len(orders[0])


def test_little_padding():
    lengths = np.random.default_rng(0).integers(2, 60, 3000)
    for examples in EXAMPLES:
        batches = list(TrainingBatches(sequences_of(lengths), examples=examples).epoch(0))
        assert sum(int(b.lengths.sum()) for b in batches) / sum(b.items.numel() for b in batches) > 0.9


def test_to_keeps_everything():
    batch = next(TrainingBatches(sequences_of([3, 4])).epoch(0))
    moved = batch.to("meta")
    assert moved.items.device.type == moved.lengths.device.type == moved.positions.device.type == "meta"
    assert moved.num_targets == batch.num_targets


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"examples": "prefix"}, "one of every-prefix, last-target, all-positions, got 'prefix'"),
        ({"max_length": 1}, "TrainingBatches: max_length must be an integer >= 2, got 1"),
        ({"batch_targets": 0}, "TrainingBatches: batch_targets must be an integer >= 1, got 0"),
        ({"seed": -1}, "TrainingBatches: seed must be an integer >= 0, got -1"),
    ],
)
def test_refuses_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        TrainingBatches(sequences_of([3]), **settings)


@pytest.mark.parametrize("setting", ["max_length", "batch_targets", "seed"])
def test_settings_are_integers(setting):
    with pytest.raises(TypeError, match=rf"TrainingBatches: {setting} must be an integer >= \d, got 2\.5 \(float\)"):
        TrainingBatches(sequences_of([3]), **{setting: 2.5})
    with pytest.raises(TypeError, match=r"TrainingBatches: epoch must be an integer >= 0, got 0\.0"):
        TrainingBatches(sequences_of([3])).epoch(0.0)


def test_what_takes_sequences_says_where_they_come_from():
    with pytest.raises(TypeError, match=r"TrainingBatches: sequences must be Sequences, got list\. Use read_inter"):
        TrainingBatches([[1, 2]])


def test_refuses_nothing_to_learn_from():
    with pytest.raises(ValueError, match="none of the 2 sequences has two items"):
        TrainingBatches(sequences_of([1, 0]))
    with pytest.raises(ValueError, match="TrainingBatches: epoch must be an integer >= 0, got -1"):
        TrainingBatches(sequences_of([2])).epoch(-1)


@given(lengths=st.lists(st.integers(0, 9), min_size=1, max_size=9), max_length=st.integers(1, 10))
def test_pad_keeps_the_latest(lengths, max_length):
    sequences = sequences_of(lengths)
    padded = pad(sequences, max_length)
    items, kept = padded.items, padded.lengths
    assert items.shape == (len(lengths), max(1, min(max_length, max(lengths))))
    for row, length, whole in zip(items, kept, sequences, strict=True):
        assert row[:length].tolist() == whole[-max_length:].tolist()
        assert (row[length:] == 0).all()
    for histories in ([*sequences], [row.tolist() for row in sequences], [torch.tensor(row) for row in sequences]):
        again = pad(histories, max_length)
        assert torch.equal(again.items, items)
        assert torch.equal(again.lengths, kept)


@pytest.mark.parametrize(
    ("histories", "max_length", "error", "message"),
    [
        ([], 5, ValueError, "at least one history"),
        ([[1]], 0, ValueError, "max_length must be an integer >= 1, got 0"),
        ([[1]], 1.5, TypeError, "max_length must be an integer >= 1, got 1.5"),
        ([[0, 1], {0, 1}], 5, TypeError, "history 1 has dtype object; expected item indices"),
        ([[1], [-1]], 5, ValueError, "history 1 must be"),
        ([[[1]]], 5, ValueError, "history 0 must be"),
        ([["a"]], 5, TypeError, "history 0 has dtype <U1; expected item indices"),
    ],
)
def test_pad_refuses(histories, max_length, error, message):
    with pytest.raises(error, match=message):
        pad(histories, max_length)


@pytest.mark.parametrize(
    ("lengths", "positions", "message"),
    [
        ([3, 2], [[2], [2]], "a target lies behind the end of its row"),
        ([4, 2], [[1], [1]], "cannot have 4"),
        ([3], [[1], [1]], "expected items"),
    ],
)
def test_a_batch_that_would_read_padding_is_refused(lengths, positions, message):
    with pytest.raises(ValueError, match=message):
        Batch(History(torch.zeros(2, 3, dtype=torch.int64), torch.tensor(lengths)), torch.tensor(positions))


def test_a_batch_takes_a_history():
    with pytest.raises(
        TypeError, match=r"Batch: history must be History, got Tensor\. Use History\(items, lengths\)\."
    ):
        Batch(torch.zeros(2, 3, dtype=torch.int64), torch.tensor([3, 3]), torch.tensor([[1], [1]]))


def keys(batches):
    return [(batch.items.tolist(), batch.positions.tolist()) for batch in batches]


def loaded(dataset, workers):
    """What a loader with so many workers gives: a batch of each in turn."""
    given = []
    for number in range(max(workers, 1)):
        info = SimpleNamespace(id=number, num_workers=workers) if workers else None
        with mock.patch.object(batch_dataset, "get_worker_info", lambda info=info: info):
            given.append(keys(dataset))
    return [batch for turn in zip_longest(*given) for batch in turn if batch is not None]


@given(source=sources, epoch=st.integers(0, 3), ranks=st.integers(1, 4), workers=st.integers(0, 3), even=st.booleans())
def test_ranks_and_workers_together_have_each_batch_once(source, epoch, ranks, workers, even):
    whole, found = keys(source.epoch(epoch)), []
    for rank in range(ranks):
        dataset = source.dataset(rank=rank, num_ranks=ranks, even=even)
        dataset.set_epoch(epoch)
        own, share = whole[rank::ranks], loaded(dataset, workers)
        missing = -(-len(whole) // ranks) - len(own)
        assert share == own + whole[:1] * (missing * even)
        assert len(share) == len(dataset)
        found += own
    assert sorted(found) == sorted(whole)


@pytest.mark.parametrize("persistent", [False, True])
def test_workers_of_a_loader_follow_the_epoch(persistent):
    source = TrainingBatches(sequences_of([6, 9, 4, 7, 3]), batch_targets=4)
    dataset = source.dataset()
    loader = DataLoader(dataset, batch_size=None, num_workers=2, persistent_workers=persistent)
    for epoch in (0, 2):
        dataset.set_epoch(epoch)
        assert len(loader) == source.num_batches(epoch)
        assert keys(loader) == keys(source.epoch(epoch))


def test_a_rank_is_that_of_the_launcher(monkeypatch):
    source = TrainingBatches(sequences_of([6, 9, 4]), batch_targets=2)
    assert (source.dataset().rank, source.dataset().num_ranks) == (0, 1)
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert (source.dataset().rank, source.dataset().num_ranks) == (2, 3)
    assert keys(source.dataset()) == keys(source.epoch(0))[2::3]
    assert (source.dataset(num_ranks=1).rank, source.dataset(rank=0).num_ranks) == (0, 3)
    with pytest.raises(ValueError, match=r"rank must be an integer >= 0 and <= 1, got 2"):
        source.dataset(rank=2, num_ranks=2)
    with pytest.raises(ValueError, match="epoch must be an integer >= 0"):
        source.dataset().set_epoch(-1)
