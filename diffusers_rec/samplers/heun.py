"""Heun's method on the probability flow."""

from __future__ import annotations

from torch import Tensor

from diffusers_rec.core.randomness import Generators
from diffusers_rec.processes.process import Process
from diffusers_rec.samplers.chain import Advance, Ask, ChainSampler, gaussian

MAX_FALL = 4.0
"""Largest decrease of s/a in a trapezoidal step, as a factor; above it, the error exceeds that of an Euler step."""


class HeunSampler(ChainSampler, name="heun"):
    r"""Heun's method, of second order: an Euler step to m, then the mean of the predicted noise at n and at m.

    .. math:: x_m = \frac{a_m}{a_n} x_n + a_m \Big(\frac{s_m}{a_m} - \frac{s_n}{a_n}\Big)
              \frac{\hat\epsilon_n + \hat\epsilon_m}{2}

    It calls the denoiser twice per step. If s/a decreases by more than a factor of 4, as from infinite noise, the step
    is an Euler step. Karras et al. 2022, *Elucidating the Design Space of Diffusion-Based Generative Models*, Algorithm
    1 without churn.

    Args:
        num_steps: Number of reverse steps plus one, from 1 to N; N if None.
    """

    def __init__(self, *, num_steps: int | None = None) -> None:
        super().__init__(num_steps=num_steps)

    def solver(self, ask: Ask, process: Process, generator: Generators | None) -> Advance:
        process = gaussian(self, process)

        def advance(x0: Tensor, xn: Tensor, n: int | Tensor, m: int | Tensor) -> Tensor:
            now, then = process.schedule.level(n), process.schedule.level(m)
            euler = process.step(x0, xn, n, m, None, eta=0.0)
            if now.sigma * then.signal > MAX_FALL * now.signal * then.sigma:
                return euler
            at_n = (xn - now.signal * x0) / now.sigma
            at_m = (euler - then.signal * ask(euler, m)) / then.sigma
            return euler.add(at_m - at_n, alpha=(then.sigma - then.signal * now.sigma / now.signal) / 2)

        return advance
