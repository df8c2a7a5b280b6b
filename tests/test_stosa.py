"""The preset ``stosa`` computes what the authors' code computes.

``stosa.json`` has outputs of that code (commit 1f00ecb) in float64, with two layers and two heads, and weights from the
formula below. The part ``code`` is the code as it is. For the part ``paper``, the loop over the layers keeps the means
that a layer returns, where the code assigns them to a misspelt name. An import of two missing functions was removed.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import formulas
import pytest
import torch

from diffusers_rec import Batch, History
from diffusers_rec.items.negatives import NegativeSample
from diffusers_rec.nn.gaussians import gaussian_points
from diffusers_rec.presets import stosa
from diffusers_rec.training import RECIPES

VALUES = json.loads(Path(__file__).with_name("stosa.json").read_text())
DIM, NUM_ITEMS, LENGTH, LAYERS = 8, 7, 5, 2
HISTORIES = torch.tensor([[0, 3, 5, 2, 6], [4, 4, 1, 0, 2], [6, 1, 2, 3, 5]])
SEQUENCES = torch.cat([HISTORIES, torch.tensor([[1], [6], [0]])], dim=1)
TARGETS = SEQUENCES[:, 1:]
NEGATIVES = (TARGETS + torch.arange(1, LENGTH + 1)) % NUM_ITEMS

wave = partial(formulas.wave, size=0.4, frequency=1.3)
both = pytest.mark.parametrize("settings", VALUES)


def layers_in_order():
    """Names of the layers with weight and bias, in the order in which the recorded run numbered them."""
    yield "norm"
    for layer in (f"layers.{index}" for index in range(LAYERS)):
        for stream in (f"{layer}.mean", f"{layer}.covariance"):
            yield from (f"{stream}.{part}" for part in ("query", "key", "value", "out"))
        yield f"{layer}.norm"
        for stream in (f"{layer}.mean", f"{layer}.covariance"):
            yield from (f"{stream}.{part}" for part in ("feed_forward.0", "feed_forward.2", "norm"))


def made(settings):
    """In float64, with a formula for weights; of the norms around 1, and of the items larger."""
    model = stosa(range(NUM_ITEMS), dim=DIM, max_length=LENGTH + 1, dropout=0.0, settings=settings)
    encoder = {"num_layers": LAYERS, "num_heads": 2}
    terms = ["bpr", {"name": "separation", "weight": 0.3}]
    model = model.replace(denoiser={"encoder": encoder}, objective={"name": "weighted", "terms": terms}).double()
    weights = dict(model.denoiser.encoder.named_parameters())
    with torch.no_grad():
        model.embedding.weight.copy_(wave(model.embedding.weight.shape, 0, size=1.0))
        place = weights.pop("place.weight")
        place.copy_(wave(place.shape, 1))
        for number, layer in enumerate(layers_in_order()):
            for bias, part in enumerate(("weight", "bias")):
                offset = float(layer.endswith("norm") and not bias)
                if (weight := weights.pop(f"{layer}.{part}", None)) is not None:
                    weight.copy_(wave(weight.shape, 2 + 2 * number + bias, offset))
    assert not weights
    return model.eval()


def states(model):
    history = History(HISTORIES, torch.full((3,), LENGTH)).with_latents(model.embedding(HISTORIES))
    encoder = model.denoiser.encoder
    return encoder.states(encoder.encode(history), torch.arange(1, LENGTH + 1).expand(3, -1))


def expect(settings, name, got):
    expected = torch.tensor(VALUES[settings][name], dtype=torch.float64)
    torch.testing.assert_close(got.detach().reshape(expected.shape), expected, rtol=0, atol=1e-8)


@both
def test_states_and_scores_are_those_of_the_code(settings):
    model = made(settings)
    found = states(model)
    mean, deviation = gaussian_points(found).chunk(2, dim=-1)
    expect(settings, "mean", mean)
    expect(settings, "covariance", deviation.square())
    expect(settings, "scores", model.head.logits(found[:, -1]))


@both
def test_the_training_loss_and_its_gradients_are_those_of_the_code(settings, monkeypatch):
    model = made(settings).train()
    own = NegativeSample(NEGATIVES.reshape(-1, 1), torch.zeros(NEGATIVES.numel(), 1))
    monkeypatch.setattr(model.negatives, "draw", lambda *_: own)
    batch = Batch(History(SEQUENCES, torch.full((3,), LENGTH + 1)), torch.arange(1, LENGTH + 1).expand(3, -1))
    loss = model.loss(batch, torch.Generator())
    loss.total.backward()
    expect(settings, "bpr", loss.named["bpr"])
    expect(settings, "separation", 0.3 * loss.named["separation"])
    expect(settings, "grad_items", model.embedding.weight.grad)


def test_the_mean_of_a_state_of_the_code_is_that_of_the_last_item_and_its_place():
    model = made("code")
    encoder = model.denoiser.encoder
    alone, _ = (model.embedding(HISTORIES) + encoder.place.weight[:LENGTH]).chunk(2, dim=-1)
    torch.testing.assert_close(states(model)[..., : DIM // 2], torch.nn.functional.elu(encoder.norm(alone)))


def test_the_settings_are_those_of_the_command():
    model = stosa(range(9))
    encoder = model.denoiser.encoder
    assert (model.embedding.dim, model.max_length, encoder.num_layers, encoder.num_heads) == (2 * 64, 101, 1, 4)
    assert (encoder.dropout, encoder.attend_means, model.negatives.count) == (0.3, False, 1)
    assert [(term["name"], term["weight"]) for term in model.objective.config()["terms"]] == [
        ("bpr", 1.0), ("separation", 0.005)
    ]  # fmt: skip
    assert stosa(range(9), settings="paper").denoiser.encoder.attend_means
    recipe = RECIPES["stosa"]
    assert (recipe.epochs, recipe.patience, recipe.learning_rate, recipe.weight_decay) == (500, 100, 1e-3, 0)


def test_unknown_settings_are_refused():
    with pytest.raises(ValueError, match="settings must be one of 'code', 'paper', got 'beauty'"):
        stosa(range(NUM_ITEMS), settings="beauty")
