"""One denoising from pure noise: the paper's efficient inference (Algorithm 3, one seed)."""

from __future__ import annotations

from torch import Tensor

from diffusers_rec.core.randomness import Generators
from diffusers_rec.processes.schedules import NoiseSchedule
from diffusers_rec.samplers.base import Denoise, Sampler, last_answer


class OneStepSampler(Sampler, name="one-step"):
    r""":math:`\hat x_0 = f_\theta(x_N, N)`. The paper's default, which averages the probabilities of ten such draws."""

    num_steps = 1

    def sample(self, denoise: Denoise, schedule: NoiseSchedule, noise: Tensor, generator: Generators | None) -> Tensor:
        return last_answer(denoise, noise, schedule.num_timesteps)
