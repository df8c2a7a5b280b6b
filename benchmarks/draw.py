"""Draw the pictures of earlier results again, from their CSVs."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

from benchmarks.harness import RESULTS, read_csv

HERE = Path(__file__).parent
FOLDERS = ("paper", "generation", "field")
"""Folders of further programs."""

NOT_DRAWN = ("-ratios", "-accuracy")
"""Endings of the CSVs that are shown as tables alone."""


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("tables", nargs="*", type=Path, help=f"CSVs; all of {RESULTS} by default")
    options = parser.parse_args(argv)
    for table in options.tables or sorted(RESULTS.glob("*.csv")):
        if draw := drawing_of(table):
            draw(table.with_suffix(".png"), read_csv(table))
            print(f"drawn: {table}")


def drawing_of(table: Path) -> Callable[[Path, list[dict[str, str]]], None] | None:
    """The function that draws a CSV, from the program that wrote it; None if it has no picture."""
    if table.stem.endswith(NOT_DRAWN):
        return None
    name = table.stem.partition("-")[0]
    own = (HERE / f"{name}.py").is_file()
    folder = None if own else next((each for each in FOLDERS if (HERE / each / f"{name}.py").is_file()), None)
    module = f"benchmarks.{folder}.{name}" if folder else f"benchmarks.{name}"
    return getattr(import_module(module), "draw", None)


if __name__ == "__main__":
    main()
