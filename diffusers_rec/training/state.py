"""The state of a run in one safetensors file, replaced as a whole: a killed run finds the old state or the new."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffusers_rec.data.sequences import Holdout, Sequences
from diffusers_rec.pipeline import DiffRec
from diffusers_rec.sealed import read_sealed, write_sealed

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
        model: weights and the timestep sampler's history.
        optimizer: its moments.
        average: the averaged weights, if any.
    """
    tensors = {
        **({} if average is None else {f"average.{name}": tensor for name, tensor in average.state_dict().items()}),
        **{f"model.{name}": tensor for name, tensor in model.state_dict().items()},
        **{f"timesteps.{name}": tensor for name, tensor in model.timesteps.state_dict().items()},
        **{
            f"optimizer.{index}.{name}": tensor
            for index, moments in optimizer.state_dict()["state"].items()
            for name, tensor in moments.items()
        },
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {"run": run, "progress": json.dumps(asdict(progress))}
    write_sealed(path, metadata, tensors)


def load_state(
    path: Path, run: str, model: DiffRec, optimizer: torch.optim.Optimizer, average: DiffRec | None = None
) -> Progress:
    """Put back what :func:`save_state` wrote.

    Raises:
        ValueError: the file is damaged, or belongs to another run.
    """
    try:
        metadata, tensors = read_sealed(path)
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}). Delete it to train from the start.") from error
    if metadata["run"] != run:
        raise ValueError(
            f"{path.parent} holds a run with other settings, other data or another number of processes. "
            "Choose another folder, or delete this one to train anew. (More epochs are another setting, too: the "
            "learning rate's decay follows them.)"
        )
    model.load_state_dict(_part(tensors, "model."))
    if average is not None:
        average.load_state_dict(_part(tensors, "average."))
    model.timesteps.load_state_dict(_part(tensors, "timesteps."))
    moments: dict[int, dict[str, Tensor]] = {}
    for key, tensor in _part(tensors, "optimizer.").items():
        index, name = key.split(".", 1)
        moments.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    return Progress(**json.loads(metadata["progress"]))


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
    if validation is not None:
        digest.update(validation.targets.tobytes())
    return digest.hexdigest()


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
