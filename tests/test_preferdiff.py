"""The preset ``preferdiff`` computes what the authors' code computes, github.com/lswhim/PreferDiff at fdf45b0.

``preferdiff_values.json`` has outputs of that code in float64, for the commands of its README with a width of 6.
Weights, noise and histories are those below. All histories are of full length, where padding plays no part.
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import formulas
import pytest
import torch

from diffusers_rec import Batch, History, NoiseSchedule, Queries, SyntheticWorld
from diffusers_rec.evaluation import evaluate, evaluate_popularity
from diffusers_rec.presets import control, preferdiff
from diffusers_rec.processes import process
from diffusers_rec.training import RECIPES, train

VALUES = json.loads(Path(__file__).with_name("preferdiff_values.json").read_text())
DIM, NUM_ITEMS, LENGTH, N = 6, 7, 5, 2000
HISTORIES = torch.tensor([[0, 3, 5, 2, 6], [4, 4, 1, 0, 2], [6, 1, 2, 3, 5]])
TARGETS, STEPS = torch.tensor([[1], [6], [0]]), torch.tensor([[1], [57], [2000]])
HIDDEN = torch.tensor([[False], [True], [False]])  # the history that the training step does not show
QUERIES = Queries.next_item(torch.full((3,), LENGTH))
COURSE = [*range(2000, 0, -100), 1]

every_setting = pytest.mark.parametrize("settings", VALUES)


wave = partial(formulas.wave, size=0.4, frequency=1.3)


def noise(draw):
    return wave((3, 1, 1, DIM), draw + 0.5, size=1.5)


@pytest.fixture
def draws(monkeypatch):
    """Noise in place of random numbers; the list holds the number of the next draw."""
    numbers = []

    def drawn(like, generator):
        numbers[0] += 1
        return noise(numbers[0] - 1).view_as(like)

    monkeypatch.setattr(process, "_noise", drawn)
    return numbers


def made(settings):
    """In float64, with a formula for weights; of the norms around 1, and of the items larger."""
    model = preferdiff(range(NUM_ITEMS), dim=DIM, max_length=LENGTH + 1, dropout=0.0, settings=settings).double()
    with torch.no_grad():
        for number, (name, weight) in enumerate(sorted(model.named_parameters())):
            size = 1.0 if name.startswith("embedding") else 0.4
            weight.copy_(wave(weight.shape, number, float(name.endswith("norm.weight")), size=size))
    return model.eval()


def encoded(model):
    history = History(HISTORIES, QUERIES.visible[:, 0])
    return model.denoiser.encode(history.with_latents(model.embedding(HISTORIES)))


def expect(settings, name, got):
    expected = torch.tensor(VALUES[settings][name], dtype=torch.float64)
    torch.testing.assert_close(got.detach().reshape(expected.shape), expected, rtol=0, atol=1e-8)


@every_setting
@pytest.mark.parametrize("name", ["given", "null"])
def test_the_denoiser_is_that_of_the_code(settings, name):
    model = made(settings)
    base = model.denoiser.base
    condition = base.condition(encoded(model), QUERIES, null=name == "null")
    expect(settings, name, base(noise(0), STEPS, condition))


@every_setting
def test_the_training_loss_and_its_gradients_are_those_of_the_code(settings, draws, monkeypatch):
    model = made(settings).train()
    monkeypatch.setattr(model.denoiser, "hidden", lambda *_: HIDDEN)
    monkeypatch.setattr(model.timesteps, "sample", lambda *_, **__: (STEPS, torch.ones(3, 1)))
    draws.append(1)
    items, lengths = torch.cat([HISTORIES, TARGETS], dim=1), torch.full((3,), LENGTH + 1)
    loss = model.loss(Batch(History(items, lengths), torch.full((3, 1), LENGTH)), torch.Generator())
    loss.total.backward()
    expect(settings, "loss", loss.total)
    expect(settings, "near", loss.named["cosine"])
    expect(settings, "grad_items", model.embedding.weight.grad.norm(dim=1))
    expect(settings, "grad_empty", model.denoiser.base.empty.grad)


@every_setting
def test_a_guided_step_is_that_of_the_code(settings):
    model = made(settings)
    condition = model.denoiser.condition(encoded(model), QUERIES)
    with torch.no_grad():
        x0 = model.denoiser(noise(0), torch.full((3, 1), 1900), condition)
        expect(settings, "step", model.process.step(x0, noise(0), 1900, 1800, None, eta=model.sampler.eta))


@every_setting
def test_the_chain_is_that_of_the_code_which_announces_the_next_step(settings, monkeypatch):
    model = made(settings)
    condition = model.denoiser.condition(encoded(model), QUERIES)
    ours = model.sampler.course(N, noise(3))
    assert len(ours) == len(COURSE)
    assert max(abs(one - other) for one, other in zip(ours, COURSE, strict=True)) == 1
    monkeypatch.setattr(model.sampler, "course", lambda *_: COURSE)
    with torch.no_grad():
        sample = model.sampler.sample(
            lambda xn, n: model.denoiser(xn, n + (n > 1), condition), model.process, noise(3), None
        )
        expect(settings, "sample", sample)
        expect(settings, "scores", model.head.logits(sample[:, 0, 0]))


@pytest.mark.parametrize(("settings", "share", "strength"), [("sports", 0.4, 2), ("beauty", 0.4, 8), ("toys", 0.6, 6)])
def test_the_settings_are_those_of_the_readme(settings, share, strength):
    model = preferdiff(range(NUM_ITEMS), dim=DIM, settings=settings)
    beta = torch.linspace(1e-4, 0.02, N, dtype=torch.float64)
    assert (model.schedule.alpha_bar - NoiseSchedule.from_betas(beta).alpha_bar).abs().max() <= 1e-12
    assert model.denoiser.scale == 1 + strength
    assert model.denoiser.drop == 0.1
    assert [term.weight for term in model.objective.terms] == [share, 1 - share]
    assert model.objective.terms[1].scale == 5
    assert (model.history_length, model.seeds) == (10, 1)


def test_the_recipe_is_that_of_the_code():
    recipe = RECIPES["preferdiff"]
    assert (recipe.epochs, recipe.batch_targets, recipe.learning_rate, recipe.patience) == (150, 256, 1e-4, 10)
    assert (recipe.select_by, recipe.exclude_seen, recipe.validate_every) == ("hr@5", False, 1)
    assert (recipe.weight_decay, recipe.clip_norm, recipe.decay, recipe.examples) == (0, 0, "constant", "last-target")


def test_the_control_learns_the_same_preference_without_noise():
    model = made("sports")
    plain = control(model)
    assert plain.objective.config() == model.objective.config()
    batch = Batch(History(HISTORIES, torch.full((3,), LENGTH)), torch.full((3, 1), LENGTH - 1))
    one, other = (plain.eval().loss(batch, torch.Generator().manual_seed(seed)).total for seed in (0, 1))
    assert one == other


@pytest.mark.slow
def test_it_ranks_ahead_of_popularity():
    split = SyntheticWorld(40, num_groups=4).sample(200).sequences().leave_one_out()
    model = preferdiff(split.train.vocabulary, dim=32)
    recipe = replace(
        RECIPES["preferdiff"],
        epochs=12,
        learning_rate=3e-3,
        examples="every-prefix",
        validate_every=12,
        calibrate=False,
    )
    train(model, split.train, split.validation, recipe, device="cpu")
    found, popular = evaluate(model, split.test), evaluate_popularity(split.train, split.test)
    assert found.metrics(exclude_seen=False)["ndcg@10"] > 1.3 * popular.metrics(exclude_seen=False)["ndcg@10"]


def test_unknown_settings_are_refused():
    with pytest.raises(ValueError, match="settings must be one of 'sports', 'beauty', 'toys', got 'zhihu'"):
        preferdiff(range(NUM_ITEMS), settings="zhihu")
