"""Samplers, one per file; :mod:`diffusers_rec.samplers.base` defines their contract."""

from diffusers_rec.samplers.base import Denoise, Sampler, SamplerStep, StepCallback
from diffusers_rec.samplers.chain import ChainSampler
from diffusers_rec.samplers.ddim import DDIMSampler
from diffusers_rec.samplers.ddpm import DDPMSampler
from diffusers_rec.samplers.dpm_solver import DPMSolverSampler
from diffusers_rec.samplers.euler import EulerSampler
from diffusers_rec.samplers.heun import HeunSampler
from diffusers_rec.samplers.item_predictor import ItemPredictor
from diffusers_rec.samplers.one_step import OneStepSampler
from diffusers_rec.samplers.straight import StraightSampler
from diffusers_rec.samplers.unmask import UnmaskSampler

__all__ = [
    "ChainSampler",
    "DDIMSampler",
    "DDPMSampler",
    "DPMSolverSampler",
    "Denoise",
    "EulerSampler",
    "HeunSampler",
    "ItemPredictor",
    "OneStepSampler",
    "Sampler",
    "SamplerStep",
    "StepCallback",
    "StraightSampler",
    "UnmaskSampler",
]
