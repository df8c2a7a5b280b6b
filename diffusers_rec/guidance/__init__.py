"""Guides: denoisers that wrap other denoisers."""

from diffusers_rec.guidance.attribute import AttributeGuide
from diffusers_rec.guidance.base import Guidance, Guide, guided, unwrapped
from diffusers_rec.guidance.classifier_free import ClassifierFreeGuide
from diffusers_rec.guidance.function import FunctionGuide
from diffusers_rec.guidance.negative import NegativeGuide
from diffusers_rec.guidance.noiseless import NoiselessDenoiser
from diffusers_rec.guidance.posterior import PosteriorDenoiser, posterior_mean

__all__ = [
    "AttributeGuide",
    "ClassifierFreeGuide",
    "FunctionGuide",
    "Guidance",
    "Guide",
    "NegativeGuide",
    "NoiselessDenoiser",
    "PosteriorDenoiser",
    "guided",
    "posterior_mean",
    "unwrapped",
]
