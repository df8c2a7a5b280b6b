"""The loop that all chains share: predict, take one reverse step, and end on the prediction at the last step.

The last step of a process that is not Gaussian is its own, from there to m = 0.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from diffusers_rec.core.errors import check_int
from diffusers_rec.core.randomness import Generators
from diffusers_rec.processes.process import GaussianProcess, Process
from diffusers_rec.processes.schedules import NoiseSchedule
from diffusers_rec.samplers.base import Denoise, Sampler, SamplerStep, StepCallback, after_step, process_of

Ask = Callable[[Tensor, int | Tensor], Tensor]
"""``(xn, n) -> x0``: the denoiser, called at a step of the chain."""

Advance = Callable[[Tensor, Tensor, int | Tensor, int | Tensor], Tensor]
"""``(x0, xn, n, m) -> xm``: one reverse step."""


class ChainSampler(Sampler):
    r"""A chain over evenly spread steps from N to 1, which ends on :math:`\hat x_0 = f_\theta(x_1, 1)`.

    A subclass writes one method, :meth:`solver`; one that visits other steps overrides :meth:`course`. The chain is
    carried in float32 at the least: in half precision the differences of nearly equal levels would be rounding alone.

    Args:
        num_steps: Denoisings, from 1 to N; all N when None.
        stagger: Steps by which each of K positions lags behind the one before it. Above 0 the positions of a query have
            timesteps of their own, ``(B, Q, K)``, and the chain takes ``stagger * (K - 1)`` denoisings more.
    """

    entrances: ClassVar[tuple[str, ...]] = ("sample", "course")

    def __init__(self, *, num_steps: int | None = None, stagger: int = 0) -> None:
        self.num_steps = None if num_steps is None else check_int("num_steps", num_steps, minimum=1)
        self.stagger = check_int("stagger", stagger, minimum=0)

    @abstractmethod
    def solver(self, ask: Ask, process: Process, generator: Generators | None) -> Advance:
        """The reverse step of one chain; what a multistep method remembers lives in it.

        Args:
            ask: Predicts the clean latents, for methods that need more than one prediction a step.
            process: What is reversed.
            generator: Source of fresh noise.

        Returns:
            A function of the prediction x0, of xn, of n and of m < n, that gives the latents at m.
        """

    def course(self, num_timesteps: int, start: Tensor) -> Sequence[int | Tensor]:
        """The steps that the chain visits, N first and 1 last.

        Args:
            num_timesteps: N.
            start: x_N, ``(B, Q, ..., D)``.

        Returns:
            Each step as a number, or as a tensor ``(B, Q, K)`` where the K positions have steps of their own; a
            position whose step stays the same rests.
        """
        steps = reverse_steps(num_timesteps, self.num_steps)
        return staggered(steps, self.stagger, start) if self.stagger else steps

    def sample(
        self,
        denoise: Denoise,
        process: Process | NoiseSchedule,
        start: Tensor,
        generator: Generators | None,
        *,
        callback: StepCallback | None = None,
    ) -> Tensor:
        process = process_of(process)
        course = self.course(process.schedule.num_timesteps, start)
        ask = asker(denoise, start, [n for n in course if isinstance(n, int)])
        advance = self.solver(ask, process, generator)
        xn = start.to(torch.promote_types(start.dtype, torch.float32))
        for index, (n, m) in enumerate(pairwise(course)):
            x0 = ask(xn, n)
            xn = advance(x0, xn, n, m)
            if callback is not None:
                step = after_step(self, callback, SamplerStep(index, n, m, xn, x0))
                if step.stopped:
                    return step.prediction.to(start.dtype)
                xn = step.xn.to(x0.dtype)
        n = course[-1]

        def land(x0: Tensor) -> Tensor:
            done = torch.zeros_like(n) if isinstance(n, Tensor) else 0
            return x0 if isinstance(process, GaussianProcess) else process.step(x0, xn, n, done, generator)

        return last_step(self, ask, xn, n, len(course) - 1, callback, land).to(start.dtype)


def asker(denoise: Denoise, start: Tensor, steps: Sequence[int]) -> Ask:
    """The denoiser as a function of the chain's latents and of one of its steps.

    It is called in the precision of ``start`` and answers in that of the chain. The timesteps are made once a chain.

    Raises:
        ValueError: ``start`` has no axis of draws.
        TypeError: at a call, an answer that is not like the latents.
    """
    if start.ndim < 3:
        raise ValueError(
            f"A sampler takes noise (B, Q, ..., D), got {tuple(start.shape)}; one draw a row is noise[:, None]."
        )
    dtype, shape, queries = start.dtype, start.shape, start.shape[:2]
    timesteps = dict(zip(steps, torch.tensor(steps, device=start.device).unbind(), strict=True))

    def ask(xn: Tensor, n: int | Tensor) -> Tensor:
        if isinstance(n, int):
            if n not in timesteps:
                timesteps[n] = torch.tensor(n, device=start.device)
            n = timesteps[n].expand(queries)
        answer = denoise(xn.to(dtype), n)
        if not isinstance(answer, Tensor) or answer.shape != shape:
            got = tuple(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
            raise TypeError(f"denoise must give clean latents like xn, {tuple(shape)}, got {got}.")
        return answer.to(xn.dtype)

    return ask


def gaussian(sampler: Sampler, process: Process) -> GaussianProcess:
    """The process, for a solver that needs its Gaussian levels.

    Raises:
        TypeError: the process is not Gaussian.
    """
    if not isinstance(process, GaussianProcess):
        raise TypeError(
            f"{type(sampler).__name__} solves the flow of a GaussianProcess, got {type(process).__name__}. "
            "Use a sampler that takes the process's own steps, such as 'ddpm'."
        )
    return process


def last_step(
    sampler: Sampler,
    ask: Ask,
    xn: Tensor,
    n: int | Tensor,
    index: int,
    callback: StepCallback | None,
    land: Callable[[Tensor], Tensor] = lambda x0: x0,
) -> Tensor:
    """What a chain ends on: where its last prediction ``land``s, or what the callback makes of it."""
    x0 = ask(xn, n)
    end = land(x0)
    if callback is None:
        return end
    step = after_step(sampler, callback, SamplerStep(index, n, 0, end, x0))
    return step.prediction if step.stopped else step.xn


def staggered(steps: Sequence[int], stagger: int, start: Tensor) -> list[int | Tensor]:
    """The timesteps ``(B, Q, K)`` of a chain whose positions wait at N, then walk the steps, then wait at the last."""
    width = start.shape[2] if start.ndim > 3 else 1
    if width == 1 or len(steps) == 1:
        return list(steps)
    place = torch.arange(len(steps) + stagger * (width - 1))[:, None] - stagger * torch.arange(width)
    table = torch.tensor(steps)[place.clamp(0, len(steps) - 1)].to(start.device)
    return [row.expand(start.shape[:3]) for row in table.unbind()]


def reverse_steps(num_timesteps: int, num_steps: int | None) -> list[int]:
    """The steps that a chain visits, N first and 1 last, evenly spread; all N of them when ``num_steps`` is None.

    Raises:
        ValueError: more steps than the schedule has.
    """
    if num_steps is None:
        return list(range(num_timesteps, 0, -1))
    if num_steps > num_timesteps:
        raise ValueError(f"num_steps={num_steps} is more than the schedule has: num_timesteps={num_timesteps}.")
    if num_steps == 1:
        return [num_timesteps]
    stride = (num_timesteps - 1) / (num_steps - 1)
    return [num_timesteps - round(stride * i) for i in range(num_steps)]
