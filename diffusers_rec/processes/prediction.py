"""Conversion between predictions of the clean latent, the noise and the velocity.

A prediction of ``"items"`` is none of these: the head turns it into the log-probabilities of the items given everything
except the position's own latent; see :mod:`diffusers_rec.items.evidence`.
"""

from __future__ import annotations

from torch import Tensor

from diffusers_rec.processes.schedules import NoiseSchedule

PREDICTIONS = "x0", "noise", "velocity", "items"
"""Quantities that a denoiser can predict."""


def x0_from(kind: str, output: Tensor, xn: Tensor, timesteps: Tensor, schedule: NoiseSchedule) -> Tensor:
    """Convert a prediction to the clean latent.

    Args:
        kind: One of :data:`PREDICTIONS`.
        output: Prediction, ``(B, ..., D)``.
        xn: Corrupted latents, like ``output``.
        timesteps: Step n of each latent, as in :meth:`NoiseSchedule.add_noise <diffusers_rec.NoiseSchedule>`.
        schedule: Noise levels.
    """
    if kind == "noise":
        return schedule.x0_from_noise(output, xn, timesteps)
    return schedule.x0_from_velocity(output, xn, timesteps) if kind == "velocity" else output


def target_of(kind: str, x0: Tensor, noise: Tensor, xn: Tensor, timesteps: Tensor, schedule: NoiseSchedule) -> Tensor:
    """Target of a prediction of this kind: ``x0``, ``noise`` or the velocity, like ``x0``."""
    if kind == "noise":
        return noise
    return schedule.velocity_from_x0(x0, xn, timesteps) if kind == "velocity" else x0
