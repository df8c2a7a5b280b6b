from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffusers_rec.data import Vocabulary
from diffusers_rec.data.vocabulary import factorize

raw_ids = st.one_of(st.lists(st.integers(), min_size=1, unique=True), st.lists(st.text(), min_size=1, unique=True))


@given(ids=raw_ids, data=st.data())
def test_decode_undoes_encode(ids, data):
    some = data.draw(st.lists(st.sampled_from(ids)))
    vocabulary = Vocabulary(ids)
    indices = vocabulary.encode(some)
    assert indices.dtype == np.int64
    assert vocabulary.decode(indices) == some
    assert vocabulary.encode(ids).tolist() == list(range(len(vocabulary)))
    assert list(vocabulary) == ids


@given(ids=raw_ids)
def test_json_round_trip(ids):
    vocabulary = Vocabulary(ids)
    restored = Vocabulary.from_json(json.loads(json.dumps(vocabulary.to_json())))
    assert restored == vocabulary
    assert hash(restored) == hash(vocabulary)


def test_numpy_scalars_become_python_scalars():
    for ids in (np.array([3, 1]), [np.int32(3), np.int32(1)], torch.tensor([3, 1])):
        assert [type(i) for i in Vocabulary(ids).ids] == [int, int]
    assert type(Vocabulary(np.array(["a"])).ids[0]) is str


def test_the_keys_of_a_dict_have_an_order():
    assert Vocabulary({"b": 0, "a": 1}.keys()).ids == ("b", "a")


def test_looks_like_a_container():
    vocabulary = Vocabulary("abcd"[i] for i in range(4))
    assert len(vocabulary) == 4
    assert "a" in vocabulary
    assert "z" not in vocabulary
    assert ["a"] not in vocabulary
    assert vocabulary != Vocabulary(["a"])
    assert vocabulary != ("a", "b", "c", "d")
    assert repr(vocabulary) == "Vocabulary('a', 'b', 'c', ...; size=4)"


@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        ([], ValueError, "at least one id, got none"),
        ([1, 2, 1, 2], ValueError, "2 of 4 are repeats, the first 1"),
        ([1.0, float("nan")], ValueError, "the id in row 2, counted from 1, is missing"),
        (["a", None], ValueError, "the id in row 2, counted from 1, is missing"),
        (["a", ["b"]], TypeError, "must be hashable, but row 2, counted from 1, is a list"),
        ("abc", TypeError, "sequence of ids, got 'abc'"),
        ({"a", "b"}, TypeError, r"ids in an order, got a set, whose order differs from run to run.* sorted\(\.\.\.\)"),
        (frozenset({"a"}), TypeError, r"ids in an order, got a frozenset"),
        (5, TypeError, "sequence of ids, got 5"),
        (np.eye(2), ValueError, r"shape \(n,\), got \(2, 2\)"),
    ],
)
def test_refuses_bad_ids(ids, error, message):
    with pytest.raises(error, match=message):
        Vocabulary(ids)


def test_unknown_ids_are_named():
    vocabulary = Vocabulary(range(10))
    with pytest.raises(ValueError, match=r"7 unknown ids among 10 known: 10, 11, 12, 13, 14, \.\.\."):
        vocabulary.encode([1, *range(10, 17), 10])
    with pytest.raises(ValueError, match=r"1 unknown id .*has int ids, '5' is a str"):
        vocabulary.encode(["5"])
    with pytest.raises(ValueError, match=r"has str ids, 5 is a int"):
        Vocabulary(["5"]).encode([5])


def test_numpy_ids_are_shown_plain():
    with pytest.raises(ValueError, match=r"is missing \(nan\)"):
        factorize([1.0, np.float64("nan")], "item")
    with pytest.raises(ValueError, match=r"known: 'b'\. Drop"):
        Vocabulary(["a"]).encode([np.str_("b")])


@pytest.mark.parametrize(
    ("ids", "error", "message"),
    [
        ("5", TypeError, "got '5'. Wrap"),
        ({1}, TypeError, "in an order, got a set"),
        ([[1]], TypeError, "row 1, counted from 1, is a list"),
    ],
)
def test_encode_refuses(ids, error, message):
    with pytest.raises(error, match=message):
        Vocabulary(range(10)).encode(ids)


@pytest.mark.parametrize(
    ("indices", "error", "message"),
    [
        ([0, 2], ValueError, r"in 0\.\.1, got 2 at place 1"),
        ([-1], ValueError, r"in 0\.\.1, got -1 at place 0"),
        ([[0]], ValueError, r"shape \(n,\), got \(1, 1\)"),
        ([0.0], TypeError, "integer indices, got dtype float64"),
    ],
)
def test_decode_refuses(indices, error, message):
    with pytest.raises(error, match=message):
        Vocabulary(["a", "b"]).decode(indices)


def test_decode_of_nothing_is_nothing():
    assert Vocabulary(["a"]).decode([]) == []


@pytest.mark.parametrize("raw_id", [True, 1.5, (1, 2)])
def test_only_str_and_int_can_be_saved(raw_id):
    with pytest.raises(TypeError, match=r"only str and int ids can be saved, got .* Convert the ids with str\(\)"):
        Vocabulary([raw_id]).to_json()
    with pytest.raises(TypeError, match="only str and int ids"):
        Vocabulary.from_json([raw_id])


def test_from_json_takes_a_list():
    with pytest.raises(TypeError, match="expected the list that to_json returns, got dict"):
        Vocabulary.from_json({"a": 0})


@given(ids=st.lists(st.text() | st.integers(), min_size=1, max_size=8, unique=True), data=st.data())
def test_a_mapping_gives_the_indices_whatever_its_order(ids, data):
    number = data.draw(st.sampled_from([int, np.int64, np.int32]))
    mapping = {raw_id: number(index) for index, raw_id in enumerate(ids)}
    shuffled = {raw_id: mapping[raw_id] for raw_id in data.draw(st.permutations(ids))}
    vocabulary = Vocabulary(shuffled)
    assert vocabulary == Vocabulary(ids) == Vocabulary(dict.fromkeys(ids))
    assert vocabulary.encode(list(shuffled)).tolist() == [int(index) for index in shuffled.values()]


@pytest.mark.parametrize(
    ("mapping", "empty"), [({"a": 1, "b": 2}, 0), ({"a": 0, "b": 2}, 1), ({"a": 0, "b": 0}, 1), ({"a": -1, "b": 1}, 0)]
)
def test_a_mapping_with_gaps_is_refused_with_the_way(mapping, empty):
    with pytest.raises(ValueError, match=rf"2 ids need the indices 0\.\.1, each once, but {empty} has no id\..* anew"):
        Vocabulary(mapping)


@pytest.mark.parametrize("value", ["title", 1.0, True, None, (1,)])
def test_a_mapping_to_something_else_is_refused(value):
    with pytest.raises(TypeError, match=r"mapping of ids to indices, got 'b': .*list\(mapping\)"):
        Vocabulary({"a": 0, "b": value})


def test_the_numbering_of_other_libraries_is_kept():
    """RecBole's field2id_token, whose index 0 is padding, and the Series behind RecTools' IdMap."""
    tokens = np.array(["[PAD]", "tea", "jam"])
    assert Vocabulary(tokens[1:]).ids == ("tea", "jam")
    assert Vocabulary(dict(pd.Series([1, 0], index=["jam", "tea"]))).ids == ("tea", "jam")
