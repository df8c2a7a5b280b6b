"""Storage of a run, in memory or in a folder: its progress, its log and its best model."""

from __future__ import annotations

import copy
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from os import PathLike
from pathlib import Path
from typing import cast

from torch import Tensor

from diffusers_rec.core.checkpoint import CONFIG_FILE, FILES, read_checkpoint
from diffusers_rec.core.errors import check_path
from diffusers_rec.core.files import folder_lock, remove_temporaries, write_atomically
from diffusers_rec.recommenders.base import Recommender
from diffusers_rec.recommenders.pretrained import Pretrained
from diffusers_rec.training.learner import Learner
from diffusers_rec.training.state import STATE_FILE, Progress, put_state, read_state, save_state

LOG_FILE = "log.jsonl"
WAIT = 2.0
"""Seconds that a run waits for the lock of its folder."""
_FILES = re.compile(rf"{re.escape(LOG_FILE)}|{re.escape(STATE_FILE)}|{FILES.pattern}")


class RunStore(ABC):
    """Storage of the progress and the best model of a run."""

    @abstractmethod
    def restore(self, learner: Learner) -> Progress:
        """Restore the saved state, if any, and return the progress of the run."""

    @abstractmethod
    def save(self, learner: Learner, progress: Progress) -> None:
        """Save the run after an epoch."""

    @abstractmethod
    def best_weights(self) -> Mapping[str, Tensor]:
        """Weights of the best epoch."""

    @abstractmethod
    def save_calibrated(self, model: Recommender) -> None:
        """Save the model of the best epoch once more, now with its calibration."""


class MemoryStore(RunStore):
    """Storage of a run that cannot be resumed."""

    def restore(self, learner: Learner) -> Progress:
        self._best = copy.deepcopy(learner.model.state_dict())
        return Progress()

    def save(self, learner: Learner, progress: Progress) -> None:
        if progress.last_is_best:
            self._best = copy.deepcopy(learner.evaluated.state_dict())

    def best_weights(self) -> Mapping[str, Tensor]:
        return self._best

    def save_calibrated(self, model: Recommender) -> None:
        """Nothing: the model itself is all that is left of the run."""


class FolderStore(RunStore):
    """Storage of a run that resumes when it is started again.

    The state is written before the best model and contains the last weights. If a run was killed between the two, the
    best model is written when the run resumes.

    Args:
        folder: Folder of the run, locked by the process that writes.
        run: Fingerprint of the run.
        writes: Whether this process writes; only one process does.

    Raises:
        ValueError: The folder contains foreign files, another run or a damaged state.
    """

    def __init__(self, folder: Path, run: str, *, writes: bool) -> None:
        self.folder, self.run, self.writes = folder, run, writes
        path = folder / STATE_FILE
        self._found = read_state(path, run) if path.exists() else None
        if self._found is None and (folder / CONFIG_FILE).exists():
            raise ValueError(f"{folder} holds a {CONFIG_FILE} that no run here has written. Choose another folder.")
        self._refuse_foreign_log()

    def restore(self, learner: Learner) -> Progress:
        if self.writes:
            remove_temporaries(self.folder, _FILES)
        if self._found is None:
            self._write_state(learner, Progress())  # raises before training if the folder cannot be written
            return Progress()
        put_state(self.folder / STATE_FILE, self._found, learner)
        progress, self._found = self._found.progress, None
        if progress.best_epoch:
            self._recover_best(learner, progress)
        return progress

    def save(self, learner: Learner, progress: Progress) -> None:
        if progress.last_is_best:
            progress.replaced = _digest_of(self.folder)
        self._write_state(learner, progress)
        if progress.last_is_best:
            self._write_best(learner)

    def best_weights(self) -> Mapping[str, Tensor]:
        return read_checkpoint(self.folder).weights

    def save_calibrated(self, model: Recommender) -> None:
        saved, own = read_checkpoint(self.folder).config, cast(Pretrained, model).config()
        of_this_run = {**saved, "calibration": None} == {**own, "calibration": None}
        if self.writes and of_this_run and saved != own:
            cast(Pretrained, model).save_pretrained(self.folder)

    def _write_state(self, learner: Learner, progress: Progress) -> None:
        if self.writes:
            write_atomically(self.folder / LOG_FILE, _log(progress))
            save_state(self.folder / STATE_FILE, self.run, progress, learner)

    def _write_best(self, learner: Learner) -> None:
        if self.writes:
            cast(Pretrained, learner.evaluated).save_pretrained(self.folder)

    def _recover_best(self, learner: Learner, progress: Progress) -> None:
        """Write the best model if only the state contains it; raise now, not at the end, if it is lost."""
        try:
            present = read_checkpoint(self.folder).digest
        except (FileNotFoundError, ValueError) as error:
            if not progress.last_is_best:
                raise ValueError(
                    f"{self.folder} has lost its best model, that of epoch {progress.best_epoch} ({error}). Delete the "
                    "folder to train again."
                ) from error
            present = progress.replaced
        if progress.last_is_best and present == progress.replaced:
            self._write_best(learner)

    def _refuse_foreign_log(self) -> None:
        """Reject a log that does not start with the history.

        If the run was killed while saving, the log may have one more record, or the last record may go on with a
        validation that the state lacks.
        """
        path, progress = self.folder / LOG_FILE, self._found.progress if self._found else Progress()
        if not path.exists():
            return
        found, own = path.read_bytes() if path.is_file() else b"\0", _log(progress)
        unvalidated = own.removesuffix(b"}\n") + b', "validation_'
        known = own if found.startswith(own) else unvalidated
        ahead = found.removeprefix(known).splitlines()
        if not found.startswith(known) or len(ahead) > (0 if self._found is None else 1):
            raise ValueError(f"{path} is not the log of this run, and is not overwritten. Choose another folder.")


@contextmanager
def run_folder(directory: str | PathLike[str] | None, *, writes: bool) -> Iterator[Path | None]:
    """Folder of a run, created if missing and locked by the process that writes.

    Raises:
        NotADirectoryError: The path is a file.
        ValueError: Another run or another process writes to it, or the path is empty.
    """
    if directory is None:
        yield None
        return
    folder = check_path("directory", directory)
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file; a run needs a folder.")
    folder.mkdir(parents=True, exist_ok=True)
    with folder_lock(folder, wait=WAIT) if writes else nullcontext():
        yield folder


def _log(progress: Progress) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in progress.history).encode()


def _digest_of(folder: Path) -> str:
    """Digest of the weights in a folder; empty if there is no complete model."""
    try:
        return read_checkpoint(folder).digest
    except (FileNotFoundError, ValueError):
        return ""
