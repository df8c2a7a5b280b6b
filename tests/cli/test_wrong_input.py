"""Wrong input for every command except ``train``, and wrong options for all."""

from __future__ import annotations

import re

import pytest

from .command import assert_one_clear_line, diffrec

OTHERS = {
    "unknown item": (["recommend", "{models}/csv", "--history", "item-001,nothing"], "1 unknown id .*'nothing'"),
    "digits for text": (["recommend", "{models}/csv", "--history", "5"], "unknown id .*'5'"),
    "text for digits": (["recommend", "{models}/txt", "--history", "item-001"], "unknown id .*'item-001'"),
    "no digits": (["recommend", "{models}/txt", "--history", "²,--5"], "2 unknown ids .*'²', '--5'"),
    "empty history": (["recommend", "{models}/csv", "--history", ""], "--history '' contains an empty item id"),
    "an id between commas": (
        ["recommend", "{models}/csv", "--history", "item-001,,item-002"], "contains an empty item id"
    ),
    "broken JSON": (
        ["recommend", "{models}/csv", "--history", "item-001", "--sampler", '{{"name": "ddpm"'],
        r'--sampler: \{"name": "ddpm" is not valid JSON \(',
    ),
    "k too large": (["recommend", "{models}/csv", "--history", "item-001", "-k", "41"], r"k must lie in 1\.\.40"),
    "k of none": (["recommend", "{models}/csv", "--history", "item-001", "-k", "0"], "k must be|k must lie in"),
    "k above the candidates": (
        ["recommend", "{models}/csv", "--history", "item-001", "-k", "2", "--candidates", "item-002"],
        r"k must lie in 1\.\.1",
    ),
    "unknown candidate": (
        ["recommend", "{models}/csv", "--history", "item-001", "--candidates", "x"],
        "candidates: .*'x'",
    ),
    "empty candidates": (
        ["recommend", "{models}/csv", "--history", "item-001", "--candidates", ""], "--candidates '' contains an empty",
    ),
    "no seeds": (["recommend", "{models}/csv", "--history", "item-001", "--seeds", "0"], "seeds"),
    "unknown sampler": (["evaluate", "{models}/csv", "{logs}/log.csv", "--sampler", "x"], "Unknown sampler name"),
    "steps of a sampler without": (
        ["evaluate", "{models}/csv", "{logs}/log.csv", "--sampler", "one-step", "--steps", "5"],
        r"--steps: the sampler 'one-step' has no number of steps\. Use --sampler with ddim, ddpm",
    ),
    "steps of a model's sampler without": (
        ["recommend", "{models}/csv", "--history", "item-001", "--steps", "5"], "the sampler 'one-step' has no number",
    ),
    "too many steps": (
        ["recommend", "{models}/csv", "--history", "item-001", "--sampler", "ddpm", "--steps", "1001"],
        "--steps must be at most num_timesteps=1000, the model's N, got 1001",
    ),
    "no steps": (
        ["evaluate", "{models}/csv", "{logs}/log.csv", "--sampler", "ddpm", "--steps", "0"],
        "--steps must be an integer >= 1, got 0",
    ),
    "steps twice": (
        ["evaluate", "{models}/csv", "{logs}/log.csv", "--steps", "5", "--sampler",
         '{{"name": "ddpm", "num_steps": 5}}'],
        "--steps=5 and the num_steps of --sampler give the same setting",
    ),
    "chains too long": (
        ["audit", "{models}/csv", "{logs}/log.csv", "--steps", "5", "--steps", "1001"],
        "--steps must be at most num_timesteps=1000, the model's N, got 1001",
    ),
    "a chain twice": (
        ["audit", "{models}/csv", "{logs}/log.csv", "--steps", "5", "--steps", "5"], r"--steps must differ, but \[5\]",
    ),
    "a chain of none": (
        ["audit", "{models}/csv", "{logs}/log.csv", "--steps", "0"], "each of --steps must be an integer >= 1, got 0",
    ),
    "no checkpoint": (["recommend", "{logs}", "--history", "item-001"], "holds no checkpoint: config.json is missing"),
    "no folder": (["evaluate", "{logs}/nowhere", "{logs}/log.csv"], "holds no checkpoint"),
    "other data": (
        ["evaluate", "{models}/csv", "{logs}/log.txt"],
        r"The model does not know all items of the holdout.* 100 is a int. Convert the ids",
    ),
    "no data": (["evaluate", "{models}/csv", "{logs}/nowhere.csv"], "There is no file"),
    "info of nothing": (["info", "{logs}/nowhere"], "There is no file"),
    "info of no model": (["info", "{logs}"], "holds no checkpoint"),
}  # fmt: skip


@pytest.mark.parametrize("case", OTHERS)
def test_wrong_input_is_one_line(case, logs, models):
    arguments, message = OTHERS[case]
    code, out, err = diffrec(*(argument.format(models=models, logs=logs) for argument in arguments))
    assert code == 2
    assert out == ""
    assert_one_clear_line(err, message)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Usage: diffrec"),
        (("train",), "Missing argument 'data'"),
        (("train", "log.csv"), "Missing option '--out'"),
        (("train", "log.csv", "--out", "x", "--epoch", 3), "No such option"),
        (("train", "log.csv", "--out", "x", "--epochs", "many"), "Invalid value for '--epochs'"),
        (("evaluate", "x", "log.csv", "--split", "train"), "Invalid value for '--split'"),
        (("recommend", "x"), "Give either --history"),
        (("forecast",), "No such command 'forecast'"),
    ],
)
def test_wrong_options_are_reported_by_the_parser(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = diffrec(*arguments)
    assert code == 2
    assert out == ""
    assert re.search(message, err)
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["[" * 100_000, '{"name": ' * 100_000])
def test_json_that_is_nested_without_end_is_reported_in_a_line(text, models, logs):
    for command in (
        ["evaluate", models / "csv", logs / "log.csv", "--sampler", text],
        ["train", logs / "log.csv", "--out", "nowhere", "--set", f"denoiser.encoder.num_layers={text}"],
        ["recommend", models / "csv", "--history", text],
    ):
        code, out, err = diffrec(*command)
        assert (code, out) == (2, "")
        assert err.startswith("diffrec: ")
        assert len(err) < 2000
