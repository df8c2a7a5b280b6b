"""The preset ``fmrec`` predicts, trains and samples as the authors' code, github.com/FengLiu-1/FMRec at 1c39b17.

``fmrec.json`` holds what that code gave in float64, without dropout and without its reconstruction of the history, for
the weights and draws that the formulas of this file define. Its row of padding is item 0 here, which no history has;
histories have full length. Its time is t = 1 - n / N, and its network reads cosines and sines of 999 t. They are those
of (n - 1) 999 / N, rotated; its first layer got the weights of this file, rotated as much.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from formulas import wave

from diffusers_rec import AddedLatentDenoiser, SyntheticWorld
from diffusers_rec.data import Batch, History
from diffusers_rec.evaluation import evaluate, evaluate_popularity
from diffusers_rec.nn import step_embedding
from diffusers_rec.presets import fmrec
from diffusers_rec.processes import process
from diffusers_rec.training import RECIPES, TrainingConfig, train

PUBLISHED = json.loads(Path(__file__).with_name("fmrec.json").read_text())
DIM, N = 8, 900
ITEMS = torch.tensor([[1, 2, 3, 4, 5, 6], [7, 3, 8, 9, 10, 11]])  # the last of each is the target
TIMESTEPS = torch.tensor([[190], [700]])
SERVING = 0.999
"""When serving, the code tells the network t = .001 + .999 i / 30 at step i, where the latent is at i / 30."""


def weights(shapes):
    """Weights by name: waves, around 1 for layer norms."""
    return {
        name: 0.4 * wave(shape, phase) + (1.0 if "norm.weight" in name else 0.0)
        for phase, (name, shape) in enumerate(sorted(shapes.items()))
    }


def exact_embedding(timesteps, dim):
    """The sinusoids of the step in float64."""
    angle = timesteps[..., None] * 10_000 ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(-2)


@pytest.fixture(params=sorted(PUBLISHED))
def uncertainty(request):
    return request.param


@pytest.fixture
def published(uncertainty):
    return {name: torch.tensor(values, dtype=torch.float64) for name, values in PUBLISHED[uncertainty].items()}


@pytest.fixture
def made(uncertainty, monkeypatch):
    """Builds the preset with the weights and draws of this file, for a share of its steps' scale."""
    delta, default = float(uncertainty), torch.get_default_dtype()
    monkeypatch.setattr(process, "randn", lambda shape, *_, **__: 1.3 * wave(shape, 0.7))
    monkeypatch.setattr(AddedLatentDenoiser, "_uncertain", lambda self, like: delta * (1 + 1.1 * wave(like.shape, 0.3)))
    monkeypatch.setattr(step_embedding, "step_embedding", exact_embedding)

    def make(share=1.0):
        model = fmrec(range(12), dim=DIM, max_length=6)
        scale = share * model.denoiser.step_scale
        model = model.replace(denoiser={"uncertainty": delta, "step_scale": scale}).double().eval()
        given = weights({name: tuple(weight.shape) for name, weight in model.named_parameters()})
        model.load_state_dict(given, strict=False)
        return model

    torch.set_default_dtype(torch.float64)
    yield make
    torch.set_default_dtype(default)


def expect(got, expected):
    torch.testing.assert_close(got.detach().reshape(expected.shape), expected, rtol=0, atol=1e-8)


def test_prediction_loss_and_gradient_are_those_of_the_authors_code(made, published, monkeypatch):
    model, predictions = made(), []
    monkeypatch.setattr(model.timesteps, "sample", lambda *_, **__: (TIMESTEPS, torch.ones(2, 1)))
    model.denoiser.register_forward_hook(lambda module, args, output: predictions.append(output))
    batch = Batch(History(ITEMS, torch.tensor([6, 6])), torch.tensor([[5], [5]]))
    loss = model.loss(batch, torch.Generator()).total
    loss.backward()
    expect(predictions[0], published["prediction"])
    expect(loss, published["loss"])
    expect(model.embedding.weight.grad.norm(dim=1), published["item_gradients"])


def test_the_chain_is_that_of_the_authors_code(made, published):
    model, steps = made(SERVING), []
    found = model.sample(ITEMS[:, :-1].tolist(), callback=lambda step: steps.append(step.xn.clone()))
    assert len(steps) == 30
    expect(steps[0], published["first_step"])
    expect(steps[9], published["tenth_step"])
    expect(found, published["sample"])
    expect(model.head.logits(found[:, 0, 0]), published["scores"])


def test_the_law_of_the_steps_is_that_of_the_authors_code():
    """t = 1 - u - s (cos(u pi / 2)^2 - 1 + u) with s = 1, unweighted; the law of 1 - t is the same."""
    timesteps = fmrec(range(12)).timesteps
    u = torch.linspace(0, 1, 9, dtype=torch.float64)
    t = 2 - 2 * u - (math.pi / 2 * u).cos().square()
    below = torch.cat([torch.zeros(1, dtype=torch.float64), timesteps.probabilities().cumsum(0)])
    place = t * N
    found = torch.lerp(below[place.floor().long()], below[place.ceil().long()], place - place.floor())
    torch.testing.assert_close(found, 1 - u, rtol=0, atol=1e-5)
    _, given = timesteps.sample((50,), torch.Generator().manual_seed(0))
    assert (given == 1).all()


def test_the_settings_are_those_of_the_authors_code():
    model = fmrec(range(12))
    config = model.config()
    assert (model.schedule.num_timesteps, model.history_length, model.seeds) == (N, 50, 1)
    network = {"dim": 128, "num_layers": 4, "num_heads": 4, "dropout": 0.1, "embedding_dropout": 0.3,
               "uncertainty": 0.001, "step_scale": 999 / N}  # fmt: skip
    assert config["denoiser"] == {**config["denoiser"], **network, "name": "added-latent"}
    assert config["schedule"]["name"] == "rectified"
    assert config["embedding"] == {**config["embedding"], "scale": "learned", "init_std": 1.0}
    assert config["head"] == {"name": "tied", "use_bias": False}
    terms = [(term["name"], term["weight"]) for term in config["objective"]["terms"]]
    assert terms == [("squared", 1.0), ("cross-entropy", 0.2)]
    assert config["sampler"] == {"name": "straight", "num_steps": 30}
    asked = []
    model.denoiser.register_forward_hook(lambda module, args, output: asked.append(int(args[1].flatten()[0])))
    model.eval().sample([[1, 2]])
    assert asked == [N - 30 * step for step in range(30)]


def test_the_recipe_is_that_of_the_authors_code():
    recipe = RECIPES["fmrec"]
    assert (recipe.epochs, recipe.batch_targets, recipe.examples) == (500, 512, "every-prefix")
    assert [recipe.rate(epoch) for epoch in (0, 99, 100, 250)] == pytest.approx([1e-3, 1e-3, 1e-4, 1e-5])
    assert (recipe.validate_every, recipe.patience, recipe.exclude_seen) == (20, 5, False)


@pytest.mark.slow
def test_it_ranks_ahead_of_popularity():
    split = SyntheticWorld(num_items=60).sample(num_users=200).sequences().leave_one_out()
    model = fmrec(split.train.vocabulary, dim=32, max_length=11, seed=0)
    train(model, split.train, config=TrainingConfig(epochs=10, batch_targets=256, learning_rate=3e-3))
    ours = evaluate(model, split.test).metrics()["ndcg@10"]
    assert ours > 1.5 * evaluate_popularity(split.train, split.test).metrics()["ndcg@10"]
