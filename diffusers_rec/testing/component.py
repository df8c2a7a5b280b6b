"""One check for components of every kind."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from diffusers_rec.core.registry import Component
from diffusers_rec.testing.contract import Suite
from diffusers_rec.testing.denoisers import SUITE as DENOISER
from diffusers_rec.testing.embeddings import SUITE as EMBEDDING
from diffusers_rec.testing.every_kind import check
from diffusers_rec.testing.heads import SUITE as HEAD
from diffusers_rec.testing.memory import SUITE as MEMORY
from diffusers_rec.testing.negatives import SUITE as NEGATIVES
from diffusers_rec.testing.noising import SUITE as NOISING
from diffusers_rec.testing.objectives import SUITE as OBJECTIVE
from diffusers_rec.testing.samplers import SUITE as SAMPLER
from diffusers_rec.testing.schedules import SUITE as SCHEDULE
from diffusers_rec.testing.timesteps import SUITE as TIMESTEPS

ALL = (SCHEDULE, NOISING, TIMESTEPS, EMBEDDING, DENOISER, HEAD, MEMORY, OBJECTIVE, NEGATIVES, SAMPLER)
SUITES: dict[str, Suite] = {suite.family.kind: suite for suite in ALL}
"""By kind."""


def check_component(cls: type[Component], /, *, waive: Collection[str] = (), **settings: Any) -> None:
    """Check that a component keeps the contract of its kind.

    Of a kind that has no suite here, what holds for all kinds is checked: name, config, randomness, state.

    Args:
        cls: the class.
        waive: names of clauses that need not hold.
        settings: constructor parameters.

    Raises:
        ContractError: the first clause that is broken.
        TypeError: no class of a component; a factory goes to the check of its kind, :func:`check_schedule` and so on.
        ValueError: a waived name that is no clause.
    """
    if not (isinstance(cls, type) and issubclass(cls, Component)):
        raise TypeError(f"Expected the class of a component, got {cls!r}. For a factory use the check of its kind.")
    check(SUITES.get(cls.kind) or _suite_of_none(cls), cls, waive, settings)


def _suite_of_none(cls: type[Component]) -> Suite:
    family = next(base for base in cls.__mro__ if "kind" in vars(base))
    return Suite(family, lambda maker: (), (), lambda component: [])
