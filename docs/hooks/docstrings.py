"""Docstrings in Markdown: the library writes Sphinx's roles, which mkdocstrings does not know."""

from __future__ import annotations

import re
import textwrap
from typing import Any

import griffe

_DIRECTIVE = re.compile(r"^(?P<indent> *)\.\. math::(?P<latex>.*\n(?:(?P=indent) +\S.*\n?)*)", re.MULTILINE)
_ROLE = re.compile(r":(?P<role>math|attr|class|data|func|meth|mod):`(?P<text>[^`]+)`")
_TABLE = re.compile(r"^(=+ [= ]+\n)(.+\n)\1((?:(?!=).+\n)+)\1", re.MULTILINE)
_LITERAL = re.compile(r"::$", re.MULTILINE)


class Markdown(griffe.Extension):
    """Rewrites every docstring of a package once all of it is loaded, so that names can be looked up."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """See the class."""
        _rewrite(pkg)


def _rewrite(scope: griffe.Object) -> None:
    if scope.docstring is not None:
        scope.docstring.value = markdown(scope.docstring.value, scope)
    for member in scope.members.values():
        if isinstance(member, griffe.Object):
            _rewrite(member)


def markdown(text: str, scope: griffe.Object) -> str:
    """A docstring of ``scope`` in Markdown."""
    text = _DIRECTIVE.sub(_display, text)
    text = _ROLE.sub(lambda found: _inline(found, scope), text)
    text = _TABLE.sub(_table, text + "\n")
    return _LITERAL.sub(":", text).rstrip("\n")


def _display(found: re.Match[str]) -> str:
    latex = " ".join(found["latex"].split())
    return textwrap.indent(f"\n$$\n{latex}\n$$\n", found["indent"])


def _inline(found: re.Match[str], scope: griffe.Object) -> str:
    text = " ".join(found["text"].split())
    if found["role"] == "math":
        return rf"\({text}\)"
    shown = text.rpartition(".")[2] if text.startswith("~") else text
    target = _path(text.removeprefix("~"), scope)
    return f"`{shown}`" if target is None else f"[`{shown}`][{target}]"


def _path(name: str, scope: griffe.Object) -> str | None:
    """Where the reference shows what a name stands for in ``scope``, if it does."""
    package = scope.package
    try:
        if not name.startswith(f"{package.path}."):
            first, _, rest = name.partition(".")
            path = scope.members[first].path if first in scope.members else scope.resolve(first)
            name = f"{path}.{rest}" if rest else path
        found = package[name.removeprefix(f"{package.path}.")]
        return found.canonical_path if found.has_docstring else None
    except (griffe.NameResolutionError, griffe.AliasResolutionError, KeyError):
        return None


def _table(found: re.Match[str]) -> str:
    """A simple table; its first line, of equals signs, says where the columns start."""
    rule = found[1].rstrip("\n")
    starts = [column.start() for column in re.finditer("=+", rule)]
    edges = list(zip(starts, [*starts[1:], None], strict=True))
    rows = [[line[left:right].strip() for left, right in edges] for line in (found[2] + found[3]).splitlines()]
    lines = [" | ".join(row) for row in rows]
    return "\n".join([f"| {lines[0]} |", "|" + "---|" * len(starts), *(f"| {line} |" for line in lines[1:])]) + "\n"
