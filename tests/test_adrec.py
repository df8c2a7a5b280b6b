"""The preset ``adrec`` predicts, trains and samples as the authors' code, github.com/Nemo-1024/ADRec at 0a30ef7.

``adrec.json`` holds what that code gave in float64, without dropout, for the weights and draws that the formulas of
this file define, by its lambda. Its row of padding is item 0 here, which no history has; histories have full length.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from formulas import wave

from diffusers_rec import SyntheticWorld
from diffusers_rec.data import Batch, History
from diffusers_rec.evaluation import evaluate, evaluate_popularity
from diffusers_rec.presets import adrec, control
from diffusers_rec.processes import process
from diffusers_rec.training import RECIPES, train

PUBLISHED = json.loads(Path(__file__).with_name("adrec.json").read_text())
DIM = 8
ITEMS = torch.tensor([[1, 2, 3, 4, 5, 6], [7, 3, 8, 9, 10, 11]])  # all but the first of each are targets
TIMESTEPS = torch.tensor([[9, 1, 32, 14, 20, 5], [3, 27, 6, 2, 11, 23]])  # of each item


def weights(shapes):
    """Weights by name: waves, around 1 for layer norms."""
    return {
        name: 0.4 * wave(shape, phase) + (1.0 if "norm.weight" in name else 0.0)
        for phase, (name, shape) in enumerate(sorted(shapes.items()))
    }


NOISE = 1.3 * wave((2, 6, DIM), 0.7)  # of each item


@pytest.fixture(params=sorted(PUBLISHED))
def uncertainty(request):
    return request.param


@pytest.fixture
def model(uncertainty):
    model = adrec(range(12), dim=DIM, max_length=6, dropout=0.0).double()
    model = model.replace(denoiser={"uncertainty": float(uncertainty), "embedding_dropout": 0.0}).double()
    values = weights({name: tuple(weight.shape) for name, weight in model.named_parameters()})
    model.load_state_dict(values, strict=False)
    return model.eval()


def close(uncertainty, name, got):
    expected = torch.tensor(PUBLISHED[uncertainty][name], dtype=torch.float64)
    torch.testing.assert_close(got.detach().reshape(expected.shape), expected, rtol=0, atol=1e-6)


def test_the_loss_and_its_gradients_are_those_of_the_authors_code(model, uncertainty, monkeypatch):
    """The noised copy of an item in the history is that of the item as a target."""
    steps = iter([TIMESTEPS[:, 1:], TIMESTEPS[:, :-1]])  # first of the targets, then of the history
    draws = iter([NOISE[:, :-1], NOISE[:, 1:]])  # first of the history
    monkeypatch.setattr(model.timesteps, "sample", lambda *args, **kwargs: (next(steps), torch.ones(2, 5)))
    monkeypatch.setattr(process, "_noise", lambda like, generator: next(draws).view_as(like))
    predictions = []
    model.train().denoiser.register_forward_hook(lambda module, args, output: predictions.append(output))
    batch = Batch(History(ITEMS, torch.tensor([6, 6])), torch.arange(1, 6).expand(2, -1))
    loss = model.loss(batch, torch.Generator())
    loss.total.backward()
    close(uncertainty, "prediction", predictions[0])
    close(uncertainty, "squared", loss.named["squared"])
    close(uncertainty, "cross_entropy", loss.named["cross-entropy"])
    close(uncertainty, "loss", loss.total)
    close(uncertainty, "grad_items", model.embedding.weight.grad.norm(dim=1))


def test_the_chain_is_that_of_the_authors_code(model, uncertainty, monkeypatch):
    noise = 1.3 * wave((2, 1, 1, DIM), 0.7)
    monkeypatch.setattr(process, "randn", lambda shape, *args, **kwargs: noise)
    steps = []
    found = model.sample(ITEMS[:, :-1].tolist(), callback=lambda step: steps.append(step.xn.clone()))
    assert len(steps) == 32
    close(uncertainty, "first_step", steps[0])
    close(uncertainty, "sample", found)
    close(uncertainty, "scores", model.head.logits(found))


def test_the_settings_are_those_of_the_authors_code():
    model = adrec(range(12))
    config = model.config()
    assert (model.schedule.num_timesteps, model.history_length, model.seeds) == (32, 50, 1)
    assert model.schedule.beta[[1, -1]].tolist() == pytest.approx([31.25e-4 + 0.01, 0.625 + 0.01])
    network = {"dim": 128, "num_layers": 2, "denoiser_layers": 2, "num_heads": 4, "dropout": 0.1,
               "embedding_dropout": 0.3, "uncertainty": 0.001, "step_scale": 31.25}  # fmt: skip
    assert config["denoiser"] == {**config["denoiser"], **network, "name": "autoregressive"}
    assert config["noising"] == {"name": "every-item"}
    assert config["embedding"] == {**config["embedding"], "scale": "learned", "init_std": 0.1}
    assert config["head"] == {"name": "tied", "use_bias": False}
    terms = {term["name"]: (term["weight"], term.get("reduction", "mean")) for term in config["objective"]["terms"]}
    assert terms == {"cross-entropy": (0.5, "mean"), "squared": (0.5, "mean")}
    assert config["timesteps"]["name"] == "uniform"
    assert config["sampler"] == {**config["sampler"], "name": "ddpm", "variance": "beta", "num_steps": None}


def test_the_recipe_is_that_of_the_authors_code():
    recipe = RECIPES["adrec"]
    assert (recipe.epochs, recipe.examples, recipe.learning_rate) == (500, "all-positions", 1e-3)
    assert (recipe.decay, recipe.weight_decay, recipe.exclude_seen) == ("cosine", 1e-5, False)
    assert (recipe.validate_every, recipe.patience) == (5, 4)
    assert recipe.batch_targets == pytest.approx(512 * 4.89, rel=0.01), "512 users of Baby"


@pytest.mark.slow
def test_three_stages_end_ahead_of_popularity_and_keep_fixed_vectors():
    split = SyntheticWorld(40, num_groups=4).sample(300).sequences().leave_one_out()
    recipe = replace(RECIPES["adrec"], epochs=10, batch_targets=128)
    model = adrec(split.train.vocabulary, dim=32, max_length=12)
    first = control(model)
    train(first, split.train, split.validation, recipe)
    vectors = first.embedding.weight.detach().clone()
    model.embedding.load_state_dict(first.embedding.state_dict())
    model.embedding.requires_grad_(False)
    train(model, split.train, split.validation, replace(recipe, epochs=5))
    assert torch.equal(model.embedding.weight, vectors)
    model.embedding.requires_grad_(True)
    train(model, split.train, split.validation, recipe)
    assert not torch.equal(model.embedding.weight, vectors)
    reports = evaluate(model, split.test), evaluate_popularity(split.train, split.test)
    ours, popular = (report.metrics(exclude_seen=False)["ndcg@10"] for report in reports)
    assert ours > 1.2 * popular
