"""The full reverse process (Algorithm 2)."""

from __future__ import annotations

from torch import Tensor

from diffusers_rec.errors import check_choice
from diffusers_rec.randomness import Generators, randn
from diffusers_rec.samplers.base import Denoise, Sampler, at_step
from diffusers_rec.schedules import NoiseSchedule


class DDPMSampler(Sampler, name="ddpm"):
    r"""N denoisings: :math:`x_{n-1} \sim \mathcal N(\mu_n(x_n, f_\theta(x_n, n)), \sigma_n^2 I)` for n = N..2, then
    :math:`\hat x_0 = f_\theta(x_1, 1)`.

    Ho et al. 2020; Du et al. 2023, Algorithm 2.

    Args:
        variance: of a reverse step. ``"beta"``: :math:`\beta_n` (the paper's :math:`\Sigma_\theta`). ``"posterior"``:
            :math:`\tilde\beta_n` of Eq. 3.
    """

    def __init__(self, variance: str = "beta") -> None:
        self.variance = check_choice("variance", variance, ("beta", "posterior"))

    def sample(self, denoise: Denoise, schedule: NoiseSchedule, noise: Tensor, generator: Generators) -> Tensor:
        x = noise
        for n in range(schedule.num_timesteps, 1, -1):
            timesteps = at_step(n, x)
            mean, variance = schedule.posterior(denoise(x, timesteps), x, timesteps)
            if self.variance == "beta":
                variance = schedule.reverse_variance(x, timesteps)
            x = mean + variance.sqrt() * randn(x.shape, generator, device=x.device, dtype=x.dtype)
        return denoise(x, at_step(1, x))
