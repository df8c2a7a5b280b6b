"""The check for components of every kind and for factories."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from diffusers_rec.core.registry import Component
from diffusers_rec.testing.all_kinds import can_be_constructed, check
from diffusers_rec.testing.contract import Case, Maker, Suite, run
from diffusers_rec.testing.denoisers import SUITE as DENOISER
from diffusers_rec.testing.embeddings import SUITE as EMBEDDING
from diffusers_rec.testing.encoders import SUITE as ENCODER
from diffusers_rec.testing.heads import SUITE as HEAD
from diffusers_rec.testing.memory import SUITE as MEMORY
from diffusers_rec.testing.negatives import SUITE as NEGATIVES
from diffusers_rec.testing.noising import SUITE as NOISING
from diffusers_rec.testing.objectives import SUITE as OBJECTIVE
from diffusers_rec.testing.processes import SUITE as PROCESS
from diffusers_rec.testing.samplers import SUITE as SAMPLER
from diffusers_rec.testing.schedules import SUITE as SCHEDULE
from diffusers_rec.testing.sources import SUITE as SOURCE
from diffusers_rec.testing.terms import SUITE as TERM
from diffusers_rec.testing.timesteps import SUITE as TIMESTEPS

ALL = (
    SCHEDULE,
    NOISING,
    TIMESTEPS,
    EMBEDDING,
    ENCODER,
    DENOISER,
    HEAD,
    MEMORY,
    OBJECTIVE,
    TERM,
    NEGATIVES,
    PROCESS,
    SOURCE,
    SAMPLER,
)
SUITES: dict[str, Suite] = {suite.family.kind: suite for suite in ALL}
"""Suites by kind."""


def check_component(make: Callable[..., Any], /, *, waive: Collection[str] = (), **settings: Any) -> None:
    """Check that a component satisfies the contract of its kind.

    A kind without its own suite is checked for the clauses of all kinds: name, config, random numbers and state.

    Args:
        make: Class or factory. These parameters are supplied unless ``settings`` contain them:
            ``num_items``, ``dim``, ``max_length``, ``num_timesteps``, ``embedding``, ``head``, ``schedule``, ``base``.
        waive: Names of clauses to skip.
        settings: Constructor parameters.

    Raises:
        ContractError: A clause is violated; only the first one is reported.
        TypeError: ``make`` is neither a component class nor a factory.
        ValueError: A waived name is not a clause.
    """
    other_class = isinstance(make, type) and not issubclass(make, Component)
    if isinstance(make, Component) or not callable(make) or other_class:
        raise TypeError(
            f"Expected the class of a component or a factory, got {make!r}. The check builds its own components: pass "
            "the class, and its settings as keyword arguments."
        )
    cls: type[Component] = make if isinstance(make, type) else _made_by(make, settings)
    check(SUITES.get(cls.kind) or _suite_of_none(cls), make, waive, settings)


def _made_by(factory: Callable[..., Any], settings: dict[str, Any]) -> type[Component]:
    maker = Maker(Component, factory, settings)
    run([can_be_constructed], Case("", (None, maker)), maker)
    return type(maker())


def _suite_of_none(cls: type[Component]) -> Suite:
    family = next(base for base in cls.__mro__ if "kind" in vars(base))
    return Suite(family, lambda maker: (), (), lambda component: [])
