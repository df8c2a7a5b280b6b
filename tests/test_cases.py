"""Small inputs that once went wrong, each with its right value."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from unittest import mock

import pytest

from diffusers_rec import DiffRec, read_interactions
from diffusers_rec.cli.main import run


def rows(log):
    users, items = log.user_vocabulary.decode(log.users), log.item_vocabulary.decode(log.items)
    return list(zip(users, items, log.times.tolist(), strict=True))


@pytest.fixture
def write(tmp_path):
    """A file of the working folder's own; its lines are given."""

    def written(name, *lines):
        (tmp_path / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return tmp_path / name

    return written


# Reading

LOG = ("user,item,time", "u1,a,1", "u2,b,1", "u1,c,2")
INCHES = (
    "user,item,time",
    'u1,12" record,1', 'u1,7" record,2', "u1,cassette,3",
    'u2,7" record,1', 'u2,12" record,2', "u2,cassette,3",
)  # fmt: skip
QUOTED_WORD = ("user\titem\ttime", 'u1\t"Best" of\t1', "u1\tsingle\t2", "u1\tlive\t3")
TIME_18_DECIMALS = (
    "user,item,time",
    "u1,a,2024-01-01T10:00:00.123456789012345678",
    "u1,b,2024-01-02T00:00:00",
    "u1,c,2024-01-03T00:00:00",
)
MISSING = ("user,item,time", "u1,nan,1", "u1,a,2", "u1,NaN,3", "u2,null,1", "u2,b,2", "u2,c,3")

REFUSED = {
    "trailing_comma.txt": (
        ["u0,s0,s1,s2,s3,s4,s5,", "u1,s1,s2,s3,s4,s5,s6,"], {"separator": ","}, "the item in line 1, .* is empty"
    ),
    "leading_tab.txt": (
        ["\tapple\tpear\tplum", "\tpear\tplum\tfig"], {"separator": "\t"}, "the user in line 1, .* is empty"
    ),
    "quoted_word.tsv": (QUOTED_WORD, {"quote": '"'}, r"line 2: .*quote.* Pass quote=''"),
    "time_words.csv": (
        ["user,item,time", "u1,a,2024-01-01", "u1,b,now", "u1,c,2024-01-03"], {}, r"the time in row 2, .*\('now'"
    ),
    "time_24_digits.csv": (
        ["user,item,time", "u1,a,1700000000000000001", "u1,b,1700000000000000002", "u1,c,170000000000000000000003"],
        {}, r"the time in row 3, .* does not fit into int64 \('170000000000000000000003'",
    ),
    "missing_written_as_text.csv": (
        MISSING, {}, r"the item in row 1, counted from 1, is 'nan', which means missing.* pass missing=\(\)"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_an_input_that_cannot_be_right_is_refused(name, write):
    lines, settings, message = REFUSED[name]
    with pytest.raises(ValueError, match=message) as raised:
        read_interactions(write(name, *lines), **settings)
    assert str(raised.value).count(name) == 1


@pytest.mark.parametrize(
    ("name", "lines", "settings", "expected"),
    [
        ("log_blank_last_line.csv", [*LOG, ""], {}, [("u1", "a", 1), ("u2", "b", 1), ("u1", "c", 2)]),
        ("inches.csv", INCHES, {}, [("u1", '12" record', 1), ("u1", '7" record', 2), ("u1", "cassette", 3),
                                    ("u2", '7" record', 1), ("u2", '12" record', 2), ("u2", "cassette", 3)]),
        ("quoted_word.tsv", QUOTED_WORD, {}, [("u1", '"Best" of', 1), ("u1", "single", 2), ("u1", "live", 3)]),
        ("time_18_decimals.csv", TIME_18_DECIMALS, {},
         [("u1", "a", 1704103200_123456789), ("u1", "b", 1704153600_000000000), ("u1", "c", 1704240000_000000000)]),
        ("missing_written_as_text.csv", MISSING, {"missing": ()},
         [("u1", "nan", 1), ("u1", "a", 2), ("u1", "NaN", 3), ("u2", "null", 1), ("u2", "b", 2), ("u2", "c", 3)]),
    ],
)  # fmt: skip
def test_an_input_is_read_as_it_was_meant(name, lines, settings, expected, write):
    assert rows(read_interactions(write(name, *lines), **settings)) == expected


# The command line


def diffrec(*arguments):
    """Exit code, standard output and standard error of a command."""
    out, err = StringIO(), StringIO()
    with mock.patch.object(sys, "argv", ["diffrec", *map(str, arguments)]), redirect_stdout(out), redirect_stderr(err):
        code = run()
    return code, out.getvalue(), err.getvalue()


@pytest.mark.parametrize(
    ("name", "lines", "options", "counts"),
    [
        ("quoted_word.csv", [line.replace("\t", ",") for line in QUOTED_WORD], ("--quote", ""), (1, 3, 3)),
        ("missing_written_as_text.csv", MISSING, ("--missing", ""), (2, 6, 6)),
        ("sequences.txt", ["u\ta b\tc", "v\tc"], ("--separator", r"\t"), (2, 2, 3)),
    ],
)
def test_the_shell_has_an_option_for_each_way_to_read(name, lines, options, counts, write):
    path = write(name, *lines)
    assert diffrec("info", path)[0] == 2 or name == "sequences.txt"
    code, out, err = diffrec("info", path, "--json", *options)
    assert code == 0, err
    found = json.loads(out)
    assert (found["num_users"], found["num_items"], found["num_actions"]) == counts


def test_ids_with_commas_are_given_as_a_json_list(tmp_path):
    DiffRec(["salt, coarse", "salt, fine", "pepper"], dim=4, denoiser="conditional-mlp").save_pretrained(tmp_path)
    code, out, err = diffrec("recommend", tmp_path, "--history", '["salt, fine"]', "-k", 2, "--json")
    assert code == 0, err
    assert json.loads(out)[0]["history"] == ["salt, fine"]
    candidates = ("--candidates", '["salt, coarse", "salt, fine"]')
    out = diffrec("recommend", tmp_path, "--history", "pepper", "-k", 2, *candidates, "--json")[1]
    assert {row["item"] for row in json.loads(out)[0]["recommendations"]} == {"salt, coarse", "salt, fine"}
    code, out, err = diffrec("recommend", tmp_path, "--history", "salt, fine")
    assert (code, out) == (2, "")
    assert """2 unknown ids among 3 known: 'salt', 'fine'""" in err
    assert """--history '["salt, fine"]'""" in err
