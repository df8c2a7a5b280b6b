"""The contract suites: every registered component passes, and every planted mistake is caught by what it breaks."""

from __future__ import annotations

import random
import subprocess
import sys
from abc import ABC

import numpy as np
import planted
import pytest
import torch
from planted import PLANTED, Blend
from strategies import EVERY_COMPONENT, FAMILIES, WAIVED

from diffusers_rec import testing
from diffusers_rec.core.registry import Component
from diffusers_rec.denoisers import CausalTransformerDenoiser
from diffusers_rec.items.embeddings import TableEmbedding
from diffusers_rec.items.heads import TiedHead
from diffusers_rec.items.negatives import UniformNegatives
from diffusers_rec.objectives import SimplifiedObjective
from diffusers_rec.processes.noising import LastK
from diffusers_rec.processes.schedules import SqrtSchedule
from diffusers_rec.processes.timesteps import ImportanceTimestepSampler
from diffusers_rec.recommenders.memory import TransitionMemory
from diffusers_rec.samplers import DDPMSampler
from diffusers_rec.testing import ContractError, check_component, check_denoiser, check_sampler, check_schedule
from diffusers_rec.testing.component import SUITES
from diffusers_rec.testing.every_kind import CLAUSES

pytestmark = pytest.mark.usefixtures("fresh_registry")


@pytest.mark.parametrize(("family", "name"), EVERY_COMPONENT, ids=lambda part: getattr(part, "kind", part))
def test_every_registered_component_keeps_its_contract(family, name):
    check_component(family.named(name), waive=WAIVED.get(name, ()))


@pytest.mark.parametrize(
    ("cls", "settings"),
    [
        (SqrtSchedule, {"num_timesteps": 12, "log_snr_shift": -2.0}),
        (LastK, {"k": 3, "ahead": True, "independent_steps": True}),
        (ImportanceTimestepSampler, {"history": 1, "uniform_share": 0.4, "estimate": "sum"}),
        (TableEmbedding, {"scale": "unit", "num_items": 3, "dim": 5}),
        (CausalTransformerDenoiser, {"dim": 4, "max_length": 3, "num_layers": 1}),
        (TiedHead, {"use_bias": False}),
        (SimplifiedObjective, {"distance": "cosine", "recommend_from": "start"}),
        (DDPMSampler, {"variance": "posterior", "num_steps": 7}),
        (TransitionMemory, {"share": 0.9, "window": 2, "num_items": 20}),
    ],
)
def test_settings_go_to_the_constructor(cls, settings):
    check_component(cls, **settings)


def test_each_kind_has_its_suite_and_its_check():
    assert set(SUITES) == {family.kind for family in FAMILIES}
    for kind, suite in SUITES.items():
        assert all(clause.__doc__ for clause in suite.clauses)
        with pytest.raises(ContractError, match=f"must make a {suite.family.__name__}, got NoneType"):
            getattr(testing, f"check_{kind}")(lambda: None)


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_a_planted_mistake_is_caught_by_the_clause_it_breaks(plant):
    with pytest.raises(ContractError, match=f"^Planted.* breaks {PLANTED[plant]}: .*expected .*, got "):
        check_component(plant())


def test_a_mistake_is_told_with_what_was_expected_and_what_came():
    with pytest.raises(ContractError) as broken:
        check_component(planted.steps_from_0(), num_timesteps=6)
    assert str(broken.value) == (
        "Planted (as given) breaks steps_are_drawn_from_1_to_n: expected steps in 1..6, got steps in 0..5"
    )
    assert isinstance(broken.value, AssertionError)


def test_where_a_suite_finds_nothing_it_is_not_for_want_of_the_component():
    """The planted denoisers are wrong by what was planted alone."""

    class Right(Blend, name="right"):
        pass

    check_denoiser(Right)
    check_denoiser(Right, dim=4, max_length=5)


def test_clauses_can_be_waived_by_name():
    blind = planted.a_denoiser_that_takes_the_last_step_for_the_one_before()
    check_denoiser(blind, waive=["each_step_matters"])
    check_schedule(planted.a_component_without_a_name(), waive={"has_a_registered_name"})
    for unknown in (["each_step"], "each_step_matters"):
        with pytest.raises(ValueError, match=r"waive must hold names of clauses.*Known: .*each_step_matters"):
            check_denoiser(blind, waive=unknown)


def test_a_factory_serves_as_well_as_a_class():
    check_schedule(lambda: SqrtSchedule(7))
    check_schedule(lambda num_timesteps: SqrtSchedule(num_timesteps, log_snr_shift=-1.0))
    check_denoiser(lambda **size: CausalTransformerDenoiser(num_layers=1, **size))
    with pytest.raises(ContractError, match=r"^Planted .* breaks alpha_bar_falls_strictly_from_one"):
        check_schedule(lambda: planted.a_schedule_that_rises_unchecked()(7))
    with pytest.raises(ContractError, match=r"must make a NoiseSchedule, got DDPMSampler"):
        check_schedule(lambda: DDPMSampler("beta"))


def test_what_is_neither_class_nor_factory_is_refused():
    for wrong in (SqrtSchedule(), Blend(), "sqrt"):
        with pytest.raises(TypeError, match="Expected the class of a schedule or a factory, got"):
            check_schedule(wrong)
    for wrong in (SqrtSchedule(), lambda: SqrtSchedule(7), int):
        with pytest.raises(TypeError, match="Expected the class of a component, got"):
            check_component(wrong)


def test_sizes_that_a_constructor_refuses_pass_over_but_not_all_of_them():
    class Long(SqrtSchedule, name="long"):
        def __init__(self, num_timesteps=1000, *, log_snr_shift=0.0):
            if num_timesteps < self.least:
                raise ValueError("too short")
            super().__init__(num_timesteps, log_snr_shift=log_snr_shift)

    Long.least = 20
    check_schedule(Long)
    Long.least = 2000
    with pytest.raises(ContractError, match="breaks can_be_made: expected an answer, got ValueError"):
        check_schedule(Long)
    check_sampler(DDPMSampler, num_steps=200)
    with pytest.raises(ContractError, match="DDPMSampler"):
        check_sampler(DDPMSampler, num_steps=2000)


def test_a_kind_of_ones_own_is_checked_for_what_holds_for_all():
    class Animal(Component, ABC, kind="animal"):
        pass

    class Cat(Animal, name="cat"):
        def __init__(self, lives=9):
            self.lives = lives

    class Dog(Animal, name="dog"):
        def __init__(self, lives=1):
            self.lives = 1

    check_component(Cat, lives=7)
    with pytest.raises(ContractError, match=r"Dog breaks survives_its_config: expected lives = 3 in the config, got 1"):
        check_component(Dog)


def test_the_global_random_states_are_put_back():
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    check_component(SqrtSchedule)
    check_component(UniformNegatives)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before[1:]  # noqa: NPY002


def test_the_library_does_not_import_its_suites_nor_they_a_test_dependency():
    script = (
        "import sys, diffusers_rec\n"
        "assert 'diffusers_rec.testing' not in sys.modules\n"
        "import diffusers_rec.testing\n"
        "assert not {'pytest', 'hypothesis', 'scipy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_every_clause_of_every_kind_catches_a_planted_mistake():
    assert {clause.__name__ for clause in CLAUSES} <= set(PLANTED.values())
