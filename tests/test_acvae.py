"""The preset ``acvae`` computes what the authors' code computes.

``acvae_values.json`` has outputs of that code (commit 9a1dac6) in float64, in training mode without dropout, for its
encoder ``fc_cnn`` with noise. Its fixed width of 128 was replaced by 3. Weights, noise and histories are those below.
Both losses and gradients are those of its training step: the networks' before the discriminator is trained.
"""

from __future__ import annotations

import json
from pathlib import Path

import formulas
import pytest
import torch

from diffusers_rec import Batch, History
from diffusers_rec.presets import acvae
from diffusers_rec.training import RECIPES

VALUES = json.loads(Path(__file__).with_name("acvae_values.json").read_text())
ENCODER = {"name": "adversarial", "hidden_dim": 5, "latent_dim": 4, "judge_dim": 3, "judge_dropout": 0.0}
SEQUENCES = torch.tensor([[1, 3, 5, 2, 6, 7, 4], [4, 4, 1, 7, 2, 3, 6], [6, 1, 2, 3, 5, 1, 2]])
USERS, LENGTH, DIM = 3, 6, 6


def name_in_the_record(name):
    """That of the record, which counts weights in alphabetical order."""
    return name.removeprefix("denoiser.").removeprefix("encoder.").replace("noise.layer", "noise")


@pytest.fixture
def model(monkeypatch):
    """In float64, with a formula for weights and noise."""
    built = acvae(range(8), dim=DIM, max_length=LENGTH + 1, dropout=0.0)
    built = built.replace(denoiser={"encoder": ENCODER}).double().train()
    weights = {name_in_the_record(name): weight for name, weight in built.named_parameters() if "empty" not in name}
    with torch.no_grad():
        for number, (_, weight) in enumerate(sorted(weights.items())):
            weight.copy_(formulas.wave(weight.shape, number, size=0.6, frequency=1.3))
    draws = []

    def randn_like(like):
        draws.append(like.shape)
        return formulas.wave(like.shape, len(draws) - 0.5, size=1.5, frequency=1.3)

    monkeypatch.setattr(torch, "randn_like", randn_like)
    return built, weights


def expect(name, got, values=VALUES):
    expected = torch.tensor(values[name], dtype=torch.float64)
    torch.testing.assert_close(got.detach().reshape(expected.shape), expected, rtol=0, atol=1e-7)


def test_latents_states_and_logits_are_those_of_the_code(model):
    built, _ = model
    items = SEQUENCES[:, :LENGTH]
    history = History(items, torch.full((USERS,), LENGTH)).with_latents(built.embedding(items))
    context = built.denoiser.encode(history)
    expect("latents", context.latents)
    expect("states", built.denoiser.encoder.states(context, torch.arange(1, LENGTH + 1).expand(USERS, -1)))
    expect("logits_last", built.head.logits(context.states[:, -1]))


def test_losses_and_gradients_are_those_of_the_code(model):
    """Its sums over positions are the means here times their number."""
    built, weights = model
    batch = Batch(History(SEQUENCES, torch.full((USERS,), LENGTH + 1)), torch.arange(1, LENGTH + 1).expand(USERS, -1))
    loss = built.loss(batch, torch.Generator())
    for name in ("kl", "information", "discriminator"):
        expect(name, LENGTH * loss.named[name])
    expect("elbo", LENGTH * loss.named["cross-entropy"])
    loss.total.backward()
    assert VALUES["grads"].keys() == weights.keys()
    for name, weight in weights.items():
        expect(name, LENGTH * weight.grad.norm(), VALUES["grads"])
    expect("grad_items", LENGTH * weights["embedding.weight"].grad.norm(dim=1))


def test_the_settings_and_the_recipe_are_those_of_the_code():
    encoder = acvae(range(8)).denoiser.encoder
    assert (encoder.dim, encoder.hidden_dim, encoder.latent_dim, encoder.judge_dim) == (128, 100, 64, 128)
    assert (encoder.dropout, encoder.judge_dropout) == (0.5, 0.2)
    recipe = RECIPES["acvae"]
    assert (recipe.epochs, recipe.learning_rate, recipe.weight_decay, recipe.validate_every) == (350, 1e-3, 1e-2, 4)
