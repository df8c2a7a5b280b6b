"""Configs of older checkpoints in today's words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffusers_rec.core.registry import Config

_OF_THE_ENCODER = "num_layers", "num_heads", "dropout", "low_pass"


def migrated(config: Mapping[str, Any]) -> Config:
    """The config of a pipeline as this version writes it.

    Until format 2, ``recommend_from`` called the pass at step N ``"start"``, and the settings of the history encoder of
    ``conditional-mlp`` were its own.
    """
    new = dict(config)
    objective, denoiser = config.get("objective"), config.get("denoiser")
    if isinstance(objective, Mapping) and objective.get("recommend_from") == "start":
        new["objective"] = {**objective, "recommend_from": "final"}
    if isinstance(denoiser, Mapping):
        new["denoiser"] = _with_encoder(denoiser)
    return new


def _with_encoder(config: Mapping[str, Any]) -> Config:
    """The config of a denoiser, or of the one that a guide wraps, whose encoder has its own settings."""
    if isinstance(config.get("base"), Mapping):
        return {**config, "base": _with_encoder(config["base"])}
    moved = {key: config[key] for key in _OF_THE_ENCODER if key in config}
    if config.get("name") != "conditional-mlp" or not moved:
        return dict(config)
    kept = {key: value for key, value in config.items() if key not in moved}
    sizes = {key: config[key] for key in ("dim", "max_length") if key in config}
    return {**kept, "encoder": {"name": "causal-transformer", **sizes, **moved, "seed": None}}
