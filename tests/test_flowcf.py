"""``flowcf`` predicts, trains and ranks as the authors' code, github.com/chengkai-liu/FlowCF at c7db8f3.

``flowcf.json`` holds what that code gave in float64, without dropout, for the weights and draws that the formulas of
this file define.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from formulas import wave

from diffusers_rec import Batch, History, UserVectorFlow
from diffusers_rec.presets import flowcf
from diffusers_rec.recommenders import user_flow
from diffusers_rec.training import RECIPES

PUBLISHED = json.loads(Path(__file__).with_name("flowcf.json").read_text())
HISTORY = History(torch.tensor([[1, 4, 2, 6], [5, 0, 3, 3], [6, 2, 0, 0]]), torch.tensor([4, 3, 2]))
TIMESTEPS = torch.tensor([1, 4, 9])


@pytest.fixture(params=sorted(PUBLISHED))
def published(request):
    return PUBLISHED[request.param]


@pytest.fixture
def model(published, monkeypatch):
    built = UserVectorFlow(range(7), widths=[6, 5], num_steps=published["num_steps"], max_length=9).double().eval()
    with torch.no_grad():
        for phase, (_, weight) in enumerate(sorted(built.named_parameters())):
            weight.copy_(published["gain"] * wave(weight.shape, phase))
        built.shares.copy_((wave((7,), 0.4) + 1) / 2)
    phases = iter([1.9, 0.7])  # of the prior, and of the choice between prior and user
    monkeypatch.setattr(user_flow, "uniform", lambda shape, *args, **kwargs: (wave(shape, next(phases)) + 1) / 2)
    return built


def assert_published(found, expected):
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-6)


def test_the_loss_is_that_of_the_authors_code(model, published, monkeypatch):
    monkeypatch.setattr(model.timesteps, "sample", lambda *args, **kwargs: (TIMESTEPS, torch.ones(3)))
    inputs = []
    model.network.register_forward_hook(lambda module, args, output: inputs.append((args[0], output)))
    loss = model(Batch(HISTORY, HISTORY.lengths[:, None] - 1), torch.Generator())
    ((corrupted, prediction),) = inputs
    assert_published(corrupted, published["corrupted"])
    assert_published(prediction, published["prediction"])
    assert_published(loss.total, published["loss"])


def test_the_chain_is_that_of_the_authors_code(model, published):
    states = []
    model.network.register_forward_hook(lambda module, args, output: states.append(args[0]))
    assert_published(model.denoise(HISTORY), published["sample"])
    assert_published(torch.stack(states), published["states"])


def test_a_step_adds_an_item_whose_prediction_exceeds_half_of_n():
    model = flowcf(range(4), dim=8)
    prediction, history = torch.tensor([[0.9, 1.1, 1.4, 1.6]]), torch.tensor([[1.0, 0.0, 0.0, 0.0]])
    assert model._reverse(prediction, history, 2, history).tolist() == [[1, 1, 1, 1]]
    assert model._reverse(prediction, history, 3, history).tolist() == [[1, 0, 0, 1]]
    assert model._reverse(-2 * prediction, torch.ones(1, 4), 2, history).tolist() == [[1, 0, 0, 0]]


def test_the_settings_are_those_of_the_authors_code():
    model, recipe = flowcf(range(7)), RECIPES["flowcf"]
    assert (model.num_timesteps, model.num_steps, model.widths, model.step_dim) == (9, 2, [300, 300], 10)
    assert (model.dropout, model.hidden_dropout) == (0.1, 0.1)
    assert model.timesteps.config()["name"] == "uniform"
    assert (recipe.epochs, recipe.batch_targets, recipe.learning_rate) == (500, 4096, 1e-3)
    assert (recipe.select_by, recipe.validate_every, recipe.patience) == ("ndcg@10", 1, 11)
