"""Errors of the library, extended by the command line options that resolve them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager


@contextmanager
def naming_options(options: str) -> Iterator[None]:
    """Extend every error, which names Python arguments, by the options that set them."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise _kind(error)(f"{error} (On the command line: {options}.)") from error


@contextmanager
def suggesting_options(options: Mapping[str, str]) -> Iterator[None]:
    """Extend an error by the option that avoids it; the option is found by words of the message."""
    try:
        yield
    except (TypeError, ValueError) as error:
        found = next((option for words, option in options.items() if words in str(error)), None)
        suggestion = f" (On the command line: {found}.)" if found else ""
        raise _kind(error)(f"{error}{suggestion}") from error


def _kind(error: TypeError | ValueError) -> type[TypeError | ValueError]:
    """The class to raise again: a subclass, such as that of JSON errors, may take other arguments."""
    return TypeError if isinstance(error, TypeError) else ValueError
