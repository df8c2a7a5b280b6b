"""Loading a model of any class."""

from __future__ import annotations

from os import PathLike
from typing import cast

from diffusers_rec.core.checkpoint import read_checkpoint
from diffusers_rec.core.entrances import explained
from diffusers_rec.recommenders import user_categories, user_diffusion, user_flow, user_latents  # noqa: F401 - their names are known once imported
from diffusers_rec.recommenders.base import Recommender
from diffusers_rec.recommenders.diffrec import DiffRec
from diffusers_rec.recommenders.pretrained import model_class


@explained
def load_pretrained(directory: str | PathLike[str]) -> Recommender:
    """Read what ``save_pretrained`` of any model wrote.

    A class of your own is found if it is declared with a ``model_name`` and its module is imported.

    Args:
        directory: Folder of the checkpoint.

    Returns:
        The model in evaluation mode, of the class that the config names; a :class:`~diffusers_rec.DiffRec` if it names
        none.

    Raises:
        FileNotFoundError: There is no checkpoint.
        ValueError: It is damaged, foreign or of a newer format, no class of its name is known, its weights do not fit
            its config, or are not finite.
    """
    saved = read_checkpoint(directory)
    return cast(Recommender, (model_class(saved, directory) or DiffRec).restored(saved, directory))
