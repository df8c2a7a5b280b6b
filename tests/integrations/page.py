"""The code of `docs/integrations.md`, as a reader would copy it."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

PAGE = (Path(__file__).parents[2] / "docs" / "integrations.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r'^```python title="(.+?)"\n(.*?)^```$', PAGE, re.DOTALL | re.MULTILINE))


def run(*titles: str, **given: object) -> ModuleType:
    """A module with the blocks of these titles, run one after another on the given names."""
    module = ModuleType("your_code")
    vars(module).update(given)
    sys.modules[module.__name__] = module  # where pickle looks for its classes
    for title in titles:
        exec(compile(BLOCKS[title], title, "exec"), vars(module))
    return module


def glue(title: str) -> int:
    """Lines of the class in a block."""
    code = BLOCKS[title]
    return sum(bool(line.strip()) for line in code[re.search("^class ", code, re.MULTILINE).start() :].splitlines())
