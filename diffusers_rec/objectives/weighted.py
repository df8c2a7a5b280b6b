"""A weighted list of terms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from diffusers_rec.core.registry import Config
from diffusers_rec.objectives.base import LossTerms, Objective, TrainingStep
from diffusers_rec.objectives.terms import LossTerm, add_up, passes_of
from diffusers_rec.objectives.views import joint_views


class WeightedObjective(Objective, name="weighted"):
    """Weighted sum of any terms; the log has each term under its registered name.

    Args:
        terms: Terms as components, names or configs, at most one of each kind, such as ``["cosine", {"name":
            "cross-entropy", "at": "final"}]``.

    Raises:
        ValueError: There is no term, two terms of one kind, or two terms with other settings of their views.
        TypeError: The terms are not in a list.
    """

    def __init__(self, terms: Sequence[LossTerm | str | Mapping[str, Any]] = ("squared", "cross-entropy")) -> None:
        if isinstance(terms, str | Mapping | LossTerm):
            raise TypeError(f"WeightedObjective: terms must be a list of terms, got {terms!r}. Wrap it in a list.")
        self.terms = [LossTerm.build(term) for term in terms]
        self._named = {term.registered_name or type(term).__name__: term for term in self.terms}
        if not self.terms or len(self._named) < len(self.terms):
            raise ValueError(f"WeightedObjective: expected terms of different kinds, got {self.terms}.")
        self.passes = passes_of(self._named)
        self.views = joint_views(term.views for term in self.terms)
        settings = [term.augmentations for term in self.terms if term.views]
        if settings:
            self.augmentations = settings[0]
        if any(each != self.augmentations for each in settings):
            raise ValueError(
                f"WeightedObjective: terms share their views, but the settings of these differ: {settings}."
            )
        self.penalties = tuple(dict.fromkeys(name for term in self.terms for name in term.penalties))
        self.counts_updates = any(term.counts_updates for term in self.terms)
        self.reads_latents = any(term.reads_latents for term in self.terms)

    def __call__(self, step: TrainingStep) -> LossTerms:
        return add_up(self._named, step)

    def check_fit(self, model: Any) -> None:
        """See :meth:`Component.check_fit <diffusers_rec.Component>`."""
        super().check_fit(model)
        for term in self.terms:
            term.check_fit(model)

    def without_noise(self) -> Config:
        """Config of the terms that are defined without noise, all at the only prediction.

        Without such a term, or with those that compare distances alone, the control regresses the clean latent: all
        terms of the sampled prediction stay. Terms of penalties alone always stay.
        """
        alone = [term for term in self.terms if term.penalties and term.without_noise() is None]
        penalties = [term.config() for term in alone]
        rest = [(term, term.without_noise()) for term in self.terms if term not in alone]
        keeps = all(term.compares_distances for term, config in rest if config is not None)
        terms = [
            term.config() if config is None else config
            for term, config in rest
            if config is not None or (keeps and term.passes == ("sampled",))
        ]
        if not terms:
            names = ", ".join(str(term.registered_name) for term in self.terms)
            raise ValueError(
                f"The terms {names} are not defined without noise, so that there is no control. Add the term "
                "'cross-entropy' or 'squared'."
            )
        return {**self.config(), "terms": [*terms, *penalties]}
