"""Folders by their paths, or by the ids of repositories on the Hugging Face Hub."""

from __future__ import annotations

import re
from os import PathLike
from pathlib import Path

from diffusers_rec.core.errors import check_path, require_extra

_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_FILES = ["config.json", "model-*.safetensors", "items-*.json"]


def local_folder(directory: str | PathLike[str], revision: str | None, token: str | None) -> Path:
    """The folder of a path, or of a repository of the Hub, which is downloaded if the cache lacks it.

    An existing path is a folder. So is ``owner/name`` where there is a folder ``owner``, unless a revision is given: a
    path with a typing error opens no connection.

    Args:
        directory: Path, or id such as ``"user/repo"``; a ``Path`` is never an id.
        revision: Branch, tag or commit of a repository.
        token: Token for the Hub; the one that is stored on this machine if None.

    Raises:
        FileNotFoundError: The Hub gives no such repository, or the extra ``hub`` is not installed.
        ValueError: A revision of something that is no repository.
    """
    path = check_path("directory", directory)
    is_id = isinstance(directory, str) and _ID.fullmatch(directory) and not path.exists()
    if not is_id or (revision is None and path.parent.exists()):
        if revision is not None:
            raise ValueError(
                f"revision={revision!r} needs a repository such as 'user/repo', but {str(directory)!r} is a path. "
                "Leave the revision out."
            )
        return path
    try:
        hub = require_extra("huggingface_hub", "hub")
        found = hub.snapshot_download(str(directory), revision=revision, token=token, allow_patterns=_FILES)
    except Exception as error:  # the Hub's errors have no common class
        raise FileNotFoundError(
            f"There is no folder {directory}, and it could not be loaded from the Hugging Face Hub: "
            f"{(str(error).strip() or type(error).__name__).splitlines()[0]}"
        ) from error
    return Path(found)
