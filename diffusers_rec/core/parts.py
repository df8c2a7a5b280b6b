"""A table that is written in parts, so that a killed program resumes where it stopped.

The parts lie in a folder beside the file, ``NAME.parts``. Each is written atomically. At the end they are joined, the
result takes the file's name in one step, and the folder is removed: the name never belongs to half a table.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BytesIO
from pathlib import Path
from typing import Any

from diffusers_rec.core.errors import check_path, require_extra, warn_caller
from diffusers_rec.core.files import folder_lock, reason, remove_temporaries, write_atomically

SUFFIXES = ".parquet", ".csv"
_JOB_FILE, _WHOLE = "job.json", "whole"
_PART = re.compile(r"\d{6,}\.parquet")


def check_table_path(name: str, path: str | os.PathLike[str]) -> Path:
    """Return the path of a table to be written.

    Raises:
        ValueError: The suffix is neither ``.parquet`` nor ``.csv``.
        FileNotFoundError: Its folder does not exist.
        IsADirectoryError: It is a folder.
    """
    found = check_path(name, path)
    if found.suffix not in SUFFIXES:
        raise ValueError(f"{name} must end in {' or '.join(SUFFIXES)}, got {found}.")
    if found.is_dir():
        raise IsADirectoryError(f"{name}: '{found}' is a folder. Name a file in it.")
    if not found.parent.is_dir():
        raise FileNotFoundError(f"{name} {found}: there is no folder {found.parent}.")
    return found


def parts_folder(path: Path) -> Path:
    """The folder of the parts of a file."""
    return path.with_name(f"{path.name}.parts")


class Parts:
    """The parts of a file, in a folder that :func:`open_parts` has locked."""

    def __init__(self, path: Path) -> None:
        self.path, self.folder = path, parts_folder(path)

    def __len__(self) -> int:
        """Number of parts that are written."""
        return next(number for number in range(len(self._written()) + 1) if not self._part(number).exists())

    def add(self, frame: Any) -> None:
        """Write the next part, a frame of Polars.

        Raises:
            OSError: It cannot be written.
        """
        data = BytesIO()
        frame.write_parquet(data)
        write_atomically(self._part(len(self)), data.getvalue())

    def join(self) -> None:
        """Write the file and remove the folder.

        Raises:
            OSError: The file cannot be written; an older one is unchanged.
        """
        pl = require_extra("polars", "data")
        whole = pl.scan_parquet([self._part(number) for number in range(len(self))], glob=False)
        try:
            (whole.sink_csv if self.path.suffix == ".csv" else whole.sink_parquet)(self.folder / _WHOLE)
            with (self.folder / _WHOLE).open("rb") as file:
                os.fsync(file.fileno())
            os.replace(self.folder / _WHOLE, self.path)
        except (OSError, pl.exceptions.PolarsError) as error:
            why = reason(error) if isinstance(error, OSError) else str(error).splitlines()[0]
            raise OSError(f"{self.path} could not be written ({why})") from error
        self.clear()
        (self.folder / _JOB_FILE).unlink()

    def clear(self) -> None:
        """Remove the parts, the last one first, so that a kill leaves the first ones."""
        (self.folder / _WHOLE).unlink(missing_ok=True)
        for path in sorted(self._written(), reverse=True):
            path.unlink()

    def _written(self) -> list[Path]:
        return [path for path in self.folder.iterdir() if _PART.fullmatch(path.name)]

    def _part(self, number: int) -> Path:
        return self.folder / f"{number:06}.parquet"


@contextmanager
def open_parts(path: Path, job: str) -> Iterator[Parts]:
    """The parts of a file, with those that an earlier run of the same job has written.

    Those of another job are removed, with a warning. The folder is removed at the end if nothing is left in it.

    Args:
        path: Path of the file.
        job: Text that identifies the job; equal jobs write equal parts.

    Raises:
        ValueError: Another process writes the same file, or the folder has not been made by this library.
        OSError: The folder cannot be made.
    """
    parts = Parts(path)
    parts.folder.mkdir(exist_ok=True)
    try:
        with folder_lock(parts.folder, wait=0):
            remove_temporaries(parts.folder, re.compile(f"{_PART.pattern}|{re.escape(_JOB_FILE)}"))
            _claim(parts, job)
            yield parts
    finally:
        with suppress(OSError):  # it holds parts, or another's lock
            parts.folder.rmdir()


def _claim(parts: Parts, job: str) -> None:
    file = parts.folder / _JOB_FILE
    known: Any = None
    if file.exists():
        with suppress(ValueError):
            known = json.loads(file.read_text())
        if not isinstance(known, dict) or "diffusers_rec job" not in known:
            raise ValueError(f"{file} was not written by this library. Move it, or choose another name.")
        if known["diffusers_rec job"] == job:
            return
        if len(parts):
            warn_caller(
                f"{parts.folder} has parts of another model, other options or another log. They are removed, and "
                f"{parts.path.name} is begun anew."
            )
    elif parts._written():
        raise ValueError(f"{parts.folder} has files that are not of this library. Move them, or choose another name.")
    parts.clear()
    write_atomically(file, json.dumps({"diffusers_rec job": job}).encode())
