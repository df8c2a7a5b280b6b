from __future__ import annotations

import json
import math
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import gaussian, over, schedule_of, schedules, seeded

from diffusers_rec.processes.schedules import (
    CosineSchedule,
    ExponentialSchedule,
    GeometricSchedule,
    LinearAlphaBarSchedule,
    LinearSchedule,
    LinearVarianceSchedule,
    NoiseSchedule,
    RectifiedSchedule,
    SigmoidSchedule,
    SqrtSchedule,
    TruncatedLinearSchedule,
)
from diffusers_rec.testing.schedules import CLAUSES, every_step


def with_table(values):
    """A schedule of any table."""

    class Given(NoiseSchedule):
        def _alpha_bar(self, fraction):
            return torch.tensor(values, dtype=torch.float64)

    return Given(len(values))


@over(CLAUSES)
@given(schedule=schedules())
def test_every_schedule_keeps_its_contract(clause, schedule):
    clause(schedule)


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


@pytest.mark.parametrize("num_timesteps", [32, 1000])
def test_truncated_linear_adds_a_hundredth_to_every_beta(num_timesteps):
    """As ``trunc_lin`` of Diffusion-LM and DiffuRec."""
    scale = 1000 / num_timesteps
    start, end = scale * 0.0001 + 0.01, scale * 0.02 + 0.01
    expected = [start + (end - start) * n / (num_timesteps - 1) for n in range(num_timesteps)]
    assert TruncatedLinearSchedule(num_timesteps).beta[1:].tolist() == pytest.approx(expected, rel=1e-9)


def test_linear_variance_is_equation_4_of_its_source():
    """The variance rises evenly; a fixed first beta leaves the others as they are."""
    schedule = LinearVarianceSchedule(5, scale=0.01, minimum=0.1, maximum=0.5)
    variance = [0.001, 0.002, 0.003, 0.004, 0.005]
    assert (1 - schedule.alpha_bar[1:]).tolist() == pytest.approx(variance)
    fixed = LinearVarianceSchedule(5, scale=0.01, minimum=0.1, maximum=0.5, first_beta=1e-5)
    assert fixed.beta.tolist() == pytest.approx([0, 1e-5, *schedule.beta[2:].tolist()])
    assert LinearVarianceSchedule(1, minimum=0.2).alpha_bar.tolist() == pytest.approx([1, 0.8])
    with pytest.raises(ValueError, match=r"scale \* maximum is 2. Use maximum <= 0.5"):
        LinearVarianceSchedule(5, scale=2.0, maximum=1.0)


def test_exponential_solves_the_equation_that_linear_steps_through():
    """d(log alpha_bar)/du = -beta(u) with beta rising evenly from 0.1 to 20, which N betas of linear approximate."""
    rates = [0.1 + 19.9 * (n + 0.5) / 100_000 for n in range(100_000)]
    log_alpha_bar = torch.tensor(rates, dtype=torch.float64).cumsum(0).neg() / 100_000
    torch.testing.assert_close(ExponentialSchedule(10).alpha_bar[1:], log_alpha_bar[9_999::10_000].exp())
    linear = LinearSchedule(100_000)
    torch.testing.assert_close(ExponentialSchedule(100_000).alpha_bar, linear.alpha_bar, rtol=0, atol=1e-3)


def test_sigmoid_is_the_formula_of_its_source():
    def logistic(z):
        return 1 / (1 + math.exp(-z))

    start, end, tau = -3.0, 3.0, 0.9
    value = [logistic((n / 50 * (end - start) + start) / tau) for n in range(51)]
    expected = [(value[-1] - v) / (value[-1] - value[0]) for v in value]
    assert SigmoidSchedule(50, tau=tau, clip_min=0).alpha_bar.tolist() == pytest.approx(expected, rel=1e-9, abs=1e-15)
    assert SigmoidSchedule(50, tau=tau).alpha_bar[-1] == 1e-9


def test_geometric_multiplies_the_noise_by_one_factor_a_step():
    schedule = GeometricSchedule(40, sigma_min=0.02, sigma_max=50.0)
    ratio = schedule.sigma[1:] / schedule.signal[1:]
    torch.testing.assert_close(ratio[1:] / ratio[:-1], torch.full((39,), 2500 ** (1 / 40), dtype=torch.float64))
    assert float(ratio[-1]) == pytest.approx(50)


@pytest.mark.parametrize("shift", [0.0, -2.0, 1.0])
def test_rectified_is_a_straight_line_with_one_velocity(shift):
    schedule = RectifiedSchedule(20, log_snr_shift=shift)
    torch.testing.assert_close(schedule.signal + schedule.sigma, torch.ones(21, dtype=torch.float64))
    if not shift:
        torch.testing.assert_close(schedule.sigma, torch.arange(21, dtype=torch.float64) / 20)
    n = torch.arange(1, 21)
    x0, noise = gaussian(20, 4, seed=1), gaussian(20, 4, seed=2)
    xn = schedule.add_noise(x0, noise, n)
    torch.testing.assert_close(schedule.velocity_from_x0(x0, xn, n), noise - x0)


def test_levels_of_ones_own_get_the_velocity_of_their_variance_preserving_twin():
    """x0 + s noise, whose scaled latent x / sqrt(1 + s^2) preserves variance."""

    class Exploding(NoiseSchedule):
        def _levels(self, fraction):
            return torch.ones_like(fraction), 10 * fraction

    schedule, n = Exploding(8), torch.arange(1, 9)
    assert not schedule.variance_preserving
    x0, noise = gaussian(8, 4, seed=1), gaussian(8, 4, seed=2)
    xn = schedule.add_noise(x0, noise, n)
    twin = NoiseSchedule.from_alpha_bar(schedule.alpha_bar)
    scale = (1 + schedule.sigma[n, None] ** 2).sqrt()
    velocity = twin.velocity_from_x0(x0, xn / scale, n)
    torch.testing.assert_close(schedule.velocity_from_x0(x0, xn, n) * scale, velocity)
    (mean, variance), (scaled, narrow) = schedule.posterior(x0, xn, n), twin.posterior(x0, xn / scale, n)
    before = (1 + schedule.sigma[n - 1, None] ** 2).sqrt()
    torch.testing.assert_close(mean, scaled * before)
    torch.testing.assert_close(variance, narrow * before**2)


def test_a_class_without_levels_is_refused():
    class Empty(NoiseSchedule):
        pass

    with pytest.raises(TypeError, match=r"Empty must define _alpha_bar\(fraction\), or _levels\(fraction\)"):
        Empty()


@given(schedule=schedules())
def test_a_table_gives_the_schedule_that_it_was_taken_from(schedule):
    for again in (
        NoiseSchedule.from_alpha_bar(schedule.alpha_bar),
        NoiseSchedule.from_alpha_bar(schedule.alpha_bar[1:].tolist()),
    ):
        assert torch.equal(again.alpha_bar, schedule.alpha_bar)
        config = json.loads(json.dumps(again.config()))
        assert config["name"] == "table"
        assert torch.equal(NoiseSchedule.build(config).alpha_bar, schedule.alpha_bar)
    if schedule.variance_preserving:
        betas = NoiseSchedule.from_betas(schedule.beta[1:])
        torch.testing.assert_close(betas.alpha_bar, schedule.alpha_bar, rtol=1e-9, atol=1e-12)


@given(schedule=schedules(), data=st.data())
def test_one_level_in_numbers_is_that_of_the_tables(schedule, data):
    n = data.draw(st.integers(0, schedule.num_timesteps))
    level, like = schedule.level(n), torch.empty(2, 3, dtype=torch.float16)
    beside = schedule.level(torch.tensor([n, n]), like)
    for name in ("signal", "sigma", "alpha_bar"):
        assert getattr(level, name) == getattr(schedule, name)[n].item()
        assert torch.equal(getattr(beside, name), getattr(schedule, name)[[n, n]][:, None])
    for wrong in (-1, schedule.num_timesteps + 1):
        with pytest.raises(ValueError, match=rf"must lie in 0\.\.{schedule.num_timesteps}, got {wrong}"):
            schedule.level(wrong)


@pytest.mark.parametrize("schedule", [RectifiedSchedule(5), SigmoidSchedule(5, clip_min=0), with_table([0.5, 0.0])])
def test_a_noise_prediction_is_refused_where_no_signal_is_left(schedule):
    x, last = gaussian(2, 3), schedule.num_timesteps
    schedule.x0_from_noise(x, x, torch.tensor([1, last - 1]))
    with pytest.raises(ValueError, match=f"leaves no signal at n = {last}.*Predict x0 or the velocity"):
        schedule.x0_from_noise(x, x, torch.tensor([1, last]))


def test_linear_alpha_bar_is_linear_in_the_step():
    assert LinearAlphaBarSchedule(4).alpha_bar.tolist() == [1.0, 0.75, 0.5, 0.25, 0.0]


@pytest.mark.parametrize("name", sorted({*NoiseSchedule.names()} - {"table"}))
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
        (lambda: with_table([0.5, -0.1]), "alpha_bar must not fall below 0, but its last value is -0.1"),
        (lambda: with_table([0.5, 0.0, 0.0]), r"decrease strictly, but alpha_bar\[3\] = 0 follows"),
        (lambda: NoiseSchedule.from_alpha_bar([]), "values must hold between 1 and 1000000 numbers, got 0"),
        (lambda: NoiseSchedule.from_alpha_bar([0.5, 1.0]), "each of values must be .* below 1, got 1"),
        (lambda: NoiseSchedule.from_betas([0.5, 0.0]), "decrease strictly"),
        (lambda: TruncatedLinearSchedule(20), "gives beta=1.01. Use num_timesteps >= 21"),
        (lambda: GeometricSchedule(sigma_min=2.0, sigma_max=1.0), "sigma_max must be a finite number above 2"),
        (lambda: with_table([0.5, math.nan]), "must hold 2 finite values"),
    ],
)
def test_refuses_what_is_no_schedule(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize("n", [-3, 8])
def test_says_which_timesteps_are_out_of_range(n):
    x = gaussian(2, 3)
    with pytest.raises(ValueError, match=rf"must lie in 0\.\.7, got {min(n, 7)}\.\.{max(n, 7)}"):
        SqrtSchedule(7).add_noise(x, x, torch.tensor([n, 7]))


def test_nothing_can_be_hung_on_a_schedule():
    with pytest.raises(AttributeError, match="SqrtSchedule is immutable; build a new one instead of setting 'other'"):
        SqrtSchedule(7).other = 1


@pytest.mark.parametrize(
    ("table", "got"), [([0.5, 0.2], "list"), (torch.tensor(0.5), r"\(\)"), (torch.ones(3), r"\(3,\)")]
)
def test_a_table_must_be_like_the_fraction(table, got):
    class Returned(NoiseSchedule):
        def _alpha_bar(self, fraction):
            return table

    with pytest.raises(ValueError, match=rf"Returned._alpha_bar: expected tensors like fraction, \(2,\), got {got}"):
        Returned(2)


def test_a_parameter_that_is_set_too_late_is_explained():
    class Late(SqrtSchedule):
        def __init__(self, power=2):
            super().__init__()
            self.power = power

    with pytest.raises(AttributeError, match="sets its parameters before it calls super"):
        Late()


@pytest.mark.parametrize("name", NoiseSchedule.names())
@pytest.mark.parametrize("shape", [(3,), (2, 2), (2, 3, 4), (2, 3, 4, 1)])
def test_refuses_timesteps_whose_axes_do_not_lead(name, shape):
    x = gaussian(2, 3, 4)
    with pytest.raises(ValueError, match="leading axes"):
        schedule_of(name, 50).add_noise(x, x, torch.ones(shape, dtype=torch.int64))


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


def test_a_stride_pairs_steps_by_their_leading_axes():
    schedule, x = NoiseSchedule.build("sqrt"), gaussian(2, 2, 3)
    timesteps, previous = torch.tensor([[9, 9], [5, 5]]), torch.tensor([[8], [4]])
    mean, variance = schedule.posterior(x, x, timesteps, previous[:, 0])
    same, alike = schedule.posterior(x, x, timesteps, previous.expand(2, 2))
    torch.testing.assert_close(mean, same)
    torch.testing.assert_close(variance, alike)


def test_refuses_a_stride_that_does_not_go_down():
    with pytest.raises(ValueError, match="previous must not lie above timesteps"):
        NoiseSchedule.build("sqrt").posterior(gaussian(1, 3), gaussian(1, 3), torch.tensor([5]), torch.tensor([6]))


# What other programs do with a schedule


@given(schedule=schedules())
def test_a_table_in_other_hands_is_a_copy(schedule):
    x, n = torch.ones(1, 1), torch.tensor([1])
    for name in ("signal", "sigma", "alpha_bar", "alpha", "beta", "posterior_variance"):
        before, noised = getattr(schedule, name).clone(), schedule.add_noise(x, x, n)
        getattr(schedule, name).mul_(0.5)
        assert torch.equal(getattr(schedule, name), before)
        assert torch.equal(schedule.add_noise(x, x, n), noised)


CONVERSIONS = {
    "add_noise": 0, "x0_from_noise": 0, "x0_from_velocity": 0,
    "noise_from_x0": 1, "velocity_from_x0": 1, "posterior": 1,
}  # fmt: skip
"""The conversions and the first timestep that each is defined at."""


@pytest.mark.parametrize(("name", "first"), CONVERSIONS.items())
def test_a_conversion_is_refused_where_it_divides_by_zero(name, first):
    schedule = CosineSchedule(5)
    convert = getattr(schedule, name)
    x = torch.ones(2, 3)
    for n in (first, 5):
        answer = convert(x, x, torch.tensor([n, n]))
        assert all(bool(part.isfinite().all()) for part in (answer if isinstance(answer, tuple) else (answer,)))
    for wrong in (first - 1, 6):
        with pytest.raises(ValueError, match=rf"timesteps must lie in {first}\.\.5, got"):
            convert(x, x, torch.tensor([5, wrong]))


@pytest.mark.parametrize("name", CONVERSIONS)
@pytest.mark.parametrize("dtype", [torch.int64, torch.int16, torch.bool, torch.complex64])
def test_latents_that_are_no_floating_point_numbers_are_refused(name, dtype):
    x = torch.ones(2, 3).to(dtype)
    with pytest.raises(TypeError, match=f"must be floating point, got {dtype}"):
        getattr(CosineSchedule(5), name)(x, x, torch.tensor([1, 2]))


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int16, torch.int32])
def test_timesteps_may_be_any_integers(dtype):
    schedule, x, n = CosineSchedule(5), torch.ones(2, 3), torch.tensor([1, 5])
    assert torch.equal(schedule.add_noise(x, x, n.to(dtype)), schedule.add_noise(x, x, n))
    with pytest.raises(TypeError, match=r"timesteps must be integers, got torch\.bool"):
        schedule.add_noise(x, x, n.bool())


class Noising(torch.nn.Module):
    """Somebody's module that holds a schedule."""

    def __init__(self):
        super().__init__()
        self.schedule = CosineSchedule(5)

    def forward(self, x, noise, timesteps):
        return self.schedule.add_noise(x, noise, timesteps) + self.schedule.posterior(x, noise, timesteps)[0]


@pytest.mark.parametrize("way", ["export", "strict export", "compile", "inference mode", "meta"])
def test_a_schedule_that_was_traced_serves_on(way):
    arguments = torch.ones(2, 3), torch.ones(2, 3), torch.tensor([1, 5])
    expected = Noising()(*arguments)
    module = Noising()
    if "export" in way:
        traced = torch.export.export(module, arguments, strict=way.startswith("strict")).module()
    elif way == "compile":
        traced = torch.compile(module, backend="eager")
    else:
        traced = module
    with torch.inference_mode() if way == "inference mode" else torch.no_grad():
        assert torch.equal(traced(*arguments), expected)
    if way == "meta":
        with torch.device("meta"):
            module = Noising()
    x = arguments[0].clone().requires_grad_()
    answer = module(x, *arguments[1:])
    answer.sum().backward()
    assert torch.equal(answer, expected)
    assert x.grad is not None


@pytest.mark.parametrize("build", [CosineSchedule, SqrtSchedule, LinearSchedule])
def test_a_schedule_beyond_all_memory_is_refused_at_once(build):
    with pytest.raises(ValueError, match="num_timesteps must be an integer >= 1 and <= 1000000, got 1000000000"):
        build(10**9)


@pytest.mark.parametrize("name", ["noise_from_x0", "velocity_from_x0"])
def test_a_conversion_runs_under_vmap(name):
    x, n = torch.randn(4, 2, 3, generator=seeded(0)), torch.tensor([[1, 5]] * 4)
    convert = getattr(CosineSchedule(5), name)
    torch.testing.assert_close(torch.func.vmap(convert)(x, x.flip(0), n), convert(x, x.flip(0), n))
