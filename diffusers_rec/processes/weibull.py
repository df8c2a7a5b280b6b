r"""Noise of a Weibull distribution, which is skewed and whose mean is not zero.

.. math:: x_n = a_n x_0 + s_n w, \qquad w = c + \lambda\, e^{1/k}, \qquad e \sim \mathrm{Exp}(1)

Here k is the shape, :math:`\lambda` the scale and c the offset of the noise. Its mean is
:math:`c + \lambda\, \Gamma(1 + 1/k)`. A reverse step has the mean of the Gaussian process, and draws new Weibull noise.
Lee & Kim 2024, *EDiffuRec: An Enhanced Diffusion Model for Sequential Recommendation*.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from diffusers_rec.core.errors import check_float
from diffusers_rec.core.randomness import Generators, uniform
from diffusers_rec.processes.process import Corrupted, Process
from diffusers_rec.processes.schedules import NoiseSchedule, algebra

LEAST_SHAPE = 0.1
"""Smallest shape k; the largest noise of a smaller one would not be finite in float32."""


def weibull(exponential: Tensor, shape: float, scale: float, offset: float) -> Tensor:
    """Turn numbers from Exp(1) into Weibull noise; the other arguments are those of :class:`WeibullProcess`."""
    return offset + scale * exponential ** (1 / shape)


def weibull_mean(shape: float, scale: float, offset: float) -> float:
    """Mean of the noise; the arguments are those of :class:`WeibullProcess`."""
    return offset + scale * math.gamma(1 + 1 / shape)


class WeibullProcess(Process, name="weibull"):
    r"""Weibull noise in place of Gaussian noise; see the docstring of the module.

    The defaults are those of the public code: the mean of the noise is 3, and its standard deviation 8.9. A step to m
    adds noise of scale :math:`\sqrt{\beta}`, and none to m = 0.

    Args:
        schedule: Noise levels; shared, not owned.
        shape: Shape k of the noise, at least 0.1. Below 1, most of the noise is small and some is very large.
        scale: Scale lambda of the noise.
        offset: Number c added to the noise.
    """

    adds_noise = True

    def __init__(
        self, schedule: NoiseSchedule, *, shape: float = 0.5, scale: float = 2.0, offset: float = -1.0
    ) -> None:
        super().__init__(schedule)
        self.shape = check_float("shape", shape, minimum=LEAST_SHAPE)
        self.scale = check_float("scale", scale, above=0)
        self.offset = check_float("offset", offset)

    def start(
        self,
        shape: Sequence[int],
        generator: Generators,
        *,
        device: torch.device | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Draw Weibull noise."""
        return self._noise(shape, generator, device or torch.device("cpu"), dtype)

    def corrupt(
        self, x0: Tensor, timesteps: Tensor, generator: Generators | None, *, noise: Tensor | None = None
    ) -> Corrupted:
        """Draw latents at step n with Weibull noise."""
        if noise is None:
            noise = self._noise(x0.shape, generator, x0.device, x0.dtype)
        return Corrupted(self.schedule.add_noise(x0, noise, timesteps), noise)

    def step(
        self,
        x0: Tensor,
        xn: Tensor,
        timesteps: Tensor | int,
        previous: Tensor | int,
        generator: Generators | None,
        *,
        eta: float = 1.0,
    ) -> Tensor:
        eta = check_float("eta", eta, minimum=0, maximum=1)
        now, then = (self.schedule.level(torch.as_tensor(n, device=xn.device), xn) for n in (timesteps, previous))
        clean, noised, _ = algebra.posterior(now, then)
        if eta != 1:
            clean, noised = algebra.implicit(now, then, eta)
        deviation = eta * torch.where(then.variance > 0, algebra.reverse_variance(now, then), 0.0).sqrt()
        clean, noised, deviation = (
            factor.to(xn.dtype) for factor in algebra.resting(now, then, clean, noised, deviation)
        )
        xm = (x0 * clean).addcmul_(xn, noised)
        return xm.addcmul_(self._noise(xn.shape, generator, xn.device, xn.dtype), deviation) if eta else xm

    def _noise(
        self, shape: Sequence[int], generator: Generators | None, device: torch.device, dtype: torch.dtype
    ) -> Tensor:
        exponential = -torch.log1p(-uniform(shape, generator, device=device))
        return weibull(exponential, self.shape, self.scale, self.offset).to(dtype)
