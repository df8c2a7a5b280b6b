"""The state of a run in one safetensors file, replaced as a whole: a killed run finds the old state or the new."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffusers_rec.core.blueprint import compare
from diffusers_rec.core.checkpoint import refuse_nonfinite
from diffusers_rec.core.errors import check_class, check_float, check_int
from diffusers_rec.core.files import naming
from diffusers_rec.core.verified import read_verified, write_verified
from diffusers_rec.data.sequences import Holdout, Sequences
from diffusers_rec.recommenders.diffrec import DiffRec

STATE_FILE = "training-state.safetensors"


@dataclass
class Progress:
    """Where a run stands, besides its tensors.

    Attributes:
        epoch: epochs done.
        best_epoch: of the best validation, 0 before the first; without validation the last.
        best_score: its ``select_by``; -1 before the first.
        stale: validations since the best.
        replaced: digest of the weights that the best ones take the place of, empty where there were none.
        history: one record an epoch.
    """

    epoch: int = 0
    best_epoch: int = 0
    best_score: float = -1.0
    stale: int = 0
    replaced: str = ""
    history: list[dict[str, float]] = field(default_factory=list)

    @property
    def last_is_best(self) -> bool:
        """Whether the epoch that ended last is the best so far."""
        return self.best_epoch == self.epoch > 0

    @classmethod
    def from_json(cls, text: str) -> Progress:
        """Of ``asdict`` in JSON.

        Raises:
            ValueError: numbers that do not fit one another.
            TypeError: anything that is no progress.
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
    """What a file holds.

    Attributes:
        run: fingerprint of what is trained on what, see :func:`fingerprint`.
        progress: where it stands.
        tensors: everything else, by name.
    """

    run: str
    progress: Progress
    tensors: dict[str, Tensor]


def save_state(
    path: Path,
    run: str,
    progress: Progress,
    model: DiffRec,
    optimizer: torch.optim.Optimizer,
    average: DiffRec | None = None,
) -> None:
    """Write the state of a run.

    Args:
        path: of the file.
        run: fingerprint of what is trained on what, see :func:`fingerprint`.
        progress: where it stands.
        model: weights, and what is learned beside them.
        optimizer: its moments.
        average: the averaged weights, if any.
    """
    tensors = {
        **({} if average is None else {f"average.{name}": tensor for name, tensor in average.state_dict().items()}),
        **{f"model.{name}": tensor for name, tensor in model.state_dict().items()},
        **{
            f"optimizer.{index}.{name}": tensor
            for index, moments in optimizer.state_dict()["state"].items()
            for name, tensor in moments.items()
        },
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {"run": run, "progress": json.dumps(asdict(progress))}
    write_verified(path, metadata, tensors)


def read_state(path: Path, run: str) -> State:
    """Read what :func:`save_state` wrote.

    Raises:
        ValueError: the file is damaged, or belongs to another run.
    """
    with _damaged(path):
        metadata, tensors = read_verified(path)
        state = State(metadata["run"], Progress.from_json(metadata["progress"]), tensors)
    if state.run != run:
        raise ValueError(
            f"{path.parent} holds a run with other settings, other data or another number of processes. "
            "Choose another folder, or delete this one to train anew. (More epochs are another setting, too: the "
            "learning rate's decay follows them.)"
        )
    return state


def put_state(
    path: Path, state: State, model: DiffRec, optimizer: torch.optim.Optimizer, average: DiffRec | None = None
) -> None:
    """Put a state where it was.

    Args:
        path: where it was read, for errors.
        state: from :func:`read_state`.
        model: takes its weights, and what is learned beside them.
        optimizer: takes its moments.
        average: takes the averaged weights, if any.

    Raises:
        ValueError: its tensors do not fit; nothing has changed then.
    """
    with _damaged(path):
        for owner, prefix in ((model, "model."), (average, "average.")):
            if owner is not None:
                compare(_part(state.tensors, prefix), owner.state_dict())
                refuse_nonfinite(_part(state.tensors, prefix), "it cannot be trained on")
        moments = _moments(_part(state.tensors, "optimizer."), optimizer)
    model.load_state_dict(_part(state.tensors, "model."))
    if average is not None:
        average.load_state_dict(_part(state.tensors, "average."))
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})


def _damaged(path: Path) -> AbstractContextManager[None]:
    return naming(path, "cannot be used", mend=f"Delete the folder {path.parent} to train anew, or choose another.")


def _moments(tensors: Mapping[str, Tensor], optimizer: torch.optim.Optimizer) -> dict[int, dict[str, Tensor]]:
    """By the number of the parameter and by name, each of the parameter's shape, or a count of steps."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    found: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        place, name = key.split(".", 1)
        found.setdefault(int(place), {})[name] = tensor
    for number, moments in found.items():
        shape = parameters[number].shape
        expected = {"step": torch.Size(), "exp_avg": shape, "exp_avg_sq": shape}
        if {name: moment.shape for name, moment in moments.items()} != expected:
            raise ValueError(f"the optimiser's moments of parameter {number} do not fit it")
    return found


def fingerprint(
    model_config: Mapping[str, Any],
    training_config: Mapping[str, Any],
    data: Sequences,
    validation: Holdout | None,
    processes: int,
) -> str:
    """A digest of what is trained, how, on what, by how many processes: equal runs go the same way, bit for bit."""
    settings = json.dumps([model_config, training_config, processes], sort_keys=True)
    digest = hashlib.sha256(settings.encode())
    digest.update(repr(data.vocabulary.ids).encode())
    for part in [data] if validation is None else [data, validation.histories]:
        digest.update(part.items.tobytes())
        digest.update(part.offsets.tobytes())
        if part.times is not None:
            digest.update(part.times.tobytes())
        for feature, values in sorted(part.features.items()):
            digest.update(feature.encode() + values.tobytes())
    if validation is not None:
        digest.update(validation.targets.tobytes())
    return digest.hexdigest()


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
