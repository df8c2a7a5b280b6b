"""Docstrings: the entries of ``Args:`` and ``Attributes:`` are phrases that read on their own."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

import diffusers_rec

PACKAGE = Path(diffusers_rec.__path__[0])
MODULES = sorted(PACKAGE.rglob("*.py"))
_SECTION = re.compile(r"^(?:Args|Attributes):\n(?P<body>(?:[ \t]+\S.*\n?|\n(?=[ \t]))+)", re.MULTILINE)
_PHRASE = re.compile(r"[A-Z`:].*\.", re.DOTALL)


def entries(docstring: str) -> Iterator[tuple[str, str]]:
    """Name and text of each entry of ``Args:`` and ``Attributes:``."""
    for section in _SECTION.finditer(inspect.cleandoc(docstring)):
        for entry in re.split(r"^(?=\S)", textwrap.dedent(section["body"]), flags=re.MULTILINE):
            name, _, text = entry.strip().partition(": ")
            if name:
                yield name, text


def _docstrings(path: Path) -> Iterator[tuple[str, str]]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            yield getattr(node, "name", "module"), ast.get_docstring(node) or ""


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_every_entry_starts_with_a_capital_and_ends_with_a_full_stop(path):
    found = [(owner, *entry) for owner, docstring in _docstrings(path) for entry in entries(docstring)]
    assert not [entry for entry in found if not _PHRASE.fullmatch(entry[2])]


def test_entries_are_found_with_their_continuation_lines():
    docstring = """Build a model.

    Args:
        dim: Latent width D.
        seed: Seed of the
            initial weights.

    Returns:
        The model.
    """
    assert list(entries(docstring)) == [("dim", "Latent width D."), ("seed", "Seed of the\n    initial weights.")]


@pytest.mark.parametrize("text", ["latent width D.", "Latent width D", "D", ""])
def test_other_entries_are_rejected(text):
    assert not _PHRASE.fullmatch(text)
