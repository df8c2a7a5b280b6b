"""The documentation site: its Python runs, its reference is whole, its links lead somewhere, and it builds."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from test_imports import FLOORS
from test_readme import python_blocks, run_block

import diffusers_rec
import diffusers_rec.recommenders.memory

REPOSITORY = Path(__file__).parents[1]
DOCS = REPOSITORY / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
GENERATED = {"changelog.md", "code_of_conduct.md", "contributing.md", "gallery.md", "security.md"}
WHOLE_PACKAGES = {"diffusers_rec.testing", "diffusers_rec.presets"}
"""With a directive of their own."""
UNSHOWN = {
    "__main__",
    "cli.audit",
    "cli.changes",
    "cli.complete",
    "cli.errors",
    "cli.export",
    "cli.evaluate",
    "cli.generated",
    "cli.info",
    "cli.inputs",
    "cli.main",
    "cli.models",
    "cli.options",
    "cli.progress",
    "cli.recommend",
    "cli.reports",
    "cli.slate",
    "cli.splits",
    "cli.terminal",
    "cli.train",
    "cli.values",
    "core.blueprint",
    "core.files",
    "core.hub",
    "core.lazy",
    "core.parts",
    "core.progress",
    "core.saved_parts",
    "core.verified",
    "items.laid_out",
    "data.histories",
    "data.history_files",
    "data.text",
    "data.times",
    "evaluation.landing",
    "evaluation.probes",
    "items.choice",
    "nn.dropout",
    "processes.schedules.lookup",
    "recommenders.calibrating",
    "recommenders.chains",
    "recommenders.extending",
    "recommenders.largest",
    "recommenders.migration",
    "recommenders.passes",
    "recommenders.replacing",
    "recommenders.requests",
    "recommenders.serving",
    "recommenders.shortlist",
    "recommenders.user_calls",
    "recommenders.views",
    "samplers.item_draws",
    "training.learner",
    "training.precision",
    "training.processes",
    "training.run_store",
    "training.state",
    "training.trackers",
    "version",
}
"""Modules that the reference leaves out on purpose."""
FRAMEWORKS = {"diffusers_rec.integrations.recbole"}
"""Modules that need another framework, in an environment of its own, when they are imported."""


def _load(path: Path) -> ModuleType:
    """A module of the site's own, which is no part of the library."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


WITH_CODE = [page for page in PAGES if python_blocks(page.read_text(encoding="utf-8"))]


@pytest.mark.usefixtures("fresh_registry")
@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: page.relative_to(DOCS).as_posix())
def test_the_python_of_a_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "docs"}
    for code, error in python_blocks(page.read_text(encoding="utf-8")):
        run_block(code, error, namespace, page.name)


def test_a_block_that_does_not_raise_what_the_page_says_is_found():
    ((code, error),) = python_blocks("```python\nint('x')\n```\n\n```text\nValueError: something else\n```\n")
    assert error == "ValueError: something else"
    with pytest.raises(AssertionError):
        run_block(code, error, {}, "page")


def _public_modules() -> list[str]:
    found = [info.name for info in pkgutil.walk_packages(diffusers_rec.__path__, "diffusers_rec.") if info.ispkg]
    return [
        "diffusers_rec",
        *found,
        "diffusers_rec.integrations.faiss",
        "diffusers_rec.integrations.onnx",
        "diffusers_rec.recommenders.memory",
    ]


def _modules() -> set[str]:
    found = pkgutil.walk_packages(diffusers_rec.__path__, "diffusers_rec.")
    return {info.name.partition(".")[2] for info in found if not info.ispkg or info.name in WHOLE_PACKAGES}


def _own_names(module: ModuleType) -> list[str]:
    """Without an underscore and without what is imported from elsewhere, as far as a value tells."""
    found = []
    for name, value in vars(module).items():
        tells = inspect.isclass(value) or inspect.isroutine(value)
        elsewhere = inspect.ismodule(value) or (tells and value.__module__ != module.__name__)
        if not name.startswith("_") and not elsewhere:
            found.append(name)
    return found


def _public_names(module: str) -> list[str]:
    loaded = importlib.import_module(module)
    return [name for name in getattr(loaded, "__all__", _own_names(loaded)) if not name.startswith("_")]


def _documented() -> set[str]:
    """Every path that the reference pages ask for: a module's members, or those that it names."""
    text = "\n".join(page.read_text(encoding="utf-8") for page in (DOCS / "reference").glob("*.md"))
    found = set()
    for directive in re.finditer(r"^::: (?P<path>\S+)(?P<options>(?:\n {4}.*)*)", text, re.MULTILINE):
        if directive["path"] in FRAMEWORKS:
            continue
        module = importlib.import_module(directive["path"])
        members = re.search(r"members: \[(.*)\]", directive["options"])
        names = members[1].split(", ") if members else _own_names(module)
        found |= {f"{directive['path']}.{name}" for name in names if hasattr(module, name)}
    return found


@pytest.mark.parametrize("module", _public_modules())
def test_every_public_name_has_a_docstring_and_a_place_in_the_reference(module):
    documented = _documented()
    for name in _public_names(module):
        value = getattr(importlib.import_module(module), name)
        if inspect.isclass(value) or inspect.isroutine(value):
            assert inspect.getdoc(value), f"{module}.{name} has no docstring"
            paths = {f"{module}.{name}", f"{value.__module__}.{value.__qualname__}"}
            assert paths & documented, f"no reference page shows {module}.{name}"
        else:  # constants, whose home is not told by themselves
            assert any(path.endswith(f".{name}") for path in documented), f"no reference page shows {module}.{name}"


def test_every_module_has_a_place_in_the_reference_or_is_left_out_on_purpose():
    text = "\n".join(page.read_text(encoding="utf-8") for page in (DOCS / "reference").glob("*.md"))
    shown = set(re.findall(r"^::: diffusers_rec\.(\S+)", text, re.MULTILINE))
    assert {name for name in _modules() if not name.startswith("testing.")} == shown | UNSHOWN
    assert not shown & UNSHOWN


def test_every_directive_of_the_reference_names_what_exists():
    text = "\n".join(page.read_text(encoding="utf-8") for page in (DOCS / "reference").glob("*.md"))
    for path, members in re.findall(r"^::: (\S+)(?:\n {6}(?:heading|toc_label).*|\n {4}options:)*\n"
                                    r"(?: {6}members: \[(.*)\])?", text, re.MULTILINE):  # fmt: skip
        if path in FRAMEWORKS:
            continue
        module = importlib.import_module(path)
        for name in filter(None, members.split(", ")):
            assert hasattr(module, name), f"{path} has no {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(DOCS).as_posix())
def test_links_and_files_of_a_page_exist(page):
    prose = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", prose):
        if not target.startswith(("http://", "https://")) and target not in GENERATED:
            assert (page.parent / target).is_file(), f"{page.name} links to {target}, which is not there"
    for example in re.findall(r"examples/\w+\.py", prose):
        assert (REPOSITORY / example).is_file(), f"{page.name} speaks of {example}, which is not there"


def test_every_page_is_in_the_navigation():
    navigation = (REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8")
    for page in PAGES:
        assert f" {page.relative_to(DOCS).as_posix()}\n" in navigation


def test_the_contributors_table_of_layers_is_the_one_that_the_import_test_enforces():
    guide = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \d+ \| (.+?) \|", guide, re.MULTILINE)
    layers = [set(re.findall(r"`(\w+)(?:/|\.py)`", row)) for row in rows]
    assert [{"" if name == "__init__" else name for name in layer} for layer in layers] == FLOORS


def test_the_changelog_names_every_deprecated_name():
    changelog = (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
    sources = [path.read_text(encoding="utf-8") for path in Path(diffusers_rec.__path__[0]).rglob("*.py")]
    old = [name for text in sources for name in re.findall(r'warn_deprecated\(\s*"([\w.]+)', text)]
    old += [name for text in sources for name in re.findall(r'deprecated_names\(__name__, \{"(\w+)"', text)]
    assert len(old) > 4
    assert not [name for name in old if name not in changelog]


def test_every_call_of_a_page_is_answered():
    results = _load(DOCS / "hooks" / "results.py")
    for page in PAGES:
        expanded = results.expand(page.read_text(encoding="utf-8"), page.name)
        assert "{{" not in expanded


@pytest.fixture
def results(tmp_path, monkeypatch):
    """The macros, over a folder of one's own."""
    module = _load(DOCS / "hooks" / "results.py")
    monkeypatch.setattr(module, "RESULTS", tmp_path)
    return module


def test_tables_are_read_from_the_csv(results, tmp_path):
    (tmp_path / "top_k.csv").write_text("items,ranking,median_seconds\n1000,top_k,0.0125\n1000000,bare,7.5\n")
    text = '{{ table("top_k.csv", columns={"items": "items", "median_seconds": "median, ms"}) }}'
    assert results.expand(text, "page").splitlines() == [
        "| items | median, ms |", "|---:|---:|", "| 1,000 | 12.5 |", "| 1,000,000 | 7,500 |",
    ]  # fmt: skip
    only = '{{ table("top_k.csv", columns={"ranking": "ranking"}, where={"ranking": "bare"}) }}'
    assert results.expand(only, "page").splitlines()[2:] == ["| bare |"]


def test_a_pivot_averages_what_shares_a_cell(results, tmp_path):
    (tmp_path / "seeds.csv").write_text("seeds,model,ndcg@10\n1,a,0.1\n1,a,0.3\n1,b,0.5\n2,b,0.25\n")
    text = '{{ pivot("seeds.csv", rows="seeds", across="model", value="ndcg@10") }}'
    assert results.expand(text, "page").splitlines() == [
        "| seeds | a | b |", "|---:|---:|---:|", "| 1 | 0.2000\xa0±\xa00.1414 | 0.5000 |", "| 2 |  | 0.2500 |",
    ]  # fmt: skip
    bold = results.expand(text.replace(") }}", ", bold=True) }}"), "page").splitlines()
    assert bold[2:] == ["| 1 | **0.2000\xa0±\xa00.1414** | **0.5000** |", "| 2 |  | 0.2500 |"]


def test_a_call_in_a_block_gives_lines_of_that_block(results, tmp_path):
    (tmp_path / "top_k.csv").write_text("items\nbest-control\n")
    text = '??? note "Numbers"\n    {{ table("top_k.csv", columns={"items": "items"}) }}\n'
    assert results.expand(text, "page").splitlines()[1:] == [
        "    | items |", "    |:---|", "    | best, noise-free control |",
    ]  # fmt: skip


@pytest.fixture
def two_models(results, tmp_path):
    """A function that expands a call which compares two models on two data sets."""
    rows = ["toys,a,masked,0.3", "toys,a,masked,0.5", "toys,a,unmasked,9", "toys,b,not said,0.2"]
    rows += ["ml-1m,a,masked,0.105", "ml-1m,b,not said,0.1", "beauty,b,not said,1"]
    (tmp_path / "table2.csv").write_text("\n".join(["dataset,model,history,ndcg@10", *rows, ""]))

    def compare(function, of="a", over="b", more=""):
        selections = f'of={{"model": "{of}"}}, over={{"model": "{over}"}}{more}'
        return results.expand(f'{{{{ {function}("table2.csv", {selections}) }}}}', "page").replace("\xa0", " ")

    return compare


def test_changes_are_of_the_data_sets_that_both_have(results, two_models):
    assert two_models("change") == "+100 % / +5.0 %"
    assert two_models("change", of="b", over="a") == "−50 % / −4.8 %"
    assert two_models("change", more=", relative=False") == "+0.2000 / +0.0050"
    scores = '{{ scores("table2.csv", where={"model": "a"}) }}, {{ scores("table2.csv", where={"model": "b"}) }}'
    assert results.expand(scores, "page").replace("\xa0", " ") == "0.4000 / 0.1050, 0.2000 / 0.1000 / 1.0000"


def test_a_direction_that_no_longer_holds_stops_the_build(two_models):
    assert two_models("above") == "100 % / 5.0 %"
    assert two_models("below", of="b", over="a") == "50 % / 4.8 %"
    for function, of, over in (("below", "a", "b"), ("above", "b", "a")):
        with pytest.raises(Exception, match="expected changes that start with"):
            two_models(function, of=of, over=over)


def test_ratios_say_whether_they_meet_what_was_asked(results, tmp_path):
    (tmp_path / "chains-ratios.csv").write_text(
        "name,value,target\na_b,1.5,<= 2\nc,1.5,< 1.5\nd,0.99,0.98 to 1.02\ne,3,\nf,5,>= 6\n"
    )
    lines = results.expand('{{ ratios("chains-ratios.csv") }}', "page").splitlines()[2:]
    assert [line.split(" | ")[3].rstrip(" |") for line in lines] == ["met", "missed", "met", "", "missed"]
    assert lines[0].startswith("| a b | 1.5 | <= 2 |")
    assert results.expand('about {{ value("chains-ratios.csv", "f") }} times', "page") == "about 5 times"


def test_what_has_not_run_is_said_with_its_command(results):
    for call in ('table("figure3.csv", columns={})', 'ratios("figure3.csv")', 'picture("figure3.png", "words")'):
        assert results.expand(f"{{{{ {call} }}}}", "page") == "Not run yet: `python -m benchmarks.paper.figure3`."
    another = results.expand('{{ ratios("figure7-paper-ratios.csv") }}', "page")
    assert another == "Not run yet: `python -m benchmarks.paper.figure7 --preset paper`."
    twice = '{{ picture("figure3.png", "words") }}\n\n{{ ratios("figure3.csv") }}\n'
    assert results.expand(twice, "page").count("Not run yet") == 1
    assert "benchmarks.chains`" in results.expand('{{ value("chains-ratios.csv", "x") }}', "page")


@pytest.mark.parametrize(
    "call",
    [
        'tabel("top_k.csv")',
        'ratios("nothing.csv")',
        'table("top_k.csv", columns={"no": "no"})',
        'table("top_k.csv", columns={"items": "items"}, where={"items": ["2", "3"]})',
        "ratios(name)",
    ],
)
def test_a_call_that_cannot_be_answered_stops_the_build(results, tmp_path, call):
    (tmp_path / "top_k.csv").write_text("items\n1\n")
    with pytest.raises(Exception, match="cannot be answered"):
        results.expand(f"{{{{ {call} }}}}", "page")


def test_equations_become_mathml():
    equations = _load(DOCS / "hooks" / "equations.py")
    page = type("Page", (), {"file": type("File", (), {"src_uri": "page.md"})})
    html = r'<p><span class="arithmatex">\(x \sim \mathcal N(0, I), a &lt; b\)</span></p>'
    shown = equations.on_page_content(html, page=page)
    assert '<math alttext="x \\sim' in shown
    for symbol in ("𝒩", "<mo>&#x0223C;</mo>", "<mo>&#x0003C;</mo>"):
        assert symbol in shown
    bar = equations.on_page_content(r'<span class="arithmatex">\(\bar\alpha\)</span>', page=page)
    assert "<mover" in bar
    assert 'accent="true"' not in bar  # Chromium draws an accent's bar through the letter
    with pytest.raises(Exception, match="does not know"):
        equations.on_page_content(html.replace(r"\sim", r"\nosuchcommand"), page=page)


def test_docstrings_become_markdown():
    griffe = pytest.importorskip("griffe", reason="the docs extra is not installed")
    docstrings = _load(DOCS / "hooks" / "docstrings.py")
    package = griffe.load("diffusers_rec")
    schedule = package["processes.schedules.base.NoiseSchedule"]
    text = "Takes :math:`x_n` to\n:class:`~diffusers_rec.data.Vocabulary` by :meth:`posterior` and :func:`nothing`::\n"
    shown = docstrings.markdown(text, schedule)
    assert r"\(x_n\)" in shown
    assert "[`Vocabulary`][diffusers_rec.data.vocabulary.Vocabulary]" in shown
    assert "[`posterior`][diffusers_rec.processes.schedules.base.NoiseSchedule.posterior]" in shown
    assert "`nothing`:" in shown
    assert "\n$$\na = b, c\n$$\n" in docstrings.markdown("Law:\n\n.. math:: a = b,\n    c\n\nEnd.", schedule)


def docstrings_in_markdown():
    """Every docstring of the package with its path, as the site shows it."""
    griffe = pytest.importorskip("griffe", reason="the docs extra is not installed")
    docstrings = _load(DOCS / "hooks" / "docstrings.py")
    waiting = [griffe.load("diffusers_rec")]
    while waiting:
        scope = waiting.pop()
        waiting += [member for member in scope.members.values() if isinstance(member, griffe.Object)]
        if scope.has_docstring:
            yield scope.path, docstrings.markdown(scope.docstring.value, scope)


def test_every_table_and_equation_of_a_docstring_is_shown():
    convert = pytest.importorskip("latex2mathml.converter", reason="the docs extra is not installed").convert
    tables, equations = [], []
    for path, shown in docstrings_in_markdown():
        if re.search("^===", shown, re.MULTILINE):
            tables.append(path)
        found = re.findall(r"\$\$\n(.*?)\n\$\$|\\\((.*?)\\\)", shown, re.DOTALL)
        equations += [(path, latex) for pair in found if "\\" in convert(latex := "".join(pair))]
    assert not tables
    assert not equations  # a command that the site's converter does not know


def test_the_gallery_runs_examples_and_shows_them(tmp_path):
    gallery = _load(DOCS / "build_gallery.py")
    (tmp_path / "examples").mkdir()
    script = tmp_path / "examples" / "01_counting.py"
    script.write_text(
        '"""Counting: from ONE.\n\nYou learn to count.\n"""\n\nimport sys\n\nprint(sys.argv[1:], 1 + 1)\n'
    )
    gallery.main(["--examples", str(script.parent), "--to", str(tmp_path / "gallery")])
    page = (tmp_path / "gallery" / "gallery.md").read_text()
    assert "## Counting\n\n`examples/01_counting.py`\n\nFrom ONE.\n\nYou learn to count." in page
    assert "['--out', '.'] 2" in page
    assert "    print(sys.argv[1:], 1 + 1)" in page
    words = "word " * 40
    folded = gallery._fold(words.rstrip()).splitlines()
    assert max(map(len, folded)) <= gallery.WIDTH
    assert " ".join(" ".join(folded).split()) == words.rstrip()
    assert gallery._fold("   a   b") == "   a   b"  # a table's blanks stay
    script.write_text("raise SystemExit(3)\n")
    with pytest.raises(RuntimeError, match="exit code 3"):
        gallery.main(["--examples", str(script.parent), "--to", str(tmp_path / "gallery")])


@pytest.mark.slow
def test_the_site_builds_without_warnings(tmp_path):
    site = tmp_path / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}  # the theme's advertisement
    run = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False, env=quiet)
    assert run.returncode == 0, run.stderr
    assert "WARNING" not in run.stderr
    pages = {page.relative_to(site).as_posix(): page.read_text(encoding="utf-8") for page in site.rglob("*.html")}
    assert not [name for name, html in pages.items() if 'arithmatex">\\' in html or "{{" in html]
    for name, html in pages.items():  # nothing is fetched from elsewhere
        assert not re.search(r'<(?:script|link|img)[^>]+(?:src|href)="(?:https?:)?//', html), name
    reference = "\n".join(html for name, html in pages.items() if name.startswith("reference/"))
    for module in _public_modules():
        for name in _public_names(module):
            value = getattr(importlib.import_module(module), name)
            if inspect.isclass(value) or inspect.isroutine(value):
                paths = f"{module}.{name}", f"{value.__module__}.{value.__qualname__}"
                assert any(f'id="{path}"' in reference for path in paths), f"{module}.{name}"
