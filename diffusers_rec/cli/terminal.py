"""What the command line prints, and to where: results to standard output, all else to standard error.

Ids, paths and messages may hold anything. What a terminal would obey instead of showing it is printed as an escape.
"""

from __future__ import annotations

import json
import re
import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from rich.console import Console
from rich.text import Text

_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters but for tab and line feed, marks of direction, and halves of characters."""


class _Terminal(Console):
    def render_str(self, text: str, **style: Any) -> Text:
        return super().render_str(visible(text), **style)


say = _Terminal(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)
out = _Terminal(highlight=False, markup=False, emoji=False)


def visible(text: str) -> str:
    """The text, with what a terminal would obey as an escape."""
    return _OBEYED.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode(), text)


def print_json(value: Any) -> None:
    """One JSON object, on one line."""
    text = json.dumps(value, ensure_ascii=False)
    print(_OBEYED.sub(lambda found: f"\\u{ord(found[0]):04x}", text))


@contextmanager
def terminal_session() -> Iterator[None]:
    """Warnings are one line each, and a request to terminate ends as an interrupt does."""

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        say.print(f"diffrec: {message}", style="yellow")

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = show
            yield
    finally:
        signal.signal(signal.SIGTERM, before)
