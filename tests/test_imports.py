"""The house stands: importing is cheap, and no floor knows of the floors above it."""

from __future__ import annotations

import ast
import importlib.util
import json
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import diffusers_rec

ROOT = Path(diffusers_rec.__file__).parent
FLOORS = [
    {"version"},
    {"core"},
    {"data"},
    {"processes"},
    {"nn"},
    {"items"},
    {"encoders"},
    {"denoisers", "sources"},
    {"guidance", "samplers", "objectives"},
    {"recommenders"},
    {"presets", "evaluation"},
    {"training"},
    {""},  # the public face
    {"integrations", "testing"},
    {"cli", "__main__"},
]
FRAMEWORKS = ["recbole"]
"""Modules of `integrations` that cannot be imported without the library of their name."""
DEPENDENCIES = ["torch", "numpy", "einops", "safetensors.torch", "filelock"]


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}


def imports(module: str) -> set[str]:
    """The package's own modules that a module imports, wherever in it the import stands."""
    found = set()
    for node in ast.walk(ast.parse(SOURCES[module].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively in line {node.lineno}; name the module in full"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found & set(SOURCES)


def floor(module: str) -> int:
    room = module.split(".")[1] if "." in module else ""
    floors = [number for number, rooms in enumerate(FLOORS) if room in rooms]
    assert floors, f"{module} has no floor; give it one in FLOORS"
    return floors[0]


@pytest.mark.parametrize("module", SOURCES)
def test_no_import_runs_upward(module):
    upward = [other for other in imports(module) if floor(other) > floor(module)]
    assert not upward


def test_there_is_no_circle_of_imports():
    order = [*TopologicalSorter({module: imports(module) for module in SOURCES}).static_order()]
    assert set(order) == set(SOURCES)


def run(script: str) -> str:
    return subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout


def test_importing_the_package_adds_to_its_dependencies_only_itself_and_a_little_of_the_standard_library():
    """No optional package above all, whether or not it is installed."""
    new = json.loads(
        run(
            f"import json, sys, numpy.typing, {', '.join(DEPENDENCIES)}\nbefore = set(sys.modules)\n"
            "import diffusers_rec\nprint(json.dumps(sorted(set(sys.modules) - before)))"
        )
    )
    added = [name for name in new if name.split(".")[0] != "diffusers_rec"]
    assert {name.split(".")[0] for name in added} <= sys.stdlib_module_names
    assert len(added) < 20


@pytest.mark.slow
def test_every_module_imports_on_its_own():
    """Each in a fork where the package's face is empty, so that no module leans on what the face has imported."""
    bridges = [f"diffusers_rec.integrations.{name}" for name in FRAMEWORKS]
    left_out = ["diffusers_rec", "diffusers_rec.__main__", *bridges]
    failed = run(
        f"""
import importlib, os, sys, types, {", ".join(DEPENDENCIES)}
for name in {[name for name in SOURCES if name not in left_out]}:
    if child := os.fork():
        if os.waitpid(child, 0)[1]:
            print(name)
        continue
    try:
        face = types.ModuleType("diffusers_rec")
        face.__path__ = [{str(ROOT)!r}]
        sys.modules["diffusers_rec"] = face
        importlib.import_module(name)
    except BaseException as error:
        os.write(1, repr(error).encode() + b" in ")
        os._exit(1)
    os._exit(0)
"""
    )
    assert not failed


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_a_bridge_without_its_library_names_the_extra(name):
    if importlib.util.find_spec(name):
        pytest.skip(f"{name} is installed")
    with pytest.raises(ImportError, match=rf"pip install 'diffusers-rec\[{name}\]'"):
        importlib.import_module(f"diffusers_rec.integrations.{name}")


def test_every_public_name_is_there_once_and_in_order():
    constants_first = sorted(set(diffusers_rec.__all__), key=lambda name: (not name.isupper(), name))
    assert diffusers_rec.__all__ == constants_first
    assert all(hasattr(diffusers_rec, name) for name in diffusers_rec.__all__)


def test_no_module_reads_pickles_or_runs_text():
    for module, path in SOURCES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = {alias.name.split(".")[0] for alias in node.names} | {getattr(node, "module", None)}
                assert not names & {"pickle", "cloudpickle", "joblib", "dill", "marshal", "shelve"}, module
            if isinstance(node, ast.Call):
                assert ast.unparse(node.func) not in {"torch.load", "eval", "exec", "__import__"}, module
