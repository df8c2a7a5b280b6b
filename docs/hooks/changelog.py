"""Shows the repository's changelog as a page of the site."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

CHANGELOG = Path(__file__).parents[2] / "CHANGELOG.md"


def on_files(files: Any, *, config: Any) -> Any:
    """Add the page."""
    files.append(File.generated(config, "changelog.md", content=CHANGELOG.read_text(encoding="utf-8")))
    return files
