"""What the benchmarks measured, read from their CSV files when the site is built: no figure is copied by hand.

A page calls in braces: ``{{ table("top_k.csv", columns={"items": "items"}) }}``. What a program has not written yet is
told with the command that writes it.
"""

from __future__ import annotations

import ast
import csv
import re
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

from diffusers_rec.presets import PRESETS

REPOSITORY = Path(__file__).parents[2]
RESULTS = REPOSITORY / "benchmarks" / "results"

_CALL = re.compile(r"\{\{\s*(\w+)(\(.*?\))\s*\}\}", re.DOTALL)
_REPEATED = re.compile(r"(Not run yet: .+\n)(?:\n\1)+")
_SCALES = {"ms": 1e3, "µs": 1e6, "%": 100.0}
_COUNTS = (
    "timestep",
    "users",
    "items",
    "actions",
    "steps",
    "seeds",
    "setting",
    "draws",
    "batch",
    "place",
    "targets_per_second",
)

Row = dict[str, str]


def on_files(files: Any, *, config: Any) -> Any:
    """Bring the pictures that pages show."""
    for picture in sorted(RESULTS.glob("*.png")):
        if not picture.stem.endswith("-quick"):
            files.append(File.generated(config, f"pictures/{picture.name}", abs_src_path=str(picture)))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Replace the calls of a page by what they give; a generated page makes none."""
    return markdown if page.file.generated_by else expand(markdown, page.file.src_uri)


def expand(markdown: str, page: str) -> str:
    """Replace the calls in a text by what they give.

    Raises:
        PluginError: a call that is none of this module's, with arguments that are no literals, or of a column that the
            CSV lacks.
    """

    def answer(found: re.Match[str]) -> str:
        try:
            call: Any = ast.parse(f"f{found[2]}", mode="eval").body
            arguments = [ast.literal_eval(argument) for argument in call.args]
            named = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords if keyword.arg}
            return CALLS[found[1]](*arguments, **named)
        except (KeyError, SyntaxError, TypeError, ValueError) as error:
            raise PluginError(f"{page}: {found[0]} cannot be answered: {error!r}.") from error

    return _REPEATED.sub(r"\1", _CALL.sub(answer, markdown))


def table(file: str, *, columns: dict[str, str], where: dict[str, Any] | None = None) -> str:
    """Some columns of a CSV under other names; a name that ends in a unit (", ms") scales its column."""
    rows = _rows(file, where)
    if not rows:
        return _not_run(file)
    cells = [[_shown(row[column], column, name) for column, name in columns.items()] for row in rows]
    return _markdown(list(columns.values()), cells)


def pivot(file: str, *, rows: str, across: str, value: str, unit: str = "", where: dict[str, Any] | None = None) -> str:
    """One column by two others; of several measurements of one cell, the mean and the standard deviation."""
    found = _rows(file, where)
    if not found:
        return _not_run(file)
    cells: dict[tuple[str, str], list[float]] = {}
    for row in found:
        if row[value]:
            cells.setdefault((row[rows], row[across]), []).append(float(row[value]))
    down, right = (list(dict.fromkeys(key[axis] for key in cells)) for axis in (0, 1))
    body = [
        [
            _shown(name, rows),
            *(
                _mean_and_spread(cells[name, column], value, unit) if (name, column) in cells else ""
                for column in right
            ),
        ]
        for name in down
    ]
    return _markdown([rows.replace("_", " "), *(_shown(column, across) for column in right)], body)


def _mean_and_spread(cell: list[float], column: str, unit: str) -> str:
    found = [fmean(cell), *([stdev(cell)] if len(cell) > 1 else [])]
    return " ± ".join(_shown(str(number), column, f", {unit}") for number in found)


def ratios(file: str) -> str:
    """Every ratio that a program reports, beside what was asked for and whether it is met."""
    rows = _rows(file, None)
    if not rows:
        return _not_run(file)
    cells = [[row["name"].replace("_", " "), _shown(row["value"], ""), row["target"], _verdict(row)] for row in rows]
    return _markdown(["ratio", "measured", "asked for", ""], cells)


def value(file: str, name: str) -> str:
    """One ratio, in a sentence."""
    rows = _rows(file, {"name": name})
    if not rows:
        return f"(not measured yet: {_command(file)})"
    return _shown(rows[0]["value"], "")


def picture(file: str, text: str) -> str:
    """A program's picture, with what it shows in words."""
    if not (RESULTS / file).is_file():
        return _not_run(file)
    return f"![{text}](pictures/{file}){{ loading=lazy }}"


def surroundings(file: str) -> str:
    """When and where a CSV was measured."""
    rows = _rows(file, None)
    if not rows:
        return ""
    row = rows[0]
    threads = "1 thread" if row["threads"] == "1" else f"{row['threads']} threads"
    return f"*{row['date']}, {row['cpu']}, {threads}, PyTorch {row['torch']}, diffusers_rec {row['diffusers_rec']}.*"


CALLS: dict[str, Callable[..., str]] = {
    "table": table,
    "pivot": pivot,
    "ratios": ratios,
    "value": value,
    "picture": picture,
    "surroundings": surroundings,
}


def _rows(file: str, where: dict[str, Any] | None) -> list[Row]:
    """Rows whose columns have the values of ``where``, or one of them; none where the program has not run.

    Raises:
        ValueError: the CSV is there, and a column has none of its values.
    """
    path = RESULTS / file
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as text:
        rows = list(csv.DictReader(text))
    wanted = {key: each if isinstance(each, list) else [each] for key, each in (where or {}).items()}
    for key, values in wanted.items():
        if not any(row[key] in values for row in rows):
            raise ValueError(f"no row of {file} has {key} {' or '.join(values)}")
    return [row for row in rows if all(row[key] in values for key, values in wanted.items())]


def _not_run(file: str) -> str:
    return f"Not run yet: {_command(file)}."


def _command(file: str) -> str:
    name, _, suffix = Path(file).stem.partition("-")
    suffix = suffix.removesuffix("-ratios")
    preset = f" --preset {suffix}" if suffix in PRESETS else ""
    paper = (REPOSITORY / "benchmarks" / "paper" / f"{name}.py").is_file()
    if not paper and not (REPOSITORY / "benchmarks" / f"{name}.py").is_file():
        raise ValueError(f"no program writes {file}")
    return f"`python -m benchmarks.{'paper.' if paper else ''}{name}{preset}`"


def _shown(text: str, column: str, name: str = "") -> str:
    """A cell: counts whole, scores to four places and percentages to two as in the paper, the rest to three digits."""
    try:
        number = float(text)
    except ValueError:
        return text
    unit = name.rpartition(", ")[2]
    number *= _SCALES.get(unit, 1.0)
    if column in _COUNTS:
        return f"{number:,.0f}"
    if "@" in column:
        return f"{number:.4f}"
    if unit == "%":
        return f"{number:.2f}"
    if column == "average_length":
        return f"{number:.1f}"
    return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.3g}"


def _verdict(row: Row) -> str:
    """Whether a value meets its target, which is "<= 4", ">= 2", "< 300" or "0.98 to 1.02"."""
    number, target = float(row["value"]), row["target"]
    if not target:
        return ""
    if " to " in target:
        low, high = map(float, target.split(" to "))
        return "met" if low <= number <= high else "missed"
    sign, bound = target.split()
    return "met" if _MEETS[sign](number, float(bound)) else "missed"


_MEETS: dict[str, Callable[[float, float], bool]] = {
    "<=": lambda number, bound: number <= bound,
    ">=": lambda number, bound: number >= bound,
    "<": lambda number, bound: number < bound,
    ">": lambda number, bound: number > bound,
}


def _markdown(header: list[str], rows: list[list[str]]) -> str:
    numeric = [all(re.fullmatch(r"[-\d.,e+ ±]*", row[column]) for row in rows) for column in range(len(header))]
    rule = "|".join("---:" if right else ":---" for right in numeric)
    lines = [" | ".join(cells) for cells in [header, *rows]]
    return "\n".join([f"| {lines[0]} |", f"|{rule}|", *(f"| {line} |" for line in lines[1:])])
