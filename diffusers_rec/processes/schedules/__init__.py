"""Noise schedules, one per file: the amounts of signal and of noise at each timestep."""

from diffusers_rec.processes.schedules.base import NoiseSchedule
from diffusers_rec.processes.schedules.cosine import CosineSchedule
from diffusers_rec.processes.schedules.exponential import ExponentialSchedule
from diffusers_rec.processes.schedules.geometric import GeometricSchedule
from diffusers_rec.processes.schedules.linear import LinearSchedule, TruncatedLinearSchedule
from diffusers_rec.processes.schedules.linear_alpha_bar import LinearAlphaBarSchedule
from diffusers_rec.processes.schedules.linear_variance import LinearVarianceSchedule
from diffusers_rec.processes.schedules.rectified import RectifiedSchedule
from diffusers_rec.processes.schedules.sigmoid import SigmoidSchedule
from diffusers_rec.processes.schedules.sqrt import SqrtSchedule
from diffusers_rec.processes.schedules.table import TableSchedule

__all__ = [
    "CosineSchedule",
    "ExponentialSchedule",
    "GeometricSchedule",
    "LinearAlphaBarSchedule",
    "LinearSchedule",
    "LinearVarianceSchedule",
    "NoiseSchedule",
    "RectifiedSchedule",
    "SigmoidSchedule",
    "SqrtSchedule",
    "TableSchedule",
    "TruncatedLinearSchedule",
]
