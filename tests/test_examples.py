"""Every example runs, shows something, and is in the list."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from diffusers_rec import DiffRec, SyntheticWorld, read_interactions

EXAMPLES = Path(__file__).parents[1] / "examples"
SCRIPTS = sorted(EXAMPLES.glob("[0-9]*.py"))
PNG = b"\x89PNG\r\n\x1a\n"


def ends_with_a_table(printed: str) -> bool:
    """Whether the last paragraph is a head and at least two rows, of as many cells; the head may lack the first."""
    lines = printed.rstrip().split("\n\n")[-1].splitlines()
    cells = [len(re.split(r"\s{2,}", line.strip())) for line in lines]
    return len(lines) >= 3 and min(cells[1:]) >= 2 and max(cells[1:]) in (cells[0], cells[0] + 1)


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(each, marks=[pytest.mark.slow] if each.stem.endswith(("processes", "encoders")) else [])
        for each in SCRIPTS
    ],
    ids=lambda script: script.stem,
)
def test_example_runs_and_shows_something(script, tmp_path, monkeypatch, capsys, fresh_registry):
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    monkeypatch.syspath_prepend(EXAMPLES)  # as `python examples/...` does
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setattr(sys, "argv", [str(script), "--quick", "--out", str(out)])
    runpy.run_path(str(script), run_name="__main__")
    printed = capsys.readouterr().out
    assert ends_with_a_table(printed), printed
    pictures = list(out.glob("*.png"))
    assert [picture.stem for picture in pictures] == ([script.stem] if "savefig" in script.read_text() else [])
    assert all(picture.read_bytes().startswith(PNG) for picture in pictures)
    assert not list(elsewhere.iterdir()), "an example writes to --out alone"


@pytest.mark.parametrize(
    ("printed", "expected"),
    [
        ("loss 1.0\n\nname      HR\nours     0.1\nbest     0.2\n", True),
        ("         HR   NDCG\nours    0.1    0.2\nbest    0.2    0.3\n", True),
        ("name      HR\nours     0.1\n", False),
        ("name      HR\nours     0.1\nbest     0.2\n\ndone\n", False),
        ("one sentence\nand another\nand a third\n", False),
        ("", False),
    ],
)
def test_a_table_is_told_from_other_text(printed, expected):
    assert ends_with_a_table(printed) is expected


def test_the_demo_leaves_pictures_a_log_and_a_model(tmp_path):
    options = ["--out", str(tmp_path), "--users", "60", "--epochs", "1"]
    subprocess.run([sys.executable, str(EXAMPLES / "demo.py"), *options], check=True, capture_output=True)
    assert all((tmp_path / name).read_bytes().startswith(PNG) for name in ("demo.png", "chains.png"))
    log = read_interactions(tmp_path / "log.csv")
    drawn = SyntheticWorld(num_items=200, seed=0).sample(60, seed=0)
    for ours, theirs in ((log.user_vocabulary, drawn.user_vocabulary), (log.item_vocabulary, drawn.item_vocabulary)):
        assert ours.ids == theirs.ids
    for column in ("users", "items", "times"):
        assert getattr(log, column).tolist() == getattr(drawn, column).tolist()
    split = log.sequences().leave_one_out()
    assert DiffRec.from_pretrained(tmp_path / "model").vocabulary == split.train.vocabulary


def test_the_list_names_every_example_and_no_other():
    listed = re.findall(r"\]\((\d\w+\.py)\)", (EXAMPLES / "README.md").read_text())
    assert listed == [script.name for script in SCRIPTS]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_the_docstring_says_what_it_teaches(script):
    title, rest = script.read_text().split("\n", 1)
    assert re.match(r'"""[A-Z][^:]+: .+\.$', title), "the first line is a title and a sentence"
    assert "You learn" in rest.partition('"""')[0]
