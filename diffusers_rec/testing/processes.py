"""The contract of a process: the start of a chain, the corruption of latents, and the reverse step."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from diffusers_rec.core.randomness import generators_from
from diffusers_rec.processes.process import Process
from diffusers_rec.processes.schedules import CosineSchedule, RectifiedSchedule, SqrtSchedule
from diffusers_rec.testing.contract import SIZES, Case, Maker, Suite, expect, expect_equal, expect_finite
from diffusers_rec.testing.inputs import gaussian, global_state_from, seeded

SCHEDULES = [SqrtSchedule(1), CosineSchedule(12), RectifiedSchedule(7)]
SHAPE = 2, 3, 2, SIZES["dim"]
"""B, Q, K, D of the latents."""


def the_clean_latent_stays_at_step_0(process: Process) -> None:
    """Corruption at n = 0 returns the latents unchanged and does not write to them."""
    x0 = gaussian(*SHAPE)
    expect_equal("xn at n = 0", process.corrupt(x0, torch.zeros(SHAPE[:2], dtype=torch.int64), seeded(0)).xn, x0)
    process.corrupt(x0, torch.full(SHAPE[:2], process.schedule.num_timesteps), seeded(0))
    expect_equal("x0 after it was corrupted", x0, gaussian(*SHAPE))


def what_was_drawn_gives_the_same_latents_again(process: Process) -> None:
    """Corruption with the ``noise`` of an earlier draw repeats this draw."""
    x0 = gaussian(*SHAPE)
    for shape in (SHAPE[:2], SHAPE[:3]):
        n = torch.arange(torch.Size(shape).numel()).view(shape) % (process.schedule.num_timesteps + 1)
        drawn = process.corrupt(x0, n, seeded(1))
        expect_equal("xn from the same noise", process.corrupt(x0, n, None, noise=drawn.noise).xn, drawn.xn)


def a_step_to_itself_keeps_the_latent(process: Process) -> None:
    """A step with m = n keeps the latent, also if other positions change."""
    last = process.schedule.num_timesteps
    x0, xn = gaussian(*SHAPE), gaussian(*SHAPE, seed=1)
    for n in range(last + 1):
        expect_equal(f"x at m = n = {n}", process.step(x0, xn, n, n, seeded(0)), xn)
    now = torch.full(SHAPE[:3], last)
    then = now - torch.tensor([0, 1])
    for eta in (0.0, 1.0):
        moved = process.step(x0, xn, now, then, seeded(0), eta=eta)
        expect_equal("x at the position that stays", moved[:, :, 0], xn[:, :, 0])
    expect_equal("x0 after a step", x0, gaussian(*SHAPE))
    expect_equal("xn after a step", xn, gaussian(*SHAPE, seed=1))


def a_step_to_0_gives_the_prediction(process: Process) -> None:
    """A step from the start of a chain to m = 0 returns the prediction."""
    x0, xn = gaussian(*SHAPE), process.start(SHAPE, seeded(1), dtype=torch.float64)
    for n in range(1, process.schedule.num_timesteps + 1):
        expect_equal(f"x at m = 0 from n = {n}", process.step(x0, xn, n, 0, seeded(0)), x0)


def one_number_steps_as_a_tensor_of_it(process: Process) -> None:
    """A number and a tensor of it give the same step up to rounding, with the same noise."""
    last = process.schedule.num_timesteps
    x0, xn = gaussian(*SHAPE), gaussian(*SHAPE, seed=1)
    for n, m in ((last, last - 1), (last, last // 2), (1, 0)):
        ours = process.step(x0, xn, n, m, seeded(0))
        now, then = (torch.full(SHAPE[:2], each) for each in (n, m))
        theirs = process.step(x0, xn, now, then, seeded(0))
        far = (ours - theirs).abs().max().detach()
        expect(far < 1e-9, f"the same step from n = {n} to m = {m}", f"a difference of {float(far):.3g}")


def all_noise_comes_from_the_generator(process: Process) -> None:
    """The same generator gives the same start, corruption and step, and draws are independent of each other."""
    last, x0, xn = process.schedule.num_timesteps, gaussian(*SHAPE), gaussian(*SHAPE, seed=1)
    n = torch.full(SHAPE[:2], last)
    found = []
    for state in (1, 2):
        with global_state_from(state):
            found.append(
                [
                    process.start(SHAPE, seeded(0), dtype=torch.float64),
                    process.corrupt(x0, n, seeded(0)).xn,
                    process.step(x0, xn, last, last // 2, seeded(0)),
                ]
            )
    for again, once in zip(*found, strict=True):
        expect_equal("latents from the same generator", again, once)
    together = process.step(x0, xn, last, last // 2, generators_from([4, 5, 6]))
    alone = process.step(x0[:1, 1:2], xn[:1, 1:2], last, last // 2, generators_from([5]))
    expect_equal("one draw alone", alone, together[:1, 1:2])


def finite_in_every_step(process: Process) -> None:
    """Steps from N to 0 are finite in float32, with and without noise."""
    steps = range(process.schedule.num_timesteps, -1, -1)
    for eta in (0.0, 0.5, 1.0):
        xn = process.start(SHAPE, seeded(0))
        for n, m in pairwise(steps):
            xn = process.step(xn.tanh(), xn, n, m, seeded(n), eta=eta)
            expect_finite(f"x at m = {m} with eta = {eta}", xn)
            expect(xn.dtype == torch.float32, "latents in float32", xn.dtype)


CLAUSES = (
    the_clean_latent_stays_at_step_0,
    what_was_drawn_gives_the_same_latents_again,
    a_step_to_itself_keeps_the_latent,
    a_step_to_0_gives_the_prediction,
    one_number_steps_as_a_tensor_of_it,
    all_noise_comes_from_the_generator,
    finite_in_every_step,
)


def _cases(maker: Maker) -> Iterator[Case]:
    if not maker.leaves_open("schedule"):
        yield Case("as given", (maker(),))
        return
    for schedule in SCHEDULES:
        yield Case(f"over {schedule}", (maker(schedule=schedule),))


def _outputs(process: Process) -> list[Tensor]:
    last = torch.full(SHAPE[:2], process.schedule.num_timesteps)
    return [process.start(SHAPE, seeded(0)), process.corrupt(gaussian(*SHAPE), last, seeded(0)).xn]


SUITE = Suite(Process, _cases, CLAUSES, _outputs)
