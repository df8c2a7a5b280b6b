"""Output of the command line: results to standard output, everything else to standard error.

Ids, paths and messages may contain any character. Characters that control a terminal are printed as escapes.
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

_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters (except tab and line feed), direction marks and surrogates."""


class _EscapingConsole(Console):
    def render_str(self, text: str, **style: Any) -> Text:
        return super().render_str(visible(text), **style)


stderr = _EscapingConsole(stderr=True, highlight=False, markup=False, emoji=False, soft_wrap=True)
stdout = _EscapingConsole(highlight=False, markup=False, emoji=False)


def visible(text: str) -> str:
    """Replace control characters in a text by escapes."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape", "surrogatepass").decode(), text)


def print_json(value: Any) -> None:
    """Print a value as JSON, on one line."""
    text = json.dumps(value, ensure_ascii=False)
    print(_CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", text))


@contextmanager
def terminal_session() -> Iterator[None]:
    """Print a warning as one line, and handle a request to terminate as an interrupt."""

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        stderr.print(f"diffrec: {message}", style="yellow")

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = show
            yield
    finally:
        signal.signal(signal.SIGTERM, before)
