"""Configs of older checkpoints in today's words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diffusers_rec.core.registry import Config


def migrated(config: Mapping[str, Any]) -> Config:
    """The config of a pipeline as this version writes it.

    Until format 2, ``recommend_from`` called the pass at step N ``"start"``.
    """
    objective = config.get("objective")
    if isinstance(objective, Mapping) and objective.get("recommend_from") == "start":
        return {**config, "objective": {**objective, "recommend_from": "final"}}
    return dict(config)
