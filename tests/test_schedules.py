from __future__ import annotations

import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import DTYPES, gaussian, schedules, seeded

from diffusers_rec.schedules import CosineSchedule, LinearSchedule, NoiseSchedule, SqrtSchedule


def with_table(values):
    """A schedule of any table."""

    class Given(NoiseSchedule):
        def _alpha_bar(self, fraction):
            return torch.tensor(values, dtype=torch.float64)

    return Given(len(values))


def every_step(schedule):
    return torch.arange(1, schedule.num_timesteps + 1)


@given(schedule=schedules())
def test_signal_falls_strictly_from_one(schedule):
    table = schedule.alpha_bar
    assert table[0] == 1
    assert len(table) == schedule.num_timesteps + 1
    assert (table[1:] < table[:-1]).all()
    assert table[-1] > 0
    assert ((schedule.beta[1:] > 0) & (schedule.beta[1:] < 1)).all()


@given(schedule=schedules())
def test_one_transition_after_another_is_one_jump(schedule):
    """Eq. 1, iterated, is Eq. 2."""
    mean, variance, expected = 1.0, 0.0, [(1.0, 0.0)]
    for beta in schedule.beta[1:].tolist():
        mean, variance = math.sqrt(1 - beta) * mean, (1 - beta) * variance + beta
        expected.append((mean, variance))
    one, zero = torch.ones(len(expected), 1, dtype=torch.float64), torch.zeros(len(expected), 1, dtype=torch.float64)
    steps = torch.arange(len(expected))
    means, deviations = schedule.add_noise(one, zero, steps), schedule.add_noise(zero, one, steps)
    got = torch.cat([means, deviations**2], dim=1)
    torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-13)


@given(schedule=schedules())
def test_posterior_is_the_product_of_two_gaussians(schedule):
    """q(x_{n-1} | x_n, x_0) is q(x_n | x_{n-1}) times q(x_{n-1} | x_0): precisions add, means weigh by precision."""
    n = every_step(schedule)[1:]
    x0, xn = gaussian(len(n), 5, seed=1), gaussian(len(n), 5, seed=2)
    beta, before = schedule.beta[n, None], schedule.alpha_bar[n - 1, None]
    likelihood, prior = (1 - beta) / beta, 1 / (1 - before)
    from_xn, from_x0 = likelihood * xn / (1 - beta).sqrt(), prior * before.sqrt() * x0
    mean, variance = schedule.posterior(x0, xn, n)
    assert ((variance * (likelihood + prior) - 1).abs() < 1e-9).all()
    error = mean - (from_xn + from_x0) / (likelihood + prior)
    assert (error.abs() < 1e-9 * (from_xn.abs() + from_x0.abs()) / (likelihood + prior)).all()


@given(schedule=schedules())
def test_posterior_at_the_first_step_is_x0_itself(schedule):
    x0, xn = gaussian(1, 5, seed=1), gaussian(1, 5, seed=2)
    mean, variance = schedule.posterior(x0, xn, torch.tensor([1]))
    assert torch.equal(mean, x0)
    assert (variance == 0).all()


@given(schedule=schedules())
def test_posterior_variance_is_below_beta(schedule):
    assert (schedule.posterior_variance[1:] < schedule.beta[1:]).all()
    one = torch.ones(schedule.num_timesteps, 3, dtype=torch.float64)
    assert torch.equal(schedule.reverse_variance(one, every_step(schedule))[:, 0], schedule.beta[1:])
    _, variance = schedule.posterior(one, one, every_step(schedule))
    assert torch.equal(variance[:, 0], schedule.posterior_variance[1:])


@given(schedule=schedules())
def test_x0_noise_and_velocity_tell_one_another(schedule):
    n = every_step(schedule)
    x0, noise = gaussian(len(n), 4, seed=1), gaussian(len(n), 4, seed=2)
    xn = schedule.add_noise(x0, noise, n)
    signal, sigma = schedule.alpha_bar[n, None].sqrt(), (1 - schedule.alpha_bar[n, None]).sqrt()
    velocity = signal * noise - sigma * x0
    close = {"rtol": 1e-6, "atol": 1e-8}
    torch.testing.assert_close(schedule.noise_from_x0(x0, xn, n), noise, **close)
    torch.testing.assert_close(schedule.x0_from_noise(noise, xn, n), x0, **close)
    torch.testing.assert_close(schedule.velocity_from_x0(x0, xn, n), velocity, **close)
    torch.testing.assert_close(schedule.x0_from_velocity(velocity, xn, n), x0, **close)


@given(schedule=schedules())
def test_clean_is_step_zero(schedule):
    x0 = gaussian(3, 2)
    assert torch.equal(schedule.add_noise(x0, gaussian(3, 2, seed=1), torch.zeros(3, dtype=torch.int64)), x0)


@pytest.mark.parametrize("num_timesteps", [1, 7, 1000])
def test_sqrt_is_the_formula_of_the_paper(num_timesteps):
    printed = [1 - math.sqrt(n / num_timesteps) + 0.0001 for n in range(1, num_timesteps + 1)]
    assert SqrtSchedule(num_timesteps).alpha_bar.tolist() == pytest.approx([1, *printed], rel=1e-12)


@pytest.mark.parametrize("num_timesteps", [7, 1000])
def test_cosine_is_the_formula_but_for_the_last_beta(num_timesteps):
    g = [math.cos((n / num_timesteps + 0.008) / 1.008 * math.pi / 2) ** 2 for n in range(num_timesteps)]
    schedule = CosineSchedule(num_timesteps)
    assert schedule.alpha_bar[:-1].tolist() == pytest.approx([value / g[0] for value in g], rel=1e-9)
    assert float(schedule.beta[-1]) == pytest.approx(0.999)


def test_linear_is_even_and_exact_at_a_thousand():
    expected = [1e-4 + (0.02 - 1e-4) * n / 999 for n in range(1000)]
    assert LinearSchedule().beta[1:].tolist() == pytest.approx(expected, rel=1e-9)


@given(num_timesteps=st.integers(100, 2000))
def test_rescaled_linear_ends_where_a_thousand_steps_do(num_timesteps):
    scale = 1000 / num_timesteps
    beta = LinearSchedule(num_timesteps).beta[1:]
    assert beta[[0, -1]].tolist() == pytest.approx([1e-4 * scale, 0.02 * scale], rel=1e-9)
    assert float(LinearSchedule(num_timesteps).alpha_bar[-1]) < 1e-4


@given(
    name=st.sampled_from(NoiseSchedule.names()),
    num_timesteps=st.integers(21, 200),
    shift=st.floats(-4, 4).filter(lambda shift: shift != 0),
)
def test_log_snr_shift_shifts_the_log_snr_by_exactly_that(name, num_timesteps, shift):
    plain, shifted = (
        torch.logit(NoiseSchedule.build(name, num_timesteps=num_timesteps, log_snr_shift=by).alpha_bar[1:])
        for by in (0.0, shift)
    )
    torch.testing.assert_close(shifted, plain + shift, rtol=0, atol=1e-9)


@settings(max_examples=40)
@given(schedule=schedules(num_timesteps=st.integers(1, 1000)))
def test_finite_in_every_dtype(schedule):
    n = every_step(schedule)
    for dtype in DTYPES:
        x0, xn = gaussian(len(n), 2, dtype=dtype), gaussian(len(n), 2, seed=1, dtype=dtype)
        answers = [schedule.add_noise(x0, xn, n), *schedule.posterior(x0, xn, n), schedule.reverse_variance(x0, n)]
        for answer in answers:
            assert answer.dtype == dtype
            assert torch.isfinite(answer).all()


@settings(max_examples=10)
@given(schedule=schedules())
def test_device_follows_the_latents(schedule):
    x0 = torch.empty(2, 3, 4, device="meta")
    n = torch.ones(2, 3, dtype=torch.int64, device="meta")
    mean, variance = schedule.posterior(x0, x0, n)
    assert schedule.add_noise(x0, x0, n).device == mean.device == variance.device == x0.device
    assert mean.shape == (2, 3, 4)
    assert variance.shape == (2, 3, 1)


@settings(max_examples=30)
@given(schedule=schedules(), data=st.data())
def test_timesteps_lead_the_axes_of_the_latents(schedule, data):
    shape = (2, 3, 2, 4)
    n = torch.randint(1, schedule.num_timesteps + 1, shape[:3], generator=seeded(data.draw(st.integers(0, 99))))
    axes = data.draw(st.integers(1, 3))
    n = n[(...,) + (0,) * (3 - axes)]
    x0, noise = gaussian(*shape), gaussian(*shape, seed=1)
    whole = schedule.add_noise(x0, noise, n)
    for index in torch.cartesian_prod(*(torch.arange(size) for size in shape[:3])).tolist():
        one = schedule.add_noise(x0[tuple(index)][None], noise[tuple(index)][None], n[tuple(index[:axes])][None])
        assert torch.equal(one[0], whole[tuple(index)])


@given(schedule=schedules())
def test_immutable(schedule):
    before = schedule.alpha_bar.clone()
    with pytest.raises(AttributeError, match="immutable"):
        schedule.alpha_bar = before / 2
    with pytest.raises(AttributeError, match="immutable"):
        schedule.anything = 1
    schedule.add_noise(gaussian(1, 2), gaussian(1, 2), torch.tensor([1])).mul_(7)
    assert torch.equal(schedule.alpha_bar, before)


@pytest.mark.parametrize("name", NoiseSchedule.names())
def test_one_timestep_is_enough(name):
    schedule = NoiseSchedule.build_with({"num_timesteps": 1, "rescale": False}, name)
    assert schedule.alpha_bar.shape == (2,)
    mean, variance = schedule.posterior(gaussian(1, 3), gaussian(1, 3, seed=1), torch.tensor([1]))
    assert torch.equal(mean, gaussian(1, 3))
    assert variance.item() == 0


@pytest.mark.parametrize("name", NoiseSchedule.names())
@pytest.mark.parametrize(
    ("num_timesteps", "error"), [(0, ValueError), (-3, ValueError), (2.0, TypeError), (True, TypeError)]
)
def test_refuses_a_number_of_steps_that_is_none(name, num_timesteps, error):
    with pytest.raises(error, match="num_timesteps must be an integer >= 1"):
        NoiseSchedule.build(name, num_timesteps=num_timesteps)


def test_linear_says_how_many_steps_the_rescaling_needs():
    with pytest.raises(ValueError, match=r"num_timesteps=10 gives beta=2.*num_timesteps >= 21, or rescale=False"):
        LinearSchedule(10)
    LinearSchedule(21)
    LinearSchedule(10, rescale=False)
    with pytest.raises(ValueError, match=re.escape("beta=1. Use num_timesteps >= 21")):
        LinearSchedule(20)


@given(beta_end=st.floats(0.003, 0.1))
def test_the_number_of_steps_that_linear_asks_for_is_the_smallest(beta_end):
    with pytest.raises(ValueError, match="must stay below 1") as refusal:
        LinearSchedule(2, beta_end=beta_end)
    needed = int(re.search(r">= (\d+)", str(refusal.value))[1])
    LinearSchedule(needed, beta_end=beta_end)
    with pytest.raises(ValueError, match="must stay below 1"):
        LinearSchedule(needed - 1, beta_end=beta_end)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: LinearSchedule(beta_end=1.5), r"beta must stay below 1, got 1\.5"),
        (lambda: LinearSchedule(50, beta_end=1.5, rescale=False), r"beta must stay below 1, got 1\.5"),
        (lambda: LinearSchedule(beta_start=0), "beta_start must be a finite number above 0, got 0"),
        (lambda: CosineSchedule(max_beta=1), "max_beta must be a finite number above 0 and below 1, got 1"),
        (lambda: SqrtSchedule(log_snr_shift=math.inf), "log_snr_shift must be a finite number, got inf"),
        (lambda: with_table([0.9, 0.5, 0.5]), r"decrease strictly, but alpha_bar\[3\] = 0\.5 follows alpha_bar\[2\]"),
        (lambda: with_table([1.0, 0.5]), r"decrease strictly, but alpha_bar\[1\] = 1 follows alpha_bar\[0\] = 1"),
        (lambda: with_table([0.5, 0.0]), "alpha_bar must stay above 0"),
        (lambda: with_table([0.5, math.nan]), "must hold 2 finite values"),
    ],
)
def test_refuses_what_is_no_schedule(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@given(schedule=schedules(), beyond=st.integers(1, 5))
def test_refuses_timesteps_out_of_range(schedule, beyond):
    x = gaussian(1, 3)
    for n in (schedule.num_timesteps + beyond, -beyond):
        for call in (schedule.add_noise, schedule.posterior, schedule.x0_from_noise):
            with pytest.raises(ValueError, match=f"must lie in 0..{schedule.num_timesteps}, got {n}"):
                call(x, x, torch.tensor([n]))


@pytest.mark.parametrize("name", NoiseSchedule.names())
@pytest.mark.parametrize("shape", [(3,), (2, 2), (2, 3, 4), (2, 3, 4, 1)])
def test_refuses_timesteps_whose_axes_do_not_lead(name, shape):
    x = gaussian(2, 3, 4)
    with pytest.raises(ValueError, match="leading axes"):
        NoiseSchedule.build(name).add_noise(x, x, torch.ones(shape, dtype=torch.int64))


@pytest.fixture(scope="module")
def theirs():
    """Builds diffusers' scheduler with our settings, its tables in float64 so that rounding cannot hide an error."""
    diffusers = pytest.importorskip("diffusers", reason="diffusers is the oracle", exc_type=ImportError)

    def build(ours, variance_type):
        name = {LinearSchedule: "linear", CosineSchedule: "squaredcos_cap_v2"}[type(ours)]
        scheduler = diffusers.DDPMScheduler(
            ours.num_timesteps,
            beta_schedule=name,
            prediction_type="sample",
            clip_sample=False,
            variance_type=variance_type,
        )
        scheduler.betas = scheduler.betas.double()
        scheduler.alphas = 1 - scheduler.betas
        scheduler.alphas_cumprod = scheduler.alphas.cumprod(0)
        scheduler.one = scheduler.one.double()
        return scheduler

    return build


@pytest.mark.parametrize("ours", [LinearSchedule(), CosineSchedule()], ids=["linear", "cosine"])
def test_noising_agrees_with_diffusers(ours, theirs):
    n = every_step(ours)
    x0, noise = gaussian(len(n), 4, seed=1), gaussian(len(n), 4, seed=2)
    expected = theirs(ours, "fixed_small").add_noise(x0, noise, n - 1)
    torch.testing.assert_close(ours.add_noise(x0, noise, n), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("ours", [LinearSchedule(), CosineSchedule()], ids=["linear", "cosine"])
@pytest.mark.parametrize("variance_type", ["fixed_small", "fixed_large"])
def test_a_reverse_step_agrees_with_diffusers(ours, variance_type, theirs):
    scheduler = theirs(ours, variance_type)
    for n in [1, 2, 3, 10, 500, 998, 999, 1000]:
        x0, xn = gaussian(1, 16, seed=n), gaussian(1, 16, seed=n + 1)
        expected = scheduler.step(x0, n - 1, xn, generator=seeded(n), return_dict=False)[0]
        mean, variance = ours.posterior(x0, xn, torch.tensor([n]))
        if variance_type == "fixed_large":
            variance = ours.reverse_variance(x0, torch.tensor([n]))
        noise = torch.randn(1, 16, generator=seeded(n), dtype=torch.float64) if n > 1 else 0
        torch.testing.assert_close(mean + variance.sqrt() * noise, expected, rtol=1e-5, atol=1e-6)


@settings(max_examples=50)
@given(schedule=schedules(num_timesteps=st.integers(2, 40)), data=st.data())
def test_a_stride_is_the_posterior_of_the_steps_it_leaps(schedule, data):
    """q(x_m | x_n, x_0) by Bayes from the two marginals of one Gaussian chain."""
    n = data.draw(st.integers(1, schedule.num_timesteps))
    m = data.draw(st.integers(0, n - 1))
    x0, xn = gaussian(1, 3, seed=1), gaussian(1, 3, seed=2)
    now, then = schedule.alpha_bar[n], schedule.alpha_bar[m]
    transition = now / then  # x_n = sqrt(transition) x_m + noise of variance 1 - transition
    mean, variance = schedule.posterior(x0, xn, torch.tensor([n]), torch.tensor([m]))
    if m:
        precision = 1 / (1 - then) + transition / (1 - transition)
        product = then.sqrt() * x0 / (1 - then) + transition.sqrt() * xn / (1 - transition)
        torch.testing.assert_close(variance, (1 / precision).expand(1, 1), rtol=1e-6, atol=1e-12)
        torch.testing.assert_close(mean, product / precision, rtol=1e-6, atol=1e-9)
    else:
        assert float(variance) == 0
        torch.testing.assert_close(mean, x0)
    torch.testing.assert_close(
        schedule.reverse_variance(x0, torch.tensor([n]), torch.tensor([m])), (1 - transition).expand(1, 1)
    )


@pytest.mark.parametrize("name", NoiseSchedule.names())
def test_a_stride_of_one_is_equation_3(name):
    schedule = NoiseSchedule.build(name, num_timesteps=100)
    n, x0, xn = torch.arange(1, 101), gaussian(100, 3, seed=1), gaussian(100, 3, seed=2)
    for one, other in zip(schedule.posterior(x0, xn, n), schedule.posterior(x0, xn, n, n - 1), strict=True):
        torch.testing.assert_close(one, other)
    torch.testing.assert_close(schedule.reverse_variance(x0, n), schedule.reverse_variance(x0, n, n - 1))


def test_a_stride_pairs_steps_by_their_leading_axes():
    schedule, x = NoiseSchedule.build("sqrt"), gaussian(2, 2, 3)
    timesteps, previous = torch.tensor([[9, 9], [5, 5]]), torch.tensor([[8], [4]])
    mean, variance = schedule.posterior(x, x, timesteps, previous[:, 0])
    same, alike = schedule.posterior(x, x, timesteps, previous.expand(2, 2))
    torch.testing.assert_close(mean, same)
    torch.testing.assert_close(variance, alike)


def test_refuses_a_stride_that_does_not_go_down():
    with pytest.raises(ValueError, match="previous must lie below timesteps"):
        NoiseSchedule.build("sqrt").posterior(gaussian(1, 3), gaussian(1, 3), torch.tensor([5]), torch.tensor([5]))
