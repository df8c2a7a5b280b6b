"""The README's Python runs as it stands."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

from diffusers_rec.recommenders.diffrec import PARTS

README = Path(__file__).parents[1] / "README.md"

_BLOCK = re.compile(r"^```python\n(?P<code>.*?)^```\n(?:\n```text\n(?P<error>\w+Error: .*?)\n```$)?", re.DOTALL | re.M)


def python_blocks(text: str) -> list[tuple[str, str | None]]:
    """The Python of a Markdown text; with the error that it raises, where a block of text right behind shows one."""
    return [(found["code"], found["error"]) for found in _BLOCK.finditer(text)]


def run_block(code: str, error: str | None, namespace: dict[str, object], name: str) -> None:
    """Run a block, and see that it raises exactly the error that is shown, if one is; lines may break anywhere."""
    compiled = compile(code, name, "exec")
    if error is None:
        exec(compiled, namespace)
        return
    with pytest.raises(Exception, match=r".") as raised:
        exec(compiled, namespace)
    said = f"{type(raised.value).__name__}: {raised.value}"
    assert said.split() == error.split()


BLOCKS = python_blocks(README.read_text(encoding="utf-8"))


@pytest.mark.usefixtures("fresh_registry")
@pytest.mark.parametrize(("code", "error"), BLOCKS, ids=range(len(BLOCKS)))
def test_code_blocks_run(code, error, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_block(code, error, {"__name__": "readme"}, "README.md")


def test_the_table_names_every_registered_component():
    readme = README.read_text(encoding="utf-8")
    for family in PARTS.values():
        for name in family.names():
            if family.named(name).__module__.startswith("diffusers_rec."):
                assert f"`{name}`" in readme, f"README does not name the {family.kind} {name}"


def test_long_chains_meet_the_targets_that_the_readme_says_they_meet():
    with (README.parent / "benchmarks/results/one_step_vs_n_step-ratios.csv").open(newline="") as file:
        ratios = {row["name"]: row for row in csv.DictReader(file)}
    for denoiser in ("causal_transformer", "conditional_mlp"):
        row = ratios[f"{denoiser}_1000_steps_vs_one_step"]
        assert float(row["value"]) <= float(row["target"].removeprefix("<= "))
