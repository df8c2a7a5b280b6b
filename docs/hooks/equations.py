"""Equations as MathML, which browsers draw themselves: no script, no font, no network."""

from __future__ import annotations

import html
import re
import unicodedata
from typing import Any

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError

_EQUATION = re.compile(r'<(?P<tag>span|div) class="arithmatex">\\[(\[](?P<latex>.*?)\\[)\]]</(?P=tag)>', re.DOTALL)
_LETTER = re.compile(
    r'<(?P<tag>m[in]) mathvariant="(?P<variant>script|double-struck)">(?P<letter>\w)</(?P=tag)>', re.ASCII
)
_FUNCTION = re.compile("<mi>(?P<name>exp|ln|log)</mi>")


def on_page_content(content: str, *, page: Any, **_: Any) -> str:
    """Replace what the arithmatex extension has marked."""
    return _EQUATION.sub(lambda found: _mathml(found, page.file.src_uri), content)


def _mathml(found: re.Match[str], page: str) -> str:
    latex = " ".join(html.unescape(found["latex"]).split())
    mathml = convert(latex, display="block" if found["tag"] == "div" else "inline")
    if "\\" in mathml:
        raise PluginError(f"{page}: the equation {latex} holds a command that latex2mathml does not know.")
    mathml = _LETTER.sub(_letter, mathml)
    mathml = _FUNCTION.sub(r'<mo lspace="0.17em" rspace="0.17em">\g<name></mo>', mathml)
    mathml = mathml.replace("<mi>&#x0007E;</mi>", "<mo>&#x0223C;</mo>")  # "is distributed as", not a keyboard's tilde
    mathml = mathml.replace("<math ", f'<math alttext="{html.escape(latex)}" ', 1)
    return f'<{found["tag"]} class="arithmatex">{mathml}</{found["tag"]}>'


def _letter(found: re.Match[str]) -> str:
    """A letter as a character of its own: not all browsers know the attribute that latex2mathml sets."""
    kind = unicodedata.name(found["letter"]).removeprefix("LATIN ").replace("LETTER ", "")
    for prefix in ("MATHEMATICAL ", ""):
        try:
            letter = unicodedata.lookup(f"{prefix}{found['variant'].upper()} {kind}")
        except KeyError:
            continue
        return f"<{found['tag']}>{letter}</{found['tag']}>"
    return found[0]
