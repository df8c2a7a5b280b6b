"""The loop of all chains: predict, compute a reverse step, and return the prediction at the last step.

For a process that is not Gaussian, the last step is a reverse step of the process to m = 0.
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
"""``(xn, n) -> x0``: the denoiser at a step of the chain."""

Advance = Callable[[Tensor, Tensor, int | Tensor, int | Tensor], Tensor]
"""``(x0, xn, n, m) -> xm``: one reverse step."""


class ChainSampler(Sampler):
    r"""A chain over evenly spaced steps from N to 1, which ends on :math:`\hat x_0 = f_\theta(x_1, 1)`.

    A subclass implements :meth:`solver`; to visit other steps, it overrides :meth:`course`. Chains use at least
    float32, because differences of nearly equal levels would be lost in half precision.

    Args:
        num_steps: Number of denoisings, from 1 to N; N if None.
        stagger: Number of steps by which each of K positions is behind the previous one. If it is above 0, positions
            have different timesteps, ``(B, Q, K)``, and the chain has ``stagger * (K - 1)`` additional denoisings.
            From ``num_steps - 1`` on, a position starts when the previous one has ended.
    """

    entrances: ClassVar[tuple[str, ...]] = ("sample", "course")
    ends_on_prediction: ClassVar[bool] = True
    """Whether the sample of a Gaussian process is the last prediction; if not, a last reverse step goes to m = 0."""

    def __init__(self, *, num_steps: int | None = None, stagger: int = 0) -> None:
        self.num_steps = None if num_steps is None else check_int("num_steps", num_steps, minimum=1)
        self.stagger = check_int("stagger", stagger, minimum=0)

    @abstractmethod
    def solver(self, ask: Ask, process: Process, generator: Generators | None) -> Advance:
        """Build the reverse step of one chain; a multistep method keeps its state in this function.

        Args:
            ask: Function that predicts the clean latents, for methods with several predictions per step.
            process: Process to reverse.
            generator: Generator of new noise.

        Returns:
            Function of the prediction x0, of xn, of n and of m < n that returns the latents at m.
        """

    def course(self, num_timesteps: int, start: Tensor) -> Sequence[int | Tensor]:
        """Steps of the chain, from N to 1.

        Args:
            num_timesteps: Number of steps N of the schedule.
            start: Start x_N of the chain, ``(B, Q, ..., D)``.

        Returns:
            Each step as a number, or as a tensor ``(B, Q, K)`` if the K positions have different steps. A position
            whose step does not change keeps its latent.
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
            if not self.ends_on_prediction:
                return advance(x0, xn, n, done)
            return x0 if isinstance(process, GaussianProcess) else process.step(x0, xn, n, done, generator)

        return last_step(self, ask, xn, n, len(course) - 1, callback, land).to(start.dtype)


def asker(denoise: Denoise, start: Tensor, steps: Sequence[int]) -> Ask:
    """The denoiser as a function of the latents and of one of the steps of a chain.

    The denoiser gets latents in the dtype of ``start``, and its prediction is cast to that of the chain. The tensors of
    timesteps are created once per chain.

    Raises:
        ValueError: ``start`` has no axis of draws.
        TypeError: At a call, the prediction is not like the latents.
    """
    if start.ndim < 3:
        raise ValueError(
            f"A sampler takes noise (B, Q, ..., D), got {tuple(start.shape)}. Pass noise[:, None] for one draw."
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
            raise TypeError(f"denoise must return clean latents like xn, {tuple(shape)}, got {got}.")
        return answer.to(xn.dtype)

    return ask


def gaussian(sampler: Sampler, process: Process) -> GaussianProcess:
    """Return the process, for a solver that needs its Gaussian levels.

    Raises:
        TypeError: The process is not Gaussian.
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
    """End of a chain: the result of ``land`` for the last prediction, or the value that the callback assigns."""
    x0 = ask(xn, n)
    end = land(x0)
    if callback is None:
        return end
    step = after_step(sampler, callback, SamplerStep(index, n, 0, end, x0))
    return step.prediction if step.stopped else step.xn


def staggered(steps: Sequence[int], stagger: int, start: Tensor) -> list[int | Tensor]:
    """Timesteps ``(B, Q, K)`` of a chain whose positions start and end one after another."""
    width = start.shape[2] if start.ndim > 3 else 1
    if width == 1 or len(steps) == 1:
        return list(steps)
    stagger = min(stagger, len(steps) - 1)  # beyond, all positions would wait
    place = torch.arange(len(steps) + stagger * (width - 1))[:, None] - stagger * torch.arange(width)
    table = torch.tensor(steps)[place.clamp(0, len(steps) - 1)].to(start.device)
    return [row.expand(start.shape[:3]) for row in table.unbind()]


def reverse_steps(num_timesteps: int, num_steps: int | None) -> list[int]:
    """Evenly spaced steps of a chain, from N to 1; all N steps if ``num_steps`` is None.

    Raises:
        ValueError: The schedule has fewer steps.
    """
    if num_steps is None:
        return list(range(num_timesteps, 0, -1))
    if num_steps > num_timesteps:
        raise ValueError(f"num_steps={num_steps} is more than the schedule has: num_timesteps={num_timesteps}.")
    if num_steps == 1:
        return [num_timesteps]
    stride = (num_timesteps - 1) / (num_steps - 1)
    return [num_timesteps - round(stride * i) for i in range(num_steps)]
