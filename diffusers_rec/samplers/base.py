"""The sampler's contract: turn noise into clean latents with a denoiser that it calls as a plain function."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from diffusers_rec.core.randomness import Generators
from diffusers_rec.core.registry import Component
from diffusers_rec.processes.schedules import NoiseSchedule

Denoise = Callable[[Tensor, Tensor], Tensor]
"""``(xn (B, Q, ..., D), timesteps (B, Q)) -> x0``, like ``xn``; everything else is bound beforehand."""


class Sampler(Component, ABC, kind="sampler"):
    """Runs the reverse process."""

    entrances = ("sample",)
    num_steps: int | None = None
    """Denoisings of a chain; None for one at every step of the schedule."""

    def check_fit(self, model: Any) -> None:
        """See :meth:`Component.check_fit <diffusers_rec.Component>`."""
        if self.num_steps is not None and self.num_steps > model.schedule.num_timesteps:
            raise ValueError(
                f"The parts do not fit: the sampler takes num_steps={self.num_steps}, but the schedule has "
                f"num_timesteps={model.schedule.num_timesteps}. Use as many at most, or num_steps=None for all."
            )
        if self.num_steps == 1 and model.denoiser.prediction == "noise":
            raise ValueError(
                "The parts do not fit: one step from pure noise divides a noise prediction by the signal that is left "
                f"at step N, {float(model.schedule.alpha_bar[-1]) ** 0.5:.2g}. Use a chain of several steps, such as "
                "sampler='ddim', or a denoiser that predicts 'velocity' or 'x0'."
            )

    @abstractmethod
    def sample(self, denoise: Denoise, schedule: NoiseSchedule, noise: Tensor, generator: Generators | None) -> Tensor:
        """Draw clean latents.

        Args:
            denoise: predicts the clean latents.
            schedule: the noise levels.
            noise: x_N, standard Gaussian, ``(B, Q, ..., D)``.
            generator: the source of any further noise; one, or one for each of the Q draws, whose noise all B
                histories then share. None where the chain draws none.

        Returns:
            The clean latents, like ``noise``.
        """


def at_step(n: int, x: Tensor) -> Tensor:
    """Timesteps ``(B, Q)``, all n, for latents ``(B, Q, ..., D)``."""
    if x.ndim < 3:
        raise ValueError(
            f"A sampler takes noise (B, Q, ..., D), got {tuple(x.shape)}; one draw a row is noise[:, None]."
        )
    return torch.tensor(n, device=x.device).expand(x.shape[:2])


def last_answer(denoise: Denoise, x: Tensor, n: int) -> Tensor:
    """What a chain ends on: the denoiser's answer at its last step.

    Raises:
        TypeError: the denoiser's answer is not like its latents.
    """
    answer = denoise(x, at_step(n, x))
    if not isinstance(answer, Tensor) or answer.shape != x.shape:
        got = tuple(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
        raise TypeError(f"denoise must give clean latents like xn, {tuple(x.shape)}, got {got}.")
    return answer


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
