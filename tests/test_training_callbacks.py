"""Callbacks are called in their order, see the run, and can stop it."""

from __future__ import annotations

import json

import pytest
import torch
from training_runs import CONFIG, build, end, fit, uninterrupted

from diffusers_rec import DiffRec
from diffusers_rec.training import Callback, TrainingRun, run_store
from diffusers_rec.training.learner import Learner
from diffusers_rec.training.state import save_state
from diffusers_rec.training.validation import Validation


class Log(Callback):
    """What was called, with the state of the run at the time."""

    def __init__(self):
        self.calls = []

    def on_start(self, run):
        self.calls.append(("start", run.epoch, len(run.history)))

    def on_batch(self, run, losses):
        self.calls.append(("batch", run.epoch, run.batch))

    def on_epoch(self, run, record):
        self.calls.append(("epoch", run.epoch, run.history[-1] is record))

    def on_end(self, run):
        self.calls.append(("end", run.epoch, run.model.training))


def test_callbacks_are_called_in_their_order():
    log = Log()
    fit(epochs=2, callbacks=[log])
    batches = (len(log.calls) - 4) // 2
    assert batches > 3
    epochs = [
        [*(("batch", epoch, number + 1) for number in range(batches)), ("epoch", epoch + 1, True)] for epoch in (0, 1)
    ]
    assert log.calls == [("start", 0, 0), *epochs[0], *epochs[1], ("end", 2, False)]


def test_callbacks_that_only_look_change_nothing():
    assert end(*fit(callbacks=[Log(), Callback()])) == uninterrupted()


def test_any_object_with_one_of_the_methods_is_a_callback():
    class Losses:
        def __init__(self):
            self.seen = []

        def on_batch(self, run, losses):
            self.seen.append(losses)

    observer = Losses()
    _, result = fit(epochs=1, callbacks=iter([observer]))
    assert {"reconstruction", "recommendation"} == set(observer.seen[0])
    losses = [each["recommendation"] for each in observer.seen]
    assert min(losses) <= result.history[0]["recommendation"] <= max(losses)


def test_a_callback_sees_model_average_optimizer_and_settings():
    class Look(Callback):
        def on_start(self, run):
            self.run = run

    look = Look()
    model, _ = fit(epochs=1, average_decay=0.9, callbacks=[look])
    run = look.run
    assert isinstance(run, TrainingRun)
    assert run.model is model
    assert type(run.average) is type(model)
    assert isinstance(run.optimizer, torch.optim.AdamW)
    assert run.config.average_decay == 0.9
    assert run.is_main


class StopAfter(Callback):
    def __init__(self, epoch):
        self.epoch = epoch

    def on_batch(self, run, losses):
        if run.epoch + 1 >= self.epoch:
            run.stop()


def test_a_stopped_run_ends_with_the_epoch_that_it_is_in():
    _, result = fit(callbacks=[StopAfter(2)])
    assert [row["epoch"] for row in result.history] == [1, 2]
    assert result.history[1]["recommendation"] == uninterrupted()[1][1]["recommendation"]


def test_a_stopped_run_resumes_and_ends_as_one_that_was_not(tmp_path):
    _, first = fit(tmp_path, callbacks=[StopAfter(1)])
    assert len(first.history) == 1
    log = Log()
    assert end(*fit(tmp_path, callbacks=[log])) == uninterrupted()
    assert log.calls[0] == ("start", 1, 1)


class StopAtOnce(Callback):
    """Ends the run after a batch, from 1, of an epoch, from 0."""

    def __init__(self, epoch, batch):
        self.place = epoch, batch

    def on_batch(self, run, losses):
        if (run.epoch, run.batch) >= self.place:
            run.stop(at_once=True)


@pytest.mark.parametrize("saved", [True, False])
def test_a_run_stopped_at_once_leaves_out_the_rest_of_its_epoch(saved, tmp_path):
    log = Log()
    arguments = {"validate_every": 20, "batch_targets": 96}
    _, result = fit(tmp_path if saved else None, callbacks=[log, StopAtOnce(1, 2)], **arguments)
    assert log.calls[-4:] == [("batch", 1, 1), ("batch", 1, 2), ("epoch", 2, True), ("end", 2, False)]
    first, second = result.history
    assert first["targets"] > 2 * arguments["batch_targets"] >= second["targets"]
    assert result.best_epoch == 2, "the shortened epoch is validated"
    assert result.best_score == second["validation_ndcg@10"]


def test_a_run_stopped_at_once_goes_on_with_the_next_epoch(tmp_path):
    fit(tmp_path, callbacks=[StopAtOnce(0, 2)])
    log = Log()
    _, result = fit(tmp_path, callbacks=[log])
    assert log.calls[:2] == [("start", 1, 1), ("batch", 1, 1)]
    assert [row["epoch"] for row in result.history] == [1, 2, 3]


def test_a_shortened_epoch_does_not_exhaust_patience(tmp_path):
    arguments = {"epochs": 6, "patience": 1, "metric": lambda *_: 0.5}
    for epochs in (1, 2, 3):
        _, result = fit(tmp_path, callbacks=[StopAtOnce(epochs - 1, 1)], **arguments)
        assert len(result.history) == epochs
    _, result = fit(tmp_path, **arguments)
    assert len(result.history) == 4, "the first whole epoch that is not better ends the run"


def test_the_learning_rate_of_a_shortened_epoch_is_that_of_its_end():
    rates = []

    class Rates(Callback):
        def on_batch(self, run, losses):
            rates.append(run.optimizer.param_groups[0]["lr"])

    _, result = fit(epochs=1, decay="cosine", callbacks=[Rates(), StopAtOnce(0, 2)])
    assert rates[0] > rates[1] > result.history[0]["learning_rate"] > 0.5 * rates[1]


def test_the_warm_up_of_the_average_counts_the_steps_that_were_taken(tmp_path, monkeypatch):
    numbers = []
    kept = Learner._update_average
    monkeypatch.setattr(Learner, "_update_average", lambda self, step: numbers.append(step) or kept(self, step))
    fit(tmp_path, epochs=2, average_decay=0.9, callbacks=[StopAtOnce(0, 2)])
    _, result = fit(tmp_path, epochs=2, average_decay=0.9)
    assert numbers == list(range(len(numbers)))
    assert len(result.history) == 2


class StopIn(Callback):
    """Stops in a method, once an epoch is reached."""

    def __init__(self, hook, epoch):
        setattr(self, hook, lambda run, *_: run.stop() if run.epoch >= epoch else None)


def test_a_stop_at_once_at_the_start_trains_one_batch():
    class Stop(Callback):
        def on_start(self, run):
            run.stop(at_once=True)

    _, result = fit(callbacks=[Stop()])
    assert [row["targets"] for row in result.history] == [96]


@pytest.mark.parametrize(("hook", "epoch"), [("on_start", 0), ("on_batch", 0), ("on_epoch", 1)])
@pytest.mark.parametrize("saved", [True, False])
def test_the_epoch_of_a_stop_is_validated_once_and_kept(hook, epoch, saved, tmp_path):
    directory = tmp_path if saved else None
    untrained = build()
    model, result = fit(directory, epochs=30, validate_every=20, callbacks=[StopIn(hook, epoch)])
    assert result.best_epoch == len(result.history) == 1
    assert result.best_score == result.history[0]["validation_ndcg@10"] == uninterrupted()[1][0]["validation_ndcg@10"]
    assert not torch.equal(model.embedding.weight, untrained.embedding.weight)
    if saved:
        assert json.loads((tmp_path / "log.jsonl").read_text()) == result.history[0]
        assert torch.equal(DiffRec.from_pretrained(tmp_path).embedding.weight, model.embedding.weight)


def test_a_stop_validates_no_epoch_twice(monkeypatch):
    calls = []
    kept = Validation.__call__
    monkeypatch.setattr(Validation, "__call__", lambda *args, **rest: calls.append(1) or kept(*args, **rest))
    _, result = fit(epochs=30, validate_every=2, callbacks=[StopIn("on_epoch", 2)])
    assert (len(result.history), len(calls)) == (2, 1)


def test_a_stop_at_the_start_trains_no_further_epoch(tmp_path):
    fit(tmp_path, epochs=30, validate_every=20, callbacks=[StopIn("on_epoch", 2)])
    for _ in range(3):
        log = Log()
        _, again = fit(tmp_path, epochs=30, validate_every=20, callbacks=[StopIn("on_start", 0), log])
        assert (again.best_epoch, len(again.history)) == (2, 2)
        assert log.calls == [("start", 2, 2), ("end", 2, False)]
    _, last = fit(tmp_path, epochs=30, validate_every=20, callbacks=[StopIn("on_epoch", 3)])
    assert len(last.history) == 3


def test_a_stop_at_the_start_validates_the_epoch_that_was_saved(tmp_path):
    class Fail(Callback):
        def on_epoch(self, run, record):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, epochs=30, validate_every=20, callbacks=[Fail()])
    _, result = fit(tmp_path, epochs=30, validate_every=20, callbacks=[StopIn("on_start", 0)])
    assert (result.best_epoch, len(result.history)) == (1, 1)
    assert result.best_score == uninterrupted()[1][0]["validation_ndcg@10"]


def test_a_run_killed_while_its_stop_is_saved_resumes(tmp_path, monkeypatch):
    calls = []

    def killed(*args):
        calls.append(1)
        if len(calls) == 3:  # at the start, after the epoch, after its validation
            raise KeyboardInterrupt
        save_state(*args)

    monkeypatch.setattr(run_store, "save_state", killed)
    arguments = {"epochs": 30, "validate_every": 20}
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, **arguments, callbacks=[StopIn("on_epoch", 1)])
    _, result = fit(tmp_path, **arguments, callbacks=[StopIn("on_epoch", 2)])
    assert result.best_epoch in (1, 2)
    assert len(result.history) == 2


def test_a_callback_may_change_the_weights():
    class Freeze(Callback):
        def on_start(self, run):
            self.weight = run.model.embedding.weight.clone()

        def on_batch(self, run, losses):
            with torch.no_grad():
                run.model.embedding.weight.copy_(self.weight)

    freeze = Freeze()
    model, _ = fit(epochs=1, callbacks=[freeze])
    assert torch.equal(model.embedding.weight, freeze.weight)


def test_a_finished_run_calls_the_start_and_the_end_alone(tmp_path):
    fit(tmp_path, epochs=1)
    log = Log()
    fit(tmp_path, epochs=1, callbacks=[log])
    assert log.calls == [("start", 1, 1), ("end", 1, False)]


def test_on_epoch_is_called_with_each_record():
    records = []
    _, result = fit(on_epoch=records.append, callbacks=[Log()])
    assert records == result.history
    assert len(records) == CONFIG.epochs


@pytest.mark.parametrize(
    ("callbacks", "message"),
    [
        ([print], "must have one of the methods on_start, on_batch, on_epoch, on_end; .* has none.*on_epoch="),
        ([Log], r"must hold objects, got the class Log\. Write Log\(\.\.\.\)"),
        (3, "train: callbacks must be Iterable, got int|callbacks must be a list, got int"),
    ],
)
def test_what_is_no_callback_is_refused(callbacks, message, tmp_path):
    with pytest.raises(TypeError, match=message):
        fit(tmp_path / "run", callbacks=callbacks)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["on_epochs", "on_epoch_end", "on_train_start"])
def test_a_method_that_no_training_calls_is_refused(name):
    message = rf"Stop\.{name} is never called\. Expected on_start, on_batch, on_epoch or on_end, or a name without on_"
    with pytest.raises(TypeError, match=message):
        type("Stop", (Callback,), {name: lambda self, run: None})
