"""Damaged files that carry their own digest: the state of a training run and saved item indexes.

Numbers inside a saved index are damaged without a new digest alone: faiss does not withstand files of bad intent, as
the documentation of ``ItemIndex.load`` has it.
"""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from diffusers_rec.core.verified import write_verified
from diffusers_rec.integrations.faiss import ItemIndex
from diffusers_rec.recommenders.ranking import TopK
from diffusers_rec.training import TrainingConfig, TrainingResult, train
from diffusers_rec.training.state import STATE_FILE

from . import world
from .harness import EQUAL, SILENT, Campaign, Note, Outcome, of_file_error
from .mutations import damage_bytes, damage_header, damage_json, joined, parsed

AS_SAID = "as the files say"
CONFIG = TrainingConfig(epochs=3, batch_targets=8, average_decay=0.5, learning_rate=0.01)
OnEpoch = Callable[[dict[str, float]], None]
METADATA = ["x", "", "-1", "0", "1.5", "9" * 30, "nan", "hnsw", "[]"]


@dataclass(frozen=True)
class Whole:
    """A run that was stopped after two epochs, what it comes to, a saved index and what it finds."""

    run: Path
    result: TrainingResult
    weights: dict[str, Tensor]
    index: bytes
    found: TopK


class Stopped(Exception):
    """Ends a run from within."""


def prepare(folder: Path) -> Whole:
    def stop(record: dict[str, float]) -> None:
        if record["epoch"] == 2:
            raise Stopped

    with contextlib.suppress(Stopped):
        resume(folder / "run", stop)
    shutil.copytree(folder / "run", folder / "whole")
    result, weights = resume(folder / "whole")
    world.index().save(folder / "index")
    return Whole(folder / "run", result, weights, (folder / "index").read_bytes(), world.index().top_k(latents(), 3))


def resume(
    folder: Path, on_epoch: Callable[[dict[str, float]], None] | None = None
) -> tuple[TrainingResult, dict[str, Tensor]]:
    model, data = world.model(), world.sequences().leave_one_out()
    result = train(model, data.train, data.validation, CONFIG, directory=folder, device="cpu", on_epoch=on_epoch)
    return result, model.state_dict()


def latents() -> Tensor:
    return world.gaussian(2, 3, world.DIM)


def trial(whole: Whole, generator: random.Random, note: Note) -> Outcome:
    with tempfile.TemporaryDirectory(dir=whole.run.parent) as folder:
        if generator.random() < 0.5:
            return _trial_of_index(whole, Path(folder) / "index", generator, note)
        return _trial_of_state(whole, Path(folder) / "run", generator, note)


def _trial_of_index(whole: Whole, path: Path, generator: random.Random, note: Note) -> Outcome:
    path.write_bytes(whole.index)
    signed = damage(path, generator, note, "a saved index", ["relabel", "metadata"])
    try:
        found = ItemIndex.load(path, world.head()).top_k(latents(), 3)
    except Exception as error:
        return of_file_error(error, path)
    if torch.equal(found.items, whole.found.items) and torch.equal(found.scores, whole.found.scores):
        return EQUAL, "the same items and scores"
    sound = bool(found.scores.isfinite().all())
    return (AS_SAID, "another sample of the tail") if signed == "metadata" and sound else (SILENT, f"finds {found}")


def _trial_of_state(whole: Whole, folder: Path, generator: random.Random, note: Note) -> Outcome:
    shutil.copytree(whole.run, folder)
    path = folder / STATE_FILE
    signed = damage(path, generator, note, "a training state", ["relabel", "header", "progress", "metadata"])
    stated = _read(path)
    try:
        result, weights = resume(folder)
    except Exception as error:
        if signed and "diverged" in str(error):
            return AS_SAID, "the file's weights are no start"
        return of_file_error(error, folder)
    equal = all(torch.equal(tensor, whole.weights[name]) for name, tensor in weights.items())
    if equal and _timeless(result) == _timeless(whole.result):
        return EQUAL, "ends like the undamaged run"
    if not signed or stated is None:
        return SILENT, f"ends with other weights or another history: best epoch {result.best_epoch}"
    fault = _fault(result, weights, stated[1])
    return (SILENT, fault) if fault else (AS_SAID, "resumed from what the file holds")


def _fault(result: TrainingResult, weights: dict[str, Tensor], saved: dict[str, Tensor]) -> str:
    """What is wrong with the end of a run that was resumed from these tensors; empty where nothing is."""
    odd = [name for name, tensor in weights.items() if saved[f"model.{name}"].dtype != tensor.dtype]
    if odd:
        return f"{odd[0]} was saved as {saved[f'model.{odd[0]}'].dtype}"
    if not all(bool(tensor.isfinite().all()) for tensor in weights.values()):
        return "ends with weights that are not finite"
    if not all(isinstance(record, dict) for record in result.history):
        return f"ends with the history {result.history}"
    if len(result.history) != CONFIG.epochs or not 1 <= result.best_epoch <= CONFIG.epochs:
        return f"ends after {len(result.history)} epochs, the best of them {result.best_epoch}"
    return ""


def damage(path: Path, generator: random.Random, note: Note, what: str, signable: list[str]) -> str:
    """Damage a file; the name of the kind if it was given a new digest, empty otherwise."""
    kind = generator.choice(["bytes", "header", *signable])
    signed = kind in signable and generator.random() < 0.8
    if kind == "bytes":
        files = {path.name: path.read_bytes()}
        words = damage_bytes(files, generator)
        path.write_bytes(files[path.name])
    elif kind in ("header", "relabel"):
        words, data = damage_header(path.read_bytes(), generator, only="relabel" if kind == "relabel" else "")
        path.write_bytes(data)
    else:
        words = _damage_metadata(path, generator, kind)
    note(f"{what}{', signed anew' * signed}: {words}")
    stated = _read(path)
    if not signed or stated is None:
        return ""
    metadata, tensors = stated
    metadata.pop("sha256", None)
    write_verified(path, metadata, tensors)
    return kind


def _damage_metadata(path: Path, generator: random.Random, kind: str) -> str:
    """Change one text of the metadata, or one value of the progress in it."""
    header, body = parsed(path.read_bytes())
    metadata = header["__metadata__"]
    if kind == "progress":
        words, value = damage_json(json.loads(metadata["progress"]), generator)
        metadata["progress"] = json.dumps(value)
    else:
        key = generator.choice(sorted(set(metadata) - {"sha256"}))
        words = f"{key} removed"
        del metadata[key]
        if generator.random() < 0.8:
            metadata[key] = generator.choice(METADATA)
            words = f"{key} = {metadata[key]!r}"
    path.write_bytes(joined(header, bytes(body)))
    return f"metadata: {words}"


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]] | None:
    """Metadata and tensors as they are in the file; None where it cannot be read."""
    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception:
        return None


def _timeless(result: TrainingResult) -> list[dict[str, float]]:
    records = [record for record in result.history if isinstance(record, dict)]
    return [{key: value for key, value in record.items() if key != "targets_per_second"} for record in records]


CAMPAIGN = Campaign("states", prepare, trial, allowed=(AS_SAID,))
