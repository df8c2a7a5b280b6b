"""Hypothesis strategies and builders that range over every registered component."""

from __future__ import annotations

import pytest
import torch
from hypothesis import strategies as st

import diffusers_rec  # noqa: F401 - registers every component
from diffusers_rec.denoisers import Denoiser
from diffusers_rec.encoders import HistoryEncoder
from diffusers_rec.items.embeddings import ItemEmbedding, TableEmbedding
from diffusers_rec.items.heads import ItemHead, LinearHead
from diffusers_rec.items.negatives import Negatives
from diffusers_rec.objectives import LossTerm, Objective
from diffusers_rec.processes.noising import NoisingStrategy
from diffusers_rec.processes.process import Process
from diffusers_rec.processes.schedules import CosineSchedule, NoiseSchedule, SqrtSchedule
from diffusers_rec.processes.source import Source
from diffusers_rec.processes.timesteps import TimestepSampler
from diffusers_rec.recommenders.memory import Memory
from diffusers_rec.samplers import Sampler
from diffusers_rec.testing.all_kinds import changed_settings
from diffusers_rec.testing.contract import SIZES
from diffusers_rec.testing.inputs import DTYPES, gaussian, perturbed, seeded  # noqa: F401 - all tests import them from here

FAMILIES = [
    NoiseSchedule,
    NoisingStrategy,
    TimestepSampler,
    ItemEmbedding,
    HistoryEncoder,
    Denoiser,
    ItemHead,
    Objective,
    LossTerm,
    Negatives,
    Memory,
    Process,
    Source,
    Sampler,
]
ALL_COMPONENTS = [(family, name) for family in FAMILIES for name in family.names()]
NEEDED = {"weighted": {"terms": ["cosine", {"name": "cross-entropy", "at": "final"}]}}
"""Settings of the components whose constructors have parameters without a default that no pipeline supplies."""
WAIVED = {
    "state-decoder": ["noise_matters", "corrupted_positions_see_one_another"],
    "bidirectional": ["each_step_matters"],  # it sees the blanks, whose number implies the step
    "cloze": ["each_step_matters"],  # as "bidirectional"
    "plain": ["noise_matters", "each_step_matters", "corrupted_positions_see_one_another"],
    "judged": [
        *("noise_matters", "each_step_matters", "corrupted_positions_see_one_another"),
        "every_weight_learns",  # those of the judges do from a penalty
    ],
    "noiseless": ["noise_matters", "each_step_matters", "corrupted_positions_see_one_another"],
    "posterior": ["corrupted_positions_see_one_another"],  # exact for each position alone, given the history
    # Its sample is the latents of drawn items, whatever the denoiser predicts.
    "unmask": ["the_sample_is_the_last_prediction", "a_chain_over_every_step_lands_on_gaussian_data"],
    "straight": ["a_chain_over_every_step_lands_on_gaussian_data"],  # a mean of predictions has less variance
    "consistency": ["gradients_reach_the_declared_passes"],  # the earlier prediction is a target
    **{name: ["gradients_reach_the_declared_passes"] for name in ("kl", "discriminator", "information")},
    "source": ["gradients_reach_the_declared_passes"],  # it scores the centre, not a prediction
}
"""Clauses that a component breaks on purpose."""

seeds = st.integers(0, 2**31 - 1)
lengths = st.integers(1, 60)


def over(clauses):
    """A test of each clause."""
    return pytest.mark.parametrize("clause", clauses, ids=lambda clause: clause.__name__)


def built(family, spec, **settings):
    """A small component, supplied with what a pipeline would supply."""
    name = spec if isinstance(spec, str) else spec.get("name")
    size = {**SIZES, **NEEDED.get(name, {}), **settings}
    if "embedding" not in size and family is not ItemEmbedding:
        size["embedding"] = TableEmbedding(size["num_items"], size["dim"], seed=5)
    if family is ItemEmbedding:
        size.setdefault("features", {"name": "features", "num_features": size["num_features"]})
    if family in (Denoiser, Sampler, Process) and size["dim"] > 0:
        size["head"] = LinearHead(size["num_items"], size["dim"])
    if family is Denoiser:
        size["schedule"] = SqrtSchedule(size["num_timesteps"])
    if family in (Process, NoiseSchedule):
        size["schedule"] = SqrtSchedule(size["num_timesteps"])
        size["values"] = size["schedule"].alpha_bar[1:].tolist()
    return family.build_with(size, spec)


def heads(num_items, width, seed):
    """A head of any name in float64, so that nothing ties."""
    embedding = perturbed(TableEmbedding(num_items, width, seed=seed)).double()
    return st.sampled_from(ItemHead.names()).map(
        lambda name: perturbed(
            built(ItemHead, name, num_items=num_items, dim=width, embedding=embedding).double(), seed
        )
    )


def settings_of(family, name):
    """Configs that differ from the defaults in numbers and flags."""
    other = {key: st.sampled_from(values) for key, values in changed_settings(family.named(name)).items()}
    return st.fixed_dictionaries({"name": st.just(name)}, optional=other)


@st.composite
def schedules(draw, num_timesteps=lengths):
    """Any registered schedule of any length."""
    name = draw(st.sampled_from(NoiseSchedule.names()))
    shift = draw(st.sampled_from([0.0, -3.0, 1.5]))
    steps = draw(num_timesteps)
    rescale = draw(st.booleans()) if steps > 20 else False  # what the linear schedules can hold
    return schedule_of(name, steps, log_snr_shift=shift, rescale=rescale)


def schedule_of(name, num_timesteps, **settings):
    """A registered schedule of N steps; ``table`` holds the numbers of ``cosine``."""
    values = CosineSchedule(num_timesteps).alpha_bar[1:].tolist()
    given = {"num_timesteps": num_timesteps, "values": values, "rescale": num_timesteps > 20, **settings}
    return NoiseSchedule.build_with(given, name)


@st.composite
def timestep_samplers(draw, max_timesteps=6):
    """Any registered timestep sampler, cold or warmed by as many losses as its histories hold."""
    steps = draw(st.integers(1, max_timesteps))
    settings = {
        "num_timesteps": steps,
        "history": 2,
        "uniform_share": draw(st.sampled_from([0.0, 0.001, 0.5])),
        "estimate": draw(st.sampled_from(["mean", "sum", "drawn"])),
        "start_share": draw(st.sampled_from([0.0, 0.2, 0.9])),
    }
    sampler = TimestepSampler.build_with(settings, draw(st.sampled_from(TimestepSampler.names())))
    if draw(st.booleans()):
        losses = draw(st.lists(st.floats(0.1, 3), min_size=2 * steps, max_size=2 * steps))
        sampler.update(torch.arange(1, steps + 1).repeat(2), torch.tensor(losses))
    return sampler
