"""Guides: denoisers around denoisers."""

from diffusers_rec.guidance.base import Guide, guided, unwrapped
from diffusers_rec.guidance.classifier_free import ClassifierFreeGuide
from diffusers_rec.guidance.noiseless import NoiselessDenoiser
from diffusers_rec.guidance.posterior import PosteriorDenoiser, posterior_mean

__all__ = [
    "ClassifierFreeGuide",
    "Guide",
    "NoiselessDenoiser",
    "PosteriorDenoiser",
    "guided",
    "posterior_mean",
    "unwrapped",
]
