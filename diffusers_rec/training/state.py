"""The state of a run in one safetensors file, which is replaced atomically."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from torch import Tensor

from diffusers_rec.core.blueprint import compare
from diffusers_rec.core.checkpoint import refuse_nonfinite
from diffusers_rec.core.errors import check_class, check_float, check_int
from diffusers_rec.core.files import naming
from diffusers_rec.core.verified import read_verified, write_verified
from diffusers_rec.data.sequences import Holdout, Sequences
from diffusers_rec.training.learner import Learner
from diffusers_rec.training.optimizers import pack_optimizer, restore_optimizer, unpack_optimizer

STATE_FILE = "training-state.safetensors"
VERSION = "2"
"""Version of the format; version 1 had no numbers of the optimizer."""


@dataclass
class Progress:
    """Progress of a run.

    Attributes:
        epoch: Number of completed epochs.
        best_epoch: Epoch of the best validation, 0 before the first; the last epoch without validation.
        best_score: Score of the best validation; -1 before the first.
        stale: Number of validations since the best one.
        replaced: Digest of the previous best weights; empty if there were none.
        history: One record for each epoch.
    """

    epoch: int = 0
    best_epoch: int = 0
    best_score: float = -1.0
    stale: int = 0
    replaced: str = ""
    history: list[dict[str, float]] = field(default_factory=list)

    @property
    def last_is_best(self) -> bool:
        """Whether the last epoch is the best so far."""
        return self.best_epoch == self.epoch > 0

    def enter(self, score: float, *, whole: bool = True) -> None:
        """Record the score of a validation after the current epoch; one that is not whole exhausts no patience."""
        if score > self.best_score or not self.best_epoch:
            self.best_score, self.best_epoch, self.stale = score, self.epoch, 0
        elif whole:
            self.stale += 1

    @classmethod
    def from_json(cls, text: str) -> Progress:
        """Read the JSON of ``asdict``.

        Raises:
            ValueError: The numbers are inconsistent.
            TypeError: The JSON is not progress.
        """
        values = json.loads(text)
        if set(values) != {each.name for each in fields(cls)}:
            raise ValueError(f"progress must hold {', '.join(each.name for each in fields(cls))}")
        progress = cls(**values)
        check_int("epoch", progress.epoch, minimum=0)
        check_int("best_epoch", progress.best_epoch, minimum=0, maximum=progress.epoch)
        check_int("stale", progress.stale, minimum=0, maximum=progress.epoch)
        check_float("best_score", progress.best_score)
        check_class("history", progress.history, list)
        check_class("replaced", progress.replaced, str)
        for record in progress.history:
            check_class("each record of history", record, dict)
        if len(progress.history) != progress.epoch:
            raise ValueError(f"history must hold {progress.epoch} records, got {len(progress.history)}")
        return progress


@dataclass(frozen=True)
class State:
    """Content of a file.

    Attributes:
        run: Fingerprint of the run, see :func:`fingerprint`.
        progress: Progress of the run.
        optimizer: JSON with the numbers of the optimizer and the form of its tensors.
        tensors: All tensors, by name.
    """

    run: str
    progress: Progress
    optimizer: str
    tensors: dict[str, Tensor]


def save_state(path: Path, run: str, progress: Progress, learner: Learner) -> None:
    """Write the state of a run.

    Args:
        path: Path of the file.
        run: Fingerprint of the run, see :func:`fingerprint`.
        progress: Progress of the run.
        learner: Learner whose state is saved.

    Raises:
        ValueError: The optimizer's state cannot be saved.
    """
    parts = {"model": learner.model.state_dict()}
    if learner.average is not None:
        parts["average"] = learner.average.state_dict()
    parts["optimizer"], numbers = pack_optimizer(learner.optimizer)
    tensors = {
        f"{part}.{name}": tensor.detach().cpu().contiguous()
        for part, named in parts.items()
        for name, tensor in named.items()
    }
    metadata = {"version": VERSION, "run": run, "progress": json.dumps(asdict(progress)), "optimizer": numbers}
    write_verified(path, metadata, tensors)


def read_state(path: Path, run: str) -> State:
    """Read a file that :func:`save_state` wrote.

    Raises:
        ValueError: The file is damaged, or belongs to another run or version.
    """
    with _damaged(path):
        metadata, tensors = read_verified(path)
        if metadata.get("version") != VERSION:
            raise ValueError("another version of this library wrote it, whose runs cannot be resumed by this one")
        progress = Progress.from_json(metadata["progress"])
        state = State(metadata["run"], progress, metadata["optimizer"], tensors)
    if state.run != run:
        raise ValueError(
            f"{path.parent} holds a run with other settings, other data or another number of processes. "
            "Choose another folder, or delete this one to train again. (The number of epochs is also a setting, "
            "because the learning rate depends on it.)"
        )
    return state


def put_state(path: Path, state: State, learner: Learner) -> None:
    """Restore a state.

    Args:
        path: Path of the file, for errors.
        state: State from :func:`read_state`.
        learner: Learner whose weights, learned state, averaged weights and optimizer are restored.

    Raises:
        ValueError: The tensors do not fit; nothing is changed.
    """
    with _damaged(path):
        for owner, prefix in ((learner.model, "model."), (learner.average, "average.")):
            if owner is not None:
                compare(_part(state.tensors, prefix), owner.state_dict())
                refuse_nonfinite(_part(state.tensors, prefix), "it cannot be trained on")
        unpacked = unpack_optimizer(_part(state.tensors, "optimizer."), state.optimizer, learner.optimizer)
    learner.model.load_state_dict(_part(state.tensors, "model."))
    if learner.average is not None:
        learner.average.load_state_dict(_part(state.tensors, "average."))
    restore_optimizer(learner.optimizer, unpacked)


def fingerprint(settings: Any, data: Sequences, validation: Holdout | None, processes: int) -> str:
    """Digest that identifies a run; runs with equal digests have the same results, bit for bit.

    Args:
        settings: Configs of the model, the training, the optimizer and the metric, as JSON values.
        data: Training sequences.
        validation: Histories and targets of the validation.
        processes: Number of processes.
    """
    digest = hashlib.sha256(json.dumps([settings, processes], sort_keys=True).encode())
    digest.update(repr(data.vocabulary.ids).encode())
    for part in [data] if validation is None else [data, validation.histories]:
        digest.update(part.items.tobytes())
        digest.update(part.offsets.tobytes())
        if part.times is not None:
            digest.update(part.times.tobytes())
        for feature, values in sorted(part.features.items()):
            digest.update(feature.encode() + values.tobytes())
    if validation is not None:
        digest.update(validation.following.items.tobytes())
        digest.update(validation.following.offsets.tobytes())
    return digest.hexdigest()


def digests(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Digest of each tensor, by name."""
    found = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    return {
        name: hashlib.sha256(f"{tuple(tensor.shape)}".encode() + tensor.numpy().tobytes()).hexdigest()
        for name, tensor in found.items()
    }


def _damaged(path: Path) -> AbstractContextManager[None]:
    return naming(path, "cannot be used", advice=f"Delete the folder {path.parent} to train again, or choose another.")


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
