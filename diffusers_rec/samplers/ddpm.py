"""The full reverse process (Algorithm 2)."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor

from diffusers_rec.core.errors import check_choice, check_int
from diffusers_rec.core.randomness import Generators, randn
from diffusers_rec.processes.schedules import NoiseSchedule
from diffusers_rec.samplers.base import Denoise, Sampler, at_step, last_answer, reverse_steps


class DDPMSampler(Sampler, name="ddpm"):
    r"""N denoisings: :math:`x_{n-1} \sim \mathcal N(\mu_n(x_n, f_\theta(x_n, n)), \sigma_n^2 I)` for n = N..2, then
    :math:`\hat x_0 = f_\theta(x_1, 1)`.

    Ho et al. 2020; Du et al. 2023, Algorithm 2. With fewer steps than N the chain strides over the schedule that the
    denoiser was trained on, from N to 1 (Nichol & Dhariwal 2021, Sec. 4).

    Args:
        variance: of a reverse step. ``"beta"``: :math:`\beta_n` (the paper's :math:`\Sigma_\theta`). ``"posterior"``:
            :math:`\tilde\beta_n` of Eq. 3.
        num_steps: denoisings, from 1 to N; all N when None. One is the one-step sampler.
    """

    def __init__(self, variance: str = "beta", *, num_steps: int | None = None) -> None:
        self.variance = check_choice("variance", variance, ("beta", "posterior"))
        self.num_steps = None if num_steps is None else check_int("num_steps", num_steps, minimum=1)

    def sample(self, denoise: Denoise, schedule: NoiseSchedule, noise: Tensor, generator: Generators | None) -> Tensor:
        steps = reverse_steps(schedule.num_timesteps, self.num_steps)
        x = noise
        for n, m in pairwise(steps):
            now, then = at_step(n, x), None if m == n - 1 else at_step(m, x)
            mean, variance = schedule.posterior(denoise(x, now), x, now, then)
            if self.variance == "beta":
                variance = schedule.reverse_variance(x, now, then)
            x = mean + variance.sqrt() * randn(x.shape, generator, device=x.device, dtype=x.dtype)
        return last_answer(denoise, x, steps[-1])
