"""The contract of a sampler: from noise to clean latents, with a denoiser that is called at steps from N to 1."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
from torch import Tensor

from diffusers_rec.core.randomness import generators_from
from diffusers_rec.processes.process import GaussianProcess
from diffusers_rec.processes.schedules import (
    CosineSchedule,
    LinearSchedule,
    NoiseSchedule,
    RectifiedSchedule,
    SqrtSchedule,
)
from diffusers_rec.samplers import Sampler, SamplerStep
from diffusers_rec.testing.contract import SIZES, Case, ContractError, Maker, Suite, expect, expect_close, expect_equal
from diffusers_rec.testing.inputs import DTYPES, gaussian, global_state_from, seeded, strided

SCHEDULES = [
    SqrtSchedule(1),
    CosineSchedule(2),
    SqrtSchedule(7),
    LinearSchedule(60),
    CosineSchedule(60),
    RectifiedSchedule(40),
    SqrtSchedule(200),
]


def steps_go_down_from_n(sampler: Sampler, schedule: NoiseSchedule) -> None:
    """The first call is at n = N with the start itself; steps decrease and are at least 1."""
    noise, calls = gaussian(2, 3, 1, width(sampler)), []

    def denoise(xn: Tensor, timesteps: Tensor) -> Tensor:
        shapes = xn.shape[:2], xn.shape[:3]
        expect(timesteps.shape in shapes, f"timesteps {tuple(shapes[0])} or {tuple(shapes[1])}", tuple(timesteps.shape))
        expect(xn.shape == noise.shape, f"xn {tuple(noise.shape)}", tuple(xn.shape))
        calls.append((step_of(timesteps), xn.clone()))
        return halved(xn, timesteps)

    sampler.sample(denoise, schedule, noise, seeded(0))
    steps = [n for n, _ in calls]
    last = schedule.num_timesteps
    expect(steps, f"a denoising at n = {last}", "none")
    expect(steps[0] == last, f"the first step at N = {last}", steps[0])
    expect(steps[-1] >= 1 and steps == sorted(steps, reverse=True), f"steps from {last} down to 1 at most", steps)
    expect_equal("the first xn", calls[0][1], noise)


def a_schedule_stands_for_its_gaussian_process(sampler: Sampler, schedule: NoiseSchedule) -> None:
    """A schedule gives the same sample as its Gaussian process."""
    noise = gaussian(2, 3, 1, width(sampler))
    got, expected = (sampler.sample(halved, each, noise, seeded(0)) for each in (schedule, GaussianProcess(schedule)))
    expect_equal("the sample from a schedule", got, expected)


def the_callback_sees_every_step(sampler: Sampler, schedule: NoiseSchedule) -> None:
    """The callback gets all steps in order, down to m = 0, and reading a step changes nothing."""
    noise = gaussian(2, 3, 1, width(sampler))
    seen, latents = [], []

    def look(step: SamplerStep) -> None:
        n, m = (step_of(torch.as_tensor(each)) for each in (step.timestep, step.previous))
        seen.append((step.index, n, m))
        expect(step.xn.shape == noise.shape, f"step.xn {tuple(noise.shape)}", tuple(step.xn.shape))
        latents.append(step.xn.clone())

    sample = sampler.sample(halved, schedule, noise, seeded(0), callback=look)
    expect([index for index, _, _ in seen] == list(range(len(seen))), "indices 0, 1, ...", [each[0] for each in seen])
    expect(seen and seen[0][1] == schedule.num_timesteps, "a first step from N", seen[:1])
    expect(seen[-1][2] == 0, "a last step to m = 0", seen[-1:])
    joined = all(one[2] == other[1] for one, other in pairwise(seen))
    expect(joined and all(n > m for _, n, m in seen), "steps that each begin where the one before has ended", seen)
    expect_equal("the last step.xn", latents[-1], sample)
    plain = sampler.sample(halved, schedule, noise, seeded(0))
    expect_equal("the sample without a callback", plain, sample)


def the_callback_sees_the_predictions(sampler: Sampler, schedule: NoiseSchedule) -> None:
    """The callback gets the prediction of the denoiser at n."""
    predicted = {}

    def denoise(xn: Tensor, timesteps: Tensor) -> Tensor:
        predicted[step_of(timesteps)] = halved(xn, timesteps)
        return predicted[step_of(timesteps)]

    def look(step: SamplerStep) -> None:
        expect_equal("step.prediction", step.prediction, predicted[step_of(torch.as_tensor(step.timestep))])

    sampler.sample(denoise, schedule, gaussian(2, 3, 1, width(sampler)), seeded(0), callback=look)


def the_chain_goes_on_with_what_a_callback_assigns(sampler: Sampler, schedule: NoiseSchedule) -> None:
    """The next denoising uses assigned latents; after the last step they are the sample."""
    noise, other = (gaussian(2, 3, 1, width(sampler), seed=seed) for seed in (0, 9))
    given = []

    def denoise(xn: Tensor, timesteps: Tensor) -> Tensor:
        given.append((step_of(timesteps), xn.clone()))
        return halved(xn, timesteps)

    def replace(step: SamplerStep) -> None:
        n = step_of(torch.as_tensor(step.timestep))
        expect_equal(f"xn at n = {n}", _first(given, n), other if step.index else noise)
        given.clear()
        step.xn = other

    expect_equal("the sample", sampler.sample(denoise, schedule, noise, seeded(0), callback=replace), other)


def a_callback_stops_the_chain_at_its_prediction(sampler: Sampler, schedule: NoiseSchedule) -> None:
    """After ``stop`` there is no further denoising, and the sample is the prediction."""
    calls, predictions = [], []

    def denoise(xn: Tensor, timesteps: Tensor) -> Tensor:
        calls.append(step_of(timesteps))
        return halved(xn, timesteps)

    def stop(step: SamplerStep) -> None:
        predictions.append(step.prediction.clone())
        step.stop()

    sample = sampler.sample(denoise, schedule, gaussian(2, 3, 1, width(sampler)), seeded(0), callback=stop)
    expect(len(predictions) == 1, "no step after the callback has stopped the chain", f"{len(predictions)} calls of it")
    expect_equal("the sample", sample, predictions[0])


def the_noise_is_not_written_to(sampler: Sampler, schedule: NoiseSchedule) -> None:
    """The sampler does not change the start, which belongs to the caller."""
    noise = gaussian(2, 3, 1, width(sampler))
    sampler.sample(halved, schedule, noise, seeded(0))
    expect_equal("the noise, afterwards,", noise, gaussian(2, 3, 1, width(sampler)))


def the_same_generator_gives_the_same_sample(sampler: Sampler, schedule: NoiseSchedule, seed: int = 0) -> None:
    """All noise comes from the generator, so the global random state has no effect."""
    samples = []
    for state in (1, 2):
        with global_state_from(state):
            samples.append(sampler.sample(halved, schedule, gaussian(2, 3, 1, width(sampler)), seeded(seed)))
    expect_equal("a sample from the same generator", samples[1], samples[0])


def with_a_generator_a_draw_neither_batch_nor_other_draws_matter(
    sampler: Sampler, schedule: NoiseSchedule, seed: int = 0
) -> None:
    """With one generator per draw, a sample does not depend on the batch or on other draws."""
    seeds, noise = [seed, seed + 1, seed + 5], gaussian(3, 3, 2, width(sampler))
    whole = sampler.sample(halved, schedule, noise, generators_from(seeds))
    for row in range(len(noise)):
        for draw, own in enumerate(seeds):
            part = noise[row : row + 1, draw : draw + 1]
            alone = sampler.sample(halved, schedule, part, generators_from([own]))
            expect_equal(f"row {row}, draw {draw} alone", alone[0, 0], whole[row, draw])


def the_sample_is_the_last_prediction(sampler: Sampler, schedule: NoiseSchedule, seed: int = 0) -> None:
    """If the denoiser returns the clean latents, so does the sampler."""
    answer = gaussian(2, 3, 1, width(sampler), seed=seed)
    sample = sampler.sample(lambda *_: answer, schedule, gaussian(2, 3, 1, width(sampler)), seeded(seed))
    expect_close("the sample", sample, answer, rtol=1e-7, atol=1e-7)


def finite_in_every_dtype(sampler: Sampler, schedule: NoiseSchedule) -> None:
    """The sample is finite and has the dtype of the start, ``(B, Q, D)`` or ``(B, Q, K, D)``."""
    for dtype in DTYPES:

        def denoise(xn: Tensor, timesteps: Tensor, dtype: torch.dtype = dtype) -> Tensor:
            expect(xn.dtype == dtype, f"xn in {dtype}", xn.dtype)
            return xn.clamp(-1, 1)

        for shape in ((2, 3, width(sampler)), (2, 3, 2, width(sampler))):
            noise = gaussian(*shape, dtype=dtype)
            sample = sampler.sample(denoise, schedule, noise, seeded(0))
            expect(sample.shape == noise.shape, f"a sample {shape}", tuple(sample.shape))
            expect(sample.dtype == dtype, f"a sample in {dtype}", sample.dtype)
            expect(sample.isfinite().all(), f"a finite sample in {dtype}", sample.flatten()[:3].tolist())


def memory_layout_does_not_matter(sampler: Sampler, schedule: NoiseSchedule) -> None:
    """The memory layout of the start has no effect."""
    noise = gaussian(2, 3, 1, width(sampler))
    got, expected = (sampler.sample(halved, schedule, x, seeded(0)) for x in (strided(noise), noise))
    expect_close("the sample from strided noise", got, expected)


def a_chain_over_every_step_lands_on_gaussian_data(sampler: Sampler, schedule: NoiseSchedule) -> None:
    r"""For x0 ~ N(2, s^2) and the exact denoiser E[x0 | xn], a long chain over all N steps ends on N(2, s^2).

    The distribution is measured at x_1, because the last denoising is a mean and loses variance. Every sampler must
    keep the mean.
    """
    if schedule.num_timesteps < 200:
        return
    draws, size = 5_000, width(sampler)
    for deviation in (0.5, 1.0, 2.0):
        denoise, gain, calls = exact_denoiser(schedule, 2.0, deviation)
        sample = sampler.sample(denoise, schedule, gaussian(1, draws // size, size, seed=3), seeded(4))
        mean, tolerance = sample.mean().item(), 0.03 + 4 * deviation / draws**0.5
        expect(abs(mean - 2) < tolerance, f"a mean of 2 within {tolerance:.3g}", f"{mean:.4g}")
        if len(set(calls)) == schedule.num_timesteps:
            expected = float((schedule.signal[1] ** 2 * deviation**2 + schedule.sigma[1] ** 2).sqrt())
            got = float(sample.std() / gain(1))
            expect(abs(got / expected - 1) < 0.1, f"x_1 with a standard deviation of {expected:.4g} within 10%",
                   f"{got:.4g}")  # fmt: skip


CLAUSES = (
    the_noise_is_not_written_to,
    steps_go_down_from_n,
    the_same_generator_gives_the_same_sample,
    with_a_generator_a_draw_neither_batch_nor_other_draws_matter,
    the_sample_is_the_last_prediction,
    a_schedule_stands_for_its_gaussian_process,
    the_callback_sees_every_step,
    the_callback_sees_the_predictions,
    the_chain_goes_on_with_what_a_callback_assigns,
    a_callback_stops_the_chain_at_its_prediction,
    finite_in_every_dtype,
    memory_layout_does_not_matter,
    a_chain_over_every_step_lands_on_gaussian_data,
)


def width(sampler: Sampler) -> int:
    """Latent width of the embedding or head of the sampler; any width without them."""
    return SIZES["dim"] if sampler.requires & {"embedding", "head"} else 4


def halved(xn: Tensor, timesteps: Tensor) -> Tensor:
    """A denoiser that halves the latents at every step."""
    return 0.5 * xn


def step_of(timesteps: Tensor) -> int:
    """The common step of all queries and positions."""
    found = set(timesteps.flatten().tolist())
    expect(len(found) == 1, "one step for all queries", sorted(found))
    return int(found.pop())


def _first(calls: list[tuple[int, Tensor]], timestep: int) -> Tensor:
    """Latents of the first denoising since the list was cleared, at ``timestep``."""
    expect(calls and calls[0][0] == timestep, f"a denoising at n = {timestep}", [n for n, _ in calls])
    return calls[0][1]


def exact_denoiser(
    schedule: NoiseSchedule, mean: float, deviation: float
) -> tuple[Callable[[Tensor, Tensor], Tensor], Callable[[int], Tensor], list[int]]:
    """E[x0 | xn] for x0 ~ N(mean, deviation^2), its slope at n, and the list of steps of its calls."""
    signal, sigma = schedule.signal, schedule.sigma
    calls: list[int] = []

    def gain(n: int) -> Tensor:
        return signal[n] * deviation**2 / (signal[n] ** 2 * deviation**2 + sigma[n] ** 2)

    def denoise(xn: Tensor, timesteps: Tensor) -> Tensor:
        calls.append(n := step_of(timesteps))
        return mean + gain(n) * (xn - signal[n] * mean)

    return denoise, gain, calls


def _cases(maker: Maker) -> Iterator[Case]:
    sampler, fit, refusal = maker(), [], None
    for schedule in SCHEDULES:
        try:
            sampler.sample(halved, schedule, gaussian(1, 1, width(sampler)), seeded(0))
            fit.append(schedule)
        except ValueError as error:
            refusal = error  # more steps than the schedule has
    if not fit:
        raise ContractError(
            f"{maker.name}: expected it to sample over some of {SCHEDULES}, got {refusal!r}"
        ) from refusal
    for schedule in fit:
        yield Case(f"over {schedule}", (sampler, schedule))


def _outputs(sampler: Sampler) -> list[Tensor]:
    return [sampler.sample(halved, SCHEDULES[-1], gaussian(2, 3, 1, width(sampler)), seeded(0))]


SUITE = Suite(Sampler, _cases, CLAUSES, _outputs)
