"""Checkpoints: ``config.json``, safetensors weights and item ids in one directory. No pickle, no code, no import.

``config.json`` is written last and names the other files, whose names contain their SHA-256. An older checkpoint in
the same directory stays complete until its config is replaced; then the new one is complete. A digest of each file and
of the config itself detects damage. A part of a model has a checkpoint of its own kind, without items.

A writer holds the lock of the directory and removes only files that the replaced config names. A reader holds no lock.
It starts again if the config was replaced while it read the files.
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
"""Version 1 has only weights and memory, version 2 no process and no source; both are still read."""
CONFIG_FILE = "config.json"
MODEL = "model"
"""Kind of a model's checkpoint; a part's is the kind of its family."""
NO_MODEL = "holds no model that can be built"
WAIT = 60.0
"""Seconds that a writer waits for another one in the same directory."""
FILES = re.compile(r"model-[0-9a-f]{12}\.safetensors|items-[0-9a-f]{12}\.json|config\.json")
"""Names of a checkpoint's files."""


@dataclass(frozen=True)
class Checkpoint:
    """Content of a checkpoint.

    Attributes:
        config: Config of the pipeline, or of the part.
        weights: Weights by name, on the CPU.
        items: Raw item ids in the order of their indices; none for a part.
        library_version: Version of the library that wrote it.
        digest: SHA-256 of the weights' file.
    """

    config: dict[str, Any]
    weights: dict[str, Tensor]
    items: list[int | str]
    library_version: str
    digest: str


def write_checkpoint(
    directory: str | PathLike[str],
    config: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    items: list[int | str],
    *,
    kind: str = MODEL,
) -> None:
    """Write a checkpoint; after an error, an older checkpoint is complete and no new file remains.

    Args:
        directory: Folder of the checkpoint; created if missing.
        config: Config of the pipeline or of the part, of JSON values.
        weights: Weights by name.
        items: Raw item ids; not written for a part.
        kind: Kind of the part, such as "denoiser".

    Raises:
        OSError: The directory cannot be created or written (no permission, no space, a file in its place).
        TypeError: ``config`` or ``items`` has a value that JSON cannot represent.
        ValueError: The weights are not finite, the directory has foreign files under the names to write or a checkpoint
            of another kind, or another writer holds its lock for more than a minute.
    """
    folder = check_path("directory", directory)
    refuse_nonfinite(weights, "The checkpoint was not written")
    content: dict[str, Any] = {"format": FORMAT, "format_version": FORMAT_VERSION, "library_version": __version__}
    files: dict[str, bytes] = {}

    def enter(part: str, name: str, data: bytes) -> None:
        content[part] = {"file": name.format(_digest(data)[:12]), "sha256": _digest(data)}
        files[content[part]["file"]] = data

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    enter("weights", "model-{}.safetensors", save(tensors))
    if kind == MODEL:
        enter("items", "items-{}.json", json.dumps(items, ensure_ascii=False).encode())
        content["pipeline"] = dict(config)
    else:
        content |= {"kind": kind, "part": dict(config)}
    content["sha256"] = _digest(_canonical(content))
    files[CONFIG_FILE] = (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()
    with _created(folder), folder_lock(folder, wait=WAIT):
        replaced = _replaced_files(folder, files, kind)
        _write_all(folder, files)
        for name, digest in replaced.items():
            if name not in files:
                _remove_unchanged(folder / name, digest)
        remove_temporaries(folder, FILES)


def read_checkpoint(directory: str | PathLike[str], *, kind: str = MODEL) -> Checkpoint:
    """Read and verify a checkpoint.

    Args:
        directory: Folder of the checkpoint.
        kind: Kind of the part that is expected, such as "denoiser".

    Raises:
        FileNotFoundError: ``config.json`` or a file that it names is missing.
        ValueError: The checkpoint is foreign, damaged, of another kind, or of a newer format.
    """
    path = check_path("directory", directory) / CONFIG_FILE
    while True:
        before = _config_bytes(path)
        try:
            return _read(path, before, kind)
        except (FileNotFoundError, ValueError):
            if path.is_file() and path.read_bytes() != before:
                continue  # replaced in the meantime, together with the files that it names
            raise


def named_files(config: Path) -> list[str]:
    """Names of the files that a ``config.json`` names.

    Raises:
        ValueError: The config is foreign, damaged or of a newer format.
    """
    content = _verified_config(config, _config_bytes(config))
    return [_name(content[part]) for part in _files_of(_kind(content))]


def refuse_nonfinite(weights: Mapping[str, Tensor], consequence: str) -> None:
    """Reject weights with NaN or infinities.

    Raises:
        ValueError: A tensor is not finite; the message begins with the ``consequence`` and names the tensor.
    """
    bad = [name for name, tensor in weights.items() if tensor.is_floating_point() and not tensor.isfinite().all()]
    if bad:
        raise ValueError(
            f"{consequence}: {bad[0]} holds values that are not finite ({len(bad)} of {len(weights)} tensors do). "
            "Training has diverged; lower its rate, or return to an earlier checkpoint."
        )


def _replaced_files(folder: Path, files: Mapping[str, bytes], kind: str) -> dict[str, str]:
    """Files of the checkpoint to be replaced, with their digests.

    Raises:
        ValueError: A file that would be overwritten is not one of them, or the checkpoint is of another kind.
    """
    config = folder / CONFIG_FILE
    replaced: dict[str, str] = {}
    present = kind
    if config.is_file():
        found = config.read_bytes()
        if not _is_ours(found):
            raise ValueError(f"{config} belongs to something else and is not overwritten. Choose another folder.")
        with contextlib.suppress(ValueError):  # a damaged checkpoint's files are not removed
            content = _verified_config(config, found)
            present = _kind(content)
            replaced = {_name(content[part]): content[part]["sha256"] for part in _files_of(present)}
        if present != kind:
            raise ValueError(f"{folder} holds {_words(present)}, not {_words(kind)}. Choose another folder.")
    for name, data in files.items():
        path = folder / name
        if (
            name not in (CONFIG_FILE, *replaced)
            and path.exists()
            and not (path.is_file() and path.read_bytes() == data)
        ):
            raise ValueError(f"{path} was not written by this library and is not overwritten. Choose another folder.")
    return replaced


def _is_ours(config: bytes) -> bool:
    """Whether this library wrote a config, damaged or not."""
    try:
        content = json.loads(config)
    except (ValueError, RecursionError):
        return config.startswith(f'{{\n  "format": "{FORMAT}"'.encode())
    return isinstance(content, dict) and content.get("format") == FORMAT


def _remove_unchanged(path: Path, digest: str) -> None:
    """Remove a file if it is as this library wrote it."""
    with contextlib.suppress(OSError):  # the new checkpoint is complete; a leftover file is harmless
        if path.is_file() and _digest(path.read_bytes()) == digest:
            path.unlink()


@contextlib.contextmanager
def _created(folder: Path) -> Iterator[None]:
    """Create a folder; on an error, remove it and the parents created with it, and report that nothing has changed."""
    created = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException as error:
        for parent in created:
            _ignore_errors(parent.rmdir)
        if isinstance(error, OSError):
            cause = reason(error.__cause__ if isinstance(error.__cause__, OSError) else error)
            raise OSError(
                error.errno, f"The checkpoint could not be written ({cause}); nothing was changed", str(folder)
            ) from error
        raise


def _write_all(folder: Path, files: Mapping[str, bytes]) -> None:
    existing = {name for name in files if (folder / name).exists()}
    try:
        for name, data in files.items():
            write_atomically(folder / name, data)
    except BaseException:
        config = folder / CONFIG_FILE
        if config.is_file() and config.read_bytes() == files[CONFIG_FILE]:
            raise  # interrupted, but after the last rename: the new checkpoint is complete
        for name in files:
            if name not in existing and name != CONFIG_FILE:
                _ignore_errors((folder / name).unlink)
        raise


def _ignore_errors(action: Callable[[], None]) -> None:
    with contextlib.suppress(OSError):  # the first error is reported
        action()


def _read(path: Path, config: bytes, kind: str) -> Checkpoint:
    content = _verified_config(path, config)
    folder, present = path.parent, _kind(content)
    if present != kind:
        owner = "a model's" if present == MODEL else "that kind's"
        raise ValueError(f"{folder} holds {_words(present)}, not {_words(kind)}. Use from_pretrained of {owner} class.")
    weight_bytes = _read_verified(folder, content["weights"])
    try:
        weights = load(weight_bytes)
    except SafetensorError as error:
        raise ValueError(f"{folder / _name(content['weights'])} is not a safetensors file: {error}.") from error
    items = []
    if kind == MODEL:
        item_bytes = _read_verified(folder, content["items"])
        with naming(folder / _name(content["items"]), NO_MODEL):
            items = json.loads(item_bytes)
    described = content["pipeline" if kind == MODEL else "part"]
    return Checkpoint(described, weights, items, content["library_version"], content["weights"]["sha256"])


def _config_bytes(path: Path) -> bytes:
    if not path.is_file():
        raise FileNotFoundError(f"{path.parent} holds no checkpoint: {CONFIG_FILE} is missing.")
    return path.read_bytes()


def _verified_config(path: Path, data: bytes) -> dict[str, Any]:
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: it is damaged or truncated ({error}).") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(f'{path} was not written by this library: it lacks "format": "{FORMAT}".')
    version = content.get("format_version")
    if not isinstance(version, int) or version > FORMAT_VERSION:
        raise ValueError(
            f"{path} has format version {version}; this library ({__version__}) reads up to {FORMAT_VERSION}. "
            f"Update diffusers-rec; the file was written by version {content.get('library_version')}."
        )
    expected = content.pop("sha256", None)
    with naming(path, NO_MODEL):
        actual = _digest(_canonical(content))
    if expected != actual:
        raise ValueError(
            f"{path} does not match its own sha256: it is damaged or was edited by hand. "
            "To change a setting, build a new model with DiffRec.from_config, or a new part, and save it."
        )
    shape = {"weights": dict, "library_version": str}
    shape |= {"items": dict, "pipeline": dict} if _kind(content) == MODEL else {"kind": str, "part": dict}
    wrong = [key for key, expected in shape.items() if not isinstance(content.get(key), expected)]
    wrong += [part for part in _files_of(_kind(content)) if part not in wrong and not _is_entry(content[part])]
    if wrong:
        raise ValueError(f"{path} lacks {', '.join(wrong)}: it is damaged or was not written by this library.")
    return content


def _kind(content: Mapping[str, Any]) -> Any:
    return content.get("kind", MODEL)


def _words(kind: str) -> str:
    return "a model" if kind == MODEL else f"a part of the kind {kind!r}"


def _files_of(kind: str) -> tuple[str, ...]:
    """Entries of a config that name a file."""
    return ("weights", "items") if kind == MODEL else ("weights",)


def _is_entry(entry: Mapping[str, Any]) -> bool:
    """Whether an entry has the name of a file, as this library names files, and its digest."""
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
        raise ValueError(f"{path} does not match the sha256 in {CONFIG_FILE}: it is damaged, truncated or foreign.")
    return data


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _canonical(content: Mapping[str, Any]) -> bytes:
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
