"""Numbers of the benchmarks, read from their CSV files when the site is built, so that no page contains a copy.

A page calls a function in braces: ``{{ table("top_k.csv", columns={"items": "items"}) }}``. A call in an indented block
gives indented lines. A missing CSV gives the command that writes it. ``benchmarks/words.csv`` contains the words that
pages show for the names in the CSVs.
"""

from __future__ import annotations

import ast
import csv
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

from diffusers_rec.presets import PRESETS

REPOSITORY = Path(__file__).parents[2]
RESULTS = REPOSITORY / "benchmarks" / "results"

with (REPOSITORY / "benchmarks" / "words.csv").open(newline="", encoding="utf-8") as words:
    WORDS = {row["name"]: row["words"] for row in csv.DictReader(words)}

NO_BREAK_SPACE = "\N{NO-BREAK SPACE}"

_CALL = re.compile(r"(^ +)?\{\{\s*(\w+)(\(.*?\))\s*\}\}", re.DOTALL | re.MULTILINE)
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
    """Add the pictures that pages show, without those of quick runs."""
    for picture in sorted(RESULTS.glob("*.png")):
        if "-quick" not in picture.stem:
            files.append(File.generated(config, f"pictures/{picture.name}", abs_src_path=str(picture)))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Replace the calls of a page by their results; a generated page has no calls."""
    return markdown if page.file.generated_by else expand(markdown, page.file.src_uri)


def expand(markdown: str, page: str) -> str:
    """Replace the calls in a text by their results.

    Args:
        markdown: Text of a page.
        page: Name of the page, for the error.

    Raises:
        PluginError: a call of an unknown function, with arguments that are not literals, or of a column or row that the
            CSV lacks.
    """

    def answer(found: re.Match[str]) -> str:
        indent = found[1] or ""
        try:
            call: Any = ast.parse(f"f{found[3]}", mode="eval").body
            arguments = [ast.literal_eval(argument) for argument in call.args]
            named = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords if keyword.arg}
            return indent + CALLS[found[2]](*arguments, **named).replace("\n", f"\n{indent}")
        except (KeyError, SyntaxError, TypeError, ValueError) as error:
            raise PluginError(f"{page}: {found[0].strip()} cannot be answered: {error!r}.") from error

    return _REPEATED.sub(r"\1", _CALL.sub(answer, markdown))


def table(file: str, *, columns: dict[str, str], where: dict[str, Any] | None = None) -> str:
    """Some columns of a CSV under other names. A name that ends in a unit (", ms") scales its column."""
    rows = _rows(file, where)
    if not rows:
        return _not_run(file)
    cells = [[_shown(row[column], column, name) for column, name in columns.items()] for row in rows]
    return _markdown(list(columns.values()), cells)


def pivot(
    file: str,
    *,
    rows: str,
    across: str,
    value: str,
    unit: str = "",
    where: dict[str, Any] | None = None,
    bold: bool = False,
) -> str:
    """One column by two others. Several measurements of a cell give their mean and standard deviation.

    Args:
        file: Name of the CSV.
        rows: Column whose values are the table's rows.
        across: Column whose values are the table's columns.
        value: Column of the cells.
        unit: Unit that scales the cells.
        where: Values of columns that select the CSV's rows.
        bold: Whether the highest cell of each column is bold.
    """
    found = _rows(file, where)
    if not found:
        return _not_run(file)
    cells: dict[tuple[str, str], list[float]] = {}
    for row in found:
        if row[value]:
            cells.setdefault((row[rows], row[across]), []).append(float(row[value]))
    down, right = (list(dict.fromkeys(key[axis] for key in cells)) for axis in (0, 1))
    highest = {column: max(fmean(cell) for (_, other), cell in cells.items() if other == column) for column in right}

    def cell(name: str, column: str) -> str:
        if (name, column) not in cells:
            return ""
        numbers = cells[name, column]
        text = _mean_and_spread(numbers, value, unit)
        return f"**{text}**" if bold and fmean(numbers) == highest[column] else text

    body = [[_shown(name, rows), *(cell(name, column) for column in right)] for name in down]
    return _markdown([rows.replace("_", " "), *(_shown(column, across) for column in right)], body)


def _mean_and_spread(cell: list[float], column: str, unit: str) -> str:
    found = [fmean(cell), *([stdev(cell)] if len(cell) > 1 else [])]
    return f"{NO_BREAK_SPACE}±{NO_BREAK_SPACE}".join(_shown(str(number), column, f", {unit}") for number in found)


def scores(file: str, *, where: dict[str, Any], metric: str = "ndcg@10") -> str:
    """A metric on each data set, in a sentence: ``0.0610 / 0.0701 / 0.1910``. Rows of the same data set are averaged.

    Args:
        file: Name of the CSV.
        where: Values of columns that select rows; seen items are excluded unless it has a ``history``.
        metric: Column of the metric.
    """
    means = _means(file, where, metric)
    return _together(_shown(str(mean), metric) for mean in means.values()) or _not_measured(file)


def change(
    file: str, *, of: dict[str, Any], over: dict[str, Any], metric: str = "ndcg@10", relative: bool = True
) -> str:
    """The change of a metric between two selections of rows, on each data set that has both: ``+18 % / −3.0 %``.

    Args:
        file: Name of the CSV.
        of: Values of columns that select the rows which are compared, as in :func:`scores`.
        over: Values of columns that select the reference.
        metric: Column of the metric.
        relative: Whether the change is in per cent of the reference.
    """
    new, old = _means(file, of, metric), _means(file, over, metric)
    both = [dataset for dataset in new if dataset in old]
    if relative:
        changes = [_per_cent(new[dataset] / old[dataset] - 1) for dataset in both]
    else:
        changes = [f"{new[dataset] - old[dataset]:+.4f}" for dataset in both]
    return _together(changes).replace("-", "−") or _not_measured(file)


def _together(numbers: Iterable[str]) -> str:
    """Numbers of several data sets, in one line wherever they stand."""
    return " / ".join(numbers).replace(" ", NO_BREAK_SPACE)


def _per_cent(change: float) -> str:
    return f"{100 * change:+.{0 if abs(change) >= 0.1 else 1}f} %"


def above(file: str, **selections: Any) -> str:
    """The same change without its sign: ``18 % / 3.0 %``.

    Raises:
        ValueError: a change is not a rise, so that the sentence with this call has become wrong.
    """
    return _without_sign("+", change(file, **selections))


def below(file: str, **selections: Any) -> str:
    """As :func:`above`, of a fall."""
    return _without_sign("−", change(file, **selections))


def _without_sign(sign: str, changes: str) -> str:
    if any(each[0] not in f"{sign}(" for each in changes.split(f"{NO_BREAK_SPACE}/{NO_BREAK_SPACE}")):
        raise ValueError(f"expected changes that start with {sign}, got {changes}")
    return changes.replace(sign, "")


def _means(file: str, where: dict[str, Any], metric: str) -> dict[str, float]:
    """The mean of a metric by data set. Published rows with ``history`` "not said" count if there are no others."""
    rows = [row for row in _rows(file, where) if row[metric]]
    if "history" not in where:
        rows = [row for row in rows if row.get("history", "masked") == "masked"] or rows
    return {
        dataset: fmean(float(row[metric]) for row in rows if row["dataset"] == dataset)
        for dataset in dict.fromkeys(row["dataset"] for row in rows)
    }


def ratios(file: str) -> str:
    """Every ratio that a program reports, with its target and whether it is met."""
    rows = _rows(file, None)
    if not rows:
        return _not_run(file)
    cells = [
        [
            WORDS.get(row["name"], row["name"].replace("_", " ")),
            _shown(row["value"], ""),
            row["target"],
            _verdict(row),
        ]
        for row in rows
    ]
    return _markdown(["ratio", "measured", "target", ""], cells)


def value(file: str, name: str) -> str:
    """One ratio, in a sentence."""
    rows = _rows(file, {"name": name})
    if not rows:
        return _not_measured(file)
    return _shown(rows[0]["value"], "")


def picture(file: str, text: str) -> str:
    """A program's picture with its description, linked to its full size, which a narrow screen needs."""
    if not (RESULTS / file).is_file():
        return _not_run(file)
    return f"[![{text}](pictures/{file}){{ loading=lazy }}](pictures/{file})"


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
    "scores": scores,
    "change": change,
    "above": above,
    "below": below,
    "ratios": ratios,
    "value": value,
    "picture": picture,
    "surroundings": surroundings,
}


def _rows(file: str, where: dict[str, Any] | None) -> list[Row]:
    """Rows whose columns have the values of ``where``, or one of a list of values; none if there is no CSV.

    Raises:
        ValueError: a column has none of its values.
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


def _not_measured(file: str) -> str:
    return f"(not measured yet: {_command(file)})"


def _command(file: str) -> str:
    name, _, suffix = Path(file).stem.partition("-")
    suffix = suffix.removesuffix("-ratios")
    option = f" --preset {suffix}" if suffix in PRESETS else ""
    folders = [each for each in ("", "paper.", "generation.", "field.") if _program(each, name).is_file()]
    if not folders:
        raise ValueError(f"no program writes {file}")
    if folders[0] == "generation.":
        option = f" --dataset {suffix}"
    return f"`python -m benchmarks.{folders[0]}{name}{option}`"


def _program(folder: str, name: str) -> Path:
    return REPOSITORY / "benchmarks" / folder.rstrip(".") / f"{name}.py"


def _shown(text: str, column: str, name: str = "") -> str:
    """A cell: counts whole, scores to four places and percentages to two as in the paper, others to three digits.

    Names are shown in words.
    """
    try:
        number = float(text)
    except ValueError:
        return ", ".join(WORDS.get(phrase, phrase) for phrase in text.split(", "))
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
    """Whether a value meets a target such as "<= 4", ">= 2", "< 300" or "0.98 to 1.02"."""
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
    numeric = [all(re.fullmatch(r"[-\d.,e+\s±*]*", row[column]) for row in rows) for column in range(len(header))]
    rule = "|".join("---:" if right else ":---" for right in numeric)
    lines = [" | ".join(cells) for cells in [header, *rows]]
    return "\n".join([f"| {lines[0]} |", f"|{rule}|", *(f"| {line} |" for line in lines[1:])])
