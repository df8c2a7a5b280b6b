"""The implicit reverse process: few steps, little or no fresh noise."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from diffusers_rec.core.errors import check_float, check_int
from diffusers_rec.core.randomness import Generators, randn
from diffusers_rec.processes.schedules import NoiseSchedule
from diffusers_rec.samplers.base import Denoise, Sampler, at_step, last_answer, reverse_steps


class DDIMSampler(Sampler, name="ddim"):
    r"""Steps from n to m < n along the predicted noise :math:`\hat\epsilon = (x_n - \sqrt{\bar\alpha_n}\hat x_0) /
    \sqrt{1 - \bar\alpha_n}`:

    .. math:: x_m = \sqrt{\bar\alpha_m}\,\hat x_0 + \sqrt{1 - \bar\alpha_m - \sigma^2}\,\hat\epsilon + \sigma z,
              \qquad \sigma = \eta\,\tilde\sigma_{n|m}, \quad z \sim \mathcal N(0, I).

    Song et al. 2021, *Denoising Diffusion Implicit Models*, Eq. 12 and 16.

    Args:
        num_steps: denoisings, from 1 to N; all N when None.
        eta: 0: the chain is a function of its first noise. 1: as ``ddpm`` with the posterior variance.
    """

    def __init__(self, *, num_steps: int | None = None, eta: float = 0.0) -> None:
        self.num_steps = None if num_steps is None else check_int("num_steps", num_steps, minimum=1)
        self.eta = check_float("eta", eta, minimum=0, maximum=1)

    def sample(self, denoise: Denoise, schedule: NoiseSchedule, noise: Tensor, generator: Generators | None) -> Tensor:
        steps = reverse_steps(schedule.num_timesteps, self.num_steps)
        # Single precision at the least: below, differences of nearly equal variances would be rounding alone.
        wide = torch.promote_types(noise.dtype, torch.float32)
        x = noise.to(wide)
        for n, m in pairwise(steps):
            now, then = at_step(n, x), at_step(m, x)
            x0 = denoise(x.to(noise.dtype), now).to(wide)
            _, variance = schedule.posterior(x0, x, now, then)
            variance = self.eta**2 * variance
            signal, sigma = schedule.levels(x, then)
            direction = (sigma.square() - variance).clamp(min=0).sqrt()
            x = signal * x0 + direction * schedule.noise_from_x0(x0, x, now)
            if self.eta:
                x = x + variance.sqrt() * randn(x.shape, generator, device=x.device, dtype=noise.dtype)
        return last_answer(denoise, x.to(noise.dtype), steps[-1])
