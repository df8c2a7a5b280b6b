"""A weighted list of terms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from diffusers_rec.core.registry import Config
from diffusers_rec.objectives.base import LossTerms, Objective, TrainingStep
from diffusers_rec.objectives.terms import LossTerm, add_up, passes_of


class WeightedObjective(Objective, name="weighted"):
    """The weighted sum of any terms, each under its registered name in the log.

    Args:
        terms: Terms as components, names or configs, one of a kind at most, such as ``["cosine", {"name":
            "cross-entropy", "at": "final"}]``.

    Raises:
        ValueError: no term, or two of a kind.
        TypeError: one term in place of a list.
    """

    def __init__(self, terms: Sequence[LossTerm | str | Mapping[str, Any]] = ("squared", "cross-entropy")) -> None:
        if isinstance(terms, str | Mapping | LossTerm):
            raise TypeError(f"WeightedObjective: terms must be a list of terms, got {terms!r}. Wrap it in a list.")
        self.terms = [LossTerm.build(term) for term in terms]
        self._named = {term.registered_name or type(term).__name__: term for term in self.terms}
        if not self.terms or len(self._named) < len(self.terms):
            raise ValueError(f"WeightedObjective: expected terms of different kinds, got {self.terms}.")
        self.passes = passes_of(self._named)

    def __call__(self, step: TrainingStep) -> LossTerms:
        return add_up(self._named, step)

    def without_noise(self) -> Config:
        """The terms that have a meaning without noise; all of them at the one prediction that there is."""
        terms = [config for term in self.terms if (config := term.without_noise()) is not None]
        return {**self.config(), "terms": terms}
