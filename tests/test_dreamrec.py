"""The preset ``dreamrec`` computes what the authors' code computes.

``dreamrec_values.json`` has outputs of that code (commit 454133c) in float64, for its networks ``mlp1`` and ``mlp2``.
Its fixed width of 64 was replaced by D. The schedule is ``linear`` with N = 500 and w = 4. Weights, noise and histories
are those below. All histories are of full length, where padding plays no part.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import formulas
import pytest
import torch

from diffusers_rec import Batch, History, NoiseSchedule, Queries
from diffusers_rec.denoisers.state_mlp import sinusoids
from diffusers_rec.presets import control, dreamrec
from diffusers_rec.processes import process
from diffusers_rec.training import RECIPES

VALUES = json.loads(Path(__file__).with_name("dreamrec_values.json").read_text())
DIM, NUM_ITEMS, LENGTH, N = 6, 7, 5, 500
HISTORIES = torch.tensor([[0, 3, 5, 2, 6], [4, 4, 1, 0, 2], [6, 1, 2, 3, 5]])
TARGETS, STEPS = torch.tensor([[1], [6], [0]]), torch.tensor([[1], [57], [500]])
HIDDEN = torch.tensor([[False], [True], [False]])  # the history that the training step does not show
QUERIES = Queries.next_item(torch.full((3,), LENGTH))

both_networks = pytest.mark.parametrize("layers", [1, 2])


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


def made(layers):
    """In float64, with a formula for weights; of the norms around 1, and of the items larger."""
    model = dreamrec(range(NUM_ITEMS), dim=DIM, max_length=LENGTH + 1, dropout=0.0, settings="zhihu")
    model = model.replace(denoiser={"base": {"mlp_layers": layers}}).double()
    with torch.no_grad():
        for number, (name, weight) in enumerate(sorted(model.named_parameters())):
            size = 1.0 if name.startswith("embedding") else 0.4
            weight.copy_(wave(weight.shape, number, float(name.endswith("norm.weight")), size=size))
    return model.eval()


def encoded(model):
    history = History(HISTORIES, QUERIES.visible[:, 0])
    return model.denoiser.encode(history.with_latents(model.embedding(HISTORIES)))


def expect(values, name, got):
    expected = torch.tensor(values[name], dtype=torch.float64)
    torch.testing.assert_close(got.detach().reshape(expected.shape), expected, rtol=0, atol=1e-8)


@both_networks
@pytest.mark.parametrize("name", ["given", "null"])
def test_the_denoiser_is_that_of_the_code(layers, name):
    model = made(layers)
    base = model.denoiser.base
    condition = base.condition(encoded(model), QUERIES, null=name == "null")
    expect(VALUES[str(layers)], name, base(noise(0), STEPS, condition))


@both_networks
def test_the_training_loss_and_its_gradients_are_those_of_the_code(layers, draws, monkeypatch):
    model, values = made(layers).train(), VALUES[str(layers)]
    monkeypatch.setattr(model.denoiser, "hidden", lambda *_: HIDDEN)
    monkeypatch.setattr(model.timesteps, "sample", lambda *_, **__: (STEPS, torch.ones(3, 1)))
    draws.append(1)
    items, lengths = torch.cat([HISTORIES, TARGETS], dim=1), torch.full((3,), LENGTH + 1)
    loss = model.loss(Batch(History(items, lengths), torch.full((3, 1), LENGTH)), torch.Generator())
    loss.total.backward()
    expect(values, "loss", loss.total)
    expect(values, "grad_items", model.embedding.weight.grad.norm(dim=1))
    expect(values, "grad_empty", model.denoiser.base.empty.grad)


@both_networks
def test_a_guided_step_the_whole_chain_and_the_scores_are_those_of_the_code(layers, draws):
    model, values = made(layers), VALUES[str(layers)]
    condition = model.denoiser.condition(encoded(model), QUERIES)
    draws.append(2)
    with torch.no_grad():
        x0 = model.denoiser(noise(0), torch.full((3, 1), 57), condition)
        step = model.process.step(x0, noise(0), 57, 56, None, variance=model.sampler.variance)
        draws[:] = [4]
        start = noise(3)
        sample = model.sampler.sample(lambda xn, n: model.denoiser(xn, n, condition), model.process, start, None)
        expect(values, "step", step)
        expect(values, "sample", sample)
        expect(values, "scores", model.head.logits(sample[0, 0, 0]))
    assert draws == [4 + N - 1], "a draw for each step but the last"


def test_guidance_of_the_affine_denoiser_is_the_same_vector_at_every_step():
    model = made(1)
    context = encoded(model)
    condition = model.denoiser.condition(context, QUERIES)
    plain = model.denoiser.base.condition(context, QUERIES)
    first, other = (
        model.denoiser(noise(draw), steps, condition) - model.denoiser.base(noise(draw), steps, plain)
        for draw, steps in ((0, STEPS), (5, STEPS.flip(0)))
    )
    torch.testing.assert_close(first, other)
    assert first.abs().min() > 1e-3


def test_the_step_embedding_has_sines_before_cosines():
    angles = torch.tensor([3.0, 3.0 / 100, 3.0 / 10000])
    expected = torch.cat([angles.sin(), angles.cos()])
    torch.testing.assert_close(sinusoids(torch.tensor(3), 6), expected)


# The settings of the code's commands


def of_linspace(first, last, num_timesteps=500):
    return torch.linspace(first, last, num_timesteps, dtype=torch.float64)


SQUARE = (((of_linspace(0, 1, 2001) + 0.008) / 1.008) * torch.pi / 2).cos().square()


@pytest.mark.parametrize(
    ("settings", "beta", "far", "num_timesteps", "strength"),
    [
        ("yoochoose", 1 - (-0.1 / 500 - of_linspace(1, 1001) * (10 - 0.1) / (2 * 500**2)).exp(), 7.1e-4, 500, 2),
        ("kuairec", (1 - SQUARE[1:] / SQUARE[:-1]).clamp(1e-4, 0.9999), 2.7e-3, 2000, 2),
        ("zhihu", of_linspace(1e-4, 0.02), 1e-12, 500, 4),
    ],
)
def test_the_settings_are_those_of_the_commands(settings, beta, far, num_timesteps, strength):
    model = dreamrec(range(NUM_ITEMS), settings=settings)
    assert model.schedule.num_timesteps == num_timesteps
    assert model.denoiser.scale == 1 + strength
    assert model.denoiser.drop == 0.1
    assert (model.schedule.alpha_bar - NoiseSchedule.from_betas(beta).alpha_bar).abs().max() <= far


def test_the_recipe_is_that_of_the_code():
    recipe = RECIPES["dreamrec"]
    assert (recipe.epochs, recipe.batch_targets, recipe.learning_rate, recipe.validate_every) == (1000, 256, 1e-3, 10)
    assert (recipe.weight_decay, recipe.decay, recipe.exclude_seen) == (0, "constant", False)


def test_the_control_regresses_the_target_on_the_history():
    plain = control(made(1))
    assert [term["name"] for term in plain.objective.config()["terms"]] == ["squared"]
    batch = Batch(History(HISTORIES, torch.full((3,), LENGTH)), torch.full((3, 1), LENGTH - 1))
    one, other = (plain.eval().loss(batch, torch.Generator().manual_seed(seed)).total for seed in (0, 1))
    assert one == other


def test_unknown_settings_are_refused():
    with pytest.raises(ValueError, match="settings must be one of 'yoochoose', 'kuairec', 'zhihu', got 'beauty'"):
        dreamrec(range(NUM_ITEMS), settings="beauty")
