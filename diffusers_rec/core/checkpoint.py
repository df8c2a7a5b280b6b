"""Checkpoints: ``config.json``, safetensors weights and item ids in one directory. No pickle, no code, no import.

``config.json`` is written last and names the other two files, whose names carry their SHA-256. Until the moment that it
is replaced, an older checkpoint in the same directory stays whole; from then on the new one is. A digest of each file,
and of the config itself, tells damage from content.

A writer holds the lock of the directory and removes only what the replaced config named. A reader holds no lock: it
reads again where a config was replaced while its files were read.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from diffusers_rec.core.errors import check_path
from diffusers_rec.core.files import folder_lock, naming, reason, remove_temporaries, write_atomically
from diffusers_rec.version import __version__

FORMAT = "diffusers_rec"
FORMAT_VERSION = 3
"""1 had weights and memory alone, 2 no process and no source; both are read as well."""
CONFIG_FILE = "config.json"
NO_MODEL = "holds no model that can be built"
WAIT = 60.0
"""Seconds that a writer waits for another one in the same directory."""
FILES = re.compile(r"model-[0-9a-f]{12}\.safetensors|items-[0-9a-f]{12}\.json|config\.json")
"""Names that a checkpoint's files have."""


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds.

    Attributes:
        config: of the pipeline.
        weights: name to tensor, on the CPU.
        items: raw item ids in the order of their indices.
        library_version: that wrote it.
        digest: SHA-256 of the weights' file.
    """

    config: dict[str, Any]
    weights: dict[str, Tensor]
    items: list[int | str]
    library_version: str
    digest: str


def write_checkpoint(
    directory: str | PathLike[str], config: Mapping[str, Any], weights: Mapping[str, Tensor], items: list[int | str]
) -> None:
    """Write a checkpoint; on any error, nothing new stays and an older checkpoint remains whole.

    Args:
        directory: Folder of the checkpoint; made if missing.
        config: JSON values.
        weights: Name to tensor.
        items: Raw item ids.

    Raises:
        OSError: the directory cannot be made or written (no permission, no space, a file in its place).
        TypeError: ``config`` or ``items`` holds what JSON cannot hold.
        ValueError: the weights are not finite, the directory holds files of something else in the place of its own, or
            another writer holds its lock for more than a minute.
    """
    folder = check_path("directory", directory)
    refuse_nonfinite(weights, "The checkpoint was not written")
    weight_bytes = save({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()})
    item_bytes = json.dumps(items, ensure_ascii=False).encode()
    content: dict[str, Any] = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "library_version": __version__,
        "weights": {"file": f"model-{_digest(weight_bytes)[:12]}.safetensors", "sha256": _digest(weight_bytes)},
        "items": {"file": f"items-{_digest(item_bytes)[:12]}.json", "sha256": _digest(item_bytes)},
        "pipeline": dict(config),
    }
    content["sha256"] = _digest(_canonical(content))
    files = {
        content["weights"]["file"]: weight_bytes,
        content["items"]["file"]: item_bytes,
        CONFIG_FILE: (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode(),
    }
    with _made(folder), folder_lock(folder, wait=WAIT):
        ours = _files_of_ours(folder, files)
        _write_all(folder, files)
        for name, digest in ours.items():
            if name not in files:
                _remove_unchanged(folder / name, digest)
        remove_temporaries(folder, FILES)


def read_checkpoint(directory: str | PathLike[str]) -> Checkpoint:
    """Read and verify a checkpoint.

    Raises:
        FileNotFoundError: no ``config.json`` there, or a file that it names is missing.
        ValueError: foreign, damaged, or of a newer format.
    """
    path = check_path("directory", directory) / CONFIG_FILE
    while True:
        before = _config_bytes(path)
        try:
            return _read(path, before)
        except (FileNotFoundError, ValueError):
            if path.is_file() and path.read_bytes() != before:
                continue  # replaced in the meantime, and what it named with it
            raise


def refuse_nonfinite(weights: Mapping[str, Tensor], consequence: str) -> None:
    """Refuse weights that hold NaN or infinities.

    Raises:
        ValueError: they do; the message names the first of them, after the ``consequence``.
    """
    bad = [name for name, tensor in weights.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if bad:
        raise ValueError(
            f"{consequence}: {bad[0]} holds values that are not finite ({len(bad)} of {len(weights)} tensors do). "
            "Training has diverged; lower its rate, or go back to an earlier checkpoint."
        )


def _files_of_ours(folder: Path, files: Mapping[str, bytes]) -> dict[str, str]:
    """The files, with their digests, of the checkpoint that is about to be replaced.

    Raises:
        ValueError: a file that would be overwritten is not one of them.
    """
    config = folder / CONFIG_FILE
    ours: dict[str, str] = {}
    if config.is_file():
        found = config.read_bytes()
        if not _written_here(found):
            raise ValueError(f"{config} belongs to something else and is not overwritten. Choose another folder.")
        with contextlib.suppress(ValueError):  # of a damaged one nothing is removed
            content = _verified_config(config, found)
            ours = {_name(content[part]): content[part]["sha256"] for part in ("weights", "items")}
    for name, data in files.items():
        path = folder / name
        if name not in (CONFIG_FILE, *ours) and path.exists() and not (path.is_file() and path.read_bytes() == data):
            raise ValueError(f"{path} was not written by this library and is not overwritten. Choose another folder.")
    return ours


def _written_here(config: bytes) -> bool:
    """Whether a config is this library's, whole or damaged."""
    try:
        content = json.loads(config)
    except (ValueError, RecursionError):
        return config.startswith(f'{{\n  "format": "{FORMAT}"'.encode())
    return isinstance(content, dict) and content.get("format") == FORMAT


def _remove_unchanged(path: Path, digest: str) -> None:
    """Remove a file that is as this library wrote it."""
    with contextlib.suppress(OSError):  # the new checkpoint is whole; what is left over harms nobody
        if path.is_file() and _digest(path.read_bytes()) == digest:
            path.unlink()


@contextlib.contextmanager
def _made(folder: Path) -> Iterator[None]:
    """A folder that exists; on an error those that were made for it go again, and the error says so."""
    made = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException as error:
        for parent in made:
            _quietly(parent.rmdir)
        if isinstance(error, OSError):
            why = reason(error.__cause__ if isinstance(error.__cause__, OSError) else error)
            raise OSError(
                error.errno, f"The checkpoint could not be written ({why}); nothing was changed", str(folder)
            ) from error
        raise


def _write_all(folder: Path, files: Mapping[str, bytes]) -> None:
    kept = {name for name in files if (folder / name).exists()}
    try:
        for name, data in files.items():
            write_atomically(folder / name, data)
    except BaseException:
        config = folder / CONFIG_FILE
        if config.is_file() and config.read_bytes() == files[CONFIG_FILE]:
            raise  # interrupted, but after the last rename: the new checkpoint is whole
        for name in files:
            if name not in kept and name != CONFIG_FILE:
                _quietly((folder / name).unlink)
        raise


def _quietly(action: Callable[[], None]) -> None:
    with contextlib.suppress(OSError):  # the first error is the one to report
        action()


def _read(path: Path, config: bytes) -> Checkpoint:
    content = _verified_config(path, config)
    folder = path.parent
    weight_bytes = _read_verified(folder, content["weights"])
    try:
        weights = load(weight_bytes)
    except SafetensorError as error:
        raise ValueError(f"{folder / _name(content['weights'])} is not a safetensors file: {error}.") from error
    item_bytes = _read_verified(folder, content["items"])
    with naming(folder / _name(content["items"]), NO_MODEL):
        items = json.loads(item_bytes)
    return Checkpoint(content["pipeline"], weights, items, content["library_version"], content["weights"]["sha256"])


def _config_bytes(path: Path) -> bytes:
    if not path.is_file():
        raise FileNotFoundError(f"{path.parent} holds no checkpoint: {CONFIG_FILE} is missing.")
    return path.read_bytes()


def _verified_config(path: Path, data: bytes) -> dict[str, Any]:
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: it is damaged or was cut short ({error}).") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f'{path} was not written by this library: it lacks "format": "{FORMAT}".')
    version = content.get("format_version")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise ValueError(
            f"{path} has format version {version}; this library ({__version__}) reads up to {FORMAT_VERSION}. "
            f"Update diffusers-rec; the file was written by version {content.get('library_version')}."
        )
    stated = content.pop("sha256", None)
    with naming(path, NO_MODEL):
        actual = _digest(_canonical(content))
    if stated != actual:
        raise ValueError(
            f"{path} does not match its own sha256: it is damaged or was edited by hand. "
            "To change a model's settings, build it anew with DiffRec.from_config and save it."
        )
    shape = {"weights": dict, "items": dict, "pipeline": dict, "library_version": str}
    wrong = [key for key, kind in shape.items() if not isinstance(content.get(key), kind)]
    wrong += [part for part in ("weights", "items") if part not in wrong and not _is_entry(content[part])]
    if wrong:
        raise ValueError(f"{path} lacks {', '.join(wrong)}: it is damaged or was not written by this library.")
    return content


def _is_entry(entry: Mapping[str, Any]) -> bool:
    """Whether it states a file, of a name that this library gives, and its digest."""
    file, digest = entry.get("file"), entry.get("sha256")
    return isinstance(file, str) and isinstance(digest, str) and bool(FILES.fullmatch(Path(file).name))


def _name(entry: Mapping[str, str]) -> str:
    return Path(entry["file"]).name


def _read_verified(folder: Path, entry: Mapping[str, str]) -> bytes:
    path = folder / _name(entry)
    if not path.is_file():
        raise FileNotFoundError(f"The checkpoint in {folder} lacks the file {path.name} that its {CONFIG_FILE} names.")
    data = path.read_bytes()
    if _digest(data) != entry["sha256"]:
        raise ValueError(f"{path} does not match the sha256 in {CONFIG_FILE}: it is damaged, cut short or foreign.")
    return data


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _canonical(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
