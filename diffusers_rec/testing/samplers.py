"""The contract of a sampler: from noise to clean latents by a denoiser that it asks at steps N, ..., down to 1."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any

import torch
from torch import Tensor

from diffusers_rec.core.randomness import generators_from
from diffusers_rec.processes.schedules import CosineSchedule, LinearSchedule, NoiseSchedule, SqrtSchedule
from diffusers_rec.samplers import Sampler
from diffusers_rec.testing.all_kinds import check
from diffusers_rec.testing.contract import Case, ContractError, Maker, Suite, expect, expect_close, expect_equal
from diffusers_rec.testing.inputs import DTYPES, gaussian, global_state_from, seeded, strided

SCHEDULES = [
    SqrtSchedule(1),
    CosineSchedule(2),
    SqrtSchedule(7),
    LinearSchedule(60),
    CosineSchedule(60),
    SqrtSchedule(200),
]


def check_sampler(make: Callable[..., Sampler], /, *, waive: Collection[str] = (), **settings: Any) -> None:
    """Check that a sampler keeps its contract, over schedules of several N; those that it refuses pass over.

    Args:
        make: the class, or a factory.
        waive: names of clauses (functions of this module) that need not hold.
        settings: constructor parameters.

    Raises:
        ContractError: the first clause that is broken.
    """
    check(SUITE, make, waive, settings)


def steps_go_down_from_n(sampler: Sampler, schedule: NoiseSchedule) -> None:
    """The denoiser is asked first at n = N, about the noise itself, and never below 1; timesteps are ``(B, Q)``."""
    noise, asked = gaussian(2, 3, 1, 4), []

    def denoise(xn: Tensor, timesteps: Tensor) -> Tensor:
        expect(timesteps.shape == xn.shape[:2], f"timesteps {tuple(xn.shape[:2])}", tuple(timesteps.shape))
        expect(xn.shape == noise.shape, f"xn {tuple(noise.shape)}", tuple(xn.shape))
        asked.append((step_of(timesteps), xn.clone()))
        return halved(xn, timesteps)

    sampler.sample(denoise, schedule, noise, seeded(0))
    steps = [n for n, _ in asked]
    last = schedule.num_timesteps
    expect(steps, f"a denoising at n = {last}", "none")
    expect(steps[0] == last, f"the first step at N = {last}", steps[0])
    expect(steps[-1] >= 1 and steps == sorted(steps, reverse=True), f"steps from {last} down to 1 at most", steps)
    expect_equal("the first xn", asked[0][1], noise)


def the_noise_is_not_written_to(sampler: Sampler, schedule: NoiseSchedule) -> None:
    """It belongs to the caller."""
    noise = gaussian(2, 3, 1, 4)
    sampler.sample(halved, schedule, noise, seeded(0))
    expect_equal("the noise, afterwards,", noise, gaussian(2, 3, 1, 4))


def the_same_generator_gives_the_same_sample(sampler: Sampler, schedule: NoiseSchedule, seed: int = 0) -> None:
    """Bit for bit, whatever the global random state is: all fresh noise comes from the generator."""
    samples = []
    for state in (1, 2):
        with global_state_from(state):
            samples.append(sampler.sample(halved, schedule, gaussian(2, 3, 1, 4), seeded(seed)))
    expect_equal("a sample from the same generator", samples[1], samples[0])


def with_a_generator_a_draw_neither_batch_nor_other_draws_matter(
    sampler: Sampler, schedule: NoiseSchedule, seed: int = 0
) -> None:
    """A list of generators is one for each of the Q draws, whose noise all histories share."""
    seeds, noise = [seed, seed + 1, seed + 5], gaussian(3, 3, 2, 3)
    whole = sampler.sample(halved, schedule, noise, generators_from(seeds))
    for row in range(len(noise)):
        for draw, own in enumerate(seeds):
            part = noise[row : row + 1, draw : draw + 1]
            alone = sampler.sample(halved, schedule, part, generators_from([own]))
            expect_equal(f"row {row}, draw {draw} alone", alone[0, 0], whole[row, draw])


def a_denoiser_that_knows_the_answer_is_believed(sampler: Sampler, schedule: NoiseSchedule, seed: int = 0) -> None:
    """What it says at the end is the sample."""
    answer = gaussian(2, 3, 1, 4, seed=seed)
    sample = sampler.sample(lambda *_: answer, schedule, gaussian(2, 3, 1, 4), seeded(seed))
    expect_close("the sample", sample, answer, rtol=1e-7, atol=1e-7)


def finite_in_every_dtype(sampler: Sampler, schedule: NoiseSchedule) -> None:
    """With noise ``(B, Q, D)`` and ``(B, Q, K, D)``; the denoiser is asked, and the sample comes, in its precision."""
    for dtype in DTYPES:

        def denoise(xn: Tensor, timesteps: Tensor, dtype: torch.dtype = dtype) -> Tensor:
            expect(xn.dtype == dtype, f"xn in {dtype}", xn.dtype)
            return xn.clamp(-1, 1)

        for shape in ((2, 3, 4), (2, 3, 2, 4)):
            noise = gaussian(*shape, dtype=dtype)
            sample = sampler.sample(denoise, schedule, noise, seeded(0))
            expect(sample.shape == noise.shape, f"a sample {shape}", tuple(sample.shape))
            expect(sample.dtype == dtype, f"a sample in {dtype}", sample.dtype)
            expect(sample.isfinite().all(), f"a finite sample in {dtype}", sample.flatten()[:3].tolist())


def memory_layout_does_not_matter(sampler: Sampler, schedule: NoiseSchedule) -> None:
    """Of the noise."""
    noise = gaussian(2, 3, 1, 4)
    got, expected = (sampler.sample(halved, schedule, x, seeded(0)) for x in (strided(noise), noise))
    expect_close("the sample from strided noise", got, expected)


def a_chain_over_every_step_lands_on_gaussian_data(sampler: Sampler, schedule: NoiseSchedule) -> None:
    r"""For x0 ~ N(2, s^2), with the exact denoiser E[x0 | xn], a long chain over all N steps lands on N(2, s^2).

    Judged at x_1, for the last denoising is a mean and so loses variance by design. Any sampler keeps the mean.
    """
    if schedule.num_timesteps < 200:
        return
    draws = 5_000
    for deviation in (0.5, 1.0, 2.0):
        denoise, gain, asked = _exact(schedule, 2.0, deviation)
        sample = sampler.sample(denoise, schedule, gaussian(1, 1, draws, seed=3), seeded(4))
        mean, room = sample.mean().item(), 0.03 + 4 * deviation / draws**0.5
        expect(abs(mean - 2) < room, f"a mean of 2 within {room:.3g}", f"{mean:.4g}")
        if len(asked) == schedule.num_timesteps:
            signal = schedule.alpha_bar[1]
            expected = float((signal * deviation**2 + 1 - signal).sqrt())
            spread = float(sample.std() / gain(1))
            expect(abs(spread / expected - 1) < 0.1, f"x_1 with a standard deviation of {expected:.4g} within 10%",
                   f"{spread:.4g}")  # fmt: skip


CLAUSES = (
    the_noise_is_not_written_to,
    steps_go_down_from_n,
    the_same_generator_gives_the_same_sample,
    with_a_generator_a_draw_neither_batch_nor_other_draws_matter,
    a_denoiser_that_knows_the_answer_is_believed,
    finite_in_every_dtype,
    memory_layout_does_not_matter,
    a_chain_over_every_step_lands_on_gaussian_data,
)


def halved(xn: Tensor, timesteps: Tensor) -> Tensor:
    """A denoiser of little wit."""
    return 0.5 * xn


def step_of(timesteps: Tensor) -> int:
    """The one step that all questions are at."""
    found = set(timesteps.flatten().tolist())
    expect(len(found) == 1, "one step for all questions", sorted(found))
    return int(found.pop())


def _exact(
    schedule: NoiseSchedule, mean: float, deviation: float
) -> tuple[Callable[[Tensor, Tensor], Tensor], Callable[[int], Tensor], list[int]]:
    """E[x0 | xn] for x0 ~ N(mean, deviation^2), its slope at n, and the steps that it was asked at."""
    asked: list[int] = []

    def gain(n: int) -> Tensor:
        signal = schedule.alpha_bar[n]
        return signal.sqrt() * deviation**2 / (signal * deviation**2 + 1 - signal)

    def denoise(xn: Tensor, timesteps: Tensor) -> Tensor:
        asked.append(n := step_of(timesteps))
        return mean + gain(n) * (xn - schedule.alpha_bar[n].sqrt() * mean)

    return denoise, gain, asked


def _cases(maker: Maker) -> Iterator[Case]:
    sampler, fit, refusal = maker(), [], None
    for schedule in SCHEDULES:
        try:
            sampler.sample(halved, schedule, gaussian(1, 1, 2), seeded(0))
            fit.append(schedule)
        except ValueError as error:
            refusal = error  # more steps than the schedule has
    if not fit:
        raise ContractError(
            f"{maker.name}: expected it to sample over some of {SCHEDULES}, got {refusal!r}"
        ) from refusal
    for schedule in fit:
        yield Case(f"over {schedule}", (sampler, schedule))


def _answers(sampler: Sampler) -> list[Tensor]:
    return [sampler.sample(halved, SCHEDULES[-1], gaussian(2, 3, 1, 4), seeded(0))]


SUITE = Suite(Sampler, _cases, CLAUSES, _answers)
