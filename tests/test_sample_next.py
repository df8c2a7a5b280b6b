"""Draws of the next item, from the probabilities that a model reports."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import chisquare

from diffusers_rec import Calibration, SyntheticWorld
from diffusers_rec.presets import best


@pytest.fixture(scope="module")
def model():
    sequences = SyntheticWorld(16, seed=0).sample(30, min_length=3, max_length=5, seed=0).sequences()
    built = best(sequences.vocabulary, dim=16).prepare(sequences).eval()
    with torch.no_grad():
        built.embedding.weight.mul_(20)
    return built


HISTORIES = [["item-003", "item-001"], ["item-005"], ["item-007", "item-002", "item-009"]]


@pytest.mark.parametrize("exclude_seen", [True, False])
@pytest.mark.parametrize("calibrated", [True, False])
def test_items_come_as_often_as_is_reported(model, exclude_seen, calibrated):
    model.calibration = Calibration(temperature=1.3, memory=0.2, popularity=0.1, seen=0.5) if calibrated else None
    found = model.sample_next(HISTORIES, 2000, exclude_seen=exclude_seen)
    expected = model.predict_proba(HISTORIES).double()
    for row, history in enumerate(HISTORIES):
        if exclude_seen:
            expected[row, model.vocabulary.encode(history)] = 0
        expected[row] /= expected[row].sum()
        drawn = model.vocabulary.encode(found.items[row])
        assert torch.allclose(found.scores[row].double(), expected[row, drawn], atol=1e-6)
        counts, may = torch.from_numpy(drawn).bincount(minlength=16), expected[row] > 0
        assert not counts[~may].any()
        assert chisquare(counts[may], 2000 * expected[row, may]).pvalue > 1e-3


def test_a_draw_depends_on_its_seed_and_history_alone(model):
    whole = model.sample_next(HISTORIES, 5)
    alone = model.sample_next(HISTORIES[1:2], [3])
    assert alone.items == [[whole.items[1][3]]]
    assert model.sample_next(HISTORIES, 5, batch_size=1).items == whole.items


def test_candidates_and_exclusions_hold(model):
    found = model.sample_next(HISTORIES, 50, candidates=["item-000", "item-004", "item-006"], exclude=["item-004"])
    assert {item for row in found.items for item in row} == {"item-000", "item-006"}
    with pytest.raises(ValueError, match="No item may be drawn"):
        model.sample_next([["item-003"]], candidates=["item-003"])
