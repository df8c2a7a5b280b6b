"""Hypothesis strategies and builders that range over every registered component."""

from __future__ import annotations

import pytest
import torch
from hypothesis import strategies as st

import diffusers_rec  # noqa: F401 - signs every component in
from diffusers_rec.denoisers import Denoiser
from diffusers_rec.items.embeddings import ItemEmbedding, TableEmbedding
from diffusers_rec.items.heads import ItemHead, LinearHead
from diffusers_rec.items.negatives import Negatives
from diffusers_rec.objectives import Objective
from diffusers_rec.processes.noising import NoisingStrategy
from diffusers_rec.processes.schedules import NoiseSchedule, SqrtSchedule
from diffusers_rec.processes.timesteps import TimestepSampler
from diffusers_rec.recommenders.memory import Memory
from diffusers_rec.samplers import Sampler
from diffusers_rec.testing.contract import SIZES
from diffusers_rec.testing.every_kind import changed_settings
from diffusers_rec.testing.inputs import DTYPES, gaussian, learned, seeded  # noqa: F401 - every test has them from here

FAMILIES = [
    NoiseSchedule,
    NoisingStrategy,
    TimestepSampler,
    ItemEmbedding,
    Denoiser,
    ItemHead,
    Objective,
    Negatives,
    Memory,
    Sampler,
]
EVERY_COMPONENT = [(family, name) for family in FAMILIES for name in family.names()]
WAIVED = {
    "noiseless": ["noise_matters", "each_step_matters", "noised_positions_see_one_another"],
    "posterior": ["noised_positions_see_one_another"],  # exact for each position alone, given the history
}
"""Clauses that a component leaves out by design."""

seeds = st.integers(0, 2**31 - 1)
lengths = st.integers(1, 60)


def over(clauses):
    """A test of each clause."""
    return pytest.mark.parametrize("clause", clauses, ids=lambda clause: clause.__name__)


def built(family, spec, **settings):
    """A small component; the pipeline's own parts (items, width, embedding) are supplied, as the pipeline does."""
    size = {**SIZES, **settings}
    if "embedding" not in size and family is not ItemEmbedding:
        size["embedding"] = TableEmbedding(size["num_items"], size["dim"], seed=5)
    if family is ItemEmbedding:
        size.setdefault("features", {"name": "features", "num_features": size["num_features"]})
    if family is Denoiser and size["dim"] > 0:
        size["head"] = LinearHead(size["num_items"], size["dim"])
        size["schedule"] = SqrtSchedule(size["num_timesteps"])
    return family.build_with(size, spec)


def settings_of(family, name):
    """Configs that differ from the defaults in what can be changed without knowing what it means."""
    other = {key: st.sampled_from(values) for key, values in changed_settings(family.named(name)).items()}
    return st.fixed_dictionaries({"name": st.just(name)}, optional=other)


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
