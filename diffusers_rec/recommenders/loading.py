"""Loading a model of any class."""

from __future__ import annotations

from os import PathLike
from typing import cast

from diffusers_rec.core.checkpoint import read_checkpoint
from diffusers_rec.core.entrances import explained
from diffusers_rec.core.hub import local_folder
from diffusers_rec.recommenders import user_categories, user_diffusion, user_flow, user_latents  # noqa: F401 - their names are known once imported
from diffusers_rec.recommenders.base import Recommender
from diffusers_rec.recommenders.diffrec import DiffRec
from diffusers_rec.recommenders.pretrained import model_class


@explained
def load_pretrained(
    directory: str | PathLike[str], *, revision: str | None = None, token: str | None = None
) -> Recommender:
    """Read what ``save_pretrained`` of any model wrote.

    A class of your own is found if it is declared with a ``model_name`` and its module is imported.

    Args:
        directory: Folder of the checkpoint, or the id of a repository on the Hugging Face Hub, such as ``"user/repo"``,
            which needs the extra ``hub``. A folder wins.
        revision: Branch, tag or commit of the repository.
        token: Token for the Hub; the one that is stored on this machine if None.

    Returns:
        The model in evaluation mode, of the class that the config names; a :class:`~diffusers_rec.DiffRec` if it names
        none.

    Raises:
        FileNotFoundError: There is no checkpoint.
        ValueError: It is damaged, foreign or of a newer format, no class of its name is known, its weights do not fit
            its config, or are not finite.
    """
    folder = local_folder(directory, revision, token)
    saved = read_checkpoint(folder)
    return cast(Recommender, (model_class(saved, folder) or DiffRec).restored(saved, folder))
