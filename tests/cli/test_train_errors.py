"""``diffrec train``: wrong input and failures of the machine."""

from __future__ import annotations

import errno
import re
import shutil
from unittest import mock

import pytest

from .command import SMALL, assert_one_clear_line, diffrec

TRAIN = {
    "no such file": ("nowhere.csv", [], "There is no file .*nowhere.csv"),
    "a folder": (".", [], "' is a folder"),
    "empty table": ("empty.csv", [], "empty.csv: expected a header and at least one row"),
    "empty sequences": ("empty.txt", [], "the file is empty"),
    "unknown suffix": ("log.xyz", [], "suffix .* of log.xyz does not give the format"),
    "no such column": ("untimed.csv", [], r"\['time'\] are missing"),
    "other column": ("log.csv", ["--item", "book"], r"\['book'\] are missing"),
    "ragged": ("ragged.csv", [], "rows of equal width"),
    "an id missing": ("gap.csv", [], "item in row 2, counted from 1, is empty"),
    "a user without items": ("broken.txt", [], "line 2: user '4' has no items"),
    "one-item users": ("short.csv", [], r"1 of 61 have fewer \(first: 'one'\).*--k-core 3, --short drop, "),
    "one-item users alone": ("single.txt", ["--short", "drop"], "every user needs at least 3 items"),
    "wrong format": ("log.csv", ["--format", "movielens"], "line 1: expected user::item::rating::time"),
    "core too large": ("log.csv", ["--k-core", "1000"], r"Use a smaller k.*--k-core\."),
    "broken JSON": ("log.csv", ["--set", "training.epochs=[1,"], r"--set: \[1, is not valid JSON \("),
    "no threads": ("nowhere.csv", ["--threads", "0"], "--threads must be an integer >= 1 and <= 1024, got 0"),
    "no part of that name": ("log.csv", ["--set", "denoiser=diffusion"], "Unknown denoiser name: 'diffusion'. Known"),
    "no such part": (
        "log.csv", ["--set", "decoder=linear"], "--set decoder=linear: Unknown part: .* Did you mean 'denoiser'"
    ),
    "training mistyped": ("log.csv", ["--set", "trainig.epochs=5"], "Unknown part: .* Did you mean 'training'"),
    "no word on training": ("log.csv", ["--set", "epochs=5"], "Did you mean --set training.epochs=5"),
    "no value": ("log.csv", ["--set", "denoiser"], "--set takes PART=NAME"),
    "a misspelt preset": ("log.csv", ["--preset", "sasrecc"], "Unknown preset: 'sasrecc'. .*Did you mean 'sasrec'"),
    "a preset with categories": ("log.csv", ["--preset", "d3rec"], "d3rec needs the categories of the items"),
    "a control of no noise": ("log.csv", ["--preset", "sasrec", "--control"], "sasrec is a system without noise"),
    "a control of items": (
        "log.csv", ["--preset", "maskgr", "--dim", "16", "--control"],
        "--control: the denoiser 'bidirectional' predicts items .* that is --preset best --control",
    ),
    "a control of another denoiser": (
        "log.csv", ["--set", "denoiser=velocity-mlp", "--control"], "'velocity-mlp' predicts velocity, which is not"
    ),
    "one variant": ("log.csv", ["--settings", "toys"], "the preset best has one variant. Those with several: dreamrec"),
    "no such settings": (
        "log.csv", ["--preset", "cddrec", "--settings", "steam"], "settings must be one of 'beauty', .*, got 'steam'"
    ),
    "no word on the denoiser": ("log.csv", ["--set", "encoder=gru"], "Did you mean --set denoiser.encoder=gru"),
    "a seed without training": ("log.csv", ["--set", "seed=5"], "Did you mean --set training.seed=5"),
    "no name": ("log.csv", ["--set", "=5"], "Unknown part: ''"),
    "training without a setting": ("log.csv", ["--set", "training=5"], "--set takes PART=NAME"),
    "no such setting": ("log.csv", ["--set", "schedule.steps=5"], "config of schedule 'sqrt': 'steps'. Known:"),
    "no such training setting": ("log.csv", ["--set", "training.epoch=5"], "training setting: 'epoch'.* mean 'epochs'"),
    "not a number": ("log.csv", ["--set", "training.epochs=many"], "epochs must be an integer"),
    "out of range": ("log.csv", ["--set", "training.clip_norm=-1"], "clip_norm must be a finite number at least 0"),
    "parts that do not fit": ("log.csv", ["--set", "timesteps.num_timesteps=8"], "The parts do not fit"),
    "no epochs": ("log.csv", ["--epochs", "0"], "epochs must be an integer >= 1, got 0"),
    "dropout": ("log.csv", ["--dropout", "1.5"], "dropout"),
    "heads": ("log.csv", ["--set", "denoiser.num_heads=3"], "num_heads"),
    "max length": ("log.csv", ["--max-length", "1"], "max_length"),
    "no such metric": ("log.csv", ["--select-by", "mrr@10"], "select_by must be 'hr@K' or 'ndcg@K', .* got 'mrr@10'"),
    "seen items twice": (
        "log.csv", ["--include-seen", "--set", "training.exclude_seen=true"], "--include-seen and --set .* same setting"
    ),
    "nothing to validate": (
        "log.csv", ["--no-validation", "--short", "drop", "--include-seen"],
        "--no-validation cannot be combined with --short and --include-seen",
    ),
    "patience for nothing": (
        "log.csv", ["--no-validation", "--set", "training.patience=5"], "patience=5 counts validations"
    ),
    "negative seed": ("log.csv", ["--seed", "-1"], "seed must be"),
}  # fmt: skip


@pytest.mark.parametrize("case", TRAIN)
def test_wrong_input_for_train_is_one_line_and_writes_nothing(case, logs, tmp_path):
    file, options, message = TRAIN[case]
    code, out, err = diffrec(
        "train", logs / file, "--out", tmp_path / "new" / "run", *SMALL[:2], "--cpu", "-q", *options
    )
    assert code == 2
    assert out == ""
    assert_one_clear_line(err, message)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("shorthand", "key"),
    [
        ("--dim", "embedding.dim"), ("--dim", "denoiser.dim"), ("--dim", "head.dim"),
        ("--max-length", "denoiser.max_length"), ("--dropout", "denoiser.dropout"), ("--epochs", "training.epochs"),
        ("--batch-targets", "training.batch_targets"), ("--learning-rate", "training.learning_rate"),
        ("--select-by", "training.select_by"), ("--set", "training.epochs"),
    ],
)  # fmt: skip
def test_a_setting_that_is_given_twice_is_refused(shorthand, key, logs, tmp_path):
    first = f"{key}=1" if shorthand == "--set" else 1
    code, out, err = diffrec(
        "train", logs / "log.csv", "--out", tmp_path / "run", shorthand, first, "--set", f"{key}=2"
    )
    assert (code, out) == (2, "")
    assert_one_clear_line(err, rf"{shorthand}.* and --set {key}=2 give the same setting\. Keep one")
    assert not list(tmp_path.iterdir())


def test_another_run_in_the_folder_is_wrong_input(logs, models):
    before = {path.name: path.read_bytes() for path in (models / "csv").iterdir()}
    code, _, err = diffrec("train", logs / "log.txt", "--out", models / "csv", *SMALL)
    assert code == 2
    assert "resuming" not in err
    assert_one_clear_line(err.splitlines()[-1], "holds a run with other settings, other data")
    assert {path.name: path.read_bytes() for path in (models / "csv").iterdir()} == before


@pytest.mark.parametrize("place", ["file", "file/run"])
def test_a_folder_that_cannot_be_made_is_reported_in_one_line(place, logs, tmp_path):
    (tmp_path / "file").touch()
    code, out, err = diffrec("train", logs / "nowhere.csv", "--out", tmp_path / place, *SMALL, "-q")
    assert code == 2
    assert out == ""
    assert_one_clear_line(err, f"{tmp_path / 'file'} is a file; a run needs a folder")


def test_a_full_disk_is_the_machines_failure(logs, tmp_path):
    full = OSError(errno.ENOSPC, "No space left on device")
    with mock.patch("diffusers_rec.core.files.os.fsync", side_effect=full):
        code, out, err = diffrec("train", logs / "log.csv", "--out", tmp_path / "run", *SMALL, "-q")
    assert code == 1
    assert out == ""
    assert_one_clear_line(err, "No space left on device")


@pytest.mark.parametrize(
    "option", [("--dim", 10**12), ("--max-length", 10**15), ("--set", "denoiser.encoder.num_layers=1000000000"),
               ("--set", "schedule.num_timesteps=1000000000"), ("--set", "seeds=1000000000"), ("--threads", 10**8)]
)  # fmt: skip
def test_sizes_beyond_all_machines_are_reported_in_a_line(option, logs, tmp_path):
    code, out, err = diffrec("train", logs / "log.csv", "--out", tmp_path / "run", "--quiet", *option)
    assert code in (1, 2)
    assert out == ""
    assert err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_no_folder_is_not_the_working_folder(logs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = diffrec("train", logs / "log.csv", "--out", "", *SMALL)
    assert (code, out) == (2, "")
    assert_one_clear_line(err.strip(), "--out must be a path, got ''")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_vanishes_is_reported_with_what_to_do(logs, tmp_path):
    out = tmp_path / "run"

    def vanish(*_):
        shutil.rmtree(out)

    with mock.patch("diffusers_rec.cli.progress.describe_epoch", side_effect=vanish):
        code, _, err = diffrec("train", logs / "log.csv", "--out", out, *SMALL)
    assert code == 1
    assert re.search(rf"diffrec: .*{out}.* could not be written .*The folder no longer exists; create it again", err)
