"""Atomic replacement of files, in folders that one process writes at a time.

A writer holds the lock of the folder; a reader needs none. Only files that this library has written are removed. Their
names do not prove this: see :func:`remove_temporaries` and :mod:`diffusers_rec.core.checkpoint`.
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
_MARK = ".diffusers_rec-"  # no other program uses this in the names of temporary files
_ADVICE = {
    errno.ENOSPC: "Free space on that disk.",
    errno.EDQUOT: "Free space within your quota.",
    errno.EFBIG: "The system limits the size of files; raise the limit.",
    errno.ENOENT: "The folder no longer exists; create it again, or choose another.",
    errno.EACCES: "Choose a folder that you may write to.",
    errno.EPERM: "Choose a folder that you may write to.",
    errno.EROFS: "Choose a folder that you may write to.",
    errno.EIO: "Check the disk.",
}


@contextmanager
def folder_lock(folder: Path, *, wait: float) -> Iterator[None]:
    """Hold the lock of an existing folder; a thread that holds it can acquire it again.

    Args:
        folder: Folder to lock.
        wait: Seconds to wait for the current holder.

    Raises:
        ValueError: Another process or thread holds it.
        OSError: The lock's file cannot be created.
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
        if outermost:  # remove the file while it is locked: a waiting process notices and creates another
            with suppress(OSError):  # a leftover file is harmless
                Path(lock.lock_file).unlink()
        lock.release()


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file under a temporary name and rename it.

    Raises:
        OSError: The file cannot be written; an older one is unchanged.
    """
    try:
        temporary = path.with_name(f".{path.name}{_MARK}{secrets.token_hex(4)}")
        try:
            with temporary.open("xb") as file:  # not tempfile, whose files other users cannot read
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
    """Reason that the operating system gives for an error, and advice."""
    text = error.strerror or str(error)
    return text if error.errno not in _ADVICE else f"{text}. {_ADVICE[error.errno]}".rstrip(".")


@contextmanager
def naming(path: Path, finding: str, advice: str = "") -> Iterator[None]:
    """Turn errors from the content of a file into a ValueError that names the file.

    Args:
        path: Path of the file.
        finding: Meaning of the error, as in "is no saved index".
        advice: Advice, as a sentence.

    Raises:
        ValueError: In place of any exception but an OSError.
    """
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        text = str(error) if isinstance(error, ValueError | TypeError) else f"{type(error).__name__}: {error}"
        raise ValueError(f"{path} {finding} ({text.rstrip('.')}).{advice and ' ' + advice}") from error


def remove_temporaries(folder: Path, names: re.Pattern[str]) -> None:
    """Remove temporary files of processes that were killed within :func:`write_atomically`.

    Args:
        folder: Folder whose lock the caller holds.
        names: Names of files that are written only under this lock.
    """
    for path in folder.iterdir():
        name, mark, rest = path.name.removeprefix(".").partition(_MARK)
        if mark and re.fullmatch("[0-9a-f]{8}", rest) and path.name.startswith(".") and names.fullmatch(name):
            path.unlink(missing_ok=True)
