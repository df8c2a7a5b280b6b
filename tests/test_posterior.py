"""The exact posterior denoiser: the formula, its limits, and chains that are calibrated samples."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import chisquare

from diffusers_rec import DDPMSampler, DiffRec
from diffusers_rec.guidance import posterior_mean

V, D, N = 30, 16, 100
CONFIG = {
    "dim": D,
    "max_length": 8,
    "head": "tied",
    "embedding": {"name": "table", "scale": "unit", "init_std": 0.5},
    "schedule": {"name": "sqrt", "num_timesteps": N, "log_snr_shift": -1.0},
}
HISTORY = [[1, 2, 3]]


def posterior(**settings):
    model = DiffRec(range(V), denoiser={"name": "posterior", "num_candidates": V, **settings}, **CONFIG)
    return model.eval()


def of_its_base(model):
    """The same parts with the base alone, which is the next-item model behind the posterior."""
    parts = {name: getattr(model, name) for name in ("embedding", "head", "schedule", "timesteps")}
    return DiffRec(range(V), denoiser=model.denoiser.base, **parts).eval()


def next_item(model):
    """p(v | history) of the base, from zero noise at n = N."""
    context = model._encode(*model.encode_histories(HISTORY))
    silence, last = torch.zeros(1, 1, 1, D), torch.full((1, 1), N)
    latent = model.denoiser.base(silence, last, torch.tensor([[3]]), context.base)
    return model.head.logits(latent).flatten().softmax(-1)


def test_the_mean_is_that_of_bayes_rule_item_by_item():
    generator = torch.Generator().manual_seed(0)
    prior = torch.rand(V, generator=generator, dtype=torch.float64).softmax(-1)
    latents = torch.randn(V, D, generator=generator, dtype=torch.float64)
    xn = torch.randn(D, generator=generator, dtype=torch.float64)
    signal, sigma = math.sqrt(0.3), math.sqrt(0.7)
    likelihood = [float(torch.exp(-(xn - signal * latent).square().sum() / (2 * sigma**2))) for latent in latents]
    weights = prior * torch.tensor(likelihood, dtype=torch.float64)
    expected = (weights / weights.sum()) @ latents
    level = torch.ones(1, 1, 1, dtype=torch.float64)
    got = posterior_mean(prior.log()[None], latents[None], xn[None, None], signal * level, sigma * level)
    torch.testing.assert_close(got[0, 0], expected, rtol=1e-10, atol=1e-12)


@torch.no_grad()
def test_little_noise_leaves_the_nearest_item_and_much_noise_the_prior():
    model = posterior()
    table, p = model.embedding.table(), next_item(model)
    context = model._encode(*model.encode_histories(HISTORY))
    visible = torch.tensor([[3, 3]])
    xn = torch.stack([table[4], table[9]])[None, :, None]
    at_one = model.denoiser(xn * model.schedule.alpha_bar[1].sqrt().float(), torch.ones(1, 2).long(), visible, context)
    torch.testing.assert_close(at_one, xn, rtol=0, atol=1e-3)
    at_end = model.denoiser(torch.zeros_like(xn), torch.full((1, 2), N), visible, context)
    torch.testing.assert_close(at_end[0, 0, 0], p @ table, rtol=0.05, atol=0.02)


@torch.no_grad()
def test_draws_that_share_a_question_get_what_each_gets_alone():
    model = posterior()
    context = model._encode(*model.encode_histories([[1, 2, 3], [4, 5]]))
    xn = torch.randn(2, 3, 1, D, generator=torch.Generator().manual_seed(1))
    timesteps = torch.tensor([[5, 50, 90], [90, 5, 50]])
    shared = torch.tensor([[3], [2]]).expand(2, 3)
    together = model.denoiser(xn, timesteps, shared, context)
    mixed = torch.tensor([[3, 3, 1], [2, 2, 1]])
    apart = model.denoiser(xn, timesteps, mixed, context)
    torch.testing.assert_close(together[:, :2], apart[:, :2], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(together[:, 2], apart[:, 2])
    again = model.denoiser(xn, timesteps, shared.contiguous(), context)
    torch.testing.assert_close(again, together)


def test_in_training_it_is_its_base():
    model = posterior(base={"name": "causal-transformer", "dropout": 0.0}).train()
    base = model.denoiser.base
    history, mask = torch.randn(2, 4, D), torch.ones(2, 4, dtype=torch.bool)
    xn, timesteps, visible = torch.randn(2, 4, 1, D), torch.full((2, 4), 7), torch.arange(1, 5).expand(2, 4)
    expected = base(xn, timesteps, visible, base.encode(history, mask))
    assert torch.equal(model.denoiser(xn, timesteps, visible, model.denoiser.encode(history, mask)), expected)


def test_candidates_beyond_the_likeliest_have_no_probability():
    model = posterior(num_candidates=1)
    ends = model.sample(HISTORY, seeds=3, sampler=DDPMSampler())
    likeliest = model.embedding.table()[next_item(model).argmax()]
    torch.testing.assert_close(ends, likeliest.expand_as(ends), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("variance", ["beta", "posterior"])
def test_chains_land_on_items_as_often_as_the_next_item_model_says(variance):
    model = posterior()
    with torch.no_grad():
        model.embedding.weight.mul_(0.3)  # a flatter distribution: every item is expected often enough for the test
        table, p = model.embedding.table(), next_item(model)
        ends = model.sample(HISTORY, seeds=1500, sampler=DDPMSampler(variance))[0, :, 0]
    landed = torch.cdist(ends, table).argmin(1)
    often = p * 1500 >= 5
    counts = torch.bincount(landed, minlength=V).double()
    observed = torch.cat([counts[often], counts[~often].sum()[None]])
    expected = torch.cat([p[often], p[~often].sum()[None]]).double()
    assert chisquare(observed + 1e-9, (expected + 1e-9) / (expected + 1e-9).sum() * observed.sum()).pvalue > 0.01


def test_a_trained_base_serves_in_both():
    model = posterior()
    ranking = of_its_base(model).recommend(HISTORY, k=3, seeds=1).items[0]
    seen_left_out = [v for v in next_item(model).argsort(descending=True).tolist() if v not in HISTORY[0]]
    assert ranking[0] == seen_left_out[0]
