"""Splits by time and by files, and the last fit, in ``diffrec train`` and ``diffrec evaluate``."""

from __future__ import annotations

import re
import shlex
from dataclasses import asdict

import pytest

from diffusers_rec import DiffRec, Split, SyntheticWorld, read_interactions
from diffusers_rec.evaluation import evaluate, evaluate_popularity
from diffusers_rec.training import RECIPES

from .command import SMALL, as_json, assert_one_clear_line, diffrec, good


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A log whose users begin on different days, as one file and as three."""
    folder = tmp_path_factory.mktemp("timed")
    log = SyntheticWorld(30, num_groups=3).sample(60, min_length=5, max_length=12)
    users, items = log.user_vocabulary.decode(log.users), log.item_vocabulary.decode(log.items)
    days = log.times + log.users % 7
    rows = [f"{user},{item},2024-03-{1 + day:02}" for user, item, day in zip(users, items, days.tolist(), strict=True)]
    parts = {"log": rows}
    for name, first, last in (("train", "00", "09"), ("valid", "09", "12"), ("test", "12", "32")):
        parts[name] = [row for row in rows if first <= row[-2:] < last]
    for name, some in parts.items():
        (folder / f"{name}.csv").write_text("\n".join(["user,item,time", *some]) + "\n")
    return folder


TIMES = ("--split-time", "2024-03-09,2024-03-12")


def files(folder):
    return ("--validation", folder / "valid.csv", "--test", folder / "test.csv")


@pytest.mark.parametrize("kind", ["time", "files"])
def test_a_split_is_the_librarys_in_both_commands(kind, folder, tmp_path):
    data, options = (folder / "log.csv", TIMES) if kind == "time" else (folder / "train.csv", files(folder))
    if kind == "time":
        split = read_interactions(data).sequences(times=True).split_by_time("2024-03-09", "2024-03-12")
    else:
        split = Split.of(
            *(read_interactions(folder / f"{name}.csv").sequences() for name in ("train", "valid", "test"))
        )
    assert split.test.following.lengths.max() > 1
    trained = as_json("train", data, "--out", tmp_path, *SMALL, *options)
    model = DiffRec.from_pretrained(tmp_path)
    assert model.popularity.sum() == len(split.train.items)
    report = evaluate(model, split.validation, seeds=RECIPES["best"].validation_seeds)
    assert trained["validation"] == pytest.approx(report.metrics())
    for name, holdout in (("test", split.test), ("validation", split.validation)):
        answer = as_json("evaluate", tmp_path, data, *options, "--split", name)
        assert answer["model"] == asdict(evaluate(model, holdout, probabilities=True))
        assert answer["popularity"] == asdict(evaluate_popularity(holdout.histories, holdout))
    _, _, progress = diffrec("train", data, "--out", tmp_path, *SMALL, *options)
    (following,) = re.findall("Next: diffrec (.*)", progress)
    assert diffrec(*shlex.split(following), "-q")[0] == 0


@pytest.mark.parametrize("kind", ["leave-one-out", "time"])
def test_the_last_fit_takes_the_validation_too(kind, folder, tmp_path):
    options = TIMES if kind == "time" else ()
    command = ("train", folder / "log.csv", "--out", tmp_path, *SMALL, *options, "--final")
    code, printed, progress = diffrec(*command)
    assert code == 0
    assert printed == "Kept epoch 2, the last: there was no validation\n"
    assert f"Next: diffrec evaluate {tmp_path}" in progress
    sequences = read_interactions(folder / "log.csv").sequences(times=kind == "time")
    split = sequences.split_by_time("2024-03-09", "2024-03-12") if kind == "time" else sequences.leave_one_out()
    assert DiffRec.from_pretrained(tmp_path).popularity.sum() == len(split.final().items)
    assert "--split-time" in good("train", "--help")


WRONG = {
    "one file": (["--test", "{0}/test.csv"], "--validation and --test belong together"),
    "both": (["--test", "{0}/test.csv", "--validation", "{0}/valid.csv", "--split-time", "80%,90%"],
             "--split-time cannot be combined"),
    "short": (["--split-time", "80%,90%", "--short", "drop"], "--short only concerns leave-one-out"),
    "one point": (["--split-time", "80%"], "--split-time takes the start of the validation and of the test"),
    "no time": (["--split-time", "80%,later"], r"test must be a time of the log.*--split-time, --time\.\)"),
    "k-core": (["--test", "{0}/test.csv", "--validation", "{0}/valid.csv", "--k-core", "2"], "--k-core filters one"),
    "no file": (["--test", "{0}/test.csv", "--validation", "{0}/none.csv"], "There is no file"),
}  # fmt: skip


@pytest.mark.parametrize("command", ["train", "evaluate"])
@pytest.mark.parametrize("case", WRONG)
def test_wrong_options_are_one_line(command, case, folder, models, tmp_path):
    options, message = WRONG[case]
    options = [option.format(folder) for option in options]
    start = ["train", folder / "log.csv", "--out", tmp_path / "run", *SMALL] if command == "train" else [
        "evaluate", models / "csv", folder / "log.csv"
    ]  # fmt: skip
    code, out, err = diffrec(*start, *options, "-q")
    assert (code, out) == (2, "")
    assert_one_clear_line(err, message)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--final", "--no-validation"), "--final cannot be combined with --no-validation"),
        (("--final", "--select-by", "hr@5"), "--final cannot be combined with --select-by"),
        (("--no-validation", "--split-time", "80%,90%"), "--no-validation cannot be combined with --split-time"),
    ],
)
def test_a_fit_without_validation_refuses_its_options(options, message, folder, tmp_path):
    code, _, err = diffrec("train", folder / "log.csv", "--out", tmp_path / "run", *SMALL, *options)
    assert code == 2
    assert_one_clear_line(err, message)


def test_places_in_a_sequence_are_no_times(logs, tmp_path):
    code, _, err = diffrec("train", logs / "log.txt", "--out", tmp_path / "run", *SMALL, "--split-time", "80%,90%")
    assert code == 2
    assert_one_clear_line(err, "the times are places in each user's sequence")
