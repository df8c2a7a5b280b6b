"""The preset ``diffurec`` predicts, trains and samples as the authors' code, github.com/WHUIR/DiffuRec at f6f70c9.

``diffurec.json`` holds what that code gave in float64, without dropout, for the weights and draws that the formulas of
this file define. Its row of padding is item 0 here, which no history has; histories have full length.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from formulas import wave

from diffusers_rec import AddedLatentDenoiser
from diffusers_rec.data import Batch, History
from diffusers_rec.presets import diffurec
from diffusers_rec.processes import process
from diffusers_rec.training import RECIPES

PUBLISHED = json.loads(Path(__file__).with_name("diffurec.json").read_text())
DIM = 8
ITEMS = torch.tensor([[1, 2, 3, 4, 5, 6], [7, 3, 8, 9, 10, 11]])  # the last of each is the target
TIMESTEPS = torch.tensor([[5], [23]])


def weights(shapes):
    """Weights by name: waves, around 1 for layer norms."""
    return {
        name: 0.4 * wave(shape, phase) + (1.0 if "norm.weight" in name else 0.0)
        for phase, (name, shape) in enumerate(sorted(shapes.items()))
    }


def noise(shape):
    return 1.3 * wave(shape, 0.7)


def drawn(shape, uncertainty):
    """Lambda of every item and dimension."""
    return uncertainty * (1 + 1.1 * wave(shape, 0.3))


@pytest.fixture(params=sorted(PUBLISHED))
def uncertainty(request):
    return request.param


@pytest.fixture
def model(uncertainty, monkeypatch):
    delta = float(uncertainty)
    model = diffurec(range(12), dim=DIM, max_length=6).double().eval()
    model = model.replace(denoiser={"uncertainty": delta})
    model.load_state_dict(
        weights({name: tuple(weight.shape) for name, weight in model.named_parameters()}), strict=False
    )
    monkeypatch.setattr(process, "randn", lambda shape, *args, **kwargs: noise(shape))
    monkeypatch.setattr(AddedLatentDenoiser, "_uncertain", lambda self, like: drawn(like.shape, delta))
    return model


def published(uncertainty, name):
    return torch.tensor(PUBLISHED[uncertainty][name], dtype=torch.float64)


def test_the_loss_is_that_of_the_authors_code(model, uncertainty, monkeypatch):
    monkeypatch.setattr(model.timesteps, "sample", lambda *args, **kwargs: (TIMESTEPS, torch.ones(2, 1)))
    predictions = []
    model.denoiser.register_forward_hook(lambda module, args, output: predictions.append(output))
    batch = Batch(History(ITEMS, torch.tensor([6, 6])), torch.tensor([[5], [5]]))
    loss = model.loss(batch, torch.Generator()).total
    torch.testing.assert_close(predictions[0][:, 0, 0], published(uncertainty, "prediction"), rtol=0, atol=1e-6)
    torch.testing.assert_close(loss, published(uncertainty, "loss"), rtol=0, atol=1e-6)


def test_the_chain_is_that_of_the_authors_code(model, uncertainty):
    steps = []
    found = model.sample(ITEMS[:, :-1].tolist(), callback=lambda step: steps.append(step.xn.clone()))
    assert len(steps) == 32
    torch.testing.assert_close(steps[0][:, 0, 0], published(uncertainty, "first_step"), rtol=0, atol=1e-6)
    torch.testing.assert_close(found[:, 0, 0], published(uncertainty, "sample"), rtol=0, atol=1e-6)
    scores = model.head.logits(found[:, 0, 0])
    torch.testing.assert_close(scores, published(uncertainty, "scores"), rtol=0, atol=1e-6)


def test_the_settings_are_those_of_the_authors_code():
    model = diffurec(range(12))
    config = model.config()
    schedule = model.schedule
    assert (schedule.num_timesteps, model.history_length, model.seeds) == (32, 50, 1)
    assert schedule.beta[[1, -1]].tolist() == pytest.approx([31.25e-4 + 0.01, 0.625 + 0.01])
    network = {"dim": 128, "num_layers": 4, "num_heads": 4, "dropout": 0.1, "embedding_dropout": 0.3,
               "uncertainty": 0.001, "step_scale": 31.25}  # fmt: skip
    assert config["denoiser"] == {**config["denoiser"], **network, "name": "added-latent"}
    assert config["embedding"] == {**config["embedding"], "scale": "learned", "init_std": 1.0}
    assert config["head"] == {"name": "tied", "use_bias": False}
    assert [term["name"] for term in config["objective"]["terms"]] == ["cross-entropy"]
    assert config["timesteps"]["name"] == "uniform"
    assert config["sampler"] == {**config["sampler"], "name": "ddpm", "variance": "beta", "num_steps": None}


def test_the_recipe_is_that_of_the_authors_code():
    recipe = RECIPES["diffurec"]
    assert (recipe.epochs, recipe.batch_targets, recipe.examples) == (500, 512, "every-prefix")
    assert [recipe.rate(epoch) for epoch in (0, 99, 100, 250)] == pytest.approx([1e-3, 1e-3, 1e-4, 1e-5])
    assert (recipe.validate_every, recipe.patience, recipe.exclude_seen) == (20, 5, False)
    assert (recipe.weight_decay, recipe.clip_norm, recipe.average_decay) == (0, 0, 0)
