"""Checkpoints: ``config.json``, safetensors weights and item ids in one directory. No pickle, no code, no import.

``config.json`` is written last and names the other two files, whose names carry their SHA-256. Until the moment that it
is replaced, an older checkpoint in the same directory stays whole; from then on the new one is. A digest of each file,
and of the config itself, tells damage from content.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from diffusers_rec.version import __version__

FORMAT = "diffusers_rec"
FORMAT_VERSION = 1
CONFIG_FILE = "config.json"
_OWN_FILE = re.compile(r"model-[0-9a-f]{12}\.safetensors|items-[0-9a-f]{12}\.json")
_TEMPORARY = re.compile(r"\.(.+\.safetensors|items-.+\.json|config\.json|log\.jsonl)\.[a-z0-9_]{8}")


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
        directory: made if missing.
        config: JSON values.
        weights: name to tensor.
        items: raw item ids.

    Raises:
        OSError: the directory cannot be made or written (no permission, no space, a file in its place).
        TypeError: ``config`` or ``items`` holds what JSON cannot hold.
        ValueError: the directory holds a ``config.json`` that is not this library's.
    """
    _refuse_foreign(Path(directory) / CONFIG_FILE)
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
    _write_all(Path(directory), files)
    for old in Path(directory).iterdir():
        if _OWN_FILE.fullmatch(old.name) and old.name not in files:
            _quietly(old.unlink)


def read_checkpoint(directory: str | PathLike[str]) -> Checkpoint:
    """Read and verify a checkpoint.

    Raises:
        FileNotFoundError: no ``config.json`` there, or a file that it names is missing.
        ValueError: foreign, damaged, or of a newer format.
    """
    folder = Path(directory)
    content = _read_config(folder)
    weight_bytes = _read_verified(folder, content["weights"])
    try:
        weights = load(weight_bytes)
    except SafetensorError as error:
        raise ValueError(f"{folder / content['weights']['file']} is not a safetensors file: {error}.") from error
    items = json.loads(_read_verified(folder, content["items"]))
    return Checkpoint(content["pipeline"], weights, items, content["library_version"], content["weights"]["sha256"])


def _refuse_foreign(config: Path) -> None:
    if config.is_file() and f'"format": "{FORMAT}"'.encode() not in config.read_bytes():
        raise ValueError(f"{config} belongs to something else and is not overwritten. Choose another folder.")


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file beside its place and rename it there: it is old or new, never half."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0)  # there is no way to read it without setting it
    os.umask(mask)
    return mask


def remove_temporaries(folder: Path) -> None:
    """Remove what a process killed within :func:`write_atomically` has left in a folder that nobody else writes."""
    for path in folder.iterdir():
        if _TEMPORARY.fullmatch(path.name):
            path.unlink(missing_ok=True)


def _write_all(folder: Path, files: Mapping[str, bytes]) -> None:
    made = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    kept = {name for name in files if (folder / name).exists()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            write_atomically(folder / name, data)
    except BaseException as error:
        config = folder / CONFIG_FILE
        if config.is_file() and config.read_bytes() == files[CONFIG_FILE]:
            raise  # interrupted, but after the last rename: the new checkpoint is whole
        for name in files:
            if name not in kept and name != CONFIG_FILE:
                _quietly(lambda name=name: (folder / name).unlink(missing_ok=True))
        for parent in made:
            _quietly(parent.rmdir)
        if isinstance(error, OSError):
            raise OSError(
                error.errno, f"The checkpoint could not be written ({error.strerror}); nothing was changed", str(folder)
            ) from error
        raise


def _quietly(action: Any) -> None:
    with contextlib.suppress(OSError):  # the first error is the one to tell
        action()


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{folder} holds no checkpoint: {CONFIG_FILE} is missing.")
    try:
        content = json.loads(path.read_bytes())
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
    missing = [key for key in ("weights", "items", "pipeline", "library_version") if key not in content]
    if missing:
        raise ValueError(f"{path} lacks {', '.join(missing)}: it is damaged or was not written by this library.")
    stated = content.pop("sha256", None)
    if stated != _digest(_canonical(content)):
        raise ValueError(
            f"{path} does not match its own sha256: it is damaged or was edited by hand. "
            "To change a model's settings, build it anew with DiffRec.from_config and save it."
        )
    return content


def _read_verified(folder: Path, entry: Mapping[str, str]) -> bytes:
    path = folder / Path(entry["file"]).name
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
