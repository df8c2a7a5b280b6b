"""Build the gallery: run every numbered example and keep its text, its code, what it prints and what it draws.

The page and its pictures go to ``build/gallery``, from where the site takes them. An example is run again when it or
the library has changed.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[1]
EXAMPLES = REPOSITORY / "examples"
BUILD = REPOSITORY / "build" / "gallery"
PAGE = "gallery.md"
WIDTH = 88  # of what is printed, in characters: more would be cut off beside the navigation
_TEMPORARY = re.compile(rf"{re.escape(tempfile.gettempdir())}[/\\]tmp\w+[/\\]")  # a folder that is gone by now
OPENING = """# Gallery

Each example is one script in `examples/` and runs in under two minutes without any download. This page shows what it
draws, what it prints, and its code. Run one yourself: `python examples/01_quickstart.py`. All take `--out FOLDER` and
`--quick`.
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the examples and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="run the examples with --quick: a look, not a result")
    parser.add_argument("--to", type=Path, default=BUILD, help="folder of the page")
    parser.add_argument("--examples", type=Path, default=EXAMPLES, help="folder of the scripts")
    options = parser.parse_args(argv)
    options.to.mkdir(parents=True, exist_ok=True)
    sources = [*sorted((REPOSITORY / "diffusers_rec").rglob("*.py")), *sorted(options.examples.glob("_*.py"))]
    mark = hashlib.sha256(b"".join(source.read_bytes() for source in sources))
    mark.update(b"quick" if options.quick else b"full")
    scripts = sorted(options.examples.glob("[0-9]*.py"))
    sections = [section(script, options.to, options.quick, mark.copy()) for script in scripts]
    (options.to / PAGE).write_text("\n".join([OPENING, *sections]), encoding="utf-8")


def section(script: Path, folder: Path, quick: bool, made_from: Any) -> str:
    """Show a script, and run it first if anything that it depends on has changed.

    Args:
        script: Path of the example.
        folder: Parent of the example's output folder.
        quick: Whether it runs with ``--quick``.
        made_from: Hash of everything else that its results depend on.

    Raises:
        RuntimeError: the script failed; the message holds what it wrote.
    """
    out = folder / script.stem
    printed, known = out / "printed.txt", out / "made-from.txt"
    source = script.read_text(encoding="utf-8")
    made_from.update(source.encode())
    if not known.is_file() or known.read_text() != made_from.hexdigest():
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        print(f"{script.name} ...", file=sys.stderr, flush=True)
        printed.write_text(_run(script.resolve(), out, quick), encoding="utf-8")
        known.write_text(made_from.hexdigest())
    pictures = [f"{folder.name}/{out.name}/{picture.name}" for picture in sorted(out.glob("*.png"))]
    return show(source, script.stem, printed.read_text(encoding="utf-8"), pictures)


def show(source: str, name: str, printed: str, pictures: Sequence[str]) -> str:
    """The section of an example: its pictures, its text, what it printed, and its code."""
    tree = ast.parse(source)
    document = ast.get_docstring(tree) or ""
    title, _, text = document.partition("\n")
    heading, _, subtitle = title.partition(":")
    code = "\n".join(source.splitlines()[tree.body[0].end_lineno if document else 0 :]).strip()
    parts = [f"## {heading.rstrip('.')}"]
    parts += [f"![{heading.rstrip('.')}: {Path(picture).stem}]({picture}){{ loading=lazy }}" for picture in pictures]
    parts += [f"`examples/{name}.py`"]
    parts += [subtitle.strip()[:1].upper() + subtitle.strip()[1:]] if subtitle else []
    parts += [text.strip()] if text.strip() else []
    if printed.strip():
        lines = _TEMPORARY.sub("", printed).strip("\n").rstrip().splitlines()  # a table's head may start with blanks
        shown = "\n".join(map(_fold, lines))
        parts.append(f"```text\n{shown}\n```")
    indented = re.sub(r"^(?=.)", "    ", code, flags=re.MULTILINE)
    parts.append(f'??? example "The code"\n\n    ```python\n{indented}\n    ```')
    return "\n\n".join(parts) + "\n"


def _fold(line: str) -> str:
    """A long line as several, the later ones indented; a short one as it is, for its blanks may align a table."""
    if len(line) <= WIDTH:
        return line
    return textwrap.fill(line, WIDTH, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)


def _run(script: Path, out: Path, quick: bool) -> str:
    command = [sys.executable, str(script), "--out", ".", *(["--quick"] if quick else [])]
    environment = {**os.environ, "MPLBACKEND": "agg", "COLUMNS": "80", "NO_COLOR": "1"}
    run = subprocess.run(
        command, capture_output=True, text=True, encoding="utf-8", env=environment, cwd=out, check=False
    )
    if run.returncode:
        raise RuntimeError(f"{script.name} failed with exit code {run.returncode}:\n{run.stdout}{run.stderr}")
    return run.stdout


if __name__ == "__main__":
    main()
