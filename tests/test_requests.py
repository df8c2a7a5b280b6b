"""What callers may ask: candidates and exclusions of their own, unknown ids, empty histories."""

from __future__ import annotations

from itertools import pairwise

import narwhals as nw
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffusers_rec import Batch, DiffRec, Ensemble, History, Interactions, SyntheticWorld
from diffusers_rec.recommenders.requests import Requests

SEQUENCES = SyntheticWorld(24).sample(60).sequences()
ITEMS = SEQUENCES.vocabulary.ids
V = len(ITEMS)


def build(**settings):
    schedule = {"name": "cosine", "num_timesteps": 6}
    settings = {"denoiser": "conditional-mlp", "memory": "transitions", **settings}
    return DiffRec(SEQUENCES.vocabulary, dim=8, max_length=6, schedule=schedule, seeds=2, **settings).eval()


MODEL = build().prepare(SEQUENCES)
histories = st.lists(st.lists(st.sampled_from(ITEMS), min_size=1, max_size=7), min_size=1, max_size=4)
some_items = st.lists(st.sampled_from(ITEMS), min_size=1, max_size=V, unique=True)


def alone(history, **asked):
    found = MODEL.recommend([history], **asked)
    return found.items[0], found.scores[0]


@given(histories=histories, data=st.data())
def test_lists_of_each_history_answer_as_the_same_lists_alone(histories, data):
    candidates = [data.draw(some_items) for _ in histories]
    exclude = [data.draw(some_items) for _ in histories]
    found = MODEL.recommend(histories, candidates=candidates, exclude=exclude)
    for row, history in enumerate(histories):
        items, scores = alone(history, candidates=candidates[row], exclude=exclude[row])
        allowed = set(candidates[row]) - set(exclude[row]) - set(history)
        assert found.items[row] == items
        assert set(items) <= allowed
        assert len(items) == min(len(allowed), found.scores.shape[1])
        torch.testing.assert_close(found.scores[row][: len(scores)], scores[: found.scores.shape[1]])


@given(histories=histories, items=some_items)
def test_one_list_is_for_all_histories(histories, items):
    found = MODEL.recommend(histories, candidates=items, exclude=items[:3])
    each = MODEL.recommend(histories, candidates=[items] * len(histories), exclude=[items[:3]] * len(histories))
    assert found.items == each.items
    assert torch.equal(found.scores, each.scores)


@pytest.mark.parametrize("form", [list, tuple, set, frozenset, np.array, dict.fromkeys, iter])
def test_candidates_may_come_in_any_form_but_a_mapping(form):
    some = form(ITEMS[:5])
    if isinstance(some, dict):
        with pytest.raises(TypeError, match="candidates must be a list of item ids"):
            MODEL.recommend([[ITEMS[9]]], candidates=some)
    else:
        assert set(MODEL.recommend([[ITEMS[9]]], candidates=some).items[0]) == set(ITEMS[:5])


def test_k_is_ten_or_as_many_as_there_are():
    assert len(MODEL.recommend([[ITEMS[0]]]).items[0]) == 10
    assert len(MODEL.recommend([[ITEMS[0]]], candidates=ITEMS[1:4]).items[0]) == 3
    assert [len(row) for row in MODEL.recommend([[ITEMS[0]]] * 2, candidates=[ITEMS[1:4], ITEMS[1:3]]).items] == [3, 2]
    with pytest.raises(ValueError, match=r"k must lie in 1\.\.3, the number of items to choose from, got 4"):
        MODEL.recommend([[ITEMS[0]]], 4, candidates=ITEMS[1:4])


def test_unknown_ids_are_dropped_on_request():
    asked = [["nowhere", ITEMS[3], "nowhere else", ITEMS[5]], [ITEMS[2]]]
    with pytest.raises(ValueError, match=r"histories\[0\]: .*2 unknown ids"):
        MODEL.recommend(asked)
    found = MODEL.recommend(asked, unknown="drop", candidates=[*ITEMS[:9], "nowhere"], exclude=["nowhere", ITEMS[1]])
    known = MODEL.recommend([[ITEMS[3], ITEMS[5]], [ITEMS[2]]], candidates=ITEMS[:9], exclude=[ITEMS[1]])
    assert found.items == known.items
    with pytest.raises(ValueError, match=r"histories\[1\] holds no known item.*empty='popularity'"):
        MODEL.recommend([[ITEMS[0]], ["nowhere"]], unknown="drop")


@pytest.mark.parametrize("model", [MODEL, Ensemble([MODEL, build(seed=1).prepare(SEQUENCES)])])
def test_an_empty_history_is_answered_by_popularity_on_request(model):
    counts = np.bincount(SEQUENCES.items, minlength=V)
    best = sorted(range(V), key=lambda item: -counts[item])
    found = model.recommend([[], [ITEMS[0]], [], ["nowhere"]], k=3, unknown="drop", empty="popularity", batch_size=2)
    for row in (0, 2, 3):
        assert [counts[ITEMS.index(item)] for item in found.items[row]] == [counts[item] for item in best[:3]]
        torch.testing.assert_close(found.scores[row].numpy(), (np.sort(counts)[::-1][:3] / counts.sum()).astype("f4"))
        assert not found.std[row].any()
    assert found.items[1] == model.recommend([[ITEMS[0]]], k=3).items[0]
    only = model.recommend([[]], candidates=ITEMS[:4], exclude=[ITEMS[0]], empty="popularity").items[0]
    assert sorted(only) == sorted(ITEMS[1:4])


def test_popularity_that_is_not_known_is_told():
    with pytest.raises(ValueError, match=r"needs to know how often each item occurs. Call model\.prepare"):
        build(memory="none").recommend([[]], empty="popularity")


@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        ({"candidates": [ITEMS[:2], ITEMS[:3]]}, ValueError, "candidates holds 2 lists for 1 histories"),
        ({"exclude": [ITEMS[:2], ITEMS[:3]]}, ValueError, "exclude holds 2 lists for 1 histories"),
        ({"exclude": "i1"}, TypeError, "exclude must be a list of item ids, or one list a history"),
        ({"candidates": [[]]}, ValueError, "candidates is empty"),
        ({"candidates": [["nowhere"]]}, ValueError, r"candidates\[0\]: .*unknown id"),
        ({"unknown": "ignore"}, ValueError, "unknown must be one of 'error', 'drop'"),
        ({"empty": True}, ValueError, "empty must be one of 'error', 'popularity'"),
        ({"histories": [set(ITEMS[:2])]}, TypeError, r"histories\[0\] must be a list of item ids"),
        ({"histories": {ITEMS[0]}}, TypeError, "histories must be a list of histories"),
        ({"histories": [frozenset(ITEMS[:2])]}, TypeError, r"histories\[0\] must be a list of item ids"),
    ],
)
def test_bad_requests_are_told_apart(asked, error, message):
    with pytest.raises(error, match=message):
        MODEL.recommend(**{"histories": [[ITEMS[0]]], **asked})


@pytest.mark.parametrize("broken", ["embedding.weight", "head.weight", "head.offset", "denoiser.out.bias"])
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_give_no_answer(broken, value):
    model = build(memory="none")
    with torch.no_grad():
        model.state_dict()[broken].view(-1)[0] = value
    for ask in (model.recommend, model.predict_proba, model.sample):
        with pytest.raises(ValueError, match=rf"cannot serve: {broken} holds values that are not finite"):
            ask([[ITEMS[0]]])


def test_a_broken_weight_that_was_written_behind_torchs_back_is_seen_in_the_answer():
    model = build(memory="none")
    model.recommend([[ITEMS[0]]])
    model.head.weight.data[3] = torch.nan
    for ask in (model.recommend, model.predict_proba):
        with pytest.raises(ValueError, match="weights hold NaN or infinities"):
            ask([[ITEMS[0]]])


def test_sequences_are_asked_for_by_the_ids_of_their_items():
    """Their rows are indices, which must not be read as ids, least of all where ids are integers, too."""
    log = [[3, 1, 2], [0, 2]]
    users, items = zip(*((user, item) for user, row in enumerate(log) for item in row), strict=True)
    sequences = Interactions.from_arrays(users, items, range(len(items)))
    model = DiffRec([2, 0, 3, 1], dim=8, max_length=6, seeds=1).eval()
    found, expected = model.recommend(sequences.sequences(), k=1), model.recommend(log, k=1)
    assert found.items == expected.items
    assert torch.equal(found.scores, expected.scores)


@given(histories=histories, before=st.booleans(), padding=st.sampled_from([-1, 0, V]))
def test_tensors_in_any_padding_answer_as_ids_do(histories, before, padding):
    rows = [MODEL.vocabulary.encode(history) + (padding == 0) for history in histories]
    width = max(map(len, rows)) + 2
    sides = [(width - len(row), 0) if before else (0, width - len(row)) for row in rows]
    padded = torch.stack(
        [torch.from_numpy(np.pad(row, s, constant_values=padding)) for row, s in zip(rows, sides, strict=True)]
    )
    if padding == 0:  # other libraries count items from 1
        padded, padding = padded - 1, -1
    expected = MODEL.recommend(histories, k=V)
    found = MODEL.top_k(padded, k=V, padding=padding)
    assert [MODEL.vocabulary.decode(row[row >= 0]) for row in found.items] == expected.items
    torch.testing.assert_close(found.scores, expected.scores)
    lengths = torch.tensor([len(row) for row in rows])
    behind = torch.zeros(len(rows), width, dtype=torch.int64)
    for place, row in enumerate(rows):
        behind[place, : len(row)] = torch.from_numpy(MODEL.vocabulary.encode(histories[place]))
    by_lengths = MODEL.scores(behind, lengths)
    torch.testing.assert_close(MODEL.scores(padded, padding=padding), by_lengths)
    torch.testing.assert_close(MODEL.top_k(behind, lengths, exclude_seen=False, k=V).items[:, 0], by_lengths.argmax(1))


@pytest.mark.parametrize(
    ("items", "given", "message"),
    [
        ([[1, V]], {}, rf"items must hold indices of the vocabulary, 0\.\.{V - 1}, got 1 to {V}.*padding="),
        ([[1, 2]], {"lengths": [3]}, r"lengths must lie in 0\.\.2, got \[3\]"),
        ([[1, 2]], {"lengths": [1], "padding": 0}, "give lengths or padding, not both"),
        ([[0, 0], [1, 0]], {"padding": 0}, "The history of row 0 is empty"),
        ([[1]], {"k": 0}, r"k must lie in 1\.\."),
    ],
)
def test_wrong_tensors_are_told(items, given, message):
    lengths = given.pop("lengths", None)
    with pytest.raises(ValueError, match=message):
        MODEL.top_k(torch.tensor(items), None if lengths is None else torch.tensor(lengths), **given)


def test_a_batch_of_next_items_has_the_loss_of_its_rows():
    items, lengths, target = torch.tensor([[3, 5, 0], [1, 2, 4]]), torch.tensor([2, 3]), torch.tensor([7, 8])
    batch = Batch.next_item(History.of_items(items, lengths), target)
    whole = Batch(History(torch.tensor([[3, 5, 7, 0], [1, 2, 4, 8]]), torch.tensor([3, 4])), lengths[:, None])
    totals = [MODEL.loss(each, torch.Generator().manual_seed(0)).total for each in (batch, whole)]
    assert torch.equal(*totals)
    with pytest.raises(ValueError, match="expected 2 targets"):
        Batch.next_item(History.of_items(items), target[:1])


@pytest.mark.parametrize("backend", ["polars", "pandas", "pyarrow"])
def test_recommendations_become_a_frame(backend):
    pytest.importorskip(backend)
    found = MODEL.recommend([[ITEMS[0]], [ITEMS[1], ITEMS[2]]], k=2)
    frame = nw.from_native(found.to_frame(["ann", "bob"], backend=backend))
    assert frame.columns == ["user", "rank", "item", "score", "std"]
    assert frame["user"].to_list() == ["ann", "ann", "bob", "bob"]
    assert frame["rank"].to_list() == [1, 2, 1, 2]
    assert frame["item"].to_list() == [item for row in found.items for item in row]
    with pytest.raises(ValueError, match="expected 2 users, one a history, got 1"):
        found.to_frame(["ann"])


def test_sequences_bring_their_times_and_features():
    sequences = SyntheticWorld(24).sample(3).sequences(times=True).with_features({"age": [[1.0], [2.0], [3.0]]})
    asked = Requests.of(MODEL.vocabulary, sequences)
    assert [row.tolist() for row in asked.times] == [
        sequences.times[start:stop].tolist() for start, stop in pairwise(sequences.offsets)
    ]
    assert asked.features["age"].tolist() == [[1.0], [2.0], [3.0]]
    other = Requests.of(MODEL.vocabulary, sequences, features={"age": [[4.0], [5.0], [6.0]]})
    assert other.features["age"].tolist() == [[4.0], [5.0], [6.0]]
