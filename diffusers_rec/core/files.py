"""Files that are old or new and never half, in folders that one process writes at a time.

A writer holds the lock of the folder, a reader needs none. Nothing is removed but what this library has written, which
its names alone do not prove: see :func:`remove_temporaries` and :mod:`diffusers_rec.core.checkpoint`.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

LOCK_FILE = ".diffusers_rec.lock"
_MARK = ".diffusers_rec-"  # no other program's temporary file has it in its name
_ADVICE = {
    errno.ENOSPC: "Free space on that disk.",
    errno.EDQUOT: "Free space within your quota.",
    errno.EFBIG: "The system limits the size of files; raise the limit.",
    errno.ENOENT: "The folder has vanished; make it anew, or choose another.",
    errno.EACCES: "Choose a folder that you may write to.",
    errno.EPERM: "Choose a folder that you may write to.",
    errno.EROFS: "Choose a folder that you may write to.",
    errno.EIO: "Check the disk.",
}


@contextmanager
def folder_lock(folder: Path, *, wait: float) -> Iterator[None]:
    """Hold the lock of an existing folder. A thread that holds it can take it again.

    Args:
        folder: Folder to lock.
        wait: Seconds to wait for its holder.

    Raises:
        ValueError: another process or thread holds it.
        OSError: the lock's file cannot be made.
    """
    lock = FileLock(folder.resolve() / LOCK_FILE, is_singleton=True)
    outermost = not lock.is_locked
    try:
        lock.acquire(timeout=wait)
    except Timeout:
        if not Path(lock.lock_file).exists():
            raise PermissionError(errno.EACCES, f"{folder} cannot be written to. {_ADVICE[errno.EACCES]}") from None
        raise ValueError(
            f"{folder} is in use: another process or thread is writing to it. Wait until it ends, or choose another "
            "folder."
        ) from None
    try:
        yield
    finally:
        if outermost:  # the file goes while it is locked: whoever waits for it notices, and makes another
            with suppress(OSError):  # nobody is harmed by a file that stays
                Path(lock.lock_file).unlink()
        lock.release()


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file beside its place and rename it there.

    Raises:
        OSError: the file cannot be written; what was there is unchanged.
    """
    try:
        temporary = path.with_name(f".{path.name}{_MARK}{secrets.token_hex(4)}")
        try:
            with temporary.open("xb") as file:  # not tempfile, whose files nobody else may read
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise OSError(error.errno, f"{path} could not be written ({reason(error)})") from error


def reason(error: OSError) -> str:
    """Why the system refused, and what to do about it."""
    said = error.strerror or str(error)
    return said if error.errno not in _ADVICE else f"{said}. {_ADVICE[error.errno]}".rstrip(".")


@contextmanager
def naming(path: Path, finding: str, mend: str = "") -> Iterator[None]:
    """Turn whatever fails on what a file holds into one kind of error that names the file.

    Args:
        path: Path of the file.
        finding: What that means, as in "holds no saved index".
        mend: What to do about it, a sentence.

    Raises:
        ValueError: in place of any exception but an OSError.
    """
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        said = str(error) if isinstance(error, ValueError | TypeError) else f"{type(error).__name__}: {error}"
        raise ValueError(f"{path} {finding} ({said.rstrip('.')}).{mend and ' ' + mend}") from error


def remove_temporaries(folder: Path, names: re.Pattern[str]) -> None:
    """Remove what a process killed within :func:`write_atomically` has left of certain files.

    Args:
        folder: Folder that the caller holds the lock of.
        names: Files that are written under this lock alone.
    """
    for path in folder.iterdir():
        name, mark, rest = path.name.removeprefix(".").partition(_MARK)
        if mark and re.fullmatch("[0-9a-f]{8}", rest) and path.name.startswith(".") and names.fullmatch(name):
            path.unlink(missing_ok=True)
