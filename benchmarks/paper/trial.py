"""A trial as data: which model is trained on which data set, and how.

A trial is a value. A variation is a function from a trial to another one, and its name extends the first one's:

    trial = base("paper", "beauty")
    with_parts(trial, "uniform", timesteps="uniform")             # paper-uniform: the part is replaced
    with_parts(trial, "wide-start", embedding={"init_std": 1.0})  # paper-wide-start: one setting is changed

The model's config contains neither the items nor a seed: :meth:`Trial.build` supplies both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.harness import Row
from diffusers_rec import DiffRec, Vocabulary
from diffusers_rec.presets import control
from diffusers_rec.recommenders.diffrec import PARTS
from diffusers_rec.recommenders.replacing import settings_for
from diffusers_rec.training import TrainingConfig

PLACEHOLDER = Vocabulary([0])
"""Items of a model that is built for its config alone."""

SUPPLIED = ("num_items", "seed")
"""Keys that :meth:`Trial.build` supplies, in a model's config and in those of its parts."""


@dataclass(frozen=True)
class Trial:
    """One model on one data set. It goes to JSON as :func:`dataclasses.asdict` returns it.

    Attributes:
        name: Name in the tables and of the run's folder.
        dataset: Data set, one of :data:`benchmarks.paper.settings.DATASETS`.
        model: Config of the model, without the keys of :data:`SUPPLIED`.
        training: Training settings; the run sets their seed.
        published: Row of the paper's DiffRec on the data set.
    """

    name: str
    dataset: str
    model: Mapping[str, Any]
    training: TrainingConfig
    published: Row

    def build(self, items: Vocabulary, seed: int) -> DiffRec:
        """The untrained model.

        Args:
            items: Items that can be recommended.
            seed: Seed of the weight initialisation.
        """
        return DiffRec.from_config(items, {**self.model, "seed": seed})

    def further_settings(self) -> dict[str, Any]:
        """Settings beside those of the model and the training, ready for JSON, which identify a run; none here."""
        return {}


def portable(config: Mapping[str, Any]) -> dict[str, Any]:
    """A model's config without the keys of :data:`SUPPLIED`, as :attr:`Trial.model` contains it."""
    return {
        key: portable(value) if isinstance(value, Mapping) else value
        for key, value in config.items()
        if key not in SUPPLIED
    }


def with_parts(trial: Trial, label: str, /, **parts: str | Mapping[str, Any]) -> Trial:
    """The same training of a model with other parts.

    Args:
        trial: Trial to start from.
        label: What the new name appends to the trial's.
        parts: New parts by kind. A mapping without ``"name"`` changes settings of the part that the model has;
            a config with ``"name"`` or a registered name replaces the part.
    """
    changed = {kind: _changed(trial.model[kind], part) for kind, part in parts.items()}
    return replace(trial, name=f"{trial.name}-{label}", model={**trial.model, **changed})


def with_training(trial: Trial, label: str, /, **settings: Any) -> Trial:
    """The same model trained with other settings.

    Args:
        trial: Trial to start from.
        label: What the new name appends to the trial's; ``""`` keeps the name.
        settings: Fields of :class:`~diffusers_rec.training.TrainingConfig`.
    """
    name = f"{trial.name}-{label}" if label else trial.name
    return replace(trial, name=name, training=replace(trial.training, **settings))


def with_epochs(trial: Trial, epochs: int) -> Trial:
    """The same trial with another number of epochs; 0 keeps the trial's own."""
    return with_training(trial, "", epochs=epochs or trial.training.epochs)


def control_of(trial: Trial) -> Trial:
    """The same training of the model's noise-free control."""
    return replace(trial, name=f"{trial.name}-control", model=portable(control(trial.build(PLACEHOLDER, 0)).config()))


def converted(trial: Trial, kind: str, name: str) -> dict[str, Any]:
    """Config of another component with the settings that the trial's present part has too.

    Args:
        trial: Trial whose part is converted.
        kind: Kind of the part.
        name: Registered name of the other component.
    """
    return {"name": name, **settings_for(PARTS[kind].named(name), trial.model[kind])}


def _changed(current: Mapping[str, Any], part: str | Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(part, str):
        return {"name": part}
    if "name" in part:
        return dict(part)
    inner = {key: _changed(current[key], part[key]) for key in part if isinstance(current.get(key), Mapping)}
    return {**current, **part, **inner}
