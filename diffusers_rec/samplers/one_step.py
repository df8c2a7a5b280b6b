"""One denoising from pure noise, the efficient inference of the paper (Algorithm 3 with one seed)."""

from __future__ import annotations

from torch import Tensor

from diffusers_rec.core.randomness import Generators
from diffusers_rec.processes.process import Process
from diffusers_rec.processes.schedules import NoiseSchedule
from diffusers_rec.samplers.base import Denoise, Sampler, StepCallback, process_of
from diffusers_rec.samplers.chain import asker, last_step


class OneStepSampler(Sampler, name="one-step"):
    r"""One denoising, :math:`\hat x_0 = f_\theta(x_N, N)`. The paper averages the probabilities of ten such draws."""

    num_steps = 1

    def sample(
        self,
        denoise: Denoise,
        process: Process | NoiseSchedule,
        start: Tensor,
        generator: Generators | None,
        *,
        callback: StepCallback | None = None,
    ) -> Tensor:
        n = process_of(process).schedule.num_timesteps
        return last_step(self, asker(denoise, start, [n]), start, n, 0, callback).to(start.dtype)
