r"""The contract of a noise schedule: one strictly decreasing table, and the Gaussian algebra that follows from it.

Every law is computed anew from ``alpha_bar`` in float64, Eq. 3 by Bayes' rule from two Gaussians.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from diffusers_rec.processes.schedules import NoiseSchedule
from diffusers_rec.testing.all_kinds import check
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


def check_schedule(make: Callable[..., NoiseSchedule], /, *, waive: Collection[str] = (), **settings: Any) -> None:
    """Check that a noise schedule keeps its contract, at several N; an N that its constructor refuses passes over.

    Args:
        make: the class, or a factory.
        waive: names of clauses (functions of this module) that need not hold.
        settings: constructor parameters.

    Raises:
        ContractError: the first clause that is broken.
    """
    check(SUITE, make, waive, settings)


def alpha_bar_falls_strictly_from_one(schedule: NoiseSchedule) -> None:
    """N + 1 entries in float64 on the CPU: index 0 is the clean latent, and N is the last."""
    table = schedule.alpha_bar
    expect(table.shape == (schedule.num_timesteps + 1,), f"alpha_bar of shape ({schedule.num_timesteps + 1},)",
           tuple(table.shape))  # fmt: skip
    expect(table.dtype == torch.float64 and table.device.type == "cpu", "a table in float64 on the CPU",
           f"{table.dtype} on {table.device}")  # fmt: skip
    expect(table[0] == 1, "alpha_bar[0] = 1, the clean latent", table[0].item())
    rises = (table[1:] >= table[:-1]).nonzero()
    if len(rises):
        n = int(rises[0]) + 1
        expect(False, "an alpha_bar that falls strictly", f"alpha_bar[{n}] = {table[n]:.6g} after {table[n - 1]:.6g}")
    expect(table[-1] > 0, "an alpha_bar above 0", table[-1].item())


def all_tables_follow_from_alpha_bar(schedule: NoiseSchedule) -> None:
    """alpha, beta and the posterior variance, with beta strictly between 0 and 1 from n = 1 on."""
    now, before = schedule.alpha_bar[1:], schedule.alpha_bar[:-1]
    beta = 1 - now / before
    zero, one = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    expect_close("alpha", schedule.alpha, torch.cat([one, 1 - beta]))
    expect_close("beta", schedule.beta, torch.cat([zero, beta]))
    variance = (1 - before) / (1 - now) * beta
    expect_close("posterior_variance", schedule.posterior_variance, torch.cat([zero, variance]))
    expect(bool(((beta > 0) & (beta < 1)).all()), "every beta in (0, 1)", f"{beta.min():.6g} to {beta.max():.6g}")


def add_noise_is_equation_2(schedule: NoiseSchedule) -> None:
    """At every n from 0, where the latent stays bit for bit, to N; timesteps are indices of the table."""
    n = torch.arange(schedule.num_timesteps + 1)
    x0, noise = _two(len(n), 4)
    signal, sigma = schedule.alpha_bar.sqrt()[:, None], (1 - schedule.alpha_bar).sqrt()[:, None]
    got = schedule.add_noise(x0, noise, n)
    expect_close("x_n at row n", got, signal * x0 + sigma * noise)
    expect_equal("x_0", got[0], x0[0])
    levels = schedule.levels(x0, n)
    expect_close("the signal's level", levels[0], signal)
    expect_close("the noise's level", levels[1], sigma)


def one_transition_after_another_is_one_jump(schedule: NoiseSchedule) -> None:
    """Eq. 1, iterated, is Eq. 2."""
    mean, variance, expected = 1.0, 0.0, [(1.0, 0.0)]
    for beta in schedule.beta[1:].tolist():
        mean, variance = math.sqrt(1 - beta) * mean, (1 - beta) * variance + beta
        expected.append((mean, variance))
    one, zero = torch.ones(len(expected), 1, dtype=torch.float64), torch.zeros(len(expected), 1, dtype=torch.float64)
    steps = torch.arange(len(expected))
    means, deviations = schedule.add_noise(one, zero, steps), schedule.add_noise(zero, one, steps)
    chain = torch.tensor(expected, dtype=torch.float64)
    expect_close("mean and variance of q(x_n | x_0)", torch.cat([means, deviations**2], dim=1), chain, atol=1e-13)


def the_posterior_is_the_product_of_two_gaussians(schedule: NoiseSchedule) -> None:
    """q(x_{n-1} | x_n, x_0) is q(x_n | x_{n-1}) times q(x_{n-1} | x_0): precisions add, means weigh by precision."""
    n = every_step(schedule)[1:]
    x0, xn = _two(len(n), 5)
    mean, variance = schedule.posterior(x0, xn, n)
    expect_bayes(schedule, x0, xn, n, n - 1, mean, variance)


def the_posterior_at_the_first_step_is_x0_itself(schedule: NoiseSchedule) -> None:
    """Without any variance."""
    x0, xn = _two(1, 5)
    mean, variance = schedule.posterior(x0, xn, torch.tensor([1]))
    expect_equal("the posterior's mean at n = 1", mean, x0)
    expect_equal("the posterior's variance at n = 1", variance, torch.zeros_like(variance))


def a_stride_is_the_posterior_of_the_steps_it_leaps(schedule: NoiseSchedule) -> None:
    """q(x_m | x_n, x_0) by Bayes from the two marginals of one Gaussian chain; a stride of one is Eq. 3."""
    n, m = _strides(schedule.num_timesteps)
    x0, xn = _two(len(n), 3)
    mean, variance = schedule.posterior(x0, xn, n, m)
    clean = m == 0
    expect_close("the posterior's mean at m = 0", mean[clean], x0[clean])
    expect_equal("the posterior's variance at m = 0", variance[clean], torch.zeros_like(variance[clean]))
    n, m, x0, xn = n[~clean], m[~clean], x0[~clean], xn[~clean]
    expect_bayes(schedule, x0, xn, n, m, mean[~clean], variance[~clean])
    beta = (1 - schedule.alpha_bar[n] / schedule.alpha_bar[m])[:, None]
    expect_close("reverse_variance(n, m)", schedule.reverse_variance(x0, n, m), beta)


def the_reverse_variance_is_beta(schedule: NoiseSchedule) -> None:
    """And the posterior's is smaller."""
    n = every_step(schedule)
    one = torch.ones(len(n), 3, dtype=torch.float64)
    expect_equal("reverse_variance(n)", schedule.reverse_variance(one, n)[:, 0], schedule.beta[1:])
    _, variance = schedule.posterior(one, one, n)
    expect_equal("the posterior's variance", variance[:, 0], schedule.posterior_variance[1:])
    expect(bool((variance[:, 0] < schedule.beta[1:]).all()), "a posterior variance below beta", "one that is not")


def x0_noise_and_velocity_tell_one_another(schedule: NoiseSchedule) -> None:
    """Each, with xn, gives the others."""
    n = every_step(schedule)
    x0, noise = _two(len(n), 4)
    xn = schedule.add_noise(x0, noise, n)
    signal, sigma = schedule.alpha_bar[n, None].sqrt(), (1 - schedule.alpha_bar[n, None]).sqrt()
    velocity = signal * noise - sigma * x0
    for what, got, expected in (
        ("noise_from_x0", schedule.noise_from_x0(x0, xn, n), noise),
        ("x0_from_noise", schedule.x0_from_noise(noise, xn, n), x0),
        ("velocity_from_x0", schedule.velocity_from_x0(x0, xn, n), velocity),
        ("x0_from_velocity", schedule.x0_from_velocity(velocity, xn, n), x0),
    ):
        expect_close(what, got, expected, rtol=1e-6, atol=1e-8)


def log_snr_shift_shifts_the_log_snr_by_exactly_that(schedule: NoiseSchedule) -> None:
    """At every step."""
    if schedule.log_snr_shift:
        plain = torch.logit(copy_of(schedule, log_snr_shift=0.0).alpha_bar[1:])
        shifted = torch.logit(schedule.alpha_bar[1:])
        expect_close("log SNR", shifted, plain + schedule.log_snr_shift, rtol=0, atol=1e-9)


def timesteps_outside_the_table_are_refused(schedule: NoiseSchedule) -> None:
    """Below 0, where indexing would count from the end, and above N; and steps that are no integers."""
    x = gaussian(1, 3)
    for n in (schedule.num_timesteps + 1, -1):
        for call in (schedule.add_noise, schedule.posterior, schedule.x0_from_noise):
            expect_refusal(f"n = {n}", partial(call, x, x, torch.tensor([n])))
    expect_refusal("n = 1.0", partial(schedule.add_noise, x, x, torch.tensor([1.0])), TypeError)


def timesteps_lead_the_axes_of_the_latents(schedule: NoiseSchedule) -> None:
    """``(B,)``, ``(B, Q)`` and ``(B, Q, K)`` for latents ``(B, Q, K, D)``; each row as alone."""
    x0, noise = _two(2, 3, 2, 4)
    n = torch.arange(12).view(2, 3, 2) * 7 % schedule.num_timesteps + 1
    for steps, axes in ((n[:, 0, 0], 1), (n[..., 0], 2), (n, 3)):
        whole = schedule.add_noise(x0, noise, steps)
        for index in torch.cartesian_prod(torch.arange(2), torch.arange(3), torch.arange(2)).tolist():
            at, own = tuple(index), tuple(index[:axes])
            alone = schedule.add_noise(x0[at][None], noise[at][None], steps[own][None])
            expect_equal(f"x_n at {at} with timesteps of {axes} axes", whole[at], alone[0])


def finite_in_every_dtype(schedule: NoiseSchedule) -> None:
    """At every n, in the precision of the latents."""
    n = every_step(schedule)
    for dtype in DTYPES:
        x0, xn = (x.to(dtype) for x in _two(len(n), 2))
        answers = [schedule.add_noise(x0, xn, n), *schedule.posterior(x0, xn, n), schedule.reverse_variance(x0, n)]
        for answer in answers:
            expect(answer.dtype == dtype, f"an answer in {dtype}", answer.dtype)
            expect_finite(f"an answer in {dtype}", answer)


def memory_layout_does_not_matter(schedule: NoiseSchedule) -> None:
    """Latents and steps that are not contiguous, or expanded, answer alike."""
    x0, noise = _two(3, 2, 4)
    n = torch.arange(3) % schedule.num_timesteps + 1
    expected = schedule.add_noise(x0, noise, n)
    expect_equal("x_n of strided latents", schedule.add_noise(strided(x0), strided(noise), strided(n)), expected)
    expect_equal("x_n at expanded steps", schedule.add_noise(x0, noise, n[:, None].expand(3, 2)), expected)


def the_device_follows_the_latents(schedule: NoiseSchedule) -> None:
    """And the variance is ``(B, ..., 1)``."""
    x0 = torch.empty(2, 3, 4, device="meta")
    n = torch.ones(2, 3, dtype=torch.int64, device="meta")
    mean, variance = schedule.posterior(x0, x0, n)
    for answer, shape in ((schedule.add_noise(x0, x0, n), (2, 3, 4)), (mean, (2, 3, 4)), (variance, (2, 3, 1))):
        expect(answer.device == x0.device, f"an answer on {x0.device}", answer.device)
        expect(answer.shape == shape, f"an answer of shape {shape}", tuple(answer.shape))


def it_is_immutable(schedule: NoiseSchedule) -> None:
    """A model and its checkpoint rely on it."""
    before = schedule.alpha_bar.clone()
    expect_refusal("another alpha_bar", lambda: setattr(schedule, "alpha_bar", before / 2), AttributeError)
    x0, noise = _two(1, 2)
    kept = x0.clone()
    schedule.add_noise(x0, noise, torch.tensor([1])).mul_(7)
    expect_equal("x0 after it was noised", x0, kept)
    expect_equal("alpha_bar after an answer was written to", schedule.alpha_bar, before)


CLAUSES = (
    alpha_bar_falls_strictly_from_one,
    all_tables_follow_from_alpha_bar,
    add_noise_is_equation_2,
    one_transition_after_another_is_one_jump,
    the_posterior_is_the_product_of_two_gaussians,
    the_posterior_at_the_first_step_is_x0_itself,
    a_stride_is_the_posterior_of_the_steps_it_leaps,
    the_reverse_variance_is_beta,
    x0_noise_and_velocity_tell_one_another,
    log_snr_shift_shifts_the_log_snr_by_exactly_that,
    timesteps_outside_the_table_are_refused,
    timesteps_lead_the_axes_of_the_latents,
    finite_in_every_dtype,
    memory_layout_does_not_matter,
    the_device_follows_the_latents,
    it_is_immutable,
)


def every_step(schedule: NoiseSchedule) -> Tensor:
    """1..N."""
    return torch.arange(1, schedule.num_timesteps + 1)


def expect_bayes(
    schedule: NoiseSchedule, x0: Tensor, xn: Tensor, n: Tensor, m: Tensor, mean: Tensor, variance: Tensor
) -> None:
    """Mean and variance of q(x_m | x_n, x_0) for 0 < m < n: the product of two Gaussians in x_m."""
    then, beta = schedule.alpha_bar[m, None], 1 - schedule.alpha_bar[n, None] / schedule.alpha_bar[m, None]
    likelihood, prior = (1 - beta) / beta, 1 / (1 - then)
    precision = likelihood + prior
    from_xn, from_x0 = likelihood * xn / (1 - beta).sqrt() / precision, prior * then.sqrt() * x0 / precision
    expect_close("the posterior's precision", 1 / variance, precision, rtol=1e-8)
    error = (mean - from_xn - from_x0) / (from_xn.abs() + from_x0.abs())
    expect_close("the error of the posterior's mean", error, torch.zeros_like(error), atol=1e-8)


def _strides(num_timesteps: int) -> tuple[Tensor, Tensor]:
    """Some pairs n > m >= 0: from N to each of a few, and one step down."""
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


def _answers(schedule: NoiseSchedule) -> list[Tensor]:
    return [schedule.alpha_bar, schedule.add_noise(*_two(schedule.num_timesteps, 2), every_step(schedule))]


SUITE = Suite(NoiseSchedule, _cases, CLAUSES, _answers)
