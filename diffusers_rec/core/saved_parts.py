"""Parts in folders of their own: what is saved, and what must hold before a file becomes a part."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from diffusers_rec.core.blueprint import built_with, state_of
from diffusers_rec.core.checkpoint import CONFIG_FILE, read_checkpoint, write_checkpoint
from diffusers_rec.core.files import naming


def save_part(part: Any, directory: str | PathLike[str]) -> None:
    """Write the config and the learned state of a component, without the parts that it shares."""
    write_checkpoint(directory, part.config(), state_of(part), [], kind=part.kind)


def load_part(family: Any, directory: Path, shared: Mapping[str, Any]) -> Any:
    """Build the component of a family that :func:`save_part` wrote, with the parts that it shares."""
    saved = read_checkpoint(directory, kind=family.kind)
    with naming(directory / CONFIG_FILE, "holds no part that can be built"):
        part = built_with(lambda: family.build_with(shared, saved.config), saved.weights)
        if surplus := sorted(set(shared) - part.requires):
            raise ValueError(f"it takes {', '.join(sorted(part.requires)) or 'no part'}, not {', '.join(surplus)}")
    return part
