"""What contributors read and what the forge runs: versions, commands, paths and links are those of the repository."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from pathlib import Path

import pytest
import yaml

from diffusers_rec.version import __version__

ROOT = Path(__file__).parents[1]
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
PAGES = ["CHANGELOG.md", "CODE_OF_CONDUCT.md", "CONTRIBUTING.md", "README.md", "SECURITY.md"]
QUESTIONS = {
    "bug": {"expected", "example", "info", "environment"},
    "feature": {"problem", "today", "proposal", "others"},
    "new-paper": {
        "citation", "corrupted", "schedule", "denoiser", "objective", "sampler", "split", "numbers", "code", "missing",
    },
}  # fmt: skip


def text(name):
    return (ROOT / name).read_text(encoding="utf-8")


def workflow():
    return yaml.safe_load(text(".github/workflows/ci.yml"))["jobs"]


def commands(job):
    return [step["run"] for step in workflow()[job]["steps"] if "run" in step]


def pythons(job):
    """Versions of Python that a job sets up."""
    (given,) = [step["with"]["python-version"] for step in workflow()[job]["steps"] if "with" in step]
    return workflow()[job]["strategy"]["matrix"]["python"] if "matrix" in given else [given]


def as_numbers(version):
    return tuple(map(int, version.split(".")))


@pytest.fixture(scope="module")
def project():
    return tomllib.loads(text("pyproject.toml"))["project"]


def test_the_workflow_checks_the_oldest_and_the_newest_python(project):
    oldest = project["requires-python"].removeprefix(">=")
    assert pythons("check") == sorted(pythons("check"), key=as_numbers)
    assert pythons("check")[0] == pythons("oldest")[0] == oldest
    assert commands("check") == [".ci/run"]
    assert commands("oldest") == ["make test-oldest"]


def test_the_guide_names_the_versions_that_are_tested(project):
    guide = " ".join(text("CONTRIBUTING.md").split())
    (torch,) = [each.removeprefix("torch>=") for each in project["dependencies"] if each.startswith("torch")]
    pinned = re.search(r"^torch==(\S+)$", text("constraints.txt"), re.MULTILINE)[1]
    assert f"Python {pythons('check')[0]} to {pythons('check')[-1]}" in guide
    assert f"PyTorch {torch} or later" in guide
    assert f"the version that we develop with, {pinned}." in guide


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "SECURITY.md", ".github/workflows/ci.yml"])
def test_every_make_target_exists(name):
    targets = set(re.findall(r"\bmake ([a-z][a-z-]*)", text(name)))
    assert targets <= set(re.search(r"^\.PHONY: (.*)$", text("Makefile"), re.MULTILINE)[1].split())


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "SECURITY.md"])
def test_every_path_exists(name):
    paths = re.findall(r"(?<![\w/.])(?:\.github|benchmarks|diffusers_rec|docs|tests)/[\w./-]*", text(name))
    assert [path for path in paths if not (ROOT / path.rstrip(".")).exists()] == []


@pytest.mark.parametrize("name", PAGES)
def test_every_link_leads_to_a_file(name):
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text(name))
    local = [target for target in targets if not target.startswith("https://")]
    assert [target for target in local if not (ROOT / target).exists()] == []


def test_links_of_the_site_lead_to_its_pages():
    spec = importlib.util.spec_from_file_location("pages", ROOT / "docs" / "hooks" / "repository_pages.py")
    pages = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(pages)
    for page in pages.SOURCES:
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", pages.content(page)):
            known = target in pages.SOURCES or (ROOT / "docs" / target).is_file()
            assert known or target.startswith("https://"), f"{page} links to {target}"


def test_every_form_asks_its_questions():
    assert [form.stem for form in FORMS] == sorted(QUESTIONS)
    for form in FORMS:
        content = yaml.safe_load(form.read_text(encoding="utf-8"))
        assert content.keys() == {"name", "description", "title", "labels", "body"}
        asked = [field for field in content["body"] if field["type"] != "markdown"]
        assert [field["id"] for field in asked] == list(dict.fromkeys(field["id"] for field in asked))
        assert {field["id"] for field in asked} == QUESTIONS[form.stem]
        assert all(field["attributes"]["label"] for field in asked)


def test_the_example_of_a_bug_runs():
    (example,) = [
        field["attributes"]["value"]
        for field in yaml.safe_load(text(".github/ISSUE_TEMPLATE/bug.yml"))["body"]
        if field.get("id") == "example"
    ]
    exec(compile(example, "bug.yml", "exec"), {})


def test_the_hook_refuses_subjects_over_60_characters():
    hooks = yaml.safe_load(text(".pre-commit-config.yaml"))["repos"][0]["hooks"]
    (pattern,) = [hook["entry"] for hook in hooks if hook.get("stages") == ["commit-msg"]]
    assert not re.search(pattern, "s" * 60 + "\n\n" + "b" * 72)
    assert re.search(pattern, "s" * 61)


def test_every_file_of_a_release_has_its_version():
    assert yaml.safe_load(text("CITATION.cff"))["version"] == __version__
    assert re.search(rf"^## .*\b{re.escape(__version__)}\b", text("CHANGELOG.md"), re.MULTILINE)
