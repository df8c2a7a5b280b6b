"""``wang2023_latent`` encodes, trains and ranks as the authors' L-DiffRec, github.com/YiyanXu/DiffRec at d35a6c6.

``wang2023_latent.json`` holds what that code gave in float64, without dropout, for the weights and draws that the
formulas of this file define.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from formulas import wave

from diffusers_rec import Batch, History, UserLatentDiffusion
from diffusers_rec.presets import wang2023_latent
from diffusers_rec.processes import process
from diffusers_rec.recommenders import user_latents
from diffusers_rec.training import RECIPES

PUBLISHED = json.loads(Path(__file__).with_name("wang2023_latent.json").read_text())
HISTORY = History(torch.tensor([[1, 4, 2, 6], [5, 0, 3, 3], [6, 2, 0, 0]]), torch.tensor([4, 3, 2]))
TIMESTEPS = torch.tensor([1, 2, 4])
SCHEDULE = {"name": "linear-variance", "num_timesteps": 5, "scale": 0.5, "minimum": 0.001, "maximum": 0.005}
UPDATES = 37


@pytest.fixture(params=sorted(PUBLISHED))
def published(request):
    return PUBLISHED[request.param]


@pytest.fixture
def model(published, monkeypatch):
    built = UserLatentDiffusion(
        range(7), schedule=SCHEDULE, clusters=published["clusters"], latent_dim=8, widths=[5], max_length=9,
        dropout=0.0, encoder_dropout=0.0,
    ).double()  # fmt: skip
    with torch.no_grad():
        for phase, (_, weight) in enumerate(sorted(built.named_parameters())):
            weight.copy_(0.7 * wave(weight.shape, phase))
    monkeypatch.setattr(user_latents, "randn", lambda shape, *args, **kwargs: 1.3 * wave(shape, 0.7))
    monkeypatch.setattr(process, "randn", lambda shape, *args, **kwargs: 1.1 * wave(shape, 0.2))
    return built


def assert_published(found, expected):
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=1e-6)


def test_the_loss_and_its_gradient_are_those_of_the_authors_code(model, published, monkeypatch):
    monkeypatch.setattr(model.timesteps, "sample", lambda *args, **kwargs: (TIMESTEPS, torch.ones(3)))
    model.updates.fill_(UPDATES)
    loss = model(Batch(HISTORY, HISTORY.lengths[:, None] - 1), torch.Generator())
    loss.total.backward()
    assert_published(loss.named["divergence"], published["divergence"])
    assert_published(loss.named["cross-entropy"], published["entropy"])
    assert_published(loss.per_latent, published["bound"])
    assert_published(loss.total, published["loss"])
    assert_published(model.encoders[0].weight.grad, published["gradient"])


def test_the_scores_are_those_of_the_authors_code(model, published):
    assert_published(model.eval().denoise(HISTORY), published["scores"])


def test_the_divergence_gains_weight_step_by_step():
    model = wang2023_latent(range(6), dim=8)
    observed = {"timesteps": torch.tensor([1]), "per_latent": torch.tensor([1.0])}
    weights = []
    for _ in range(80):
        weights.append(float(model._divergence_weight()))
        model.update(observed)
    assert weights == pytest.approx([min(0.3, step / 200) for step in range(80)])
    assert int(model.updates) == 80


def test_clusters_that_do_not_fit_are_refused():
    for clusters, message in {
        (0, 1): r"one number for each of the 4 items, got 2",
        (0, 2, 2, 0): r"cluster 1 has none. Number them from 0",
        (0, 1, 2, 3): r"latent_dim=3 is too small for 4 clusters",
    }.items():
        with pytest.raises(ValueError, match=message):
            wang2023_latent(range(4), clusters=clusters, dim=3)


@pytest.mark.parametrize(
    ("settings", "steps", "noise", "scale"),
    [("amazon-book", 5, 2.5e-3, 0.05), ("yelp", 5, 1e-4, 0.03), ("ml-1m", 40, 1e-4, 0.03)],
)
def test_the_settings_are_those_of_the_authors_checkpoints(settings, steps, noise, scale):
    model = wang2023_latent(range(7), settings=settings)
    assert (model.latent_dim, model.widths, model.num_timesteps, model.bound_scale) == (300, [300], steps, scale)
    assert 1 - float(model.schedule.alpha_bar[-1]) == pytest.approx(noise, rel=1e-6)
    assert (model.divergence_scale, model.divergence_steps) == (0.3, 200)
    assert (model.dropout, model.encoder_dropout, model.weighting) == (0.5, 0.1, "bound")
    assert RECIPES["wang2023-latent"].learning_rate == 5e-4
