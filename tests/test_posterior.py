"""The exact posterior denoiser: the formula, its limits, and chains that are calibrated samples."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from scipy.stats import chisquare

from diffusers_rec import DDPMSampler, DiffRec, History
from diffusers_rec.guidance import posterior_mean
from diffusers_rec.processes.noising import Queries, TargetOnly

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


def encoded(model, histories=HISTORY):
    """Histories with their latents."""
    history = model.encode_histories(histories)
    return history.with_latents(model.embedding(history.items))


def predict(denoiser, history, xn, timesteps, queries=None):
    """The prediction, for queries of the next item where none are given."""
    queries = Queries.next_item(history.lengths) if queries is None else queries
    return denoiser(xn, timesteps, denoiser.condition(denoiser.encode(history), queries))


def next_item(model):
    """p(v | history) of the base, from zero noise at n = N."""
    zero, last = torch.zeros(1, 1, 1, D), torch.full((1, 1), N)
    latent = predict(model.denoiser.base, encoded(model), zero, last)
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
    xn = torch.stack([table[4], table[9]])[None, :, None]
    signal = model.schedule.alpha_bar[1].sqrt().float()
    at_one = predict(model.denoiser, encoded(model), xn * signal, torch.ones(1, 2).long())
    torch.testing.assert_close(at_one, xn, rtol=0, atol=1e-3)
    at_end = predict(model.denoiser, encoded(model), torch.zeros_like(xn), torch.full((1, 2), N))
    torch.testing.assert_close(at_end[0, 0, 0], p @ table, rtol=0.05, atol=0.02)


@torch.no_grad()
def test_draws_that_share_a_condition_get_what_each_gets_alone():
    model = posterior()
    history = encoded(model, [[1, 2, 3], [4, 5]])
    one = Queries.next_item(history.lengths)
    xn = torch.randn(2, 3, 1, D, generator=torch.Generator().manual_seed(1))
    timesteps = torch.tensor([[5, 50, 90], [90, 5, 50]])
    shared = predict(model.denoiser, history, xn, timesteps, one)
    apart = predict(model.denoiser, history, xn, timesteps, one.repeat(3))
    torch.testing.assert_close(shared, apart, rtol=1e-4, atol=1e-5)
    first = replace(one.repeat(3), visible=torch.tensor([[3, 3, 1], [2, 2, 1]]))
    mixed = predict(model.denoiser, history, xn, timesteps, first)
    torch.testing.assert_close(mixed[:, :2], shared[:, :2], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(mixed[:, 2], shared[:, 2])


@torch.no_grad()
def test_the_null_condition_has_the_distribution_of_an_empty_history():
    model = posterior()
    history, base = encoded(model), model.denoiser.base
    queries = Queries.next_item(history.lengths)
    zero, last = torch.zeros(1, 1, 1, D), torch.full((1, 1), N)
    latent = base(zero, last, base.condition(base.encode(history), queries, null=True))
    p = model.head.logits(latent).flatten().softmax(-1)
    condition = model.denoiser.condition(model.denoiser.encode(history), queries, null=True)
    got = model.denoiser(zero, last, condition)[0, 0, 0]
    signal, sigma = (level.flatten() for level in model.schedule.levels(zero, last))
    table = model.embedding.table()
    evidence = -0.5 * signal.square() * table.square().sum(-1) / sigma.square()
    torch.testing.assert_close(got, (p.log() + evidence).softmax(-1) @ table, rtol=1e-4, atol=1e-5)


def test_in_training_it_is_its_base():
    model = posterior(base={"name": "causal-transformer", "dropout": 0.0}).train()
    history = History.of_latents(torch.randn(2, 4, D), torch.tensor([4, 4]))
    queries = TargetOnly().queries(torch.arange(1, 5).expand(2, 4), 1)
    xn, timesteps = torch.randn(2, 4, 1, D), torch.full((2, 4), 7)
    expected = predict(model.denoiser.base, history, xn, timesteps, queries)
    assert torch.equal(predict(model.denoiser, history, xn, timesteps, queries), expected)


def test_candidates_beyond_the_likeliest_have_no_probability():
    model = posterior(num_candidates=1)
    ends = model.sample(HISTORY, seeds=3, sampler=DDPMSampler())
    likeliest = model.embedding.table()[next_item(model).argmax()]
    torch.testing.assert_close(ends, likeliest.expand_as(ends), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("variance", ["beta", "posterior"])
def test_chains_land_on_items_with_the_probabilities_of_the_next_item_model(variance):
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
    unseen = [v for v in next_item(model).argsort(descending=True).tolist() if v not in HISTORY[0]]
    assert ranking[0] == unseen[0]
