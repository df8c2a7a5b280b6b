"""Saving and loading: what a model keeps, under which names, and what must hold before a file becomes a model."""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar, Self, cast

from torch import Tensor, nn

from diffusers_rec.core.blueprint import built_with
from diffusers_rec.core.checkpoint import (
    CONFIG_FILE,
    NO_MODEL,
    Checkpoint,
    read_checkpoint,
    write_checkpoint,
)
from diffusers_rec.core.entrances import guarded
from diffusers_rec.core.files import naming
from diffusers_rec.core.hub import local_folder
from diffusers_rec.core.registry import Config, unknown_name
from diffusers_rec.data.vocabulary import Vocabulary
from diffusers_rec.items.embeddings import ItemEmbedding
from diffusers_rec.processes.timesteps import TimestepSampler
from diffusers_rec.recommenders.migration import migrated

_LEARNED_BESIDE = "popularity", "timesteps."
"""What a state dict holds beside weights, and older checkpoints lack."""

_MODELS: dict[str, type[Pretrained]] = {}

_COMPILED = "_orig_mod."  # what torch.compile puts before the names of a part that it wraps


@guarded
class Pretrained(nn.Module):
    """A model that is known by its items, its config and its state dict: a subclass defines the first two.

    A timestep sampler and the items' popularity are saved where the model has them. A class that is declared with
    ``model_name=...`` writes this name as ``"model"`` in its config, and :func:`~diffusers_rec.load_pretrained` finds
    it. The key has no other use. A name belongs to one class; a module that is loaded again defines it anew.
    """

    model_name: ClassVar[str | None] = None

    vocabulary: Vocabulary
    embedding: ItemEmbedding
    timesteps: TimestepSampler
    popularity: Tensor

    def __init_subclass__(cls, *, model_name: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if model_name is not None:
            taken = _MODELS.get(model_name)
            if taken is not None and not _same_definition(taken, cls):
                raise ValueError(
                    f"{cls.__qualname__}: the model name {model_name!r} is taken by {taken.__module__}."
                    f"{taken.__qualname__}. Choose another name."
                )
            cls.model_name = model_name
            _MODELS[model_name] = cls

    def config(self) -> Config:
        """Everything but the items and the weights, ready for JSON."""
        raise NotImplementedError

    @classmethod
    def from_config(cls, items: Vocabulary, config: Mapping[str, Any]) -> Self:
        """The model that :meth:`config` describes, with fresh weights."""
        raise NotImplementedError

    def save_pretrained(self, directory: str | PathLike[str]) -> None:
        """Write config, weights and item ids to ``directory``; what was there before stays whole until all is written.

        Raises:
            TypeError: the vocabulary holds ids that JSON cannot hold.
            ValueError: a component without a registered name, weights that are not finite, or a folder that holds
                somebody else's files in the place of these, or that another process writes to.
            OSError: the directory cannot be written; nothing is left behind.
        """
        write_checkpoint(directory, self.config(), self.state_dict(), self.vocabulary.to_json())

    @classmethod
    def from_pretrained(
        cls, directory: str | PathLike[str], *, revision: str | None = None, token: str | None = None
    ) -> Self:
        """Read what :meth:`save_pretrained` wrote.

        Args:
            directory: Folder, or the id of a repository on the Hugging Face Hub, such as ``"user/repo"``, which needs
                the extra ``hub``. A folder wins.
            revision: Branch, tag or commit of the repository.
            token: Token for the Hub; the one that is stored on this machine if None.

        Raises:
            FileNotFoundError: there is no checkpoint.
            ValueError: it is damaged, foreign, of a newer format or of another class, its weights do not fit its
                config, or are not finite.
        """
        folder = local_folder(directory, revision, token)
        return cls.restored(read_checkpoint(folder), folder)

    @classmethod
    def restored(cls, saved: Checkpoint, directory: str | PathLike[str]) -> Self:
        """Build the model of a checkpoint that was read from ``directory``.

        Raises:
            ValueError: as :meth:`from_pretrained`.
        """
        found = model_class(saved, directory)
        if found is not None and not issubclass(found, cls):
            raise ValueError(wrong_class(directory, found.__name__, cls))
        with naming(Path(directory) / CONFIG_FILE, NO_MODEL):
            vocabulary = Vocabulary.from_json(saved.items)
            config = migrated(saved.config)
            return built_with(lambda: cls.from_config(vocabulary, config), saved.weights, _LEARNED_BESIDE)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """Weights and what is learned beside them: the popularity, the memory, the timestep sampler's history.

        A part that :func:`torch.compile` has wrapped has the names of the part itself.
        """
        state, prefix = super().state_dict(*args, **kwargs), kwargs.get("prefix", "")
        for name in [name for name in state if name.startswith(prefix) and _COMPILED in name[len(prefix) :]]:
            state[prefix + name[len(prefix) :].replace(_COMPILED, "")] = state.pop(name)
        return state

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        timesteps = getattr(self, "timesteps", None)
        learned = timesteps.state_dict() if isinstance(timesteps, TimestepSampler) else {}
        destination.update({f"{prefix}timesteps.{name}": tensor for name, tensor in learned.items()})

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Before any weight: what older checkpoints lack, and names of compiled parts."""
        learned = {name for name in state_dict if name.startswith(f"{prefix}timesteps.")}
        if learned:
            self.timesteps.load_state_dict(
                {name.removeprefix(f"{prefix}timesteps."): state_dict.pop(name) for name in sorted(learned)}
            )
        if "popularity" in self._buffers:
            state_dict.setdefault(f"{prefix}popularity", self.popularity)
        for name in (name for part in (self.named_parameters(), self.named_buffers()) for name, _ in part):
            plain = prefix + name.replace(_COMPILED, "")
            if _COMPILED in name and plain in state_dict:
                state_dict[prefix + name] = state_dict.pop(plain)
        super()._load_from_state_dict(state_dict, prefix, *args)


def model_class(saved: Checkpoint, directory: str | PathLike[str]) -> type[Pretrained] | None:
    """The class that a checkpoint names; None if it names none, as that of a :class:`~diffusers_rec.DiffRec`.

    Args:
        saved: Checkpoint.
        directory: Its folder, for errors.

    Raises:
        ValueError: No class of this name is known.
    """
    name = saved.config.get("model")
    if name is None:
        return None
    with naming(Path(directory) / CONFIG_FILE, NO_MODEL):
        if not isinstance(name, str) or name not in _MODELS:
            raise ValueError(
                f"{unknown_name('model name', name, _MODELS)} A model of your own is known once the module that "
                "defines its class is imported: import it first"
            )
    return _MODELS[name]


def own_name(cls: type[Pretrained]) -> str:
    """The name under which :func:`~diffusers_rec.load_pretrained` finds a class.

    Raises:
        ValueError: The class was declared without one, and at most inherits that of another class.
    """
    name = vars(cls).get("model_name")
    if name not in _MODELS or not _same_definition(_MODELS[name], cls):
        raise ValueError(
            f"{cls.__qualname__} has no model name of its own, so no checkpoint can name it. Declare it as "
            f"`class {cls.__name__}(..., model_name=...)`."
        )
    return cast(str, name)


def wrong_class(directory: str | PathLike[str], found: str, expected: type[Pretrained]) -> str:
    """Message for a folder whose model is of another class."""
    return (
        f"{Path(directory)} holds a {found}, not a {expected.__name__}. Use load_pretrained(folder), or "
        f"{found}.from_pretrained(folder)."
    )


def _same_definition(one: type, other: type) -> bool:
    """Whether two classes have one definition, which was executed twice."""
    return (one.__module__, one.__qualname__) == (other.__module__, other.__qualname__)
