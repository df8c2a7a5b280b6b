"""Hypothesis strategies and builders that range over every registered component."""

from __future__ import annotations

import inspect

import torch
from hypothesis import strategies as st
from torch import Generator

import diffusers_rec  # noqa: F401 - signs every component in
from diffusers_rec.denoisers import Denoiser
from diffusers_rec.embeddings import ItemEmbedding
from diffusers_rec.heads import ItemHead, LinearHead
from diffusers_rec.negatives import Negatives
from diffusers_rec.noising import NoisingStrategy
from diffusers_rec.objectives import Objective
from diffusers_rec.samplers import Sampler
from diffusers_rec.schedules import NoiseSchedule, SqrtSchedule
from diffusers_rec.timesteps import TimestepSampler

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
FAMILIES = [
    NoiseSchedule,
    NoisingStrategy,
    TimestepSampler,
    ItemEmbedding,
    Denoiser,
    ItemHead,
    Objective,
    Negatives,
    Sampler,
]
EVERY_COMPONENT = [(family, name) for family in FAMILIES for name in family.names()]

seeds = st.integers(0, 2**31 - 1)
lengths = st.integers(1, 60)


def seeded(seed):
    return Generator().manual_seed(seed)


def gaussian(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64).to(dtype)


def built(family, spec, **settings):
    """A small component; the pipeline's own parts (items, width, embedding) are supplied, as the pipeline does."""
    size = {"num_items": 7, "dim": 8, "max_length": 9, "num_timesteps": 30, **settings}
    if "embedding" not in size and family is not ItemEmbedding:
        size["embedding"] = ItemEmbedding(size["num_items"], size["dim"], seed=5)
    if family is Denoiser and size["dim"] > 0:
        size["head"] = LinearHead(size["num_items"], size["dim"])
        size["schedule"] = SqrtSchedule(size["num_timesteps"])
    return family.build_with(size, spec)


def settings_of(family, name):
    """Configs that differ from the defaults in what can be changed without knowing what it means."""
    parameters = inspect.signature(family.named(name).__init__).parameters
    other = {
        key: st.just(parameter.default) | changed
        for key, parameter in parameters.items()
        if (changed := _changed(parameter.default)) is not None
    }
    return st.fixed_dictionaries({"name": st.just(name)}, optional=other)


def _changed(default):
    if isinstance(default, bool):
        return st.booleans()
    if isinstance(default, int):
        return st.just(default + 2 if default <= 10 else 24)
    if isinstance(default, float):
        return st.sampled_from([default / 2, default / 3])
    return None


@st.composite
def schedules(draw, num_timesteps=lengths):
    """Any registered schedule of any length."""
    name = draw(st.sampled_from(NoiseSchedule.names()))
    shift = draw(st.sampled_from([0.0, -3.0, 1.5]))
    steps = draw(num_timesteps)
    rescale = draw(st.booleans()) if steps > 20 else False  # what LinearSchedule can hold
    return NoiseSchedule.build_with({"num_timesteps": steps, "log_snr_shift": shift, "rescale": rescale}, name)


@st.composite
def timestep_samplers(draw, max_timesteps=6):
    """Any registered timestep sampler, cold or warmed by as many losses as its histories hold."""
    steps = draw(st.integers(1, max_timesteps))
    settings = {
        "num_timesteps": steps,
        "history": 2,
        "uniform_share": draw(st.sampled_from([0.0, 0.001, 0.5])),
        "estimate": draw(st.sampled_from(["mean", "sum"])),
        "start_share": draw(st.sampled_from([0.0, 0.2, 0.9])),
    }
    sampler = TimestepSampler.build_with(settings, draw(st.sampled_from(TimestepSampler.names())))
    if draw(st.booleans()):
        losses = draw(st.lists(st.floats(0.1, 3), min_size=2 * steps, max_size=2 * steps))
        sampler.update(torch.arange(1, steps + 1).repeat(2), torch.tensor(losses))
    return sampler


def learned(module, seed=0):
    """The module as if trained: no weight is at the zero where an initialiser may have left it."""
    generator = seeded(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator).to(parameter.dtype))
    return module
