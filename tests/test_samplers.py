from __future__ import annotations

import math
from inspect import signature
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import WAIVED, built, gaussian, schedule_of, schedules, seeded, seeds

from diffusers_rec.items.heads import LinearHead
from diffusers_rec.processes.process import Corrupted, Process
from diffusers_rec.processes.schedules import (
    CosineSchedule,
    GeometricSchedule,
    LinearSchedule,
    NoiseSchedule,
    RectifiedSchedule,
    SqrtSchedule,
)
from diffusers_rec.samplers import (
    DDIMSampler,
    DDPMSampler,
    DPMSolverSampler,
    EulerSampler,
    HeunSampler,
    OneStepSampler,
    Sampler,
    StraightSampler,
)
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
few = settings(max_examples=settings.default.max_examples // 4)
CHAINS = [spec for spec in SPECS if spec["name"] not in ("one-step", "straight", "unmask") and "num_steps" not in spec]


def name_of(value):
    return "-".join(map(str, value.values())) if isinstance(value, dict) else value.__name__


def over_specs(specs):
    return pytest.mark.parametrize("spec", specs, ids=name_of)


def over_clauses(clauses):
    """A test of each sampler for each clause that it does not break on purpose."""
    pairs = [
        (clause, spec) for spec in SPECS for clause in clauses if clause.__name__ not in WAIVED.get(spec["name"], ())
    ]
    return pytest.mark.parametrize(("clause", "spec"), pairs, ids=name_of)


@over_clauses(CLAUSES)
@few
@given(schedule=schedules(num_timesteps=st.integers(1, 25)))
def test_every_sampler_keeps_its_contract(clause, spec, schedule):
    clause(built(Sampler, spec), schedule)


@over_clauses([clause for clause in CLAUSES if "seed" in signature(clause).parameters])
@few
@given(schedule=schedules(num_timesteps=st.integers(1, 10)), seed=seeds)
def test_every_seed_is_good(clause, spec, schedule, seed):
    clause(built(Sampler, spec), schedule, seed)


@over_specs(SPECS)
@pytest.mark.parametrize("name", NoiseSchedule.names())
def test_finite_over_every_schedule(spec, name):
    finite_in_every_dtype(built(Sampler, spec), schedule_of(name, 60))


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


# Orders of convergence, against the probability flow of Gaussian data in closed form


FLOWS = [CosineSchedule(2049), RectifiedSchedule(2049), GeometricSchedule(2049)]


def flow_error(sampler, schedule, deviation):
    """The largest error of x_1 from start to end of the flow, with the exact denoiser of N(2, deviation^2)."""
    denoise, _, _ = exact_denoiser(schedule, 2.0, deviation)
    start, found = torch.linspace(-2, 2, 9, dtype=torch.float64).view(1, 1, 9), []
    sampler.sample(denoise, schedule, start, None, callback=lambda step: found.append(step.xn))
    first, last = (schedule.level(n) for n in (1, schedule.num_timesteps))
    spread = [(level.square * deviation**2 + level.variance) ** 0.5 for level in (first, last)]
    exact = first.signal * 2 + (start - last.signal * 2) * spread[0] / spread[1]
    return float((found[-2] - exact).abs().max())


@pytest.mark.parametrize("deviation", [0.5, 1.5])
@pytest.mark.parametrize("schedule", FLOWS, ids=repr)
@pytest.mark.parametrize(("name", "order"), [("ddim", 1), ("euler", 1), ("heun", 2), ("dpm-solver++", 2)])
def test_the_error_falls_with_the_order_of_the_method(name, order, schedule, deviation):
    errors = [
        flow_error(Sampler.build({"name": name, "num_steps": steps + 1}), schedule, deviation) for steps in (64, 512)
    ]
    assert math.log(errors[0] / errors[1], 8) == pytest.approx(order, abs=0.1 if order == 1 else 0.45)
    assert errors[1] < (2e-2 if order == 1 else 4e-4)


@pytest.mark.parametrize("schedule", [SqrtSchedule(1000), CosineSchedule(1000), LinearSchedule(1000)], ids=repr)
@pytest.mark.parametrize("num_steps", [5, 10, 20])
def test_second_order_methods_stay_ahead_on_short_chains(schedule, num_steps):
    """Though s/a falls by large factors at both ends of an evenly strided chain."""
    euler, *others = (
        flow_error(Sampler.build({"name": name, "num_steps": num_steps}), schedule, 1.0)
        for name in ("euler", "heun", "dpm-solver++")
    )
    assert max(others) < euler


@given(schedule=schedules(num_timesteps=st.integers(1, 25)), data=st.data())
def test_euler_is_ddim_without_noise(schedule, data):
    num_steps = data.draw(st.integers(1, schedule.num_timesteps))
    euler, ddim = (
        sampler(num_steps=num_steps).sample(halved, schedule, gaussian(1, 2, 1, 3), None)
        for sampler in (EulerSampler, DDIMSampler)
    )
    assert torch.equal(euler, ddim)


@given(data=st.data())
def test_euler_on_rectified_levels_steps_along_the_velocity(data):
    schedule, moves = RectifiedSchedule(data.draw(st.integers(2, 25))), []
    num_steps, start = data.draw(st.integers(2, schedule.num_timesteps)), gaussian(1, 2, 1, 3)
    EulerSampler(num_steps=num_steps).sample(lambda x, _: x.sin(), schedule, start, None, callback=moves.append)
    xn = start
    for step in moves[:-1]:
        n = torch.tensor([[step.timestep] * 2])
        velocity = schedule.velocity_from_x0(xn.sin(), xn, n)
        expected = xn + (step.previous - step.timestep) / schedule.num_timesteps * velocity
        torch.testing.assert_close(step.xn, expected)
        xn = step.xn


@given(data=st.data())
def test_straight_on_rectified_levels_leaves_its_start_and_ends_on_the_mean_prediction(data):
    schedule, moves, found = RectifiedSchedule(data.draw(st.integers(1, 25))), [], []
    num_steps, start = data.draw(st.integers(1, schedule.num_timesteps)), gaussian(1, 2, 1, 3)
    sampler = StraightSampler(num_steps=num_steps)
    sample = sampler.sample(lambda x, _: found.append(x.sin()) or x.sin(), schedule, start, None, callback=moves.append)
    assert len(found) == num_steps
    xn, spans = start, []
    for step, x0 in zip(moves, found, strict=True):
        spans.append((step.timestep - step.previous) / schedule.num_timesteps)
        xn = xn + spans[-1] * (x0 - start)
        torch.testing.assert_close(step.xn, xn)
    assert max(spans) - min(spans) <= 1 / schedule.num_timesteps + 1e-9
    torch.testing.assert_close(sample, sum(span * x0 for span, x0 in zip(spans, found, strict=True)))


@given(schedule=schedules(), data=st.data())
def test_straight_ends_in_the_hull_of_its_predictions(schedule, data):
    """On all levels, the weights of the predictions are not negative and sum to 1."""
    num_steps, start, found = data.draw(st.integers(1, schedule.num_timesteps)), gaussian(1, 2, 1, 3).double(), []
    sampler, moves = StraightSampler(num_steps=num_steps), []
    sample = sampler.sample(lambda x, _: found.append(x.sin()) or x.sin(), schedule, start, None, callback=moves.append)
    then = [schedule.signal[step.previous] for step in moves]
    weights = [then[0], *(after - before for before, after in pairwise(then))]
    assert min(weights) >= 0
    assert sum(weights) == pytest.approx(1)
    torch.testing.assert_close(sample, sum(weight * x0 for weight, x0 in zip(weights, found, strict=True)))


def test_heun_takes_the_mean_of_two_predicted_noises():
    """By the formula of its docstring, from one step to the next."""
    schedule, moves = CosineSchedule(40), []
    start = gaussian(1, 2, 1, 3)
    HeunSampler().sample(lambda x, _: x.sin(), schedule, start, None, callback=moves.append)
    for one, step in pairwise(moves[:-1]):
        now, then, xn = schedule.level(step.timestep), schedule.level(step.previous), one.xn
        at_n = (xn - now.signal * xn.sin()) / now.sigma
        euler = then.signal * xn.sin() + then.sigma * at_n
        at_m = (euler - then.signal * euler.sin()) / then.sigma
        length = then.sigma / then.signal - now.sigma / now.signal
        mean = (at_n + at_m) / 2 if now.sigma * then.signal <= 4 * now.signal * then.sigma else at_n
        torch.testing.assert_close(step.xn, then.signal / now.signal * xn + then.signal * length * mean)


def test_dpm_solver_extrapolates_from_the_step_before():
    """By the formula of its docstring, from one step to the next."""
    schedule, moves = CosineSchedule(40), []
    DPMSolverSampler().sample(lambda x, _: x.sin(), schedule, gaussian(1, 2, 1, 3), None, callback=moves.append)

    def half_log_snr(n):
        return math.log(schedule.level(n).signal / schedule.level(n).sigma)

    extrapolated = 0
    for one, step in pairwise(moves[:-1]):
        now, then, xn = schedule.level(step.timestep), schedule.level(step.previous), one.xn
        h, before = (half_log_snr(each.previous) - half_log_snr(each.timestep) for each in (step, one))
        weight = h / (2 * before) if h <= 2 * before else 0
        prediction = step.prediction + weight * (step.prediction - one.prediction)
        expected = then.sigma / now.sigma * xn + then.signal * (1 - math.exp(-h)) * prediction
        torch.testing.assert_close(step.xn, expected)
        extrapolated += weight > 0
    assert extrapolated > 30


def test_heun_denoises_twice_a_step_but_for_the_last():
    calls = []
    HeunSampler(num_steps=11).sample(
        lambda x, n: calls.append(step_of(n)) or x, GeometricSchedule(101), gaussian(1, 1, 2), None
    )
    assert calls == [101, *(n for step in range(91, 0, -10) for n in (step, step))]


class Frozen(Process):
    """A process that is not Gaussian: a reverse step gives the prediction."""

    def start(self, shape, generator, *, device=None, dtype=torch.float32):
        return torch.zeros(shape, device=device, dtype=dtype)

    def corrupt(self, x0, timesteps, generator, *, noise=None):
        return Corrupted(x0, torch.zeros_like(x0))

    def step(self, x0, xn, timesteps, previous, generator, *, eta=1.0):
        return x0


@pytest.mark.parametrize("name", ["one-step", "ddpm", "ddim", "euler"])
def test_a_process_of_ones_own_takes_its_own_steps(name):
    sample = Sampler.build(name).sample(lambda x, _: x + 1, Frozen(SqrtSchedule(5)), torch.zeros(1, 2, 3), None)
    assert torch.equal(sample, torch.full((1, 2, 3), 1.0 if name == "one-step" else 5.0))


@pytest.mark.parametrize("name", ["heun", "dpm-solver++"])
def test_a_solver_refuses_a_process_without_a_flow(name):
    with pytest.raises(TypeError, match="solves the flow of a GaussianProcess, got Frozen"):
        Sampler.build(name).sample(halved, Frozen(SqrtSchedule(5)), torch.zeros(1, 2, 3), None)


# Steps of their own


@pytest.mark.parametrize("name", ["ddpm", "ddim"])
@given(num_steps=st.integers(1, 6), stagger=st.sampled_from([1, 2, 3, 10**9]), width=st.integers(1, 3))
def test_staggered_positions_walk_the_same_steps_one_behind_the_other(name, num_steps, stagger, width):
    schedule, start, seen = SqrtSchedule(10), gaussian(2, 3, width, 4), []

    def denoise(xn, timesteps):
        seen.append((timesteps if timesteps.ndim == 3 else timesteps[..., None].expand(2, 3, width), xn.clone()))
        return halved(xn, timesteps)

    sampler = Sampler.build({"name": name, "num_steps": num_steps, "stagger": stagger})
    sample = sampler.sample(denoise, schedule, start, seeded(0))
    alone = []
    plain = Sampler.build({"name": name, "num_steps": num_steps})
    plain.sample(lambda x, n: alone.append(step_of(n)) or x, schedule, start, seeded(0))
    lag = min(stagger, num_steps - 1)
    assert len(seen) == len(alone) + lag * (width - 1)
    for k in range(width):
        expected = [10] * (k * lag) + alone + [alone[-1]] * ((width - 1 - k) * lag)
        assert [step_of(timesteps[:, :, k]) for timesteps, _ in seen] == expected
        for (before, xn), (after, xm) in pairwise(seen):
            if step_of(before[:, :, k]) == step_of(after[:, :, k]):
                assert torch.equal(xm[:, :, k], xn[:, :, k])
    assert torch.equal(sample, halved(seen[-1][1], None))
    if name == "ddim":  # positions do not see one another here, so that waiting changes nothing
        torch.testing.assert_close(sample, plain.sample(halved, schedule, start, None))


# Callbacks


def test_scores_are_the_log_probabilities_of_the_samplers_head():
    head = LinearHead(5, 3)

    class Rounding(DDIMSampler):
        requires = frozenset({"head"})

        def __init__(self, head, *, num_steps=None):
            super().__init__(num_steps=num_steps)
            self.head = head

    found = []
    Rounding(head).sample(halved, SqrtSchedule(4), torch.randn(2, 3, 1, 3, generator=seeded(0)), None,
                          callback=lambda step: found.append((step.scores, step.prediction)))  # fmt: skip
    for scores, prediction in found:
        assert torch.equal(scores, head.logits(prediction).log_softmax(-1))


def test_scores_without_a_head_are_refused_unless_the_caller_scores():
    with pytest.raises(ValueError, match=r"has no head.*Set step\.score"):
        OneStepSampler().sample(halved, SqrtSchedule(4), gaussian(1, 2, 3), None, callback=lambda step: step.scores)

    def score(step):
        step.score = lambda latents: latents + 1
        assert torch.equal(step.scores, step.prediction + 1)

    OneStepSampler().sample(halved, SqrtSchedule(4), gaussian(1, 2, 3), None, callback=score)


@pytest.mark.parametrize("wrong", [torch.zeros(1, 2), None])
def test_a_callback_must_leave_latents(wrong):
    def spoil(step):
        step.xn = wrong

    with pytest.raises(TypeError, match=r"must leave latents \(1, 2, 3\) in step\.xn, got"):
        DDIMSampler().sample(halved, SqrtSchedule(4), gaussian(1, 2, 3), None, callback=spoil)


def test_refuses_an_unknown_variance():
    with pytest.raises(ValueError, match="variance must be one of 'beta', 'posterior', got 'large'"):
        DDPMSampler("large")
