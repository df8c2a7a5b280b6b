"""Runs of the command line in this process, and what its tests share."""

from __future__ import annotations

import json
import re
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from unittest import mock

from diffusers_rec.cli.main import run

SMALL = ("--dim", 16, "--max-length", 8, "--epochs", 2, "--cpu")


def diffrec(*arguments):
    """Exit code, standard output and standard error of a command."""
    out, err = StringIO(), StringIO()
    line = ["diffrec", *map(str, arguments)]
    with mock.patch.object(sys, "argv", line), redirect_stdout(out), redirect_stderr(err):
        code = run()
    return code, out.getvalue(), err.getvalue()


def good(*arguments):
    code, out, err = diffrec(*arguments)
    assert code == 0, err
    return out


def as_json(*arguments):
    out = good(*arguments, "--json")
    assert out.count("\n") == 1, "more than the object on standard output"
    return json.loads(out)


def items(answer):
    return [row["item"] for row in answer[0]["recommendations"]]


def assert_one_clear_line(err, message, start="diffrec: "):
    assert "Traceback" not in err
    (line,) = err.splitlines()
    assert line.startswith(start)
    assert re.search(message, line)
