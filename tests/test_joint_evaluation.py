"""The likelihood of several items together: the chain rule, asked of a model in several orders."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from diffusers_rec import Holdout, SyntheticWorld
from diffusers_rec.evaluation import evaluate_gap, evaluate_joint
from diffusers_rec.presets import best, joint


@pytest.fixture(scope="module")
def holdout():
    sequences = SyntheticWorld(30, seed=0).sample(40, min_length=8, max_length=12, seed=0).sequences()
    before = [row[:-3] for row in sequences]
    offsets = np.cumsum([0, *map(len, before)]).astype(np.int64)
    histories = type(sequences)(np.concatenate(before), offsets, sequences.users, sequences.vocabulary)
    last = np.concatenate([row[-3:] for row in sequences])
    ends = np.arange(0, 3 * len(sequences) + 1, 3)
    return Holdout.of(histories, type(sequences)(last, ends, sequences.users, sequences.vocabulary))


@pytest.fixture(scope="module")
def model(holdout):
    built = joint(holdout.histories.vocabulary, dim=16, k=4).replace(memory="none")
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in built.denoiser.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
    return built.eval()


def probabilities(model, sequence):
    """Of the next item after item indices."""
    return model.predict_proba([model.vocabulary.decode(sequence)])[0].double()


def test_left_to_right_asks_for_the_next_item_again_and_again(model, holdout):
    found = evaluate_joint(model, holdout, 3, exclude_seen=False, batch_size=7)
    for user in range(5):
        history, items = holdout.histories[user], holdout.following[user]
        steps = [
            float(probabilities(model, np.concatenate([history, items[:turn]]))[items[turn]].log()) for turn in range(3)
        ]
        assert found[user] == pytest.approx(sum(steps), abs=1e-5)


def test_seen_items_have_no_share_when_they_are_excluded(model, holdout):
    found = evaluate_gap(model, holdout, 1, [0])
    for user in range(5):
        history = np.concatenate([holdout.histories[user], holdout.following[user][:1]])
        unseen = probabilities(model, history)
        unseen[history] = 0
        target = holdout.following[user][1]
        if unseen[target]:
            assert found.log_probabilities[user] == pytest.approx(
                float((unseen[target] / unseen.sum()).log()), abs=1e-5
            )
            assert found.ranks[user] == 1 + int((unseen > unseen[target]).sum())


def test_factorised_items_are_each_given_the_history_alone(model, holdout):
    found = evaluate_joint(model, holdout, 3, "factorised")
    single = sum(evaluate_gap(model, holdout, place).log_probabilities for place in range(3))
    assert found == pytest.approx(single, abs=1e-9)


def test_a_known_right_side_changes_the_prediction_and_order_is_drawn_from_the_seed(model, holdout):
    left, both = (evaluate_gap(model, holdout, 1, known).log_probabilities for known in ([0], [0, 2]))
    assert np.abs(left - both).max() > 1e-4
    one, same, other = (evaluate_joint(model, holdout, 3, "random", seed=seed) for seed in (0, 0, 1))
    assert (one == same).all()
    assert (one != other).any()


def test_a_next_item_model_is_asked_from_left_to_right_alone(holdout):
    model = best(holdout.histories.vocabulary, dim=16).replace(memory="none").eval()
    assert evaluate_joint(model, holdout, 3).shape == (len(holdout),)
    for place, known in ((1, [2]), (1, []), (2, [0])):
        with pytest.raises(ValueError, match="predicts the next item alone"):
            evaluate_gap(model, holdout, place, known)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"k": 9}, "has 9 items"), ({"k": 3, "order": "backwards"}, "order must be"), ({"k": 0}, "k must be")],
)
def test_refuses_what_cannot_be_asked(model, holdout, settings, message):
    with pytest.raises(ValueError, match=message):
        evaluate_joint(model, holdout, **settings)


def test_the_item_that_is_asked_for_cannot_be_shown(model, holdout):
    for settings in ({"known": [0, 1]}, {"excluded": [1]}, {"known": [-1]}):
        with pytest.raises(ValueError, match=r"asked for|place must be"):
            evaluate_gap(model, holdout, 1, **settings)


def test_items_that_are_left_out_without_being_seen_have_no_share(model, holdout):
    plain, without = (evaluate_gap(model, holdout, 1, [0], excluded=places) for places in ([], [2]))
    other = evaluate_gap(model, holdout, 1, [0], exclude_seen=False)
    assert (without.log_probabilities >= plain.log_probabilities - 1e-9).all()
    assert (without.log_probabilities > plain.log_probabilities + 1e-4).any()
    assert (plain.log_probabilities >= other.log_probabilities - 1e-9).all()


def test_no_more_is_asked_than_the_model_fills_in(model, holdout):
    small = model.replace(noising={"k": 2}).eval()
    with pytest.raises(ValueError, match="fills in 2 items together"):
        evaluate_joint(small, holdout, 3, "random")
