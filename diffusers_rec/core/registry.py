"""Components: classes with a registered name, built from a config.

An abstract base class defines a family. Every subclass is registered when it is defined::

    class NoiseSchedule(Component, ABC, kind="schedule"): ...
    class SqrtSchedule(NoiseSchedule, name="sqrt"): ...

    NoiseSchedule.build("sqrt")
    NoiseSchedule.build({"name": "sqrt", "num_timesteps": 50}).config()

One rule makes this work, as in scikit-learn: **a constructor keeps each of its parameters in an attribute of the same
name.** A config contains the name and these attributes, and can be written as JSON.

Third parties register a component by subclassing. With an entry point in the group ``diffusers_rec.<kind>``, its
name is known without an import. A config contains only names, so no file can make this library import a path.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterable, Mapping, Set
from importlib.metadata import entry_points
from os import PathLike
from typing import Any, ClassVar, Self

from diffusers_rec.core.deprecation import warn_deprecated
from diffusers_rec.core.entrances import explained
from diffusers_rec.core.hub import local_folder
from diffusers_rec.core.saved_parts import load_part, save_part

Config = dict[str, Any]

_FAMILIES: dict[str, dict[str, type[Component]]] = {}


class _FormerRequires:
    """Deprecated ``Component.context``, an alias of :attr:`Component.requires`."""

    def __get__(self, instance: object, owner: type[Component]) -> frozenset[str]:
        warn_deprecated(f"{owner.__name__}.context", f"{owner.__name__}.requires")
        return owner.requires


class Component:
    """Base class of everything that is selected by name. The module's docstring has the rule for constructors."""

    kind: ClassVar[str]
    registered_name: ClassVar[str | None] = None
    requires: ClassVar[frozenset[str]] = frozenset()
    """Constructor parameters that the pipeline supplies and a config never contains (other components)."""
    moved: ClassVar[Mapping[str, str]] = {}
    """Keys that a config no longer has, with what to write in their place."""
    entrances: ClassVar[tuple[str, ...]] = ()
    """Methods of the contract that take tensors; their arguments are checked in every class that defines them."""
    context = _FormerRequires()
    """Deprecated name of :attr:`requires`."""

    def __init_subclass__(cls, *, kind: str | None = None, name: str | None = None, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.registered_name = name
        if isinstance(vars(cls).get("context"), Set) and "requires" not in vars(cls):
            warn_deprecated(f"The class attribute `context` of {cls.__qualname__}", "`requires`")
            cls.requires = frozenset(vars(cls)["context"])
        for entrance in ("__init__", *cls.entrances):
            if entrance in vars(cls) and not getattr(vars(cls)[entrance], "__isabstractmethod__", False):
                above = (vars(base).get(entrance) for base in cls.__mro__[1:])
                contract = next((found for found in above if getattr(found, "__isabstractmethod__", False)), None)
                setattr(cls, entrance, explained(vars(cls)[entrance], contract))
        if kind is not None:
            cls.kind = kind
            _FAMILIES.setdefault(kind, {})
        if name is not None:
            family = _FAMILIES[cls.kind]
            _refuse_catch_all(cls)
            _refuse_hidden_methods(cls)
            taken = family.get(name)
            if taken is not None and (taken.__module__, taken.__qualname__) != (cls.__module__, cls.__qualname__):
                raise ValueError(
                    f"{cls.__qualname__}: the {cls.kind} name {name!r} is taken by {taken.__module__}."
                    f"{taken.__qualname__}. Choose another name."
                )
            family[name] = cls

    @classmethod
    def names(cls) -> list[str]:
        """All names that :meth:`build` accepts in this family, including entry points, in alphabetical order."""
        return sorted({*_FAMILIES[cls.kind], *(point.name for point in entry_points(group=_group(cls.kind)))})

    @classmethod
    def named(cls, name: str) -> type[Self]:
        """The class registered under ``name``.

        Raises:
            ValueError: No component of this family has that name; the message lists the known names.
        """
        family = _FAMILIES[cls.kind]
        if isinstance(name, str) and name not in family:
            for point in entry_points(group=_group(cls.kind), name=name):
                point.load()
        if not isinstance(name, str) or name not in family:
            raise ValueError(
                f"{unknown_name(f'{cls.kind} name', name, cls.names())} A component of your own is known once the "
                "module that defines it is imported, or by an entry point."
            )
        found = family[name]
        if not issubclass(found, cls):
            raise ValueError(f"The {cls.kind} {name!r} is a {found.__qualname__}, expected a {cls.__qualname__}.")
        return found

    @classmethod
    def settings(cls) -> list[str]:
        """Keys of a config of this class, except ``"name"``."""
        return [name for name in _parameters(cls) if name not in cls.requires]

    @classmethod
    @explained
    def build(cls, spec: Self | str | Mapping[str, Any], /, **settings: Any) -> Self:
        """Build a component of this family.

        Args:
            spec: A component (returned unchanged), a registered name, or a config, which is a mapping of ``"name"`` and
                constructor parameters.
            settings: Further constructor parameters.

        Raises:
            TypeError: ``spec`` is none of the three, or is a component and settings are given.
            ValueError: A name or key is unknown, or a required parameter is missing.
        """
        built = cls.build_with(settings, spec)
        if built is spec and settings:
            raise TypeError(f"{spec} is built already; it takes no {', '.join(settings)}.")
        for key in settings:
            if key not in _parameters(type(built)):
                raise ValueError(
                    unknown_name(f"setting of {cls.kind} {built.registered_name!r}", key, _parameters(type(built)))
                )
        return built

    @classmethod
    @explained
    def build_with(cls, defaults: Mapping[str, Any], spec: Self | str | Mapping[str, Any]) -> Self:
        """As :meth:`build`, with defaults for parameters that ``spec`` does not set.

        Args:
            defaults: Constructor parameters; those that the class does not have are ignored.
            spec: A component, a registered name, or a config.

        Raises:
            TypeError: ``spec`` is none of the three.
            ValueError: A name or key is unknown, or a required parameter is missing.
        """
        if isinstance(spec, cls):
            return spec
        config: Mapping[str, Any] = {"name": spec} if isinstance(spec, str) else spec  # type: ignore[assignment]
        if not isinstance(config, Mapping):
            got = f"the class {spec.__name__}; call it" if isinstance(spec, type) else type(spec).__name__
            raise TypeError(
                f"A {cls.kind} is given as a {cls.__qualname__}, a name ({', '.join(cls.names())}) or a config, "
                f"got {got}."
            )
        if "name" not in config:
            raise ValueError(f"A {cls.kind} config needs the key 'name': {', '.join(cls.names())}. Got {config}.")
        found = cls.named(config["name"])
        parameters = _parameters(found)
        given = {key: value for key, value in config.items() if key != "name"}
        for key in given:
            if key not in found.settings():
                raise ValueError(
                    unknown_name(f"key in the config of {cls.kind} {config['name']!r}", key, found.settings())
                    if key not in found.moved
                    else f"{key!r} is no key in the config of {cls.kind} {config['name']!r}. {found.moved[key]}"
                )
        arguments = {key: value for key, value in defaults.items() if key in parameters} | given
        missing = [
            key
            for key, value in parameters.items()
            if value.default is inspect.Parameter.empty and key not in arguments
        ]
        if missing:
            parts = ", ".join(f"{key}={key}" for key in missing if key in found.requires)
            hint = f" No config contains other parts: pass {parts}." if parts else ""
            raise ValueError(f"The config of {cls.kind} {config['name']!r} lacks {', '.join(missing)}.{hint}")
        return found(**arguments)

    def config(self) -> Config:
        """The config that builds an equal component: name and constructor parameters, ready for JSON.

        Raises:
            ValueError: The class has no registered name.
        """
        if self.registered_name is None:
            raise ValueError(
                f"{type(self).__qualname__} has no registered name, so no config can name it. "
                f"Declare it as `class {type(self).__qualname__}(..., name=...)`."
            )
        return {"name": self.registered_name, **{key: _plain(getattr(self, key)) for key in self.settings()}}

    @explained
    def save_pretrained(self, directory: str | PathLike[str]) -> None:
        """Write the config and the weights to a folder; an older part there stays complete until all is written.

        The parts of :attr:`requires` are not written.

        Args:
            directory: Folder; created if missing.

        Raises:
            ValueError: The component has no registered name, its weights are not finite, or the folder holds foreign
                files, a model or a part of another kind.
            OSError: The folder cannot be written; nothing is changed.
        """
        save_part(self, directory)

    @classmethod
    @explained
    def from_pretrained(
        cls,
        directory: str | PathLike[str],
        *,
        revision: str | None = None,
        token: str | None = None,
        **shared: Any,
    ) -> Self:
        """Read what :meth:`save_pretrained` wrote, of any name in this family.

        Args:
            directory: Folder, or the id of a repository on the Hugging Face Hub, such as ``"user/repo"``, which needs
                the extra ``hub``. A folder wins.
            revision: Branch, tag or commit of the repository.
            token: Token for the Hub; the one that is stored on this machine if None.
            shared: The parts of :attr:`requires`, such as ``embedding=``.

        Returns:
            The component; a module is in evaluation mode.

        Raises:
            FileNotFoundError: There is no part.
            ValueError: It is damaged, foreign, of a newer format, of another kind or of an unknown name, its weights do
                not fit its config or are not finite, or a part of :attr:`requires` is missing.
        """
        return load_part(cls, local_folder(directory, revision, token), shared)

    def check_fit(self, model: Any) -> None:
        """Check that this component fits the other parts of the model; by default it fits any.

        The pipeline calls this method when it is built and before training.

        Args:
            model: The pipeline, with all its parts built.

        Raises:
            ValueError: Two parts do not fit; the message names both.
        """

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{key}={getattr(self, key)!r}' for key in self.settings())})"


def _group(kind: str) -> str:
    return f"diffusers_rec.{kind}"


def _parameters(cls: type[Component]) -> dict[str, inspect.Parameter]:
    named = list(inspect.signature(cls.__init__).parameters.values())[1:]
    catch_all = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {parameter.name: parameter for parameter in named if parameter.kind not in catch_all}


def _refuse_catch_all(cls: type[Component]) -> None:
    """Reject ``*args`` and ``**kwargs``, whose values would be missing from the config and lost on saving."""
    init = inspect.getattr_static(cls, "__init__")
    if init is object.__init__ or init.__module__.startswith("torch."):
        return
    catch_all = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    if any(parameter.kind in catch_all for parameter in inspect.signature(init).parameters.values()):
        raise TypeError(
            f"{cls.__qualname__}.__init__ must name each of its parameters: what comes through *args or **kwargs "
            "would be missing from the component's config."
        )


def _refuse_hidden_methods(cls: type[Component]) -> None:
    """Reject a parameter whose attribute would hide a method, such as ``hidden`` of a denoiser."""
    for name in _parameters(cls):
        if inspect.isroutine(getattr(cls, name, None)):
            raise TypeError(
                f"{cls.__qualname__}: the parameter {name!r} would hide the method {name}() of the class, because each "
                "parameter is kept in an attribute of its name. Choose another name."
            )


def _plain(value: Any) -> Any:
    if isinstance(value, Component):
        return value.config()
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def unknown_name(what: str, got: object, known: Iterable[str]) -> str:
    """Message for an unknown name, with the known names and the most similar one."""
    known = sorted(known)
    close = difflib.get_close_matches(str(got), known, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"Unknown {what}: {got!r}. Known: {', '.join(known) or 'none'}.{hint}"
