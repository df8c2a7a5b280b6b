"""Guides: wrappers of a denoiser that are denoisers themselves."""

from diffusers_rec.guidance.noiseless import NoiselessDenoiser
from diffusers_rec.guidance.posterior import PosteriorDenoiser, posterior_mean

__all__ = ["NoiselessDenoiser", "PosteriorDenoiser", "posterior_mean"]
