"""Metrics of recommended lists: worked by hand, in closed form, and of a model."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import perturbed

from diffusers_rec import DiffRec, Sequences, SyntheticWorld, Vocabulary, attribute_bags
from diffusers_rec.evaluation import coverage, diversity, evaluate_lists, gini, novelty
from diffusers_rec.evaluation import lists as module

LISTS = torch.tensor([[0, 1], [0, 2], [0, -1]])
"""Of a catalogue of five items; the third user has one recommendation."""


def trained_on(*rows):
    items = np.array([item for row in rows for item in row])
    offsets = np.cumsum([0, *map(len, rows)])
    return Sequences(items, offsets, Vocabulary(range(len(rows))), Vocabulary(range(5)))


def test_coverage_and_gini_by_hand():
    assert coverage(LISTS, 5) == pytest.approx(3 / 5)
    # Counts 0, 0, 1, 1, 3 with weights -4, -2, 0, 2, 4.
    assert gini(LISTS, 5) == pytest.approx((2 * 1 + 4 * 3) / (5 * 5))


@pytest.mark.parametrize("size", [2, 7, 100])
def test_gini_is_zero_for_equal_shares_and_largest_for_a_single_item(size):
    assert gini(torch.arange(size)[:, None], size) == pytest.approx(0)
    assert gini(torch.zeros(30, 1, dtype=torch.int64), size) == pytest.approx(1 - 1 / size)


@given(counts=st.lists(st.integers(0, 9), min_size=1, max_size=12).filter(any))
def test_gini_is_half_the_relative_mean_difference(counts):
    items = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))[:, None]
    expected = np.abs(np.subtract.outer(counts, counts)).mean() / (2 * np.mean(counts))
    assert gini(items, len(counts)) == pytest.approx(expected)


def test_novelty_by_hand():
    train = trained_on([0, 1, 1, 1], [0, 2], [0, 1], [0])  # of four users, a repeat counts once
    bits = {0: 0.0, 1: 1.0, 2: 2.0, 3: 2.0}  # nobody has item 3, which counts as one user
    assert novelty(LISTS, train) == pytest.approx(np.mean([(bits[0] + bits[1]) / 2, (bits[0] + bits[2]) / 2, bits[0]]))
    assert novelty(torch.tensor([[3, 2]]), train) == 2


def test_diversity_by_hand():
    bags = attribute_bags(range(5), [["a", "b"], ["b", "c"], ["a", "b"], [], []])
    assert diversity(torch.tensor([[0, 1, 2]]), bags) == pytest.approx((2 / 3 + 0 + 2 / 3) / 3)
    assert diversity(torch.tensor([[0, 1], [0, 3], [3, 4], [1, -1]]), bags) == pytest.approx((2 / 3 + 1 + 0) / 3)


@given(data=st.data())
def test_diversity_is_the_mean_jaccard_distance_of_sets(data):
    sets = data.draw(st.lists(st.sets(st.integers(0, 6)), min_size=5, max_size=5))
    sets[0].add(0)
    rows = data.draw(st.lists(st.permutations(range(5)).map(lambda order: order[:3]), min_size=1, max_size=6))
    distances = [
        np.mean([1 - len(sets[v] & sets[w]) / len(sets[v] | sets[w]) if sets[v] | sets[w] else 0
                 for v, w in combinations(row, 2)])
        for row in rows
    ]  # fmt: skip
    bags = attribute_bags(range(5), [sorted(each) for each in sets])
    assert diversity(torch.tensor(rows), bags) == pytest.approx(np.mean(distances), abs=1e-6)


def test_diversity_in_chunks_is_the_same(monkeypatch):
    bags = attribute_bags(range(5), [list(bag) for bag in ("ab", "bc", "ab", "d", "ad")])
    items = torch.tensor([[0, 1, 3], [1, 4, -1], [2, -1, -1], [4, 3, 0], [0, 2, 1]])
    whole = diversity(items, bags)
    monkeypatch.setattr(module, "MARKS_AT_ONCE", 1)
    assert diversity(items, bags) == pytest.approx(whole)


@pytest.mark.parametrize(
    ("items", "error", "message"),
    [
        (torch.zeros(2, 2), TypeError, "items must be int64"),
        (torch.full((2, 2), -1), ValueError, "with one item at least"),
        (torch.zeros(0, 2, dtype=torch.int64), ValueError, "with one item at least"),
        (torch.tensor([0, 1]), ValueError, r"items must be \(U, k\)"),
        (torch.tensor([[0, 5]]), ValueError, r"items must lie in -1\.\.4, got 0\.\.5"),
        (torch.tensor([[0, -2]]), ValueError, r"items must lie in -1\.\.4"),
    ],
)
def test_lists_that_are_none_are_refused(items, error, message):
    bags = attribute_bags(range(5), [["a"]] * 5)
    for metric, other in ((coverage, 5), (gini, 5), (novelty, trained_on([0])), (diversity, bags)):
        with pytest.raises(error, match=message):
            metric(items, other)


def test_a_list_of_one_item_has_no_diversity():
    with pytest.raises(ValueError, match="no list has two items"):
        diversity(torch.tensor([[0], [1]]), attribute_bags(range(2), [["a"], ["b"]]))


def test_the_lists_of_a_model_are_those_that_it_recommends():
    split = SyntheticWorld(40, num_groups=4).sample(80, min_length=3, max_length=12).sequences().leave_one_out()
    model = perturbed(
        DiffRec(split.train.vocabulary, dim=16, max_length=8, schedule={"name": "sqrt", "num_timesteps": 6},
                denoiser={"name": "causal-transformer", "num_layers": 1, "num_heads": 2})
    )  # fmt: skip
    bags = attribute_bags(model.vocabulary, {item: [str(item)[-1], str(item)[-2]] for item in model.vocabulary})
    histories = [model.vocabulary.decode(row) for row in split.test.histories]
    for exclude_seen in (True, False):
        found = evaluate_lists(
            model, split.train, split.test, k=4, attributes=bags, exclude_seen=exclude_seen, batch_size=7
        )
        recommended = model.recommend(histories, 4, exclude_seen=exclude_seen).items
        items = torch.tensor([model.vocabulary.encode(row).tolist() for row in recommended])
        assert found == pytest.approx(
            {
                "coverage@4": coverage(items, 40),
                "gini@4": gini(items, 40),
                "novelty@4": novelty(items, split.train),
                "diversity@4": diversity(items, bags),
            }
        )
    assert 0 < found["novelty@4"] < math.log2(len(split.train))
    assert set(evaluate_lists(model, split.train, split.test)) == {"coverage@10", "gini@10", "novelty@10"}
    other = split.test.reindexed(Vocabulary([*reversed(model.vocabulary.ids), "never seen"]))
    assert evaluate_lists(model, split.train, other) == evaluate_lists(model, split.train, split.test)
    with pytest.raises(ValueError, match="attributes must be those of the model's 40 items, got 2"):
        evaluate_lists(model, split.train, split.test, attributes=attribute_bags(["x", "y"], [["a"], ["b"]]))
    with pytest.raises(ValueError, match=r"k must lie in 1\.\.40"):
        evaluate_lists(model, split.train, split.test, k=41)
