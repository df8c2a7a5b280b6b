"""Guides: denoisers that wrap other denoisers."""

from diffusers_rec.guidance.base import Guidance, Guide, guided, unwrapped
from diffusers_rec.guidance.classifier_free import ClassifierFreeGuide
from diffusers_rec.guidance.noiseless import NoiselessDenoiser
from diffusers_rec.guidance.posterior import PosteriorDenoiser, posterior_mean

__all__ = [
    "ClassifierFreeGuide",
    "Guidance",
    "Guide",
    "NoiselessDenoiser",
    "PosteriorDenoiser",
    "guided",
    "posterior_mean",
    "unwrapped",
]
