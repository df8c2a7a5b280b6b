"""The preset ``ediffurec`` predicts, trains and samples as the authors' code, github.com/HanB312/EDiffuRec at 75af010.

``ediffurec.json`` holds what that code gave in float64, without dropout, for the weights and draws that the formulas of
this file define. Its row of padding is item 0 here, which no history has; histories have full length. That code stops
at the start of a chain, so its chain was started from the noise of this file.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from formulas import wave
from hypothesis import given
from hypothesis import strategies as st
from strategies import gaussian, schedules, seeded

from diffusers_rec import MacaronDenoiser, NormalizedHead, WeibullProcess
from diffusers_rec.data import Batch, History
from diffusers_rec.presets import diffurec, ediffurec
from diffusers_rec.processes import weibull
from diffusers_rec.training import RECIPES

PUBLISHED = json.loads(Path(__file__).with_name("ediffurec.json").read_text())
DIM = 8
ITEMS = torch.tensor([[1, 2, 3, 4, 5, 6], [7, 3, 8, 9, 10, 11]])  # the last of each is the target
TIMESTEPS = torch.tensor([[5], [23]])


def weights(shapes):
    """Weights by name: waves, around 1 for layer norms."""
    return {
        name: 0.4 * wave(shape, phase) + (1.0 if "norm.weight" in name else 0.0)
        for phase, (name, shape) in enumerate(sorted(shapes.items()))
    }


def drawn(shape, phase):
    """Numbers in [0, 1) in the place of uniform ones."""
    return 0.5 + 0.49 * wave(shape, phase)


def noise(shape, phase):
    """Weibull noise of shape 1/2 and scale 2, less 1, as PyTorch computes it from uniform numbers."""
    law = torch.distributions.Weibull(torch.tensor(2.0, dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64))
    return law.icdf(drawn(shape, phase)) - 1


@pytest.fixture(params=sorted(PUBLISHED))
def uncertainty(request):
    return request.param


@pytest.fixture
def model(uncertainty, monkeypatch):
    delta = float(uncertainty)
    model = ediffurec(range(12), dim=DIM, max_length=6).double().eval()
    model = model.replace(denoiser={"uncertainty": delta})
    model.load_state_dict(
        weights({name: tuple(weight.shape) for name, weight in model.named_parameters()}), strict=False
    )
    monkeypatch.setattr(weibull, "uniform", lambda shape, *args, **kwargs: drawn(shape, 0.7))
    monkeypatch.setattr(MacaronDenoiser, "_uncertain", lambda self, like: delta * noise(like.shape, 0.3))
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
    ranked = model.head.logits(found[:, 0, 0]).argsort(dim=1, descending=True)
    assert ranked.tolist() == published(uncertainty, "scores").argsort(dim=1, descending=True).tolist()


def test_the_settings_are_those_of_the_authors_code():
    """Weibull noise, the block and the length of a prediction are all that differs from DiffuRec."""
    model = ediffurec(range(12))
    config, base = model.config(), diffurec(range(12)).config()
    law = {"shape": 0.5, "scale": 2.0, "offset": -1.0}
    assert config["process"] == {"name": "weibull", **law}
    assert config["denoiser"] == {**base["denoiser"], "name": "macaron", **law}
    assert config["head"] == {"name": "normalized"}
    same = config.keys() - {"process", "denoiser", "head"}
    assert {key: config[key] for key in same} == {key: base[key] for key in same}
    assert (model.schedule.num_timesteps, model.history_length, model.seeds) == (32, 50, 1)


def test_the_recipe_is_that_of_the_authors_code():
    recipe = RECIPES["ediffurec"]
    assert (recipe.epochs, recipe.batch_targets, recipe.examples) == (500, 512, "every-prefix")
    assert [recipe.rate(epoch) for epoch in (10, 20, 99, 100, 250)] == pytest.approx([5e-4, 1e-3, 1e-3, 1e-4, 1e-5])
    assert (recipe.exclude_seen, recipe.weight_decay, recipe.clip_norm) == (False, 0, 0)


# The parts


@pytest.mark.parametrize(("shape", "scale", "offset"), [(0.5, 2.0, -1.0), (1.0, 0.5, 0.0), (3.0, 1.0, 2.0)])
def test_the_noise_has_the_quantiles_of_its_law(shape, scale, offset):
    process = WeibullProcess(ediffurec(range(3)).schedule, shape=shape, scale=scale, offset=offset)
    share = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    found = process.start((100, 100, 10), seeded(0), dtype=torch.float64).flatten().quantile(share)
    expected = offset + scale * (-torch.log(1 - share)) ** (1 / shape)
    torch.testing.assert_close(found, expected, rtol=0.03, atol=0.01)
    law = torch.distributions.Weibull(scale, shape)
    assert weibull.weibull_mean(shape, scale, offset) == pytest.approx(law.mean.item() + offset, rel=1e-5)


def test_the_noise_of_the_public_code_has_mean_3():
    assert weibull.weibull_mean(0.5, 2.0, -1.0) == 3
    assert torch.distributions.Weibull(2.0, 0.5).stddev.item() == pytest.approx(math.sqrt(80))


@given(schedule=schedules(num_timesteps=st.integers(1, 25)), data=st.data())
def test_a_step_has_the_mean_of_the_posterior_and_new_noise(schedule, data):
    n = data.draw(st.integers(1, schedule.num_timesteps))
    m = data.draw(st.integers(0, n - 1))
    x0, xn = gaussian(2, 3, 4, seed=1), gaussian(2, 3, 4, seed=2)
    steps = [torch.full((2, 3), step) for step in (n, m)]
    process = WeibullProcess(schedule)
    mean, _ = schedule.posterior(x0, xn, *steps)
    new = process.start((2, 3, 4), seeded(3), dtype=torch.float64)
    expected = mean + schedule.reverse_variance(x0, *steps).sqrt() * new if m else x0
    torch.testing.assert_close(process.step(x0, xn, n, m, seeded(3)), expected, rtol=1e-6, atol=1e-6)
    signal, sigma = schedule.levels(xn, steps[1])
    straight = signal * x0 + sigma * schedule.noise_from_x0(x0, xn, steps[0])
    torch.testing.assert_close(process.step(x0, xn, n, m, None, eta=0.0), straight, rtol=1e-6, atol=1e-6)


def test_lambda_is_scaled_noise_in_training_and_its_mean_in_serving():
    denoiser = MacaronDenoiser(DIM, 6, num_layers=1, uncertainty=0.5, shape=2.0, scale=1.5, offset=-0.25)
    law = torch.distributions.Weibull(1.5, 2.0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        uncertain = denoiser.train()._uncertain(torch.empty(2000, 10, DIM))
    mean = 0.5 * (law.mean.item() - 0.25)
    assert uncertain.mean().item() == pytest.approx(mean, abs=0.005)
    assert uncertain.std().item() == pytest.approx(0.5 * law.stddev.item(), abs=0.005)
    assert denoiser.eval()._uncertain(torch.empty(3)) == pytest.approx(mean)


def test_a_normalized_logit_is_the_item_vector_along_the_latent():
    model = ediffurec(range(12), dim=DIM)
    x = gaussian(5, DIM, seed=3, dtype=torch.float32)
    expected = (x / x.square().sum(1, keepdim=True).sqrt()) @ model.embedding.vectors().T
    for length in (0.1, 7.0):
        torch.testing.assert_close(NormalizedHead(model.embedding).logits(length * x), expected)
