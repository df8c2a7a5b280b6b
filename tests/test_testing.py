"""The contract suites: every registered component passes, and each broken one is refused by the clause it breaks."""

from __future__ import annotations

import random
import subprocess
import sys
from abc import ABC

import broken_components
import numpy as np
import pytest
import torch
from broken_components import BROKEN, Blend
from strategies import ALL_COMPONENTS, FAMILIES, NEEDED, WAIVED

from diffusers_rec import testing
from diffusers_rec.core import deprecation
from diffusers_rec.core.registry import Component
from diffusers_rec.denoisers import CausalTransformerDenoiser
from diffusers_rec.guidance import ClassifierFreeGuide, Guide
from diffusers_rec.items.embeddings import TableEmbedding
from diffusers_rec.items.heads import TiedHead
from diffusers_rec.items.negatives import UniformNegatives
from diffusers_rec.objectives import SimplifiedObjective, WeightedObjective
from diffusers_rec.processes.noising import LastK
from diffusers_rec.processes.schedules import SqrtSchedule
from diffusers_rec.processes.timesteps import ImportanceTimestepSampler
from diffusers_rec.recommenders.memory import TransitionMemory
from diffusers_rec.samplers import DDPMSampler
from diffusers_rec.testing import ContractError, check_component
from diffusers_rec.testing.all_kinds import CLAUSES
from diffusers_rec.testing.component import SUITES

pytestmark = pytest.mark.usefixtures("fresh_registry")


@pytest.mark.parametrize(
    ("family", "name"),
    [(family, name) for family, name in ALL_COMPONENTS if family.kind != "denoiser"],  # see test_denoisers
    ids=lambda part: getattr(part, "kind", part),
)
def test_every_registered_component_keeps_its_contract(family, name):
    check_component(family.named(name), waive=WAIVED.get(name, ()), **NEEDED.get(name, {}))


@pytest.mark.parametrize(
    ("cls", "settings"),
    [
        (SqrtSchedule, {"num_timesteps": 12, "log_snr_shift": -2.0}),
        (LastK, {"k": 3, "ahead": True, "independent_steps": True}),
        (ImportanceTimestepSampler, {"history": 1, "uniform_share": 0.4, "estimate": "sum"}),
        (TableEmbedding, {"scale": "unit", "num_items": 3, "dim": 5}),
        (CausalTransformerDenoiser, {"dim": 4, "max_length": 3, "num_layers": 1}),
        (ClassifierFreeGuide, {"base": "transformer", "scale": 3.0}),
        (TiedHead, {"use_bias": False}),
        (SimplifiedObjective, {"distance": "cosine", "recommend_from": "final"}),
        (WeightedObjective, {"terms": [{"name": "squared", "of": "output"}, {"name": "contrastive", "weight": 0.5}]}),
        (DDPMSampler, {"variance": "posterior", "num_steps": 7}),
        (TransitionMemory, {"share": 0.9, "window": 2, "num_items": 20}),
    ],
)
def test_settings_go_to_the_constructor(cls, settings):
    check_component(cls, **settings)


def test_each_kind_has_its_suite():
    assert set(SUITES) == {family.kind for family in FAMILIES}
    assert all(clause.__doc__ for suite in SUITES.values() for clause in suite.clauses)


def test_the_checks_of_one_kind_are_deprecated(monkeypatch):
    monkeypatch.setattr(deprecation, "_SHOWN", set())
    with pytest.warns(FutureWarning, match=r"testing\.check_schedule is deprecated .* use .*testing\.check_component"):
        check_schedule = testing.check_schedule
    check_schedule(SqrtSchedule, num_timesteps=12)
    with pytest.raises(ContractError, match="must make a NoiseSchedule, got NoneType"):
        check_schedule(lambda: None)
    with pytest.raises(AttributeError, match="no attribute 'check_nonsense'"):
        testing.check_nonsense  # noqa: B018 - the look itself raises


@pytest.mark.parametrize("make", BROKEN, ids=lambda make: make.__name__)
def test_a_broken_component_is_refused_by_the_clause_it_breaks(make):
    with pytest.raises(ContractError, match=f"^Broken.* breaks {BROKEN[make]}: .*expected .*, got "):
        check_component(make())


def test_an_error_says_what_was_expected_and_what_came():
    with pytest.raises(ContractError) as broken:
        check_component(broken_components.timesteps_from_0(), num_timesteps=6)
    assert str(broken.value) == (
        "Broken (as given) breaks steps_are_drawn_from_1_to_n: expected steps in 1..6, got steps in 0..5"
    )
    assert isinstance(broken.value, AssertionError)


def test_the_base_of_the_broken_denoisers_is_correct():
    class Right(Blend, name="right"):
        pass

    check_component(Right)
    check_component(Right, dim=4, max_length=5)


def test_a_guide_without_a_default_base_is_supplied_with_one():
    class Plain(Guide, name="bare"):
        def __init__(self, base, *, schedule, embedding=None, head=None, dim=256, max_length=50, seed=0):
            super().__init__(
                base, schedule=schedule, embedding=embedding, head=head, dim=dim, max_length=max_length, seed=seed
            )

        def forward(self, xn, timesteps, condition):
            return self.base(xn, timesteps, condition)

    check_component(Plain)
    check_component(Plain, base="causal-transformer")


def test_clauses_can_be_waived_by_name():
    broken = broken_components.denoiser_that_mistakes_the_last_step_for_the_one_before()
    check_component(broken, waive=["each_step_matters"])
    check_component(broken_components.component_without_a_name(), waive={"has_a_registered_name"})
    for unknown in (["each_step"], "each_step_matters"):
        with pytest.raises(ValueError, match=r"waive must hold names of clauses.*Known: .*each_step_matters"):
            check_component(broken, waive=unknown)


def test_a_factory_is_checked_as_a_class():
    check_component(lambda: SqrtSchedule(7))
    check_component(lambda num_timesteps: SqrtSchedule(num_timesteps, log_snr_shift=-1.0))
    check_component(lambda dim, max_length: CausalTransformerDenoiser(dim, max_length, num_layers=1))
    with pytest.raises(ContractError, match=r"^Broken .* breaks the_signal_falls_strictly_from_one"):
        check_component(lambda: broken_components.schedule_that_rises_unchecked()(7))
    with pytest.raises(ContractError, match=r"breaks can_be_constructed: .*must make a Component, got NoneType"):
        check_component(lambda: None)


def test_what_is_neither_class_nor_factory_is_refused():
    for wrong in (SqrtSchedule(), Blend(), "sqrt", int):
        with pytest.raises(TypeError, match="Expected the class of a component or a factory, got"):
            check_component(wrong)


def test_sizes_that_a_constructor_refuses_are_skipped_but_not_all_of_them():
    class Long(SqrtSchedule, name="long"):
        def __init__(self, num_timesteps=1000, *, log_snr_shift=0.0):
            if num_timesteps < self.least:
                raise ValueError("too short")
            super().__init__(num_timesteps, log_snr_shift=log_snr_shift)

    Long.least = 20
    check_component(Long)
    Long.least = 2000
    with pytest.raises(ContractError, match="breaks can_be_constructed: expected a result, got ValueError"):
        check_component(Long)
    check_component(DDPMSampler, num_steps=200)
    with pytest.raises(ContractError, match="DDPMSampler"):
        check_component(DDPMSampler, num_steps=2000)


def test_a_new_kind_is_checked_for_what_holds_for_all():
    class Animal(Component, ABC, kind="animal"):
        pass

    class Cat(Animal, name="cat"):
        def __init__(self, lives=9):
            self.lives = lives

    class Dog(Animal, name="dog"):
        def __init__(self, lives=1):
            self.lives = 1

    check_component(Cat, lives=7)
    with pytest.raises(ContractError, match=r"Dog breaks config_round_trips: expected lives = 3 in the config, got 1"):
        check_component(Dog)


def test_the_global_random_states_are_restored():
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


def test_every_clause_of_all_kinds_is_broken_by_some_component():
    assert {clause.__name__ for clause in CLAUSES} <= set(BROKEN.values())
