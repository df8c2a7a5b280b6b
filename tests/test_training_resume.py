"""A run that was killed ends as one that was not."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
from dataclasses import replace
from functools import lru_cache

import pytest
import torch
from training_runs import CONFIG, KINDS, SPLIT, build, end, files, fit, uninterrupted

from diffusers_rec import DiffRec
from diffusers_rec.core.checkpoint import CONFIG_FILE
from diffusers_rec.evaluation import evaluate
from diffusers_rec.training import validation
from diffusers_rec.training.learner import Learner
from diffusers_rec.training.run_store import LOG_FILE


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def killed_at(function, calls, *, after=False):
    """``function``, but its ``calls``-th call (from 1) is the process's last, before or after it has done its work."""
    count = 0

    def call(*args, **kwargs):
        nonlocal count
        count += 1
        if count == calls and not after:
            die()
        result = function(*args, **kwargs)
        if count == calls:
            die()
        return result

    return call


def train_until(moment, calls, directory, kind):
    """In a process of its own: train, and be killed at a moment."""
    torch.set_num_threads(1)
    on_epoch = None
    if moment == "step":
        Learner.step = killed_at(Learner.step, calls)
    elif moment == "epoch":
        on_epoch = killed_at(lambda record: None, calls)
    elif moment == "validation":
        validation.evaluate = killed_at(validation.evaluate, calls)
    elif moment == "half a file":
        os.fsync = killed_at(os.fsync, calls)
    elif moment == "rename":
        os.replace = killed_at(os.replace, calls, after=True)
    elif moment == "best":
        DiffRec.save_pretrained = killed_at(DiffRec.save_pretrained, calls)
    elif moment == "best kept":
        DiffRec.save_pretrained = killed_at(DiffRec.save_pretrained, calls, after=True)
    elif moment == "time":
        signal.setitimer(signal.ITIMER_REAL, calls)
        signal.signal(signal.SIGALRM, lambda *_: die())
    fit(directory, on_epoch=on_epoch, **KINDS[kind])


@lru_cache
def processes():
    """Processes that start as fresh ones do, the imports done once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["accelerate", "diffusers_rec.training", "torch._dynamo"])
    return context


def killed(moment, calls, directory, kind="causal, dropout, importance"):
    child = processes().Process(target=train_until, args=(moment, calls, directory, kind))
    child.start()
    child.join(60)
    return child.exitcode == -signal.SIGKILL


# Three epochs of six steps; each writes the log and the state, and the best so far then weights, items and config.
@pytest.mark.parametrize(
    ("moment", "calls"),
    [
        ("step", 1),
        pytest.param("step", 10, marks=pytest.mark.slow),
        ("epoch", 1),
        ("validation", 2),
        *(("half a file", calls) for calls in (1, 6, 10)),
        *(("rename", calls) for calls in (1, 5, 8)),
        *(pytest.param("half a file", calls, marks=pytest.mark.slow) for calls in (3, 5, 8)),
        *(pytest.param("rename", calls, marks=pytest.mark.slow) for calls in (3, 7, 9)),
    ],
)
def test_a_killed_run_ends_as_an_uninterrupted_one(moment, calls, tmp_path):
    assert killed(moment, calls, tmp_path)
    model, result = fit(tmp_path)
    assert end(model, result) == uninterrupted()
    saved = DiffRec.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(tensor, saved[name]) for name, tensor in model.state_dict().items())
    assert len(files(tmp_path)) == 5, "debris of the killed run"
    assert [json.loads(line) for line in (tmp_path / LOG_FILE).read_text().splitlines()] == result.history


@pytest.mark.parametrize("kind", list(KINDS)[1:])
def test_every_kind_of_run_may_be_killed_twice(kind, tmp_path):
    assert killed("step", 4, tmp_path, kind)
    assert killed("epoch", 1, tmp_path, kind)
    assert end(*fit(tmp_path, **KINDS[kind])) == uninterrupted(kind)


@pytest.mark.parametrize("moment", ["best", "best kept"])
def test_a_killed_run_keeps_what_its_record_describes(moment, tmp_path, monkeypatch):
    """Wherever it goes on: on another device the epochs to come may score otherwise, here the worst."""
    assert killed(moment, 2, tmp_path)
    worst = replace(evaluate(build(), SPLIT.validation), excluding_seen={"ndcg@10": 0.0})
    monkeypatch.setattr(validation, "evaluate", lambda *_, **__: worst)
    model, result = fit(tmp_path)
    assert evaluate(model, SPLIT.validation, seeds=CONFIG.validation_seeds).metrics()["ndcg@10"] == result.best_score


def test_a_finished_run_leaves_another_model_in_its_folder_alone(tmp_path):
    fit(tmp_path, epochs=1)  # its last epoch was the best
    build(seed=1).save_pretrained(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    fit(tmp_path, epochs=1)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def scored(monkeypatch, *scores):
    """The validations to come have these scores, and an interrupt comes after the last."""
    report, left = evaluate(build(), SPLIT.validation), list(scores)
    monkeypatch.setattr(
        validation, "evaluate", lambda *_, **__: replace(report, excluding_seen={"ndcg@10": left.pop(0)})
    )

    def on_epoch(record):
        if not left:
            raise KeyboardInterrupt

    return on_epoch


def test_a_best_model_that_is_lost_is_reported_before_training(tmp_path, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, on_epoch=scored(monkeypatch, 0.2, 0.1))
    (tmp_path / CONFIG_FILE).unlink()
    with pytest.raises(
        ValueError, match=r"has lost its best model, that of epoch 1 .*config\.json.* Delete the folder"
    ):
        fit(tmp_path, on_epoch=lambda record: pytest.fail("it trained"))


def test_a_best_model_that_is_lost_is_written_again_from_the_state(tmp_path, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, on_epoch=scored(monkeypatch, 0.1, 0.2))
    whole = DiffRec.from_pretrained(tmp_path).state_dict()
    (tmp_path / CONFIG_FILE).unlink()
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, on_epoch=scored(monkeypatch, 0.0))
    saved = DiffRec.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(tensor, saved[name]) for name, tensor in whole.items())


@pytest.mark.slow
def test_killed_at_any_time_until_it_ends(tmp_path):
    generator = random.Random(0)
    for _ in range(12):
        killed("time", generator.uniform(0.05, 0.6), tmp_path)
    assert end(*fit(tmp_path)) == uninterrupted()


def test_a_finished_run_gives_its_result_at_once(tmp_path):
    first = end(*fit(tmp_path))
    written = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    again = end(*fit(tmp_path, model=build(), on_epoch=lambda record: pytest.fail("it trained")))
    assert again == first
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == written


def test_an_interrupted_run_ends_as_an_uninterrupted_one(tmp_path):
    def interrupt(record):
        raise KeyboardInterrupt

    model = build()
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, model=model, on_epoch=interrupt)
    assert end(*fit(tmp_path, model=model)) == uninterrupted()
