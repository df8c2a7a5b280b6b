"""Shows the Markdown files of the repository's root as pages of the site."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[2]
SOURCES = {
    "changelog.md": "CHANGELOG.md",
    "code_of_conduct.md": "CODE_OF_CONDUCT.md",
    "contributing.md": "CONTRIBUTING.md",
    "security.md": "SECURITY.md",
}
"""Files of the root by the address of their page."""


def content(page: str) -> str:
    """The text of a page, with links as they are on the site.

    Args:
        page: Address of the page.
    """
    text = (ROOT / SOURCES[page]).read_text(encoding="utf-8").replace("](docs/", "](")
    for address, source in SOURCES.items():
        text = text.replace(f"]({source}", f"]({address}")
    return text


def on_files(files: Any, *, config: Any) -> Any:
    """Add the pages."""
    for page in SOURCES:
        files.append(File.generated(config, page, content=content(page)))
    return files
