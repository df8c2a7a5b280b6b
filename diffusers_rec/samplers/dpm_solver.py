"""DPM-Solver++: a multistep method on the probability flow."""

from __future__ import annotations

import math

from torch import Tensor

from diffusers_rec.core.randomness import Generators
from diffusers_rec.processes.process import Process
from diffusers_rec.samplers.chain import Advance, Ask, ChainSampler, gaussian

MAX_WEIGHT = 1.0
"""Largest weight of the extrapolated difference, for a step that is twice as long as the previous one."""


class DPMSolverSampler(ChainSampler, name="dpm-solver++"):
    r"""DPM-Solver++(2M), of second order with one denoising per step. With :math:`\lambda = \log(a/s)` and
    :math:`h = \lambda_m - \lambda_n`:

    .. math:: x_m = \frac{s_m}{s_n} x_n + a_m (1 - e^{-h}) \Big(\hat x_0 + \frac{h}{2 h'} (\hat x_0 - \hat x_0')\Big),

    where :math:`\hat x_0'` and :math:`h'` are those of the previous step. The first step is of first order, and so is a
    step that is more than twice as long as the previous one. Lu et al. 2022, *DPM-Solver++*, Algorithm 2.

    Args:
        num_steps: Number of denoisings, from 1 to N; N if None.
    """

    def __init__(self, *, num_steps: int | None = None) -> None:
        super().__init__(num_steps=num_steps)

    def solver(self, ask: Ask, process: Process, generator: Generators | None) -> Advance:
        process = gaussian(self, process)
        before: tuple[Tensor, float] | None = None

        def advance(x0: Tensor, xn: Tensor, n: int | Tensor, m: int | Tensor) -> Tensor:
            nonlocal before
            now, then = process.schedule.level(n), process.schedule.level(m)
            left = (now.signal / now.sigma) * (then.sigma / then.signal)  # e^-h, 0 from infinite noise
            length = -math.log(left) if left else math.inf
            weight = length / (2 * before[1]) if before else math.inf
            prediction = x0 if weight > MAX_WEIGHT or before is None else x0 + weight * (x0 - before[0])
            before = x0, length
            return (xn * (then.sigma / now.sigma)).add(prediction, alpha=then.signal * (1 - left))

        return advance
