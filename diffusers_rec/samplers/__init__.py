"""Samplers: one a file, all answering by the contract in :mod:`diffusers_rec.samplers.base`."""

from diffusers_rec.samplers.base import Callback, Denoise, Sampler, SamplerStep
from diffusers_rec.samplers.chain import ChainSampler
from diffusers_rec.samplers.ddim import DDIMSampler
from diffusers_rec.samplers.ddpm import DDPMSampler
from diffusers_rec.samplers.one_step import OneStepSampler

__all__ = ["Callback", "ChainSampler", "DDIMSampler", "DDPMSampler", "Denoise", "OneStepSampler", "Sampler", "SamplerStep"]
