"""Checkpoints of models and of parts with damaged files, as they are and with every digest recomputed."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load

from diffusers_rec import Component, DiffRec
from diffusers_rec.core.blueprint import state_of

from . import world
from .harness import EQUAL, SILENT, Campaign, Note, Outcome, of_call_error, of_file_error
from .mutations import HUGE, VALUES, Files, damage_bytes, damage_header, damage_json

AS_SAID = "as the files say"
CONFIG = "config.json"


@dataclass(frozen=True)
class Saved:
    """A checkpoint's files, and the model or the part that they give undamaged."""

    folder: Path
    files: Files
    model: DiffRec | Component

    def load(self, folder: Path) -> Any:
        if isinstance(self.model, DiffRec):
            return DiffRec.from_pretrained(folder)
        family = next(cls for cls in type(self.model).__mro__ if "kind" in vars(cls))
        return family.from_pretrained(folder)  # type: ignore[attr-defined]


def prepare(folder: Path) -> list[Saved]:
    models = {
        "memory": world.model(timesteps={"name": "importance", "history": 2}),
        "bfloat16": world.model(denoiser="transformer", dim=8, head="tied", memory="none").to(torch.bfloat16),
        "posterior": world.model(
            denoiser={"name": "posterior", "base": "causal-transformer"}, head="cosine", sampler="ddpm", seeds=[3, 1],
            noising="last-k", negatives="uniform", objective="contrastive",
        ),
    }  # fmt: skip
    model = models["memory"]
    model.timesteps.update(torch.arange(1, 8).repeat(2), torch.ones(14))
    parts = {"denoiser": model.denoiser, "timesteps": model.timesteps, "schedule": model.schedule}
    return [saved(model, folder / name) for name, model in {**models, **parts}.items()]


def saved(model: DiffRec | Component, folder: Path) -> Saved:
    model.save_pretrained(folder)
    return Saved(folder, {path.name: path.read_bytes() for path in folder.iterdir()}, model)


def trial(checkpoints: list[Saved], generator: random.Random, note: Note) -> Outcome:
    whole = generator.choice(checkpoints)
    files = dict(whole.files)
    signed = generator.random() < 0.7
    words = damage(files, generator)
    if signed:
        sign(files)
    note(f"{whole.folder.name}{', signed anew' * signed}: {words}")
    folder = Path(tempfile.mkdtemp(dir=whole.folder.parent))
    for name, data in files.items():
        (folder / name).write_bytes(data)
    try:
        model = whole.load(folder)
    except Exception as error:
        return of_file_error(error, folder)
    finally:
        shutil.rmtree(folder)
    difference = _difference(model, whole.model)
    if not difference:
        return EQUAL, "the undamaged model"
    return _against_files(model, files) if signed else (SILENT, difference)


def damage(files: Files, generator: random.Random) -> str:
    """Damage one of the files, or any bytes."""
    weights, items = (next((name for name in files if name.startswith(start)), "") for start in ("model", "items"))
    has_tensors = b'"dtype"' in files[weights]
    kind = generator.choice(["bytes", "config", *["header"] * has_tensors, *["items"] * bool(items)])
    if kind == "bytes":
        return damage_bytes(files, generator)
    if kind == "header":
        words, files[weights] = damage_header(files[weights], generator)
        return words
    if kind == "items" and generator.random() < 0.1:
        files[items] = b"[" * 10**5 + b"]" * 10**5
        return "items: nested 100,000 deep"
    if kind == "items":
        raw = json.loads(files[items])
        words, raw = generator.choice([damage_json, _damage_list])(raw, generator)
        files[items] = json.dumps(raw).encode()
        return f"items: {words}"
    content = json.loads(files[CONFIG])
    if generator.random() < 0.8:
        described = "pipeline" if items else "part"
        words, content[described] = damage_json(content[described], generator)
    else:
        words, content = damage_json(content, generator)
    files[CONFIG] = json.dumps(content).encode()
    return f"config: {words}"


def _damage_list(items: list[Any], generator: random.Random) -> tuple[str, Any]:
    other = [items[::-1], items * 2, [*items, "new"], items[:-1], dict.fromkeys(items), [items], [HUGE] * len(items)]
    chosen = generator.choice(other + VALUES)
    return f"replaced by {str(chosen)[:60]}", chosen


def sign(files: Files) -> None:
    """Recompute every digest and rename the files to fit, where the config can still be read."""
    try:
        content = json.loads(files[CONFIG])
        for part in {"weights", "items"} & content.keys():
            old = content[part]["file"]
            digest = hashlib.sha256(files[old]).hexdigest()
            new = f"{old.split('-')[0]}-{digest[:12]}{Path(old).suffix}"
            files[new] = files.pop(old)
            content[part] = {"file": new, "sha256": digest}
        content.pop("sha256", None)
        plain = json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
        content["sha256"] = hashlib.sha256(plain).hexdigest()
        files[CONFIG] = json.dumps(content).encode()
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return  # too damaged to be signed


def _difference(model: Any, other: Any) -> str:
    """Where two models or parts differ, in words; empty where they are equal."""
    if getattr(model, "vocabulary", None) != getattr(other, "vocabulary", None) or model.config() != other.config():
        return "other items or another config"
    return _other_weights(state_of(model), state_of(other))


def _other_weights(weights: dict[str, torch.Tensor], others: dict[str, torch.Tensor]) -> str:
    if weights.keys() != others.keys():
        return f"other tensors: {sorted(weights.keys() ^ others.keys())}"
    for name, tensor in weights.items():
        if tensor.dtype != others[name].dtype or tensor.shape != others[name].shape:
            return f"{name} is {tensor.dtype} {tuple(tensor.shape)}, not {others[name].dtype}"
        if (
            tensor.contiguous()
            .view(-1)
            .view(torch.uint8)
            .ne(others[name].contiguous().view(-1).view(torch.uint8))
            .any()
        ):
            return f"{name} has other numbers"
    return ""


def _against_files(model: Any, files: Files) -> Outcome:
    """A model of files that are signed anew must be what they say, finite, and serve or give a clear error."""
    difference = _unlike_files(model, files)
    if difference:
        return SILENT, difference
    if isinstance(model, Component):
        return AS_SAID, "loaded and finite"
    try:
        found = model.recommend([[model.vocabulary.ids[0]]], 1)
    except Exception as error:
        return of_call_error(error)
    if not found.scores.isfinite().all():
        return SILENT, f"recommends with the score {found.scores.tolist()}"
    return AS_SAID, "loaded, finite, and serves"


def _unlike_files(model: Any, files: Files) -> str:
    content = json.loads(files[CONFIG])
    difference = _other_weights(state_of(model), load(files[content["weights"]["file"]]))
    if difference:
        return f"not as the file says: {difference}"
    described = content["part" if isinstance(model, Component) else "pipeline"]
    if not _holds(model.config(), described):
        return f"the config is {model.config()}, the file says {described}"
    items = json.loads(files[content["items"]["file"]]) if isinstance(model, DiffRec) else None
    if items is not None and not _holds(list(model.vocabulary.ids), items):
        return f"other items than the file's: {model.vocabulary.ids[:5]}"
    endless = [name for name, tensor in state_of(model).items() if not tensor.isfinite().all()]
    return f"loaded, but not finite: {endless[0]}" if endless else ""


def _holds(value: Any, stated: Any) -> bool:
    """Whether a value has all that is stated, keys that were left out aside."""
    if isinstance(stated, dict) and isinstance(value, dict):
        return all(key in value and _holds(value[key], part) for key, part in stated.items())
    if isinstance(stated, list) and isinstance(value, list):
        return len(value) == len(stated) and all(map(_holds, value, stated))
    return bool(value == stated) and isinstance(value, bool) == isinstance(stated, bool)


CAMPAIGN = Campaign("checkpoints", prepare, trial, allowed=(AS_SAID,))
