"""Trained models, ensembles and samplers of the commands."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from diffusers_rec.cli.values import parse_value
from diffusers_rec.core.errors import check_int
from diffusers_rec.recommenders.base import Recommender
from diffusers_rec.recommenders.diffrec import DiffRec
from diffusers_rec.recommenders.ensemble import Ensemble
from diffusers_rec.recommenders.loading import load_pretrained
from diffusers_rec.samplers import Sampler


def load_model(folder: Path) -> Recommender:
    """Load a trained model of any class, on the GPU if there is one."""
    return load_pretrained(folder).to("cuda" if torch.cuda.is_available() else "cpu")


def load_pipeline(folder: Path, command: str) -> DiffRec:
    """Load a trained model for a command that needs the parts of a :class:`~diffusers_rec.DiffRec`.

    Raises:
        ValueError: The model is of another class.
    """
    model = load_model(folder)
    if not isinstance(model, DiffRec):
        raise ValueError(
            f"diffrec {command} needs a DiffRec, but {folder} holds a {type(model).__name__}. "
            "Give the folder of a model of another preset, such as diffrec train --preset joint."
        )
    return model


def load_ensemble(model: Recommender, folder: Path, others: list[Path] | None) -> Recommender:
    """Load the ensemble of a model and the folders of ``--with``; return the model if there are none."""
    if not others:
        return model
    folders = [folder, *others]
    if len({path.resolve() for path in folders}) < len(folders):
        raise ValueError(f"--with: {', '.join(map(str, folders))} contains a model twice. Give each folder once.")
    members = [model]
    for other in others:
        try:
            members.append(load_model(other))
        except ValueError as error:
            raise ValueError(f"--with {other}: {error}") from error
    try:
        return Ensemble(members)
    except ValueError as error:
        raise ValueError(f"--with, where {folder} is member 0: {error}") from error


def choose_sampler(model: Recommender, choice: str | None, steps: int | None) -> Sampler | None:
    """Build the sampler of ``--sampler`` and ``--steps``; None if neither is given."""
    if choice is None and steps is None:
        return None
    if not isinstance(model, DiffRec):
        raise ValueError(
            f"--sampler and --steps: a {type(model).__name__} has a chain of its own. Leave the options out."
        )
    config = None if choice is None else parse_value("--sampler", choice)
    shared = {"embedding": model.embedding, "head": model.head, "schedule": model.schedule}
    sampler = model.sampler if config is None else Sampler.build_with(shared, config)
    if steps is None:
        return sampler
    if isinstance(config, dict) and "num_steps" in config:
        raise ValueError(f"--steps={steps} and the num_steps of --sampler give the same setting. Keep one of the two.")
    name, final = sampler.registered_name, model.schedule.num_timesteps
    if "num_steps" not in sampler.settings():
        chains = [known for known in Sampler.names() if "num_steps" in Sampler.named(known).settings()]
        raise ValueError(
            f"--steps: the sampler {name!r} has no number of steps. Use --sampler with {', '.join(chains)}."
        )
    if check_int("--steps", steps, minimum=1) > final:
        raise ValueError(f"--steps must be at most num_timesteps={final}, the model's N, got {steps}.")
    return Sampler.build_with(shared, {**sampler.config(), "num_steps": steps})


def choose_generating_sampler(choice: str | None, steps: int | None) -> Any:
    """Name or config of the sampler of ``--sampler`` (``unmask`` if absent) and ``--steps``; None without both."""
    if choice is None and steps is None:
        return None
    config = "unmask" if choice is None else parse_value("--sampler", choice)
    if steps is None:
        return config
    if isinstance(config, dict) and "num_steps" in config:
        raise ValueError(f"--steps={steps} and the num_steps of --sampler give the same setting. Keep one of the two.")
    named = config if isinstance(config, dict) else {"name": config}
    return {**named, "num_steps": check_int("--steps", steps, minimum=1)}


def count_parameters(model: Recommender) -> int:
    """Number of parameters of a model."""
    return sum(parameter.numel() for parameter in model.parameters())
