"""Trackers get the settings of a run and each epoch once, TensorBoard's files for real."""

from __future__ import annotations

import pytest
from training_runs import end, fit, uninterrupted

from diffusers_rec.training import Callback, TrainingConfig

tracking = pytest.importorskip("accelerate.tracking", reason="accelerate is not installed")


class Notes(tracking.GeneralTracker):
    """Keeps what it is given."""

    name, requires_logging_directory, tracker = "notes", False, None

    def __init__(self, *project):
        super().__init__()
        self.project, self.settings, self.logged, self.finished = project, None, {}, 0

    def store_init_configuration(self, values):
        self.settings = values

    def log(self, values, step=None, **_):
        self.logged.setdefault(step, []).append(values)

    def finish(self):
        self.finished += 1


class StopIn(Callback):
    def __init__(self, epoch):
        self.epoch = epoch

    def on_epoch(self, run, record):
        if run.epoch == self.epoch:
            run.stop()


def expected(record):
    return {name.replace("@", "_at_"): value for name, value in record.items() if name != "epoch"}


def test_a_tracker_gets_the_settings_and_each_epoch_once():
    notes = Notes()
    _, result = fit(trackers=[notes])
    assert notes.logged == {record["epoch"]: [expected(record)] for record in result.history}
    assert "validation_ndcg_at_10" in notes.logged[1][0]
    assert notes.settings["model.schedule.name"] == "sqrt"
    assert notes.settings["model.schedule.num_timesteps"] == 5
    assert notes.settings["training.learning_rate"] == 3e-3
    assert {name for name in notes.settings if name.startswith("training.")} == {
        f"training.{name}" for name in TrainingConfig.names()
    }
    assert all(isinstance(value, bool | int | float | str) for value in notes.settings.values())
    assert notes.finished == 1


def test_a_tracker_changes_nothing():
    assert end(*fit(trackers=[Notes()])) == uninterrupted()


def test_a_validation_after_the_stop_is_tracked():
    notes = Notes()
    _, result = fit(trackers=[notes], callbacks=[StopIn(2)], epochs=30, validate_every=20)
    first, second = notes.logged[2]
    assert not any("validation" in name for name in first)
    assert first | second == expected(result.history[-1])
    assert not first.keys() & second.keys()


def test_a_resumed_run_tracks_what_was_missing(tmp_path):
    before, after = Notes(), Notes()
    fit(tmp_path, trackers=[before], callbacks=[StopIn(1)])
    _, result = fit(tmp_path, trackers=[after])
    assert [*before.logged, *after.logged] == [record["epoch"] for record in result.history] == [1, 2, 3]


def test_a_run_that_fails_ends_its_trackers():
    class Failure(Callback):
        def on_batch(self, run, losses):
            raise RuntimeError("power cut")

    notes = Notes()
    with pytest.raises(RuntimeError, match="power cut"):
        fit(trackers=[notes], callbacks=[Failure()])
    assert notes.finished == 1


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_tracker_by_name_is_that_of_accelerate(name, monkeypatch):
    made = []
    kind = next(each for each in tracking.LOGGER_TYPE_TO_CLASS if str(each) == name)

    class Fake(Notes):
        def start(self):
            made.append(self)

    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, kind, Fake)
    monkeypatch.setattr(tracking, "_available_trackers", [kind])
    _, result = fit(trackers=[name])
    assert [notes.project for notes in made] == [("diffusers_rec",)]
    assert list(made[0].logged) == [record["epoch"] for record in result.history]


def test_tensorboard_shows_the_run(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    _, result = fit(tmp_path / "run", trackers=["tensorboard"])
    events = accumulator.EventAccumulator(str(tmp_path / "run" / "diffusers_rec")).Reload()
    first = expected(result.history[0])
    assert set(events.Tags()["scalars"]) == set(first)
    for name in first:
        points = [(event.step, event.value) for event in events.Scalars(name)]
        assert [step for step, _ in points] == [record["epoch"] for record in result.history]
        assert [value for _, value in points] == pytest.approx([expected(each)[name] for each in result.history])
    (settings,) = (tmp_path / "run" / "diffusers_rec").glob("*/hparams.yml")
    assert "model.schedule.num_timesteps: 5" in settings.read_text()
    assert fit(tmp_path / "run")[1].history == result.history, "the folder still holds the run"


@pytest.mark.parametrize(
    ("trackers", "error", "message"),
    [
        (["tensorbord"], ValueError, "names among .*tensorboard, .*got 'tensorbord'"),
        (["tensorboard"], ValueError, "writes files to the run's folder, but directory is None"),
        (["aim"], ImportError, "pip install aim"),
        ("tensorboard", TypeError, r"must be a list, got 'tensorboard'\. Write trackers=\['tensorboard'\]"),
        ([3], TypeError, "a name or a tracker of accelerate's, got int"),
    ],
)
def test_what_is_no_tracker_is_refused(trackers, error, message):
    with pytest.raises(error, match=message):
        fit(trackers=trackers)
