"""Heun's method on the probability flow."""

from __future__ import annotations

from torch import Tensor

from diffusers_rec.core.randomness import Generators
from diffusers_rec.processes.process import Process
from diffusers_rec.samplers.chain import Advance, Ask, ChainSampler, gaussian

MAX_FALL = 4.0
"""Factor by which s/a may fall in a step of the trapezoidal rule; over more, its error outgrows that of Euler's."""


class HeunSampler(ChainSampler, name="heun"):
    r"""Heun's method, of second order: an Euler step to m, then the mean of the predicted noise at n and at m.

    .. math:: x_m = \frac{a_m}{a_n} x_n + a_m \Big(\frac{s_m}{a_m} - \frac{s_n}{a_n}\Big)
              \frac{\hat\epsilon_n + \hat\epsilon_m}{2}

    It calls the denoiser twice a step. A step on which s/a falls by more than a factor of 4, as from infinite noise, is
    Euler's. Karras et al. 2022, *Elucidating the Design Space of Diffusion-Based Generative Models*, Algorithm 1
    without churn.

    Args:
        num_steps: Reverse steps plus one, from 1 to N; N when None.
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
