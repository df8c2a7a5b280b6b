"""``wang2023`` predicts, trains and ranks as the authors' code, github.com/YiyanXu/DiffRec at d35a6c6.

``wang2023.json`` holds what that code gave in float64, without dropout, for the weights and draws that the formulas of
this file define.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from formulas import wave

from diffusers_rec import Batch, History, UserVectorDiffusion
from diffusers_rec.presets import wang2023, wang2023_temporal
from diffusers_rec.processes import process
from diffusers_rec.training import RECIPES

PUBLISHED = json.loads(Path(__file__).with_name("wang2023.json").read_text())
HISTORY = History(torch.tensor([[1, 4, 2, 6], [5, 0, 3, 3], [6, 2, 0, 0]]), torch.tensor([4, 3, 2]))
TIMESTEPS = torch.tensor([1, 2, 4])


@pytest.fixture(params=sorted(PUBLISHED))
def published(request):
    return PUBLISHED[request.param]


@pytest.fixture
def model(published, monkeypatch):
    schedule = {"name": "linear-variance", "first_beta": 1e-5, **published["schedule"]}
    built = UserVectorDiffusion(range(7), widths=published["widths"], schedule=schedule, max_length=9).double().eval()
    with torch.no_grad():
        for phase, (_, weight) in enumerate(sorted(built.named_parameters())):
            weight.copy_(0.7 * wave(weight.shape, phase))
    monkeypatch.setattr(process, "randn", lambda shape, *args, **kwargs: 1.3 * wave(shape, 0.7))
    return built


def assert_published(found, expected):
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-7, atol=1e-7)


def test_the_loss_is_that_of_the_authors_code(model, published, monkeypatch):
    monkeypatch.setattr(model.timesteps, "sample", lambda *args, **kwargs: (TIMESTEPS, torch.ones(3)))
    inputs = []
    model.network.register_forward_hook(lambda module, args, output: inputs.append((args[0], output)))
    loss = model(Batch(HISTORY, HISTORY.lengths[:, None] - 1), torch.Generator())
    ((corrupted, prediction),) = inputs
    assert_published(corrupted, published["corrupted"])
    assert_published(prediction, published["prediction"])
    assert_published(loss.per_latent, published["loss"])
    assert float(loss.total.detach()) == pytest.approx(sum(published["loss"]) / 3)


def test_the_chain_is_that_of_the_authors_code(model, published):
    last = torch.tensor(published["corrupted"], dtype=torch.float64)[2:]
    prediction = torch.tensor(published["prediction"], dtype=torch.float64)[2:]
    assert_published(model._reverse(prediction, last, 4, last), published["reverse"])
    assert_published(model.denoise(HISTORY), published["sample"])


@pytest.mark.parametrize(
    ("settings", "widths", "steps", "noise"),
    [("amazon-book", [1000], 5, 1.045e-5), ("yelp", [1000], 5, 1e-4), ("ml-1m", [600, 200, 600], 40, 3.5e-5)],
)
def test_the_settings_are_those_of_the_authors_checkpoints(settings, widths, steps, noise):
    model = wang2023(range(7), settings=settings)
    assert (model.widths, model.num_timesteps, model.dropout, model.step_dim) == (widths, steps, 0.5, 10)
    assert 1 - float(model.schedule.alpha_bar[-1]) == pytest.approx(noise, rel=1e-3)
    assert float(model.schedule.beta[1]) == pytest.approx(1e-5)
    assert (model.weighting, model.oldest_weight) == ("bound", 1.0)
    config = {"name": "importance", "history": 10, "uniform_share": 0.001, "estimate": "mean", "start_share": 0.0}
    assert model.timesteps.config() == {**config, "num_timesteps": steps}
    weights = model.process.bound_weight(torch.arange(1, steps + 1))
    assert weights[0] == 1 == weights.min()
    assert 500 < float(weights[1:].min()) < float(weights.max()) < 70_000


def test_the_vectors_of_the_temporal_variant_are_those_of_the_authors_code():
    """An only item is not: there, it has the smallest weight."""
    model = wang2023_temporal(range(7))
    assert (model.num_timesteps, model.oldest_weight) == (10, 0.1)
    assert wang2023_temporal(range(7), settings="yelp").oldest_weight == 0.5
    found = model.vectors(HISTORY)
    torch.testing.assert_close(found[0, [1, 4, 2, 6]], torch.tensor([0.1, 0.4, 0.7, 1.0]))
    torch.testing.assert_close(found[1, [5, 0, 3]], torch.tensor([0.1, 0.55, 1.0]))


def test_the_recipes_are_those_of_the_authors_code():
    recipe, temporal = RECIPES["wang2023"], RECIPES["wang2023-temporal"]
    assert (recipe.epochs, recipe.batch_targets, recipe.examples) == (1000, 400, "last-target")
    assert (recipe.learning_rate, temporal.learning_rate, recipe.weight_decay) == (5e-5, 1e-5, 0)
    assert (recipe.select_by, recipe.validate_every, recipe.patience) == ("hr@20", 5, 3)
