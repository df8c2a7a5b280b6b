"""A safetensors file that is replaced atomically, with a digest of its content to detect damage."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from diffusers_rec.core.files import write_atomically

FORMAT = "diffusers_rec 2"
"""Incremented when the digest covers more; files of another format are rejected."""


def write_verified(path: Path, metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> None:
    """Write tensors, contiguous and on the CPU, with their metadata and the digest of both.

    Raises:
        ValueError: The path is a file that this function has not written.
        OSError: The file cannot be written; an older one is unchanged.
    """
    if path.exists() and "sha256" not in _metadata(path):
        raise ValueError(
            f"{path} was not written by this library and is not overwritten. Delete it, or choose another name."
        )
    metadata = {**metadata, "format": FORMAT}
    write_atomically(path, save(dict(tensors), {**metadata, "sha256": _digest(metadata, tensors)}))


def read_verified(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Read metadata and tensors that :func:`write_verified` wrote.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is damaged, or of another version; the message is the reason, without the name of the file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no file '{path}'.")
    try:
        with safe_open(path, "pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except OSError:
        raise
    except Exception as error:  # a header may also name types that torch does not have
        raise ValueError(str(error)) from error
    if "sha256" in metadata and metadata.get("format") != FORMAT:
        raise ValueError("another version of this library wrote it, in another format")
    if metadata.pop("sha256", None) != _digest(metadata, tensors):
        raise ValueError("it does not match its sha256")
    return metadata, tensors


def _metadata(path: Path) -> dict[str, str]:
    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}
    except (SafetensorError, OSError):
        return {}


def _digest(metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}".encode())
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
