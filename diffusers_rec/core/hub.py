"""Folders by their paths, or by the ids of repositories on the Hugging Face Hub."""

from __future__ import annotations

import re
from os import PathLike
from pathlib import Path

from diffusers_rec.core.checkpoint import CONFIG_FILE, named_files
from diffusers_rec.core.errors import check_path, require_extra

_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)


def local_folder(directory: str | PathLike[str], revision: str | None, token: str | None) -> Path:
    """The folder of a path, or of a repository of the Hub, of which the cache receives the files of the checkpoint.

    A string ``owner/name`` is an id if nothing exists under this path and, without a revision, there is no folder
    ``owner`` either. Anything else is a path and opens no connection.

    Args:
        directory: Path, or id such as ``"user/repo"``; a ``Path`` is never an id.
        revision: Branch, tag or commit of a repository.
        token: Token for the Hub; the one that is stored on this machine if None.

    Raises:
        FileNotFoundError: The Hub gives no such repository, or the extra ``hub`` is not installed.
        ValueError: A revision of something that is no repository, or a repository without a config of this library, of
            which nothing else is downloaded.
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
    config = _download(path.as_posix(), CONFIG_FILE, revision, token)
    for name in named_files(config):
        _download(path.as_posix(), name, config.parent.name, token)  # the cache's folder has the name of the commit
    return config.parent


def _download(repository: str, name: str, revision: str | None, token: str | None) -> Path:
    try:
        hub = require_extra("huggingface_hub", "hub")
        return Path(hub.hf_hub_download(repository, name, revision=revision, token=token))
    except Exception as error:  # the Hub's errors have no common class
        raise FileNotFoundError(
            f"There is no folder {repository}, and it could not be loaded from the Hugging Face Hub: "
            f"{(str(error).strip() or type(error).__name__).splitlines()[0]}"
        ) from error
