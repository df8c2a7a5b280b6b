"""Changes of parts and training settings by ``--set`` and its shorthands."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from diffusers_rec.cli.values import parse_value
from diffusers_rec.core.registry import unknown_name
from diffusers_rec.recommenders.base import Recommender
from diffusers_rec.recommenders.diffrec import PARTS, DiffRec
from diffusers_rec.training import TrainingConfig

SHORTHANDS = {
    "dim": ("embedding.dim", "denoiser.dim", "head.dim"),
    "max_length": ("denoiser.max_length",),
    "dropout": ("denoiser.dropout", "denoiser.encoder.dropout"),
    "epochs": ("training.epochs",),
    "batch_targets": ("training.batch_targets",),
    "learning_rate": ("training.learning_rate",),
    "select_by": ("training.select_by",),
    "include_seen": ("training.exclude_seen",),
}
"""Settings that an option of ``train`` changes, by their keys in ``--set``."""


def parse_changes(texts: Iterable[str], shorthands: Iterable[str]) -> dict[str, str]:
    """Parse the values of ``--set`` by key: ``part``, ``part.setting``, ``training.setting`` or ``seeds``.

    Args:
        texts: Values of ``--set``.
        shorthands: Names of the given shorthand options.

    Raises:
        ValueError: A text is malformed, names an unknown part or repeats a setting.
    """
    changes: dict[str, str] = {}
    given_by = {key: f"--{name.replace('_', '-')}" for name in shorthands for key in SHORTHANDS[name]}
    known = [*PARTS, "training", "seeds"]
    for text in texts:
        key, equals, value = (each.strip() for each in text.partition("="))
        part, dot, _ = key.partition(".")
        if equals and part not in known:
            of_part = "training" if key in TrainingConfig.names() else "denoiser" if part == "encoder" else ""
            hint = f"Did you mean --set {of_part}.{text}?" if of_part else unknown_name("part", part, known)
            raise ValueError(f"--set {text}: {hint}")
        needs_dot = {"training": True, "seeds": False}.get(part, bool(dot))  # optional for parts
        if not equals or bool(dot) != needs_dot:
            raise ValueError(
                "--set takes PART=NAME or PART.SETTING=VALUE, or seeds=VALUE, "
                f"with PART one of {', '.join([*PARTS, 'training'])}, got {text!r}."
            )
        if key in given_by:
            raise ValueError(f"{given_by[key]} and --set {text} give the same setting. Keep one of the two.")
        changes[key], given_by[key] = value, f"--set {text}"
    return changes


def change_training(training: dict[str, Any], changes: dict[str, str]) -> dict[str, Any]:
    """Apply the changes that concern the training to its settings."""
    for key, text in changes.items():
        part, _, setting = key.partition(".")
        if part != "training":
            continue
        if setting not in training:
            raise ValueError(f"--set {key}={text}: {unknown_name('training setting', setting, training)}")
        training = {**training, setting: parse_value("--set", text)}
    return training


def change_model(model: Recommender, changes: dict[str, str]) -> Recommender:
    """Apply the changes that concern parts to a model; return the same model if there are none.

    Raises:
        ValueError: The model is not composed of parts.
    """
    parts: dict[str, Any] = {}
    for key, text in changes.items():
        part, dot, setting = key.partition(".")
        if part == "training":
            continue
        if dot:
            parts[part] = _with(parts.get(part, {}), setting, parse_value("--set", text))
        elif part in PARTS:
            parts[part] = {**parts.get(part, {}), "name": text}
        else:
            parts[part] = parse_value("--set", text)
    if not parts:
        return model
    if not isinstance(model, DiffRec):
        raise ValueError(
            f"--set {next(iter(parts))}: a {type(model).__name__} is not composed of parts. Of the preset, --dim, "
            "--max-length, --dropout and --set training.SETTING=VALUE can be changed."
        )
    return model.replace(**parts)


def _with(settings: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    """Settings with one more, whose key may lead into a part within the part, such as ``encoder.dropout``."""
    name, dot, inner = key.partition(".")
    if not dot:
        return {**settings, name: value}
    present = settings.get(name, {})
    return {**settings, name: _with({"name": present} if isinstance(present, str) else present, inner, value)}
