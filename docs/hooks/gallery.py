"""Brings what ``docs/build_gallery.py`` has built into the site."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

BUILD = Path(__file__).parents[2] / "build" / "gallery"
MISSING = "# Gallery\n\nNot built yet: `python docs/build_gallery.py` runs the examples and makes this page.\n"


def on_files(files: Any, *, config: Any) -> Any:
    """Add the page and its pictures, or a page that says how to make them."""
    page = BUILD / "gallery.md"
    if not page.is_file():
        files.append(File.generated(config, "gallery.md", content=MISSING))
        return files
    files.append(File.generated(config, "gallery.md", abs_src_path=str(page)))
    for picture in sorted(BUILD.glob("*/*.png")):
        uri = f"gallery/{picture.parent.name}/{picture.name}"
        files.append(File.generated(config, uri, abs_src_path=str(picture)))
    return files
