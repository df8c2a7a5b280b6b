"""The command line as a whole: one user's path, help, exit codes, and processes of its own."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from unittest import mock

import pytest
import typer

from diffusers_rec import __version__
from diffusers_rec.cli.main import app

from .command import SMALL, as_json, assert_one_clear_line, diffrec, good


@pytest.mark.parametrize(("kind", "history"), [("csv", "item-001,item-004"), ("txt", "101, 104")])
def test_train_evaluate_recommend_info(kind, history, logs, tmp_path):
    out = tmp_path / "new" / "run"
    code, printed, progress = diffrec("train", logs / f"log.{kind}", "--out", out, *SMALL)
    assert code == 0
    assert re.match(r"Best epoch [12] of 2 by validation ndcg@10 \(seen items excluded\): hr@5 0\.\d{4}, ", printed)
    assert [line.split()[1] for line in progress.splitlines() if line.startswith("epoch ")] == ["1", "2"]
    assert f"diffrec evaluate {out} {logs}/log.{kind}" in progress
    table = good("evaluate", out, logs / f"log.{kind}")
    for row in ("model", "network alone", "memory alone", "popularity"):
        for masking in ("excluded", "included"):
            for where in (printed, table):
                assert re.search(rf"{row} +{masking}( +[01]\.\d{{4}}){{6}}", where), "a row cut short"
    assert all(len(line) <= 80 for line in table.splitlines())
    found = good("recommend", out, "--history", history, "-k", 3)
    assert f"after {history}" in found
    assert [int(rank) for rank in re.findall(r"^ +(\d+) +", found, re.MULTILINE)] == [1, 2, 3]
    assert "conditional-mlp(dim=16" in good("info", out)
    assert "60" in good("info", logs / f"log.{kind}")


def test_columns_cores_and_short_users(logs, tmp_path):
    names = ("--user", "who", "--item", "what", "--time", "when")
    assert as_json("info", logs / "renamed.csv", *names) == as_json("info", logs / "log.csv")
    assert as_json("info", logs / "log.csv", "--k-core", 6)["num_users"] < 60
    assert as_json("train", logs / "short.csv", "--out", tmp_path, *SMALL, "--short", "drop")["epochs"] == 2
    assert as_json("evaluate", tmp_path, logs / "short.csv", "--short", "drop")["model"]["num_users"] == 60


def test_quiet_is_quiet(logs, models, tmp_path):
    train = ("train", logs / "log.csv", "--out", tmp_path / "run", *SMALL, "--quiet", "--json")
    assert diffrec(*train)[2] == ""
    assert diffrec("evaluate", models / "csv", logs / "log.csv", "--quiet")[2] == ""


@pytest.mark.parametrize("name", ["train", "evaluate", "audit", "recommend", "info"])
def test_help_lists_every_option(name):
    command = typer.main.get_command(app).commands[name]
    text = " ".join(good(name, "--help").split())
    assert command.help.split("\n")[0][:40] in text
    for parameter in command.params:
        shown = [option for option in (*parameter.opts, *parameter.secondary_opts) if option.startswith("--")]
        assert all(option in text for option in shown)
        assert " ".join(parameter.help.split()[:3]) in text
        assert len(parameter.help) > 3


def test_help_lists_every_command():
    text = good("--help")
    assert all(name in text for name in ("train", "evaluate", "audit", "recommend", "info"))


def test_the_version_is_printed():
    assert diffrec("--version")[:2] == (0, f"{__version__}\n")


def test_an_interrupt_is_130(logs, tmp_path):
    with mock.patch("diffusers_rec.cli.inputs.read_interactions", side_effect=KeyboardInterrupt):
        code, out, err = diffrec("train", logs / "log.csv", "--out", tmp_path / "run", *SMALL)
    assert code == 130
    assert out == ""
    assert_one_clear_line(
        err.strip(), "To resume a training run or a file, start the same command", start="Interrupted"
    )


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError(), "MemoryError. A size is too large for this machine; lower it"),
        (RuntimeError("can't allocate memory\nstack"), "can't allocate memory. A size is too large"),
        (OverflowError("int too big"), "int too big. A size"),
    ],
)
def test_what_the_machine_cannot_hold_is_reported_in_a_line(error, message, logs):
    with mock.patch("diffusers_rec.cli.inputs.read_interactions", side_effect=error):
        code, out, err = diffrec("info", logs / "log.csv")
    assert (code, out) == (1, "")
    assert_one_clear_line(err.strip(), message)


def test_a_bug_keeps_its_traceback(logs):
    with (
        mock.patch("diffusers_rec.cli.inputs.read_interactions", side_effect=ZeroDivisionError),
        pytest.raises(ZeroDivisionError),
    ):
        diffrec("info", logs / "log.csv")


def process(*arguments, **settings):
    return subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False, **settings
    )


def test_python_dash_m():
    done = process("-m", "diffusers_rec", "info", "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["version"] == __version__
    assert done.stderr == ""


def test_exit_codes_reach_the_shell(logs):
    done = process("-m", "diffusers_rec", "info", logs / "nowhere.csv")
    assert done.returncode == 2
    assert done.stdout == ""
    assert_one_clear_line(done.stderr, "There is no file")


def test_without_typer_the_error_names_what_to_install():
    script = """if True:
        import runpy, sys
        class Blocked:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] == "typer":
                    raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        sys.meta_path.insert(0, Blocked())
        sys.argv = ["diffrec", "info"]
        runpy.run_module("diffusers_rec", run_name="__main__")
    """
    done = process("-c", script)
    assert done.returncode != 0
    assert done.stdout == ""
    assert_one_clear_line(done.stderr, r"needs typer, which is not installed.*pip install 'diffusers-rec\[cli\]'")
