from __future__ import annotations

from inspect import signature
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import gaussian, over, schedule_of, schedules, seeded, seeds

from diffusers_rec.processes.schedules import NoiseSchedule
from diffusers_rec.samplers import DDIMSampler, DDPMSampler, OneStepSampler, Sampler
from diffusers_rec.testing.samplers import (
    CLAUSES,
    a_chain_over_every_step_lands_on_gaussian_data,
    exact_denoiser,
    finite_in_every_dtype,
    halved,
    step_of,
)

VARIANTS = {"ddpm": [{"variance": "posterior"}, {"num_steps": 1}], "ddim": [{"eta": 1.0}]}
SPECS = [{"name": name, **extra} for name in Sampler.names() for extra in [{}, *VARIANTS.get(name, [])]]
CHAINS = [spec for spec in SPECS if spec["name"] != "one-step" and "num_steps" not in spec]


def over_specs(specs):
    return pytest.mark.parametrize("spec", specs, ids=lambda spec: "-".join(map(str, spec.values())))


@over_specs(SPECS)
@over(CLAUSES)
@settings(max_examples=15)
@given(schedule=schedules(num_timesteps=st.integers(1, 25)))
def test_every_sampler_keeps_its_contract(clause, spec, schedule):
    clause(Sampler.build(spec), schedule)


@over_specs(SPECS)
@over([clause for clause in CLAUSES if "seed" in signature(clause).parameters])
@settings(max_examples=15)
@given(schedule=schedules(num_timesteps=st.integers(1, 10)), seed=seeds)
def test_every_seed_is_good(clause, spec, schedule, seed):
    clause(Sampler.build(spec), schedule, seed)


@over_specs(SPECS)
@pytest.mark.parametrize("name", NoiseSchedule.names())
def test_finite_over_every_schedule(spec, name):
    finite_in_every_dtype(Sampler.build(spec), schedule_of(name, 60))


@over_specs(CHAINS)
@pytest.mark.parametrize("name", NoiseSchedule.names())
def test_a_chain_lands_on_gaussian_data_over_every_schedule(spec, name):
    a_chain_over_every_step_lands_on_gaussian_data(Sampler.build(spec), schedule_of(name, 200))


@given(schedule=schedules())
def test_one_step_asks_once_from_pure_noise(schedule):
    asked, noise = [], gaussian(2, 3, 1, 4)

    def denoise(xn, timesteps):
        asked.append((xn, step_of(timesteps)))
        return xn + 1

    sample = OneStepSampler().sample(denoise, schedule, noise, seeded(0))
    assert len(asked) == 1
    assert torch.equal(asked[0][0], noise)
    assert asked[0][1] == schedule.num_timesteps
    assert torch.equal(sample, noise + 1)


@settings(max_examples=25)
@given(
    schedule=schedules(num_timesteps=st.integers(1, 12)), variance=st.sampled_from(["beta", "posterior"]), seed=seeds
)
def test_ddpm_is_algorithm_2(schedule, variance, seed):
    asked = []

    def denoise(xn, timesteps):
        asked.append((step_of(timesteps), xn))
        return xn.sin()

    noise, generator = gaussian(1, 2, 1, 3), seeded(seed)
    sample = DDPMSampler(variance).sample(denoise, schedule, noise, generator)
    assert [n for n, _ in asked] == list(range(schedule.num_timesteps, 0, -1))
    assert torch.equal(asked[0][1], noise)
    assert torch.equal(sample, asked[-1][1].sin())
    again = seeded(seed)
    for (n, x), (_, after) in pairwise(asked):
        a, s, before, left = schedule.signal[n], schedule.sigma[n], schedule.signal[n - 1], schedule.sigma[n - 1]
        beta = s**2 - (a / before * left) ** 2
        mean = before * beta / s**2 * x.sin() + a / before * left**2 / s**2 * x
        unit = beta * (before**2 + left**2) / (a**2 + s**2)
        spread = unit if variance == "beta" else left**2 / s**2 * beta
        z = torch.randn(1, 2, 1, 3, generator=again, dtype=torch.float64)
        torch.testing.assert_close(after, mean + spread.sqrt() * z, rtol=1e-9, atol=1e-9)


@given(schedule=schedules(num_timesteps=st.integers(1, 40)), data=st.data())
def test_a_shorter_chain_visits_evenly_spread_steps_from_n_to_1(schedule, data):
    num_steps = data.draw(st.integers(1, schedule.num_timesteps))
    for sampler in (DDPMSampler(num_steps=num_steps), DDIMSampler(num_steps=num_steps)):
        asked = []
        sampler.sample(lambda x, n: asked.append(step_of(n)) or x, schedule, gaussian(1, 1, 2), seeded(0))  # noqa: B023
        gaps = [n - m for n, m in pairwise(asked)]
        assert len(asked) == num_steps
        assert asked[0] == schedule.num_timesteps
        assert num_steps == 1 or asked[-1] == 1
        assert not gaps or max(gaps) - min(gaps) <= 1


@settings(max_examples=25)
@given(schedule=schedules(num_timesteps=st.integers(2, 25)), seed=seeds, data=st.data())
def test_ddim_with_eta_1_is_ddpm_with_the_posterior_variance(schedule, seed, data):
    num_steps = data.draw(st.integers(1, schedule.num_timesteps))
    ddim, ddpm = (
        sampler.sample(halved, schedule, gaussian(1, 2, 1, 3), seeded(seed))
        for sampler in (DDIMSampler(num_steps=num_steps, eta=1.0), DDPMSampler("posterior", num_steps=num_steps))
    )
    torch.testing.assert_close(ddim, ddpm)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", NoiseSchedule.names())
@pytest.mark.parametrize("sampler", [DDIMSampler(num_steps=3, eta=1.0), DDPMSampler(num_steps=3)], ids=repr)
def test_half_precision_loses_a_rounding_or_two(sampler, name, dtype, monkeypatch):
    """In three steps, against the same chain in double precision with the same noise."""
    schedule, start = schedule_of(name, 100), gaussian(4, 3, 1, 8, dtype=dtype)

    def sample(x):
        drawn = iter([gaussian(4, 3, 1, 8, seed=i, dtype=dtype) for i in range(3)])
        monkeypatch.setattr("diffusers_rec.processes.process.randn", lambda *_, dtype, **__: next(drawn).to(dtype))
        return sampler.sample(halved, schedule, x, None)

    half, double = sample(start), sample(start.double())
    assert half.dtype == dtype
    assert (half.double() - double).abs().max() < 8 * torch.finfo(dtype).eps


@settings(max_examples=25)
@given(schedule=schedules(num_timesteps=st.integers(2, 25)), data=st.data())
def test_ddim_is_deterministic_and_keeps_its_noise_direction(schedule, data):
    """From x_n on the line between the answer and one noise, every x_m lies on that line."""
    num_steps = data.draw(st.integers(2, schedule.num_timesteps))
    answer, noise, asked = gaussian(1, 2, 3, seed=1), gaussian(1, 2, 3, seed=2), []

    def denoise(xn, timesteps):
        asked.append((xn, timesteps))
        return answer

    start = schedule.add_noise(answer, noise, torch.full((1, 2), schedule.num_timesteps))
    DDIMSampler(num_steps=num_steps).sample(denoise, schedule, start, None)
    for xn, timesteps in asked:
        torch.testing.assert_close(xn, schedule.add_noise(answer, noise, timesteps), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("sampler", [DDPMSampler(num_steps=11), DDIMSampler(num_steps=11)], ids=repr)
def test_refuses_more_steps_than_the_schedule_has(sampler):
    with pytest.raises(ValueError, match="num_steps=11 is more than the schedule has: num_timesteps=10"):
        sampler.sample(halved, schedule_of("sqrt", 10), gaussian(1, 1, 2), seeded(0))


def before_the_last_step(sample, schedule, gain, mean):
    """x_1, from a chain that ends with E[x0 | x_1]: the last denoising is a mean and so loses variance by design."""
    return (sample - mean) / gain(1) + schedule.signal[1] * mean


@pytest.mark.parametrize("name", NoiseSchedule.names())
@pytest.mark.parametrize("num_timesteps", [25, 200])
def test_ddpm_with_variance_beta_is_exact_on_unit_gaussians(name, num_timesteps):
    """There it is the true variance of x_{n-1} given x_n, so that x_1 has its exact distribution at any N."""
    from scipy import stats

    schedule = schedule_of(name, num_timesteps)
    denoise, gain, _ = exact_denoiser(schedule, 2.0, 1.0)
    sample = DDPMSampler("beta").sample(denoise, schedule, gaussian(1, 1, 20_000, seed=1), seeded(2))
    x1 = before_the_last_step(sample, schedule, gain, 2.0).flatten()
    scale = float((schedule.signal[1] ** 2 + schedule.sigma[1] ** 2).sqrt())
    assert stats.kstest(x1.numpy(), "norm", (2 * schedule.signal[1].item(), scale)).pvalue > 0.01
    assert sample.std().item() == pytest.approx(schedule.alpha_bar[1].sqrt().item(), rel=0.02)


@pytest.mark.parametrize("name", NoiseSchedule.names())
def test_the_two_ddpm_variances_bracket_gaussian_data(name):
    """Below unit variance, the true reverse variance lies between the posterior's and beta."""
    schedule = schedule_of(name, 25)
    denoise, gain, _ = exact_denoiser(schedule, 0.0, 0.5)
    low, high = (
        before_the_last_step(
            DDPMSampler(variance).sample(denoise, schedule, gaussian(1, 1, 20_000), seeded(5)), schedule, gain, 0.0
        ).std()
        for variance in ("posterior", "beta")
    )
    assert low < (schedule.signal[1] ** 2 * 0.25 + schedule.sigma[1] ** 2).sqrt() < high


@over_specs(CHAINS)
@pytest.mark.parametrize("name", NoiseSchedule.names())
def test_a_chain_lands_on_discrete_items(spec, name):
    """With the exact posterior over 12 items as denoiser, items come as often as their probability."""
    from scipy import stats

    schedule, draws = schedule_of(name, 100), 1000
    items = torch.nn.functional.normalize(gaussian(12, 8, seed=6), dim=-1) * 8**0.5
    probability = torch.arange(1, 13, dtype=torch.float64) / 78

    def denoise(xn, timesteps):
        level = schedule.level(step_of(timesteps))
        evidence = (level.signal * xn @ items.T - level.square / 2 * items.square().sum(-1)) / level.variance
        return (probability.log() + evidence).softmax(-1) @ items

    sample = Sampler.build(spec).sample(denoise, schedule, gaussian(draws, 1, 8, seed=7), seeded(8))
    distance, nearest = torch.cdist(sample[:, 0], items).min(-1)
    assert distance.mean() < 0.01
    assert stats.chisquare(torch.bincount(nearest, minlength=12), draws * probability).pvalue > 0.01


def test_refuses_an_unknown_variance():
    with pytest.raises(ValueError, match="variance must be one of 'beta', 'posterior', got 'large'"):
        DDPMSampler("large")
