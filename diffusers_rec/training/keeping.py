"""What a run keeps, in memory or in a folder of its own: how far it is, its log, its best model."""

from __future__ import annotations

import copy
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import torch
from torch import Tensor

from diffusers_rec.core.checkpoint import CONFIG_FILE, FILES, read_checkpoint
from diffusers_rec.core.errors import check_path
from diffusers_rec.core.files import folder_lock, remove_temporaries, write_atomically
from diffusers_rec.recommenders.diffrec import DiffRec
from diffusers_rec.training.state import STATE_FILE, Progress, put_state, read_state, save_state

LOG_FILE = "log.jsonl"
WAIT = 2.0
"""Seconds that a run waits for its folder; another run holds it for as long as it lasts."""
_FILES = re.compile(rf"{re.escape(LOG_FILE)}|{re.escape(STATE_FILE)}|{FILES.pattern}")


@dataclass(frozen=True)
class Trained:
    """What training changes.

    Attributes:
        model: whose weights the optimiser moves.
        optimizer: with its moments.
        average: the moving average of the model, if any.
    """

    model: DiffRec
    optimizer: torch.optim.Optimizer
    average: DiffRec | None

    @property
    def judged(self) -> DiffRec:
        """What is validated and kept."""
        return self.model if self.average is None else self.average


class Keeper(ABC):
    """Keeps what a run needs to end with its best model."""

    @abstractmethod
    def begin(self, trained: Trained) -> Progress:
        """How far the run is; where it is not at its start, everything that training changes is put there."""

    @abstractmethod
    def keep(self, trained: Trained, progress: Progress) -> None:
        """After an epoch."""

    @abstractmethod
    def best(self) -> Mapping[str, Tensor]:
        """The weights of the best epoch."""


class InMemory(Keeper):
    """Of a run that cannot be taken up again."""

    def begin(self, trained: Trained) -> Progress:
        self._best = copy.deepcopy(trained.model.state_dict())
        return Progress()

    def keep(self, trained: Trained, progress: Progress) -> None:
        if progress.last_is_best:
            self._best = copy.deepcopy(trained.judged.state_dict())

    def best(self) -> Mapping[str, Tensor]:
        return self._best


class InFolder(Keeper):
    """Of a run that goes on when it is started again.

    The state is written before the best model: it holds the last weights, from which a model that a kill has cut off is
    written when the run goes on.

    Args:
        folder: Folder of the run, locked by the process that writes.
        run: Fingerprint of the run.
        writes: Whether this process writes; of several one does.

    Raises:
        ValueError: the folder holds files of somebody else, of another run, or a damaged state.
    """

    def __init__(self, folder: Path, run: str, *, writes: bool) -> None:
        self.folder, self.run, self.writes = folder, run, writes
        path = folder / STATE_FILE
        self._found = read_state(path, run) if path.exists() else None
        if self._found is None and (folder / CONFIG_FILE).exists():
            raise ValueError(f"{folder} holds a {CONFIG_FILE} that no run here has written. Choose another folder.")
        self._refuse_foreign_log()

    def begin(self, trained: Trained) -> Progress:
        if self.writes:
            remove_temporaries(self.folder, _FILES)
        if self._found is None:
            self._save(trained, Progress())  # a folder that cannot be written is told now
            return Progress()
        put_state(self.folder / STATE_FILE, self._found, trained.model, trained.optimizer, trained.average)
        progress, self._found = self._found.progress, None
        if progress.best_epoch:
            self._mend_best(trained, progress)
        return progress

    def keep(self, trained: Trained, progress: Progress) -> None:
        if progress.last_is_best:
            progress.replaced = _digest_of(self.folder)
        self._save(trained, progress)
        if progress.last_is_best:
            self._save_best(trained)

    def best(self) -> Mapping[str, Tensor]:
        return read_checkpoint(self.folder).weights

    def _save(self, trained: Trained, progress: Progress) -> None:
        if self.writes:
            write_atomically(self.folder / LOG_FILE, _log(progress))
            save_state(self.folder / STATE_FILE, self.run, progress, trained.model, trained.optimizer, trained.average)

    def _save_best(self, trained: Trained) -> None:
        if self.writes:
            trained.judged.save_pretrained(self.folder)

    def _mend_best(self, trained: Trained, progress: Progress) -> None:
        """Write the best model where only the state has it yet; tell now, not in the end, that it is lost."""
        try:
            kept = read_checkpoint(self.folder).digest
        except (FileNotFoundError, ValueError) as error:
            if not progress.last_is_best:
                raise ValueError(
                    f"{self.folder} has lost its best model, that of epoch {progress.best_epoch} ({error}). Delete the "
                    "folder to train anew."
                ) from error
            kept = progress.replaced
        if progress.last_is_best and kept == progress.replaced:
            self._save_best(trained)

    def _refuse_foreign_log(self) -> None:
        """A log is this run's if it begins as the state says; a kill may have come between the two writings."""
        path, progress = self.folder / LOG_FILE, self._found.progress if self._found else Progress()
        if not path.exists():
            return
        found, own = path.read_bytes() if path.is_file() else b"\0", _log(progress)
        ahead = found.removeprefix(own).splitlines()
        if not found.startswith(own) or len(ahead) > (0 if self._found is None else 1):
            raise ValueError(f"{path} is not the log of this run, and is not overwritten. Choose another folder.")


@contextmanager
def run_folder(directory: str | PathLike[str] | None, *, writes: bool) -> Iterator[Path | None]:
    """The folder of a run, made if missing; it belongs to the process that writes until the run ends.

    Raises:
        NotADirectoryError: there is a file in its place.
        ValueError: another run or another process writes to it, or the path is empty.
    """
    if directory is None:
        yield None
        return
    folder = check_path("directory", directory)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file; a run needs a folder of its own.")
    folder.mkdir(parents=True, exist_ok=True)
    with folder_lock(folder, wait=WAIT) if writes else nullcontext():
        yield folder


def _log(progress: Progress) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in progress.history).encode()


def _digest_of(folder: Path) -> str:
    """Of the weights in a folder; empty where no whole model is."""
    try:
        return read_checkpoint(folder).digest
    except (FileNotFoundError, ValueError):
        return ""
