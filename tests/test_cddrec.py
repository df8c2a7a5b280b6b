"""The preset ``cddrec`` predicts, trains and serves as the authors' code, github.com/YuWang-1024/CDDRec at edfe0ff.

``cddrec.json`` holds what that code gave in float64 for one user with a full history, without dropout and without the
noise that it adds to predictions, for the weights and draws that the formulas of this file define.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import formulas
import pytest
import torch

from diffusers_rec import SyntheticWorld
from diffusers_rec.data import Batch, History
from diffusers_rec.evaluation import evaluate, evaluate_popularity
from diffusers_rec.items.negatives import NegativeSample
from diffusers_rec.presets import cddrec
from diffusers_rec.processes import process
from diffusers_rec.training import RECIPES, train

PUBLISHED = {
    name: torch.tensor(value, dtype=torch.float64)
    for name, value in json.loads(Path(__file__).with_name("cddrec.json").read_text()).items()
}
ITEMS = torch.tensor([[3, 7, 1, 10, 4, 8]])
STEP = 7


wave = partial(formulas.wave, frequency=1.7)


@pytest.fixture
def model(monkeypatch):
    model = cddrec(range(12), dim=8, max_length=6).double().eval()
    weights = {
        name: 0.4 * wave(weight.shape, phase) + (1.0 if "norm.weight" in name else 0.0)
        for phase, (name, weight) in enumerate(sorted(model.named_parameters()))
    }
    model.load_state_dict(weights, strict=False)
    monkeypatch.setattr(process, "randn", lambda shape, *args, **kwargs: 1.3 * wave(shape, 0.7))
    steps = torch.full((1, 5), STEP)
    monkeypatch.setattr(model.timesteps, "sample", lambda *args, **kwargs: (steps, torch.ones(1, 5)))
    negatives = NegativeSample(torch.tensor([5]), torch.zeros(1))
    monkeypatch.setattr(model.negatives, "draw", lambda *args: negatives)
    return model


def close(got, name):
    torch.testing.assert_close(got, PUBLISHED[name], rtol=0, atol=1e-6)


def test_the_prediction_and_the_losses_are_those_of_the_authors_code(model):
    predictions = []
    model.denoiser.register_forward_hook(lambda module, args, output: predictions.append(output[0, :, 0]))
    loss = model.loss(Batch(History(ITEMS, torch.tensor([6])), torch.arange(1, 6)[None]), torch.Generator())
    close(predictions[0], "prediction")
    close(STEP * loss.named["binary"], "binary")
    close(STEP * loss.named["pair-contrastive"], "contrast")
    close(STEP * torch.autograd.grad(loss.total, model.embedding.weight)[0].sum(1), "grad_items")


def test_the_chain_ends_at_the_one_step_of_the_authors_code(model):
    found = model.sample(ITEMS[:, :-1].tolist(), seeds=[0, 1])[0, :, 0]
    close(found[0], "served")
    assert torch.equal(found[0], found[1]), "whatever the chain starts from"


def test_the_schedule_and_the_reverse_step_are_those_of_the_authors_code(model):
    schedule = model.schedule
    close(schedule.alpha_bar[1:], "alpha_bar")
    x0, xn = torch.eye(2, dtype=torch.float64)[:, None]
    mean, variance = schedule.posterior(x0, xn, torch.tensor([STEP]))
    close(torch.cat([mean[0], variance[0]]), "posterior")


def test_the_settings_are_those_of_the_authors_code():
    sizes = {"beauty": (30, 0.002), "toys": (25, 0.002), "office": (20, 0.04), "tools": (20, 0.08)}
    for name, (steps, beta) in sizes.items():
        schedule = cddrec(range(12), settings=name).schedule
        assert (schedule.num_timesteps, float(schedule.beta[-1])) == (steps, pytest.approx(beta))
    model = cddrec(range(12))
    config = model.config()
    assert model.history_length == 20
    assert config["denoiser"] == {**config["denoiser"], "dim": 128, "num_layers": 1, "num_heads": 4, "dropout": 0.2}
    assert [(term["name"], term["weight"]) for term in config["objective"]["terms"]] == [
        ("binary", 1.0),
        ("pair-contrastive", 0.3),
    ]
    assert (RECIPES["cddrec"].learning_rate, RECIPES["cddrec"].patience, RECIPES["cddrec"].epochs) == (1e-3, 50, 1000)


def test_the_initial_weights_are_distributed_as_in_the_authors_code():
    """N(0, .02^2) and zero biases; PyTorch draws the values of an attention from Xavier's law for (3 D, D)."""
    model = cddrec(range(12), dim=64)
    own = ("norm", "empty")
    drawn = {name: weight for name, weight in model.named_parameters() if not any(part in name for part in own)}
    assert not any(weight.any() for name, weight in drawn.items() if name.endswith("bias"))
    values = {name for name in drawn if name.endswith(("of_state.0.weight", "of_step.0.weight"))}
    assert len(values) == 2
    for name, weight in drawn.items():
        if name.endswith("weight"):
            expected = (6 / (4 * 64)) ** 0.5 / 3**0.5 if name in values else 0.02
            assert weight.std().item() == pytest.approx(expected, rel=0.1), name


@pytest.mark.slow
def test_it_ranks_ahead_of_popularity(tmp_path):
    split = SyntheticWorld(40, num_groups=4).sample(300).sequences().leave_one_out()
    model = cddrec(split.train.vocabulary, dim=32, max_length=12, dropout=0.1)
    recipe = replace(RECIPES["cddrec"], epochs=30, batch_targets=512, validate_every=10)
    train(model, split.train, split.validation, recipe, directory=tmp_path, device="cpu")
    found = evaluate(model, split.test, ks=[10]).metrics()["ndcg@10"]
    assert found > 1.1 * evaluate_popularity(split.train, split.test, ks=[10]).metrics()["ndcg@10"]
