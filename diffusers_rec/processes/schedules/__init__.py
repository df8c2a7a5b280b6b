"""Noise schedules: how much of the clean latent survives at each timestep, one schedule a file."""

from diffusers_rec.processes.schedules.base import NoiseSchedule
from diffusers_rec.processes.schedules.cosine import CosineSchedule
from diffusers_rec.processes.schedules.exponential import ExponentialSchedule
from diffusers_rec.processes.schedules.geometric import GeometricSchedule
from diffusers_rec.processes.schedules.linear import LinearSchedule, TruncatedLinearSchedule
from diffusers_rec.processes.schedules.rectified import RectifiedSchedule
from diffusers_rec.processes.schedules.sigmoid import SigmoidSchedule
from diffusers_rec.processes.schedules.sqrt import SqrtSchedule
from diffusers_rec.processes.schedules.table import TableSchedule

__all__ = [
    "CosineSchedule",
    "ExponentialSchedule",
    "GeometricSchedule",
    "LinearSchedule",
    "NoiseSchedule",
    "RectifiedSchedule",
    "SigmoidSchedule",
    "SqrtSchedule",
    "TableSchedule",
    "TruncatedLinearSchedule",
]
