"""The README's Python runs as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from diffusers_rec.pipeline import PARTS

README = (Path(__file__).parents[1] / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


@pytest.mark.parametrize("code", BLOCKS, ids=range(len(BLOCKS)))
def test_code_blocks_run(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {"__name__": "readme"})


def test_the_table_names_every_registered_component():
    for family in PARTS.values():
        for name in family.names():
            if family.named(name).__module__.startswith("diffusers_rec."):
                assert f"`{name}`" in README, f"README does not name the {family.kind} {name}"
