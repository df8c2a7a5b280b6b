r"""The contract of a noise schedule: levels of signal and noise, and Gaussian algebra on them.

Every clause computes its expected values from the levels in float64, and Eq. 3 by Bayes' rule from two Gaussians.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from diffusers_rec.processes.schedules import NoiseSchedule
from diffusers_rec.testing.contract import (
    Case,
    Maker,
    Suite,
    accepted,
    copy_of,
    expect,
    expect_close,
    expect_equal,
    expect_finite,
    expect_refusal,
)
from diffusers_rec.testing.inputs import DTYPES, gaussian, strided

LENGTHS = [1, 2, 3, 10, 50, 1000]
SHIFTS = [-3.0, 1.5]


def the_signal_falls_strictly_from_one(schedule: NoiseSchedule) -> None:
    """There are N + 1 levels in float64 on the CPU, index 0 is clean, and alpha_bar decreases strictly."""
    signal, sigma, share = schedule.signal, schedule.sigma, schedule.alpha_bar
    for name, table in (("signal", signal), ("sigma", sigma), ("alpha_bar", share)):
        expect(table.shape == (schedule.num_timesteps + 1,), f"{name} of shape ({schedule.num_timesteps + 1},)",
               tuple(table.shape))  # fmt: skip
        expect(table.dtype == torch.float64 and table.device.type == "cpu", "a table in float64 on the CPU",
               f"{table.dtype} on {table.device}")  # fmt: skip
        expect((table >= 0).all(), f"a {name} that is not negative", table.min().item())
    expect(share[0] == 1, "alpha_bar[0] = 1, the clean latent", share[0].item())
    expect(signal[0] == 1 and sigma[0] == 0, "signal 1 and sigma 0 at n = 0", (signal[0].item(), sigma[0].item()))
    rises = (share[1:] >= share[:-1]).nonzero()
    if len(rises):
        n = int(rises[0]) + 1
        expect(False, "an alpha_bar that falls strictly", f"alpha_bar[{n}] = {share[n]:.6g} after {share[n - 1]:.6g}")
    expect_close("alpha_bar", share, signal**2 / (signal**2 + sigma**2))
    if schedule.variance_preserving:
        expect_close("signal² + sigma²", signal**2 + sigma**2, torch.ones_like(signal))


def all_tables_follow_from_the_levels(schedule: NoiseSchedule) -> None:
    """alpha, beta and the posterior variance match the levels, and beta is positive from n = 1."""
    ratio, beta = _transition(schedule, every_step(schedule), every_step(schedule) - 1)
    variance = schedule.sigma**2
    zero, one = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    expect_close("alpha", schedule.alpha, torch.cat([one, ratio]))
    expect_close("beta", schedule.beta, torch.cat([zero, beta]))
    expect_close(
        "posterior_variance", schedule.posterior_variance, torch.cat([zero, variance[:-1] / variance[1:] * beta])
    )
    expect(bool((schedule.beta[1:] > 0).all()), "every beta above 0", f"{beta.min():.6g}")


def add_noise_is_equation_2(schedule: NoiseSchedule) -> None:
    """``add_noise`` is Eq. 2 for every n in 0..N, and keeps the latent bit for bit at n = 0."""
    n = torch.arange(schedule.num_timesteps + 1)
    x0, noise = _two(len(n), 4)
    signal, sigma = schedule.signal[:, None], schedule.sigma[:, None]
    got = schedule.add_noise(x0, noise, n)
    expect_close("x_n at row n", got, signal * x0 + sigma * noise)
    expect_equal("x_0", got[0], x0[0])
    levels = schedule.levels(x0, n)
    expect_close("the signal's level", levels[0], signal)
    expect_close("the noise's level", levels[1], sigma)


def one_transition_after_another_is_one_jump(schedule: NoiseSchedule) -> None:
    """Iterated transitions (Eq. 1) equal a single draw (Eq. 2)."""
    mean, variance, expected = 1.0, 0.0, [(1.0, 0.0)]
    for alpha, beta in zip(schedule.alpha[1:].tolist(), schedule.beta[1:].tolist(), strict=True):
        mean, variance = math.sqrt(alpha) * mean, alpha * variance + beta
        expected.append((mean, variance))
    one, zero = torch.ones(len(expected), 1, dtype=torch.float64), torch.zeros(len(expected), 1, dtype=torch.float64)
    steps = torch.arange(len(expected))
    means, deviations = schedule.add_noise(one, zero, steps), schedule.add_noise(zero, one, steps)
    chain = torch.tensor(expected, dtype=torch.float64)
    expect_close("mean and variance of q(x_n | x_0)", torch.cat([means, deviations**2], dim=1), chain, atol=1e-13)


def the_posterior_is_the_product_of_two_gaussians(schedule: NoiseSchedule) -> None:
    """q(x_{n-1} | x_n, x_0) is the product of q(x_n | x_{n-1}) and q(x_{n-1} | x_0)."""
    n = every_step(schedule)[1:]
    x0, xn = _two(len(n), 5)
    mean, variance = schedule.posterior(x0, xn, n)
    expect_bayes(schedule, x0, xn, n, n - 1, mean, variance)


def the_posterior_at_the_first_step_is_x0_itself(schedule: NoiseSchedule) -> None:
    """At n = 1, the mean of the posterior is x0 and the variance is zero."""
    x0, xn = _two(1, 5)
    mean, variance = schedule.posterior(x0, xn, torch.tensor([1]))
    expect_equal("the posterior's mean at n = 1", mean, x0)
    expect_equal("the posterior's variance at n = 1", variance, torch.zeros_like(variance))


def a_stride_is_the_posterior_of_the_steps_it_leaps(schedule: NoiseSchedule) -> None:
    """q(x_m | x_n, x_0) follows from Bayes' rule; m = n - 1 is Eq. 3."""
    n, m = _strides(schedule.num_timesteps)
    x0, xn = _two(len(n), 3)
    mean, variance = schedule.posterior(x0, xn, n, m)
    clean = m == 0
    expect_close("the posterior's mean at m = 0", mean[clean], x0[clean])
    expect_equal("the posterior's variance at m = 0", variance[clean], torch.zeros_like(variance[clean]))
    expect_close("reverse_variance(n, m)", schedule.reverse_variance(x0, n, m), _reverse_variance(schedule, n, m))
    n, m, x0, xn = n[~clean], m[~clean], x0[~clean], xn[~clean]
    expect_bayes(schedule, x0, xn, n, m, mean[~clean], variance[~clean])


def a_step_to_itself_keeps_the_latent(schedule: NoiseSchedule) -> None:
    """For m = n, the mean is xn bit for bit and the variance is zero, also if other positions change."""
    n = torch.arange(schedule.num_timesteps + 1)
    x0, xn = _two(len(n), 3)
    mean, variance = schedule.posterior(x0, xn, n, n)
    expect_equal("the posterior's mean at m = n", mean, xn)
    expect_equal("the posterior's variance at m = n", variance, torch.zeros_like(variance))
    expect_equal("reverse_variance(n, n)", schedule.reverse_variance(x0, n, n), torch.zeros_like(variance))
    expect_refusal("m above n", partial(schedule.posterior, x0[:1], xn[:1], n[:1], n[:1] + 1))


def the_reverse_variance_is_that_of_unit_latents(schedule: NoiseSchedule) -> None:
    """Var(x_{n-1} | x_n) for x0 of unit variance is beta if variance is preserved, and above the posterior's."""
    n = every_step(schedule)
    one = torch.ones(len(n), 3, dtype=torch.float64)
    got = schedule.reverse_variance(one, n)
    expect_close("reverse_variance(n)", got, _reverse_variance(schedule, n, n - 1))
    if schedule.variance_preserving:
        expect_equal("reverse_variance(n)", got[:, 0], schedule.beta[1:])
    _, variance = schedule.posterior(one, one, n)
    expect_equal("the posterior's variance", variance[:, 0], schedule.posterior_variance[1:])
    expect(bool((variance < got).all()), "a posterior variance below the reverse variance", "one that is not")


def x0_noise_and_velocity_convert_into_one_another(schedule: NoiseSchedule) -> None:
    """x0, noise and velocity convert into each other; without signal, the noise does not determine x0."""
    n = every_step(schedule)
    x0, noise = _two(len(n), 4)
    xn = schedule.add_noise(x0, noise, n)
    expect_close("noise_from_x0", schedule.noise_from_x0(x0, xn, n), noise, rtol=1e-6, atol=1e-8)
    velocity = schedule.velocity_from_x0(x0, xn, n)
    if schedule.variance_preserving:
        expected = schedule.signal[n, None] * noise - schedule.sigma[n, None] * x0
        expect_close("velocity_from_x0", velocity, expected, rtol=1e-6, atol=1e-8)
    expect_close("x0_from_velocity", schedule.x0_from_velocity(velocity, xn, n), x0, rtol=1e-6, atol=1e-8)
    left = schedule.signal[n] > 0
    some = schedule.x0_from_noise(noise[left], xn[left], n[left])
    expect_close("x0_from_noise", some, x0[left], rtol=1e-6, atol=1e-8)
    if not left.all():
        expect_refusal("x0_from_noise without a signal", partial(schedule.x0_from_noise, noise, xn, n))


def log_snr_shift_shifts_the_log_snr_by_exactly_that(schedule: NoiseSchedule) -> None:
    """``log_snr_shift`` is added to the log SNR of every step."""
    if schedule.log_snr_shift:
        plain = copy_of(schedule, log_snr_shift=0.0)
        before, after = (2 * (each.signal[1:] / each.sigma[1:]).log() for each in (plain, schedule))
        expect_close("log SNR", after, before + schedule.log_snr_shift, rtol=0, atol=1e-9)


def timesteps_outside_the_table_are_refused(schedule: NoiseSchedule) -> None:
    """Steps below 0, above N, or of floating point are errors."""
    x = gaussian(1, 3)
    for n in (schedule.num_timesteps + 1, -1):
        for call in (schedule.add_noise, schedule.posterior, schedule.x0_from_noise):
            expect_refusal(f"n = {n}", partial(call, x, x, torch.tensor([n])))
    expect_refusal("n = 1.0", partial(schedule.add_noise, x, x, torch.tensor([1.0])), TypeError)


def timesteps_lead_the_axes_of_the_latents(schedule: NoiseSchedule) -> None:
    """Timesteps ``(B,)``, ``(B, Q)`` and ``(B, Q, K)`` fit latents ``(B, Q, K, D)``, and rows are independent."""
    x0, noise = _two(2, 3, 2, 4)
    n = torch.arange(12).view(2, 3, 2) * 7 % schedule.num_timesteps + 1
    for steps, axes in ((n[:, 0, 0], 1), (n[..., 0], 2), (n, 3)):
        whole = schedule.add_noise(x0, noise, steps)
        for index in torch.cartesian_prod(torch.arange(2), torch.arange(3), torch.arange(2)).tolist():
            at, own = tuple(index), tuple(index[:axes])
            alone = schedule.add_noise(x0[at][None], noise[at][None], steps[own][None])
            expect_equal(f"x_n at {at} with timesteps of {axes} axes", whole[at], alone[0])


def finite_in_every_dtype(schedule: NoiseSchedule) -> None:
    """Results are finite at every n, in the dtype of the latents."""
    n = every_step(schedule)
    for dtype in DTYPES:
        x0, xn = (x.to(dtype) for x in _two(len(n), 2))
        results = [schedule.add_noise(x0, xn, n), *schedule.posterior(x0, xn, n), schedule.reverse_variance(x0, n)]
        for result in results:
            expect(result.dtype == dtype, f"a result in {dtype}", result.dtype)
            expect_finite(f"a result in {dtype}", result)


def memory_layout_does_not_matter(schedule: NoiseSchedule) -> None:
    """Latents and steps need not be contiguous."""
    x0, noise = _two(3, 2, 4)
    n = torch.arange(3) % schedule.num_timesteps + 1
    expected = schedule.add_noise(x0, noise, n)
    expect_equal("x_n of strided latents", schedule.add_noise(strided(x0), strided(noise), strided(n)), expected)
    expect_equal("x_n at expanded steps", schedule.add_noise(x0, noise, n[:, None].expand(3, 2)), expected)


def the_device_follows_the_latents(schedule: NoiseSchedule) -> None:
    """Results are on the device of the latents, and the variance is ``(B, ..., 1)``."""
    x0 = torch.empty(2, 3, 4, device="meta")
    n = torch.ones(2, 3, dtype=torch.int64, device="meta")
    mean, variance = schedule.posterior(x0, x0, n)
    for result, shape in ((schedule.add_noise(x0, x0, n), (2, 3, 4)), (mean, (2, 3, 4)), (variance, (2, 3, 1))):
        expect(result.device == x0.device, f"a result on {x0.device}", result.device)
        expect(result.shape == shape, f"a result of shape {shape}", tuple(result.shape))


def it_is_immutable(schedule: NoiseSchedule) -> None:
    """A schedule cannot be changed, because a model and its checkpoint depend on it."""
    before = schedule.alpha_bar.clone()
    expect_refusal("another alpha_bar", lambda: setattr(schedule, "alpha_bar", before / 2), AttributeError)
    x0, noise = _two(1, 2)
    copy = x0.clone()
    schedule.add_noise(x0, noise, torch.tensor([1])).mul_(7)
    expect_equal("x0 after it was noised", x0, copy)
    expect_equal("alpha_bar after a result was written to", schedule.alpha_bar, before)


CLAUSES = (
    the_signal_falls_strictly_from_one,
    all_tables_follow_from_the_levels,
    add_noise_is_equation_2,
    one_transition_after_another_is_one_jump,
    the_posterior_is_the_product_of_two_gaussians,
    the_posterior_at_the_first_step_is_x0_itself,
    a_stride_is_the_posterior_of_the_steps_it_leaps,
    a_step_to_itself_keeps_the_latent,
    the_reverse_variance_is_that_of_unit_latents,
    x0_noise_and_velocity_convert_into_one_another,
    log_snr_shift_shifts_the_log_snr_by_exactly_that,
    timesteps_outside_the_table_are_refused,
    timesteps_lead_the_axes_of_the_latents,
    finite_in_every_dtype,
    memory_layout_does_not_matter,
    the_device_follows_the_latents,
    it_is_immutable,
)


def every_step(schedule: NoiseSchedule) -> Tensor:
    """Steps 1..N."""
    return torch.arange(1, schedule.num_timesteps + 1)


def expect_bayes(
    schedule: NoiseSchedule, x0: Tensor, xn: Tensor, n: Tensor, m: Tensor, mean: Tensor, variance: Tensor
) -> None:
    """Mean and variance of q(x_m | x_n, x_0) for 0 < m < n: the product of two Gaussians in x_m."""
    ratio, beta = (part[:, None] for part in _transition(schedule, n, m))
    likelihood, prior = ratio / beta, 1 / schedule.sigma[m, None] ** 2
    precision = likelihood + prior
    from_xn = ratio.sqrt() / beta * xn / precision
    from_x0 = prior * schedule.signal[m, None] * x0 / precision
    expect_close("the posterior's precision", 1 / variance, precision, rtol=1e-8)
    error = (mean - from_xn - from_x0) / (from_xn.abs() + from_x0.abs())
    expect_close("the error of the posterior's mean", error, torch.zeros_like(error), atol=1e-8)


def _transition(schedule: NoiseSchedule, n: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
    """Squared factor and variance of q(x_n | x_m), m < n."""
    if schedule.variance_preserving:
        ratio = schedule.alpha_bar[n] / schedule.alpha_bar[m]
        return ratio, 1 - ratio
    ratio = (schedule.signal[n] / schedule.signal[m]) ** 2
    return ratio, schedule.sigma[n] ** 2 - ratio * schedule.sigma[m] ** 2


def _reverse_variance(schedule: NoiseSchedule, n: Tensor, m: Tensor) -> Tensor:
    """Var(x_m | x_n) for x0 of unit variance, ``(N, 1)``."""
    ratio, beta = _transition(schedule, n, m)
    power = schedule.signal**2 + schedule.sigma**2
    return (power[m] * beta / (ratio * power[m] + beta))[:, None]


def _strides(num_timesteps: int) -> tuple[Tensor, Tensor]:
    """Some pairs n > m >= 0: from N to a few steps, and one step down."""
    few = {0, 1, 2, num_timesteps // 3, num_timesteps // 2, num_timesteps - 1} & {*range(num_timesteps)}
    pairs = {(num_timesteps, m) for m in few} | {(m, m - 1) for m in few if m > 0}
    n, m = zip(*sorted(pairs), strict=True)
    return torch.tensor(n), torch.tensor(m)


def _two(*shape: int) -> tuple[Tensor, Tensor]:
    return gaussian(*shape, seed=1), gaussian(*shape, seed=2)


def _cases(maker: Maker) -> Iterator[Case]:
    if not maker.leaves_open("num_timesteps"):
        schedule = maker()
        yield Case(f"num_timesteps={schedule.num_timesteps}", (schedule,))
        return
    for steps, schedule in accepted(maker, "num_timesteps", LENGTHS):
        yield Case(f"num_timesteps={steps}", (schedule,))
    if maker.leaves_open("log_snr_shift"):
        for shift, schedule in accepted(maker, "log_snr_shift", SHIFTS):
            yield Case(f"log_snr_shift={shift}", (schedule,))


def _outputs(schedule: NoiseSchedule) -> list[Tensor]:
    return [schedule.alpha_bar, schedule.add_noise(*_two(schedule.num_timesteps, 2), every_step(schedule))]


SUITE = Suite(NoiseSchedule, _cases, CLAUSES, _outputs)
