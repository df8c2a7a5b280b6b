"""Euler's method on the probability flow."""

from __future__ import annotations

from functools import partial

from diffusers_rec.core.randomness import Generators
from diffusers_rec.processes.process import Process
from diffusers_rec.samplers.chain import Advance, Ask, ChainSampler


class EulerSampler(ChainSampler, name="euler"):
    r"""Euler's method, of first order, for the deterministic flow with the same marginals as the process:

    .. math:: \frac{\mathrm d (x/a)}{\mathrm d (s/a)} = \hat\epsilon = \frac{x_n - a_n \hat x_0}{s_n}, \qquad
              x_m = a_m \hat x_0 + s_m \hat\epsilon.

    On ``rectified`` levels, this is a step :math:`(m - n)/N` along the velocity :math:`\hat\epsilon - \hat x_0`. On all
    levels, it is the chain of ``ddim`` with ``eta=0``. Karras et al. 2022, *Elucidating the Design Space of
    Diffusion-Based Generative Models*; Liu et al. 2023, *Rectified Flow*.

    Args:
        num_steps: Number of denoisings, from 1 to N; N if None.
    """

    def __init__(self, *, num_steps: int | None = None) -> None:
        super().__init__(num_steps=num_steps)

    def solver(self, ask: Ask, process: Process, generator: Generators | None) -> Advance:
        return partial(process.step, generator=None, eta=0.0)
