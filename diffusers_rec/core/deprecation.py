"""Old names that work until the next minor release and warn once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from diffusers_rec.core.errors import warn_caller

_SHOWN: set[str] = set()


def warn_deprecated(old: str, new: str) -> None:
    """Warn, once in a process, that ``old`` is deprecated.

    Args:
        old: Deprecated name.
        new: Name that replaces it.
    """
    if old not in _SHOWN:
        _SHOWN.add(old)
        warn_caller(f"{old} is deprecated and will be removed in the next minor release; use {new}.", FutureWarning)


def deprecated_names(module: str, renamed: Mapping[str, tuple[str, Any]]) -> Callable[[str], Any]:
    """``__getattr__`` of a module, so that it still finds renamed objects.

    Args:
        module: Name of the module.
        renamed: New name and object by old name.
    """

    def find(name: str) -> Any:
        if name not in renamed:
            raise AttributeError(f"module {module!r} has no attribute {name!r}")
        new, value = renamed[name]
        warn_deprecated(f"{module}.{name}", f"{module}.{new}")
        return value

    return find
