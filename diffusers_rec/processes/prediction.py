"""Predictions of one kind as those of another: clean latent, noise, velocity."""

from __future__ import annotations

from torch import Tensor

from diffusers_rec.processes.schedules import NoiseSchedule

PREDICTIONS = "x0", "noise", "velocity"
"""What a denoiser can predict."""


def x0_from(kind: str, output: Tensor, xn: Tensor, timesteps: Tensor, schedule: NoiseSchedule) -> Tensor:
    """The clean latent that a prediction stands for.

    Args:
        kind: One of :data:`PREDICTIONS`.
        output: The prediction, ``(B, ..., D)``.
        xn: Corrupted latents, like ``output``.
        timesteps: Step n of each latent, as :meth:`NoiseSchedule.add_noise <diffusers_rec.NoiseSchedule>` takes it.
        schedule: Noise levels.
    """
    if kind == "noise":
        return schedule.x0_from_noise(output, xn, timesteps)
    return schedule.x0_from_velocity(output, xn, timesteps) if kind == "velocity" else output


def target_of(kind: str, x0: Tensor, noise: Tensor, xn: Tensor, timesteps: Tensor, schedule: NoiseSchedule) -> Tensor:
    """What a denoiser of this kind should predict: ``x0``, ``noise`` or the velocity, like ``x0``."""
    if kind == "noise":
        return noise
    return schedule.velocity_from_x0(x0, xn, timesteps) if kind == "velocity" else x0
