"""Training: the same start has the same end, killed or not, and the best of what was seen is kept."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import warnings
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from diffusers_rec import (
    DDIMSampler,
    DiffRec,
    Holdout,
    Interactions,
    Sequences,
    SqrtSchedule,
    SyntheticWorld,
    Vocabulary,
)
from diffusers_rec.core.checkpoint import CONFIG_FILE
from diffusers_rec.core.verified import read_verified, write_verified
from diffusers_rec.evaluation import evaluate
from diffusers_rec.training import TrainingConfig, loop, train
from diffusers_rec.training.keeping import LOG_FILE
from diffusers_rec.training.state import STATE_FILE

SPLIT = SyntheticWorld(40, num_groups=4).sample(100, min_length=4, max_length=12).sequences().leave_one_out()
CONFIG = TrainingConfig(epochs=3, batch_targets=96, learning_rate=3e-3)
BEST = {
    "embedding": {"name": "table", "scale": "unit", "init_std": 0.02},
    "denoiser": {"name": "conditional-mlp", "num_layers": 1, "num_heads": 2, "dropout": 0.1},
    "objective": {"name": "simplified", "recommend_from": "start", "distance": "cosine", "reconstruction_weight": 0.1},
}
KINDS = {
    "causal, dropout, importance": {},
    "all positions, uniform, cosine": {
        "timesteps": "uniform",
        "examples": "all-positions",
        "decay": "cosine",
        "warmup_epochs": 0.5,
        "clip_norm": 1.0,
    },
    "the paper's encoder, last target": {
        "denoiser": {"name": "transformer", "num_layers": 1, "num_heads": 2, "dropout": 0.3},
        "examples": "last-target",
    },
    "bf16": {"precision": "bf16"},
    "the best preset's parts": BEST,
    "averaged weights": {"average_decay": 0.9},
    "no validation": {"validation": None},
}


def build(seed=0, vocabulary=SPLIT.train.vocabulary, **parts):
    settings = {
        "schedule": {"name": "sqrt", "num_timesteps": 5},
        "timesteps": {"name": "importance", "history": 3},
        "denoiser": {"name": "causal-transformer", "num_layers": 1, "num_heads": 2, "dropout": 0.2},
        "head": "tied",
    }
    return DiffRec(vocabulary, dim=16, max_length=8, seeds=2, seed=seed, **{**settings, **parts})


def fit(directory=None, *, model=None, validation=SPLIT.validation, on_epoch=None, **changes):
    """Train; ``changes`` are of the training settings, the rest of the model's parts."""
    settings = {name: changes.pop(name) for name in list(changes) if name in TrainingConfig.names()}
    model = model or build(**changes)
    config = replace(CONFIG, **settings)
    result = train(model, SPLIT.train, validation, config, directory=directory, device="cpu", on_epoch=on_epoch)
    return model, result


def end(model, result):
    """All that a run leaves behind but for times, as something that compares bit for bit."""
    history = [{name: value for name, value in row.items() if name != "targets_per_second"} for row in result.history]
    states = {**model.state_dict(), **{f"timesteps.{k}": v for k, v in model.timesteps.state_dict().items()}}
    tensors = {name: tensor.numpy().tobytes() for name, tensor in states.items()}
    return tensors, history, result.best_epoch, repr(result.best_score)  # NaN differs from itself


@lru_cache
def undisturbed(kind="causal, dropout, importance"):
    return end(*fit(**KINDS[kind]))


def files(folder):
    return {path.name for path in folder.iterdir()}


def validations(result):
    return [row["validation_ndcg@10"] for row in result.history]


# The same start, the same end


@pytest.mark.parametrize("kind", KINDS)
def test_same_seed_same_bits(kind):
    assert end(*fit(**KINDS[kind])) == undisturbed(kind)


@pytest.mark.parametrize("other", [{"seed": 1}, {"learning_rate": 1e-3}, {"batch_targets": 50}])
def test_another_setting_another_end(other):
    model, result = fit(model=build(), **other)
    assert end(model, result)[0] != undisturbed()[0]


def test_a_directory_changes_nothing(tmp_path):
    model, result = fit(tmp_path / "new" / "run")
    assert end(model, result) == undisturbed()
    (weights,) = (tmp_path / "new" / "run").glob("model-*.safetensors")
    assert {name: tensor.numpy().tobytes() for name, tensor in load_file(weights).items()} == {
        name: tensor.numpy().tobytes() for name, tensor in model.state_dict().items()
    }


def test_global_random_states_stay_untouched(tmp_path):
    before = torch.get_rng_state(), np.random.get_state()[1].tobytes(), random.getstate()  # noqa: NPY002
    fit(tmp_path, epochs=1)
    after = torch.get_rng_state(), np.random.get_state()[1].tobytes(), random.getstate()  # noqa: NPY002
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


def test_global_random_states_do_not_matter():
    with torch.random.fork_rng():
        torch.manual_seed(1234)
        assert end(*fit()) == undisturbed()


# Killed and started again


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def doomed(function, calls, *, after=False):
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
        loop._Run._step = doomed(loop._Run._step, calls)
    elif moment == "epoch":
        on_epoch = doomed(lambda record: None, calls)
    elif moment == "validation":
        loop.evaluate = doomed(loop.evaluate, calls)
    elif moment == "half a file":
        os.fsync = doomed(os.fsync, calls)
    elif moment == "rename":
        os.replace = doomed(os.replace, calls, after=True)
    elif moment == "best":
        DiffRec.save_pretrained = doomed(DiffRec.save_pretrained, calls)
    elif moment == "best kept":
        DiffRec.save_pretrained = doomed(DiffRec.save_pretrained, calls, after=True)
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
        ("step", 10),
        ("epoch", 1),
        ("validation", 2),
        *(("half a file", calls) for calls in (1, 3, 5, 6, 8, 10)),
        *(("rename", calls) for calls in (1, 3, 5, 7, 8, 9)),
    ],
)
def test_a_killed_run_ends_as_an_undisturbed_one(moment, calls, tmp_path):
    assert killed(moment, calls, tmp_path)
    model, result = fit(tmp_path)
    assert end(model, result) == undisturbed()
    saved = DiffRec.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(tensor, saved[name]) for name, tensor in model.state_dict().items())
    assert len(files(tmp_path)) == 5, "debris of the killed run"
    assert [json.loads(line) for line in (tmp_path / LOG_FILE).read_text().splitlines()] == result.history


@pytest.mark.parametrize("kind", list(KINDS)[1:])
def test_every_kind_of_run_may_be_killed_twice(kind, tmp_path):
    assert killed("step", 4, tmp_path, kind)
    assert killed("epoch", 1, tmp_path, kind)
    assert end(*fit(tmp_path, **KINDS[kind])) == undisturbed(kind)


@pytest.mark.parametrize("moment", ["best", "best kept"])
def test_a_killed_run_keeps_what_its_record_describes(moment, tmp_path, monkeypatch):
    """Wherever it goes on: on another device the epochs to come may score otherwise, here the worst."""
    assert killed(moment, 2, tmp_path)
    worst = replace(evaluate(build(), SPLIT.validation), masked={"ndcg@10": 0.0})
    monkeypatch.setattr(loop, "evaluate", lambda *_, **__: worst)
    model, result = fit(tmp_path)
    assert evaluate(model, SPLIT.validation, seeds=CONFIG.validation_seeds).masked["ndcg@10"] == result.best_score


def test_a_finished_run_leaves_another_model_in_its_folder_alone(tmp_path):
    fit(tmp_path, epochs=1)  # its last epoch was the best
    build(seed=1).save_pretrained(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    fit(tmp_path, epochs=1)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def scored(monkeypatch, *scores):
    """The validations to come have these scores, and an interrupt comes after the last."""
    report, left = evaluate(build(), SPLIT.validation), list(scores)
    monkeypatch.setattr(loop, "evaluate", lambda *_, **__: replace(report, masked={"ndcg@10": left.pop(0)}))

    def on_epoch(record):
        if not left:
            raise KeyboardInterrupt

    return on_epoch


def test_a_best_model_that_is_lost_is_told_before_training(tmp_path, monkeypatch):
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
def test_killed_at_any_time_until_it_gets_through(tmp_path):
    generator = random.Random(0)
    for _ in range(12):
        killed("time", generator.uniform(0.05, 0.6), tmp_path)
    assert end(*fit(tmp_path)) == undisturbed()


def test_a_finished_run_gives_its_result_at_once(tmp_path):
    first = end(*fit(tmp_path))
    written = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    again = end(*fit(tmp_path, model=build(), on_epoch=lambda record: pytest.fail("it trained")))
    assert again == first
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == written


def test_an_interrupted_run_ends_as_an_undisturbed_one(tmp_path):
    def interrupt(record):
        raise KeyboardInterrupt

    model = build()
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, model=model, on_epoch=interrupt)
    assert end(*fit(tmp_path, model=model)) == undisturbed()


# What does not belong together


def test_a_directory_takes_one_run_alone(tmp_path):
    fit(tmp_path, epochs=1)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    renamed = Vocabulary([f"other {item}" for item in SPLIT.train.vocabulary.ids])
    train_renamed, histories_renamed = (
        Sequences(part.items, part.offsets, part.users, renamed) for part in (SPLIT.train, SPLIT.validation.histories)
    )
    config = replace(CONFIG, epochs=1)
    fewer = SPLIT.train.take(range(90))
    others = {
        "settings": (build(), SPLIT.train, SPLIT.validation, replace(config, learning_rate=1e-4)),
        "epochs": (build(), SPLIT.train, SPLIT.validation, replace(config, epochs=2)),
        "model": (build(head="linear"), SPLIT.train, SPLIT.validation, config),
        "weights": (build(seed=1), SPLIT.train, SPLIT.validation, config),
        "data": (build(), fewer, SPLIT.validation, config),
        "validation": (build(), SPLIT.train, SPLIT.test, config),
        "items": (
            build(vocabulary=renamed), train_renamed, Holdout(histories_renamed, SPLIT.validation.targets), config
        ),
    }  # fmt: skip
    for other in others.values():
        with pytest.raises(ValueError, match="holds a run with other settings, other data"):
            train(*other, directory=tmp_path, device="cpu")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("damage", ["cut", "empty", "byte", "progress", "text"])
def test_a_damaged_state_is_refused(damage, tmp_path):
    fit(tmp_path, epochs=1)
    path = tmp_path / STATE_FILE
    data = path.read_bytes()
    middle = len(data) // 2
    path.write_bytes(
        {
            "cut": data[:middle],
            "empty": b"",
            "byte": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
            "progress": data.replace(b'best_epoch\\": 1', b'best_epoch\\": 0'),
            "text": b"no state at all, but long enough to be one",
        }[damage]
    )
    assert path.read_bytes() != data
    model = build()
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"cannot be used .* Delete the folder"):
        fit(tmp_path, model=model, epochs=1)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())


def test_other_items_are_refused(tmp_path):
    renamed = Vocabulary([f"my {raw_id}" for raw_id in SPLIT.train.vocabulary.ids])
    model = build()
    other_train, other_histories = (
        replace(part, vocabulary=renamed) for part in (SPLIT.train, SPLIT.validation.histories)
    )
    with pytest.raises(ValueError, match=r"does not know all items of the sequences\..*: ('my item-\d+', ){5}\.\.\."):
        train(model, other_train, SPLIT.validation, CONFIG, directory=tmp_path / "run")
    with pytest.raises(ValueError, match="does not know all items of the holdout"):
        train(
            model, SPLIT.train, Holdout(other_histories, SPLIT.validation.targets), CONFIG, directory=tmp_path / "run"
        )
    with pytest.raises(ValueError, match="device must be one of None, 'cpu', got 'gpu'"):
        train(model, SPLIT.train, SPLIT.validation, CONFIG, device="gpu")
    assert not files(tmp_path)


def test_what_cannot_be_trained_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match=r"No parameter of the model requires a gradient.*requires_grad_\(\)"):
        fit(tmp_path / "run", model=build().requires_grad_(False))
    with pytest.raises(ValueError, match="patience=2 counts validations, but validation is None"):
        fit(tmp_path / "run", validation=None, patience=2)
    assert not files(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((SPLIT.train, SPLIT.validation, {"epochs": 2}),
         r"train: config must be TrainingConfig or None, got dict\. Use TrainingConfig\(.* or one of RECIPES"),
        ((SPLIT.train, SPLIT.validation.histories), "train: validation must be Holdout or None, got Sequences"),
        ((SPLIT.train, CONFIG), "train: validation must be Holdout or None, got TrainingConfig"),
        ((SPLIT,), "train: sequences must be Sequences, got Split"),
    ],
)  # fmt: skip
def test_arguments_of_another_class_are_refused(arguments, message, tmp_path):
    with pytest.raises(TypeError, match=message):
        train(build(), *arguments, directory=tmp_path / "run")
    assert not files(tmp_path)


def test_a_part_of_the_model_may_be_frozen():
    model = build()
    model.embedding.requires_grad_(False)
    before = model.embedding.weight.clone()
    fit(model=model, epochs=1)
    assert torch.equal(model.embedding.weight, before)


def test_items_are_matched_by_id():
    other = Vocabulary([*reversed(SPLIT.train.vocabulary.ids), "never seen"])
    model = build()
    result = train(model, SPLIT.train.reindexed(other), SPLIT.validation.reindexed(other), CONFIG, device="cpu")
    assert end(model, result) == undisturbed()


def test_a_swapped_part_that_does_not_fit_is_told_before_the_folder_is_made(tmp_path):
    model = build()
    model.sampler = DDIMSampler(num_steps=6)
    with pytest.raises(ValueError, match="sampler takes num_steps=6, but the schedule has num_timesteps=5"):
        fit(tmp_path / "run", model=model)
    assert not files(tmp_path)


def test_a_folder_that_holds_anothers_model_is_left_as_it_is(tmp_path):
    (tmp_path / CONFIG_FILE).write_text("{}")
    (tmp_path / ".config.json.abcdefgh").touch()
    before = files(tmp_path)
    with pytest.raises(ValueError, match=r"holds a config\.json that no run here has written"):
        fit(tmp_path)
    assert files(tmp_path) == before


@pytest.mark.parametrize("name", [LOG_FILE, STATE_FILE])
def test_a_file_of_somebody_else_is_not_overwritten(name, tmp_path):
    (tmp_path / name).write_text('{"epoch": 1, "loss": 0.5}\n')
    before = files(tmp_path)
    with pytest.raises(
        ValueError, match=rf"{name} (is not the log of this run, and is not overwritten|cannot be used)"
    ):
        fit(tmp_path)
    assert files(tmp_path) == before


def test_a_log_that_was_replaced_is_not_overwritten(tmp_path):
    fit(tmp_path, epochs=1)
    (tmp_path / LOG_FILE).write_text('{"epoch": 1, "loss": 0.5}\n')
    before = files(tmp_path)
    with pytest.raises(ValueError, match="is not the log of this run"):
        fit(tmp_path, epochs=1)
    assert files(tmp_path) == before


def test_a_second_run_in_the_folder_is_refused_and_harms_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("diffusers_rec.training.keeping.WAIT", 0.1)
    refused = []

    def second():
        with pytest.raises(ValueError, match="is in use: another process or thread is writing to it"):
            fit(tmp_path)
        refused.append(True)

    def on_epoch(_):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()

    model, result = fit(tmp_path, on_epoch=on_epoch)
    assert len(refused) == 3
    assert end(model, result) == undisturbed()


@pytest.mark.parametrize("change", ["epoch", "history", "record", "best", "text", "nothing"])
def test_a_state_whose_numbers_do_not_fit_is_refused(change, tmp_path):
    fit(tmp_path, epochs=1)
    metadata, tensors = read_verified(tmp_path / STATE_FILE)
    progress = json.loads(metadata["progress"])
    changed = {
        "epoch": progress | {"epoch": 7},
        "history": progress | {"history": {}},
        "record": progress | {"history": [3]},
        "best": progress | {"best_epoch": 2},
        "text": "text",
        "nothing": {},
    }[change]
    write_verified(tmp_path / STATE_FILE, {**metadata, "progress": json.dumps(changed)}, tensors)
    with pytest.raises(ValueError, match=f"{STATE_FILE} cannot be used .* Delete the folder"):
        fit(tmp_path, epochs=1)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("model.embedding.weight", lambda tensor: tensor.to(torch.int32)),
        ("model.embedding.weight", lambda tensor: tensor[1:].contiguous()),
        ("model.embedding.weight", lambda tensor: tensor * torch.nan),
        ("model.timesteps.losses", lambda tensor: tensor[1:].contiguous()),
        ("optimizer.0.exp_avg", lambda tensor: tensor[1:].contiguous()),
        ("optimizer.0.step", None),
        ("model.embedding.weight", None),
        ("optimizer.999.step", lambda _: torch.tensor(1.0)),
    ],
)
def test_a_state_whose_tensors_do_not_fit_is_refused(name, change, tmp_path):
    fit(tmp_path, epochs=1)
    metadata, tensors = read_verified(tmp_path / STATE_FILE)
    if change is None:
        del tensors[name]
    else:
        tensors[name] = change(tensors.get(name))
    write_verified(tmp_path / STATE_FILE, metadata, tensors)
    with pytest.raises(ValueError, match=f"{STATE_FILE} cannot be used .* Delete the folder"):
        fit(tmp_path, epochs=1)


@pytest.mark.parametrize("place", ["under a file", "a file", "read-only"])
def test_an_unwritable_directory_is_told_before_training(place, tmp_path, monkeypatch):
    monkeypatch.setattr("diffusers_rec.training.keeping.WAIT", 0.1)
    (tmp_path / "file").touch()
    file = tmp_path / "file"
    directory = {"under a file": file / "run", "a file": file, "read-only": Path("/proc/self")}[place]
    if place == "read-only" and not directory.is_dir():
        pytest.skip("no folder here that even root cannot write")
    model = build()
    model.forward = lambda *_: pytest.fail("it trained")
    with pytest.raises(OSError, match=r"\[Errno|is a file; a run needs a folder"):
        fit(directory, model=model)


# The best is kept


def test_the_best_epoch_by_ndcg_is_kept(tmp_path):
    weights = []
    model = build()
    _, result = fit(
        tmp_path,
        model=model,
        epochs=8,
        learning_rate=0.05,
        on_epoch=lambda _: weights.append({name: tensor.clone() for name, tensor in model.state_dict().items()}),
    )
    scores = validations(result)
    assert result.best_score == max(scores)
    assert result.best_epoch == 1 + int(np.argmax(scores)) < 8, "the best is last: this test sees nothing"
    best = weights[result.best_epoch - 1]
    assert all(torch.equal(tensor, best[name]) for name, tensor in model.state_dict().items())
    assert evaluate(DiffRec.from_pretrained(tmp_path), SPLIT.validation, seeds=1).masked["ndcg@10"] == max(scores)
    assert not model.training


@pytest.mark.parametrize("select_by", ["hr@1", "hr@30", "ndcg@10", "ndcg@3"])
@pytest.mark.parametrize("exclude_seen", [True, False])
def test_the_epoch_is_chosen_by_any_metric_with_seen_items_or_without(select_by, exclude_seen):
    model, result = fit(select_by=select_by, exclude_seen=exclude_seen)
    scores = [row[f"validation_{select_by}"] for row in result.history]
    assert result.best_score == max(scores)
    assert result.best_epoch == 1 + scores.index(max(scores))
    k = int(select_by.partition("@")[2])
    report = evaluate(model, SPLIT.validation, ks=[k], seeds=CONFIG.validation_seeds)
    assert result.best_score == (report.masked if exclude_seen else report.unmasked)[select_by]
    assert {f"validation_{name}@{k}" for name in ("hr", "ndcg") for k in (5, 10, 20)} < set(result.history[0])


def test_without_validation_the_last_epoch_is_kept(tmp_path):
    weights = []
    model = build()
    fit(model=model, on_epoch=lambda _: weights.append({n: t.clone() for n, t in model.state_dict().items()}))
    last, result = fit(tmp_path, validation=None)
    assert (result.best_epoch, len(result.history)) == (3, 3)
    assert math.isnan(result.best_score)
    assert not any(name.startswith("validation") for row in result.history for name in row)
    saved = DiffRec.from_pretrained(tmp_path).state_dict()
    for name, tensor in last.state_dict().items():
        assert torch.equal(tensor, weights[-1][name])
        assert torch.equal(tensor, saved[name])


def test_without_validation_every_epoch_is_saved(tmp_path):
    epochs = []
    model = build()

    def look(record):
        saved = DiffRec.from_pretrained(tmp_path).state_dict()
        epochs.append(all(torch.equal(tensor, saved[name]) for name, tensor in model.state_dict().items()))

    fit(tmp_path, model=model, validation=None, on_epoch=look)
    assert epochs == [True] * 3


def test_a_good_validation_warns_of_nothing():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(epochs=1)


def test_patience_stops_early():
    _, result = fit(epochs=40, learning_rate=0.05, patience=2)
    scores = validations(result)
    assert len(scores) < 40
    assert len(scores) == result.best_epoch + 2
    assert max(scores[-2:]) <= result.best_score


def test_validation_comes_when_it_is_due_and_at_the_end():
    _, result = fit(epochs=5, validate_every=2)
    assert [row["epoch"] for row in result.history if "validation_ndcg@10" in row] == [2, 4, 5]
    assert result.best_epoch in (2, 4, 5)


def test_more_validation_seeds_are_an_average_over_the_same_draws(tmp_path):
    model, result = fit(tmp_path, epochs=1, validation_seeds=3)
    assert result.best_score == evaluate(model, SPLIT.validation, seeds=3).masked["ndcg@10"]


# The optimiser


def test_rates():
    constant = TrainingConfig(epochs=10, learning_rate=0.5)
    assert [constant.rate(done) for done in (0, 3.3, 10)] == [0.5] * 3
    cosine = replace(constant, decay="cosine")
    assert [cosine.rate(done) for done in (0, 2.5, 5, 10)] == pytest.approx(
        [0.5, 0.25 * (1 + math.cos(math.pi / 4)), 0.25, 0]
    )
    warm = replace(constant, warmup_epochs=2)
    assert [warm.rate(done) for done in (0, 0.5, 1, 2, 9)] == pytest.approx([0, 0.125, 0.25, 0.5, 0.5])
    both = replace(cosine, warmup_epochs=2)
    assert [both.rate(done) for done in (1, 5)] == pytest.approx([cosine.rate(1) / 2, 0.25])


def test_each_step_has_its_rate(monkeypatch):
    seen = []
    step = loop._Run._step

    def spy(run, *args):
        loss = step(run, *args)
        seen.append(run.optimizer.param_groups[0]["lr"])
        return loss

    monkeypatch.setattr(loop._Run, "_step", spy)
    _, result = fit(epochs=2, decay="cosine", warmup_epochs=1)
    config = replace(CONFIG, epochs=2, decay="cosine", warmup_epochs=1)
    steps = len(seen) // 2
    assert steps > 3
    assert seen == pytest.approx([config.rate(number / steps) for number in range(2 * steps)])
    assert [row["learning_rate"] for row in result.history] == [config.rate(1), config.rate(2)]


def test_each_step_of_each_epoch_draws_anew(monkeypatch):
    seeds = []
    forward = DiffRec.forward

    def spy(model, batch, generator):
        seeds.append(generator.initial_seed())
        return forward(model, batch, generator)

    monkeypatch.setattr(DiffRec, "forward", spy)
    for seed in (0, 1):
        fit(epochs=2, seed=seed)
    assert len(seeds) > 20
    assert len(set(seeds)) == len(seeds)


def test_clipping_bounds_every_gradient(monkeypatch):
    norms = []
    step = torch.optim.AdamW.step

    def spy(optimizer, *args, **kwargs):
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norms.append(float(torch.stack([gradient.norm() for gradient in gradients]).norm()))
        return step(optimizer, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    fit(epochs=1)
    free = norms.copy()
    norms.clear()
    bound = 0.5 * min(free)
    fit(epochs=1, clip_norm=bound)
    assert len(norms) == len(free)
    assert norms == pytest.approx([bound] * len(norms), rel=1e-3)


def test_weight_decay_shrinks_weights():
    size = [
        sum(float(p.detach().norm()) for p in fit(epochs=1, weight_decay=decay)[0].parameters()) for decay in (0, 5)
    ]
    assert size[1] < size[0]


def test_averaged_weights_follow_the_models_and_are_what_is_kept(monkeypatch):
    seen, steps = [], []
    follow = loop._Run._follow

    def spy(self, step):
        follow(self, step)
        seen.append([parameter.detach().clone() for parameter in self.model.parameters()])
        steps.append(step)

    monkeypatch.setattr(loop._Run, "_follow", spy)
    model = build()
    expected = [parameter.detach().clone() for parameter in model.parameters()]
    fit(model=model, average_decay=0.7, epochs=1)
    assert steps == list(range(len(steps)))
    for step, weights in enumerate(seen):
        decay = min(0.7, (1 + step) / (10 + step))
        expected = [decay * e + (1 - decay) * w for e, w in zip(expected, weights, strict=True)]
    for e, parameter in zip(expected, model.parameters(), strict=True):
        torch.testing.assert_close(parameter, e)


def test_bf16_stays_close_to_fp32():
    exact, rough = undisturbed(), undisturbed("bf16")
    assert exact[0] != rough[0]
    for name in ("reconstruction", "recommendation"):
        assert [row[name] for row in rough[1]] == pytest.approx([row[name] for row in exact[1]], rel=0.02)
    model, _ = fit(precision="bf16", epochs=1)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_training_learns():
    world = SyntheticWorld(40, num_groups=4)
    split = world.sample(600).sequences().leave_one_out()
    model = build(vocabulary=split.train.vocabulary, **BEST)
    untrained = evaluate(model, split.validation, seeds=1).masked["ndcg@10"]
    config = replace(CONFIG, epochs=6, learning_rate=2e-2, examples="all-positions", batch_targets=300)
    result = train(model, split.train, split.validation, config, device="cpu")
    for term in ("reconstruction", "recommendation"):
        losses = [row[term] for row in result.history]
        assert losses[-1] < losses[0]
    assert losses[-1] < math.log(len(model.vocabulary)) - 0.2, "no better than a guess"
    best = world.best_metrics(split.validation)["ndcg@10"]
    assert result.best_score > untrained + 0.5 * (best - untrained)


@pytest.mark.parametrize("kind", ["rate", "weights", "late"])
def test_a_diverging_run_says_so_and_leaves_the_best_loadable(kind, tmp_path):
    model = build()

    def poison(record):
        if kind == "late" and record["epoch"] == 2:
            with torch.no_grad():
                model.embedding.weight.fill_(math.nan)

    def go_on(record):
        assert record["epoch"] == 2, "went on"

    if kind == "weights":
        with torch.no_grad():
            next(model.denoiser.parameters()).fill_(math.nan)
    with pytest.raises(ValueError, match=r"diverged: the loss is (nan|inf) in epoch [13]. Lower the learning rate"):
        fit(tmp_path, model=model, learning_rate=1e30 if kind == "rate" else 1e-3, on_epoch=poison)
    if kind == "late":
        best = DiffRec.from_pretrained(tmp_path)
        assert len((tmp_path / LOG_FILE).read_text().splitlines()) == 2
        assert torch.isfinite(best.predict_proba([best.vocabulary.ids[:3]])).all()
        with pytest.raises(AssertionError, match="went on"):  # the state is of epoch 2, before the poison
            fit(tmp_path, learning_rate=1e-3, on_epoch=go_on)
    else:
        assert CONFIG_FILE not in files(tmp_path), "a model that never was any good"


def test_weights_that_break_in_the_last_step_are_never_the_best(tmp_path):
    model = build()
    model.timesteps.update = lambda *_: model.head.embedding.weight.data.fill_(math.nan)  # once the step is done
    with pytest.raises(ValueError, match=r"diverged: not all weights are finite .* in epoch 1"):
        fit(tmp_path, model=model, epochs=1, batch_targets=10_000)
    assert CONFIG_FILE not in files(tmp_path)


# What is written


def test_the_log_has_one_record_an_epoch(tmp_path):
    told = []
    _, result = fit(tmp_path, on_epoch=told.append)
    lines = (tmp_path / LOG_FILE).read_text().splitlines()
    assert [json.loads(line) for line in lines] == result.history == told
    assert [row["epoch"] for row in told] == [1, 2, 3]
    for row in told:
        assert {"reconstruction", "recommendation", "learning_rate", "targets_per_second"} < set(row)
        assert all(math.isfinite(value) for value in row.values())


def test_nothing_is_written_without_a_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fit(epochs=1)
    assert not files(tmp_path)


def test_progress_goes_to_standard_error(capsys):
    train(build(), SPLIT.train, SPLIT.validation, replace(CONFIG, epochs=1), device="cpu", progress=True)
    shown = capsys.readouterr()
    assert "epoch 1/1" in shown.err
    assert not shown.out


# Settings


@pytest.mark.parametrize(
    ("setting", "bad"),
    [
        ("epochs", 0), ("epochs", 1.5), ("epochs", True), ("examples", "some"), ("batch_targets", 0),
        ("learning_rate", 0), ("learning_rate", -1), ("learning_rate", math.nan), ("learning_rate", math.inf),
        ("learning_rate", "1e-3"), ("decay", "linear"), ("warmup_epochs", -0.1), ("weight_decay", -1),
        ("clip_norm", -1), ("clip_norm", math.inf), ("patience", -1), ("validate_every", 0), ("validation_seeds", 0),
        ("precision", "fp16"), ("seed", -1), ("seed", None), ("exclude_seen", 0), ("select_by", "hr"),
        ("select_by", "hr@0"), ("select_by", "mrr@10"), ("select_by", "ndcg@10.5"), ("select_by", "hr@-1"),
        ("select_by", 10),
    ],
)  # fmt: skip
def test_bad_settings_are_refused_by_name(setting, bad):
    with pytest.raises((ValueError, TypeError), match=setting):
        TrainingConfig(**{setting: bad})


def test_settings_go_through_json():
    config = TrainingConfig(epochs=np.int64(3), learning_rate=np.float32(0.25), decay="cosine", seed=np.uint8(7))
    assert TrainingConfig(**json.loads(json.dumps(config.config()))) == config
    assert set(config.config()) == set(TrainingConfig.names())


# What the environment asks of accelerate


HOSTILE = {
    "ACCELERATE_MIXED_PRECISION": "bf16",
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4",
    "ACCELERATE_DYNAMO_BACKEND": "EAGER",
    "ACCELERATE_TORCH_DEVICE": "meta",
}


@pytest.mark.parametrize(
    ("environment", "before"),
    [(HOSTILE, ""), ({}, "import accelerate; accelerate.Accelerator(mixed_precision='bf16', cpu=True)")],
    ids=["variables", "an earlier accelerator"],
)
def test_the_settings_alone_decide_how_it_trains(environment, before, tmp_path):
    script = (
        f"{before}\nimport test_training as t; t.train_in_company({str(tmp_path)!r}, 'causal, dropout, importance')"
    )
    command, here = [sys.executable, "-c", script], Path(__file__).parent
    subprocess.run(command, cwd=here, env={**os.environ, **environment}, check=True, timeout=120)
    assert (tmp_path / "end-0.json").read_text() == as_json(undisturbed())


def test_an_accelerator_may_come_after_a_training():
    script = (
        "import test_training; test_training.fit(epochs=1)\n"
        "import accelerate; assert accelerate.Accelerator(mixed_precision='bf16').mixed_precision == 'bf16'"
    )
    subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parent, check=True, timeout=120)


# Several processes


def train_in_company(folder, kind):
    """One of several processes: train, and write down how it ended."""
    torch.set_num_threads(1)
    from accelerate import PartialState

    text = as_json(end(*fit(Path(folder) / "run", **KINDS[kind])))
    (Path(folder) / f"end-{PartialState().process_index}.json").write_text(text)


def as_json(ended):
    """How a run ended, as text."""
    tensors, *rest = ended
    return json.dumps([{name: data.hex() for name, data in tensors.items()}, *rest])


def launched(folder, kind):
    """How each of two processes ended."""
    script = folder / "script.py"
    here = str(Path(__file__).parent)
    script.write_text(
        f"import sys; sys.path.insert(0, {here!r})\n"
        f"import test_training; test_training.train_in_company({str(folder)!r}, {kind!r})\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "FutureWarning" not in done.stderr
    return [json.loads(path.read_text()) for path in sorted(folder.glob("end-*.json"))]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_several_processes_end_alike(kind, tmp_path):
    ends = launched(tmp_path, kind)
    assert len(ends) == 2
    assert ends[0] == ends[1], "weights, timestep samplers, losses, best epoch"
    tensors, history, *_ = ends[0]
    alone = undisturbed(kind)
    assert alone[0].keys() == tensors.keys()
    assert history[0]["recommendation"] == pytest.approx(alone[1][0]["recommendation"], rel=0.3), "half the steps"
    saved = DiffRec.from_pretrained(tmp_path / "run").state_dict()
    assert all(tensor.numpy().tobytes().hex() == tensors[name] for name, tensor in saved.items())
    assert launched(tmp_path, kind) == ends, "a finished run, started again"


def test_ids_that_cannot_be_saved_are_told_of_before_training(tmp_path):
    split = Interactions.from_arrays(
        [u for u in range(9) for _ in range(5)], [(i,) for _ in range(9) for i in range(5)]
    )
    split = split.sequences().leave_one_out()
    model = DiffRec(split.train.vocabulary, dim=8, max_length=4)
    with pytest.raises(TypeError, match="id"):
        train(model, split.train, split.validation, replace(CONFIG, epochs=1), directory=tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_a_model_that_no_run_has_made_is_not_overwritten(tmp_path):
    model = build()
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"holds a config\.json that no run here has written"):
        fit(tmp_path, model=model)


def test_a_part_without_a_name_trains_where_nothing_is_saved():
    class Unnamed(SqrtSchedule):
        pass

    result = train(build(schedule=Unnamed(20)), SPLIT.train, SPLIT.validation, replace(CONFIG, epochs=1), device="cpu")
    assert result.best_epoch == 1
