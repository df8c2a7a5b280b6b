"""The README's Python runs and prints what is shown, and its table of results is that of the CSV."""

from __future__ import annotations

import csv
import io
import re
from contextlib import redirect_stdout
from pathlib import Path
from statistics import fmean, stdev

import pytest

from diffusers_rec.recommenders.diffrec import PARTS

README = Path(__file__).parents[1] / "README.md"
TEXT = README.read_text(encoding="utf-8")
TOLERANCE = 0.02
"""Of printed numbers: other versions of PyTorch round otherwise, and a training makes more of it."""

_BLOCK = re.compile(r"^```python\n(?P<code>.*?)^```\n(?:\n```text\n(?P<shown>.*?)\n```$)?", re.DOTALL | re.M)
_ERROR = re.compile(r"\w+Error: ")


def python_blocks(text: str) -> list[tuple[str, str | None]]:
    """The Python of a Markdown text; with the block of text right behind it, where there is one."""
    return [(found["code"], found["shown"]) for found in _BLOCK.finditer(text)]


def run_block(code: str, shown: str | None, namespace: dict[str, object], name: str) -> None:
    """Run a block, and see that it prints or raises what is shown, if anything is; lines may break anywhere."""
    compiled = compile(code, name, "exec")
    if shown is not None and _ERROR.match(shown):
        with pytest.raises(Exception, match=r".") as raised:
            exec(compiled, namespace)
        assert f"{type(raised.value).__name__}: {raised.value}".split() == shown.split()
        return
    printed = io.StringIO()
    with redirect_stdout(printed):
        exec(compiled, namespace)
    if shown is not None:
        assert is_same_print(printed.getvalue(), shown), printed.getvalue()


def is_same_print(printed: str, shown: str) -> bool:
    """Whether two prints have the same words, and numbers that differ by the tolerance at most."""
    words, expected = printed.split(), shown.split()
    return len(words) == len(expected) and all(map(_is_same_word, words, expected))


def _is_same_word(word: str, expected: str) -> bool:
    try:
        return abs(float(word) - float(expected)) <= TOLERANCE
    except ValueError:
        return word == expected


BLOCKS = python_blocks(TEXT)


@pytest.mark.usefixtures("fresh_registry")
@pytest.mark.parametrize(("code", "shown"), BLOCKS, ids=range(len(BLOCKS)))
def test_code_blocks_run(code, shown, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_block(code, shown, {"__name__": "readme"}, "README.md")


@pytest.mark.parametrize(
    ("printed", "same"),
    [("a  0.25\n", True), ("a 0.26\nb", False), ("a 0.265", True), ("a 0.28", False), ("c 0.25", False)],
)
def test_a_print_is_compared_by_words_and_numbers(printed, same):
    assert is_same_print(printed, "a  0.25") is same


def test_a_block_that_prints_something_else_is_found():
    with pytest.raises(AssertionError):
        run_block("print('tea')", "coffee", {}, "page")


def test_the_readme_is_short():
    assert len(TEXT.splitlines()) <= 130


def test_the_table_names_every_registered_component():
    for family in PARTS.values():
        for name in family.names():
            if family.named(name).__module__.startswith("diffusers_rec."):
                assert f"`{name}`" in TEXT, f"README does not name the {family.kind} {name}"


def test_the_readme_says_how_many_kinds_of_component_there_are():
    rows = TEXT.partition("## Components")[2].partition("\n\n`DiffRec")[0].count("\n| `")
    assert f"There are {rows} kinds of component" in TEXT


RESULTS = {
    "SASRec": "SASRec",
    "SASRec, 256 negatives ¹": "SASRec, 256 sampled negatives",
    "eSASRec ¹": "eSASRec",
    "FuXi-α ¹": "FuXi-alpha",
    "BSARec ²": "BSARec",
    "DiffRec, as printed": "DiffRec",
    "`best`, ours": "best",
    "`best` without noise, ours": "best-control",
}
"""Rows of the README and their models in the CSV."""
DATASETS = {"Beauty": "beauty", "Toys": "toys", "ML-1M": "ml-1m"}


EXCLUDED, KEPT, PRINTED = "masked", "unmasked", "not said"
"""What a row of the CSV does with seen items; the paper's rows do not say."""


def ndcg(model: str, dataset: str, *seen: str) -> list[float]:
    """NDCG@10 of the trainings of a model, or of the one published run."""
    with (README.parent / "benchmarks/results/table2.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["history"] in seen]
    return [float(row["ndcg@10"]) for row in rows if (row["model"], row["dataset"]) == (model, dataset)]


def results_table() -> str:
    """The models by data set, the best of each data set bold; what was not run is left open."""
    cells = {dataset: _cells(dataset) for dataset in DATASETS.values()}
    lines = [f"| {label} | {' | '.join(column[label] for column in cells.values())} |" for label in RESULTS]
    return "\n".join([f"| NDCG@10 | {' | '.join(DATASETS)} |", "|---|---:|---:|---:|", *lines])


def _cells(dataset: str) -> dict[str, str]:
    found = {label: ndcg(model, dataset, EXCLUDED, PRINTED) for label, model in RESULTS.items()}
    shown = {label: _mean_and_deviation(scores) for label, scores in found.items()}
    winner = max((label for label in found if found[label]), key=lambda label: fmean(found[label]))
    return shown | {winner: f"**{shown[winner]}**"}


def _mean_and_deviation(scores: list[float]) -> str:
    if len(scores) < 2:
        return "".join(f"{score:.4f}" for score in scores)
    return f"{fmean(scores):.4f} ± {stdev(scores):.4f}"


def test_the_results_are_those_of_the_csv():
    assert results_table() in TEXT, f"the README needs\n{results_table()}"


@pytest.mark.parametrize("dataset", DATASETS.values())
def test_the_claims_about_the_results_hold(dataset):
    (printed,) = ndcg("DiffRec", dataset, PRINTED)
    excluded = fmean(ndcg("best", dataset, EXCLUDED))
    assert fmean(ndcg("best", dataset, KEPT)) < printed < excluded
    assert excluded - fmean(ndcg("best-control", dataset, EXCLUDED)) < 0.001
