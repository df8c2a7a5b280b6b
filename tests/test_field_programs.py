"""The programs that compare the field's models: their limit, their lists, and a quick run on small data."""

from __future__ import annotations

import csv
import inspect
import itertools
from types import SimpleNamespace

import pytest
import torch

from benchmarks.field import accuracy, configurations, noise_audit, settings
from benchmarks.field.stages import FixedVectors
from benchmarks.harness import RESULTS, Results, read_csv
from benchmarks.paper import running, systems, table2
from benchmarks.paper.settings import best_with
from diffusers_rec import SyntheticWorld, TrainingBatches
from diffusers_rec.presets import PRESETS, control
from diffusers_rec.training import Callback, TrainingConfig, train

WORLD = SyntheticWorld(30, seed=0)


def clock_of(step: float) -> SimpleNamespace:
    """A clock that advances by ``step`` seconds whenever it is read."""
    read = itertools.count(step=step).__next__
    return SimpleNamespace(perf_counter=read, thread_time=read)


def test_a_training_ends_at_the_limit_within_an_epoch(monkeypatch):
    sequences = WORLD.sample(20, min_length=4, max_length=8).sequences()
    targets = TrainingBatches(sequences).num_targets
    batches = TrainingBatches(sequences, batch_targets=20).num_batches(0)
    monkeypatch.setattr(settings, "time", clock_of(60 / (batches + 2)))  # read once a batch, and once an epoch
    model = PRESETS["dreamrec"](sequences.vocabulary, dim=8)
    config = TrainingConfig(epochs=9, batch_targets=20)
    history = train(model, sequences, None, config, device="cpu", callbacks=[settings.TimeLimit(1)]).history
    assert [record["targets"] for record in history] == [targets, 40]
    assert running.epochs_of(history, targets) == pytest.approx(1 + 40 / targets, abs=0.005)
    assert running.epochs_of(history[:1], targets) == 1
    assert running.epochs_of(history[1:] * 3, targets) == pytest.approx(3 * 40 / targets, rel=1e-3), "no whole one"


def test_time_of_validation_and_of_other_programs_does_not_count(monkeypatch):
    sequences = WORLD.sample(20, min_length=4, max_length=8).sequences()
    monkeypatch.setattr(settings, "time", clock_of(0))  # the processor is never used
    monkeypatch.setattr("diffusers_rec.training.loop.time", clock_of(1000))
    model = PRESETS["dreamrec"](sequences.vocabulary, dim=8)
    limit = settings.TimeLimit(minutes=1)
    assert len(train(model, sequences, None, TrainingConfig(epochs=9), device="cpu", callbacks=[limit]).history) == 9


def test_a_resumed_training_has_the_same_limit(tmp_path, monkeypatch):
    sequences = WORLD.sample(20, min_length=4, max_length=8).sequences()
    for module in ("benchmarks.field.settings", "diffusers_rec.training.loop"):
        monkeypatch.setattr(f"{module}.time", clock_of(25))

    def epochs(minutes):
        model = PRESETS["dreamrec"](sequences.vocabulary, dim=8)
        limit, config = settings.TimeLimit(minutes), TrainingConfig(epochs=9)
        return len(train(model, sequences, None, config, directory=tmp_path, device="cpu", callbacks=[limit]).history)

    assert [epochs(1) for _ in range(4)] == [3, 3, 3, 3], "an epoch of one batch takes 25 seconds"
    assert [epochs(2), epochs(2)] == [5, 5], "a longer limit goes on"


def test_a_preset_has_the_settings_of_its_paper_for_the_data_set():
    def built(name, dataset):
        trial = settings.PresetTrial.of(name, dataset)
        return trial.build(range(8), 0), trial.training.learning_rate

    sasrec, _ = built("sasrec", "ml-1m")
    assert (sasrec.history_length, sasrec.denoiser.encoder.dropout) == (200, 0.2)
    bert4rec, _ = built("bert4rec", "ml-1m")
    assert (bert4rec.max_length, bert4rec.noising.share) == (200, 0.2)
    wang2023, rate = built("wang2023", "ml-1m")
    assert (wang2023.num_timesteps, rate) == (40, 1e-3)
    prefergrow, rate = built("prefergrow", "toys")
    assert (prefergrow.denoiser.drop, rate) == (0.2, 1e-3)
    assert built("prefergrow", "beauty")[0].denoiser.drop == 0.1
    assert [built("cddrec", name)[0].schedule.num_timesteps for name in ("beauty", "toys", "ml-1m")] == [30, 25, 30]
    assert [built("preferdiff", name)[0].denoiser.scale for name in ("beauty", "toys", "ml-1m")] == [9, 7, 3]
    assert {name for name, _ in settings.TRAINING_OF_DATASET} <= {*settings.FIELD}
    assert {dataset for _, dataset in settings.TRAINING_OF_DATASET} <= settings.MINUTES.keys()
    warm, targets = (settings.PresetTrial.of("prefergrow", "ml-1m").training, 982_089)
    assert warm.warmup_epochs * targets / warm.batch_targets == pytest.approx(2500, rel=0.01)
    for name, dataset in itertools.product(settings.FIELD, settings.MINUTES):
        if "settings" in inspect.signature(PRESETS[name]).parameters and (name, dataset) not in settings.OF_DATASET:
            with pytest.raises(ValueError, match="settings must be"):
                PRESETS[name](range(8), settings=dataset)


def test_rows_of_several_limits_are_compared_and_drawn_by_limit(tmp_path):
    def row(model, minutes, score):
        return {"dataset": "toys", "model": model, "history": "masked", "minutes": minutes, "ndcg@10": score}

    rows = [
        row("dreamrec", 5, 0.2),
        row("dreamrec-control", 5, 0.1),
        row("dreamrec", 60, 0.9),
        row("item-to-item", "", 0.4),
    ]
    assert settings.longest(rows) == rows[1:]
    results = Results("accuracy", SimpleNamespace(out=tmp_path, quick=True, seed=0), place=accuracy.place)
    results.rows.extend(rows)
    accuracy.marks(results)
    found = {ratio["name"]: ratio["value"] for ratio in results.ratios}
    assert found["toys_dreamrec_5_minutes_over_control_ndcg@10"] == pytest.approx(2)
    assert "toys_dreamrec_60_minutes_over_control_ndcg@10" not in found
    assert found["toys_dreamrec_60_minutes_over_item-to-item_ndcg@10"] == pytest.approx(0.9 / 0.4)


def test_adrec_starts_from_the_vectors_of_its_control_and_trains_them_later(tmp_path):
    sequences = WORLD.sample(20, min_length=4, max_length=8).sequences()
    config, starts, vectors = TrainingConfig(epochs=9), [], []

    class Watch(Callback):
        def on_start(self, run):
            starts.append(run.model.embedding.weight.detach().clone())

        def on_epoch(self, run, record):
            vectors.append(run.model.embedding.weight.detach().clone())

    class StopAfter(Callback):
        def __init__(self, epochs):
            self.epochs = epochs

        def on_epoch(self, run, record):
            if run.epoch == self.epochs:
                run.stop()

    first = PRESETS["adrec"](sequences.vocabulary, dim=8, seed=1).embedding
    for epochs in (1, 3, 4):  # stopped, and resumed twice
        callbacks = [FixedVectors(first, epochs=2), Watch(), StopAfter(epochs)]
        model = PRESETS["adrec"](sequences.vocabulary, dim=8)
        train(model, sequences, None, config, directory=tmp_path, device="cpu", callbacks=callbacks)
    assert [torch.equal(found, first.weight) for found in vectors] == [True, True, False, False]
    assert torch.equal(starts[2], vectors[2]), "trained vectors stay when a run is resumed"


def test_a_run_without_the_vectors_is_not_continued_with_them(tmp_path):
    sequences = WORLD.sample(20, min_length=4, max_length=8).sequences()

    def trained(epochs, *callbacks):
        model = PRESETS["adrec"](sequences.vocabulary, dim=8)
        config = TrainingConfig(epochs=epochs)
        return train(model, sequences, None, config, directory=tmp_path, device="cpu", callbacks=callbacks)

    class Stop(Callback):
        def on_epoch(self, run, record):
            run.stop()

    trained(9, Stop())
    first = PRESETS["adrec"](sequences.vocabulary, dim=8, seed=1).embedding
    with pytest.raises(ValueError, match="started with other item vectors"):
        trained(9, FixedVectors(first, epochs=2))


def test_the_control_of_a_model_in_stages_is_trained_first(folders, tmp_path, monkeypatch, capsys):
    options = ["--datasets", "toys", "--models", "adrec", "--budget", "1", "--minutes", "1", *folders]
    accuracy.main(options)
    assert [path.name for path in sorted((tmp_path / "runs/1-minutes/toys").iterdir())] == [
        "adrec-0-1",
        "adrec-control-0-1",
    ]
    accuracy.main(options)
    assert "finished" in capsys.readouterr().out
    monkeypatch.setattr(settings, "FIXED_EPOCHS", {})
    with pytest.raises(ValueError, match="reports a training with other settings"):
        accuracy.main(options)


@pytest.mark.parametrize("name", settings.IN_FP32)
def test_models_whose_code_is_in_fp32_are_trained_in_it(name):
    assert {trial.training.precision for each, trial in settings.trials("toys").items() if each.startswith(name)} == {
        "fp32"
    }


@pytest.mark.parametrize("name", settings.FIELD)
def test_models_without_a_control_are_those_that_it_refuses(name):
    trial = settings.trials("beauty")[name]
    model = trial.build(range(8), 0)
    if name in settings.WITHOUT_CONTROL:
        with pytest.raises((TypeError, ValueError)):
            control(model)
    else:
        assert settings.trials("beauty")[f"{name}-control"].build(range(8), 0).config() == control(model).config()


def test_every_published_model_has_a_row_of_its_configuration(tmp_path):
    configurations.main(["--quick", "--out", str(tmp_path)])
    rows, committed = (
        {row["preset"]: row for row in read_csv(file)}
        for file in (tmp_path / "configurations-quick.csv", RESULTS / "configurations.csv")
    )
    stated = ("steps", "process", "schedule", "denoiser", "latent_scale", "objective", "serving_steps")
    for name, row in rows.items():
        assert {key: committed[name][key] for key in stated} == {key: row[key] for key in stated}, "run the program"
    assert list(rows) == list(committed) == ["paper", *settings.FIELD, "d3rec"]
    assert rows["dreamrec"]["guide"] == "classifier-free"
    assert float(rows["wang2023"]["noise"]) == pytest.approx(1.05e-5, rel=0.01)
    assert (rows["diffurec"]["latent_scale"], rows["ediffurec"]["latent_scale"]) == ("0.001", "0.003")


def test_printed_rows_are_of_models_and_data_sets_that_are_compared():
    with settings.PUBLISHED.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["model"] for row in rows} <= set(settings.FIELD)
    assert {row["dataset"] for row in rows} <= set(settings.MINUTES)
    assert {row["history"] for row in rows} <= {"masked", "unmasked", "not said"}
    assert {row["split"] for row in rows} <= {"ours", "another"}
    for row in rows:
        scores = [float(row[metric]) for metric in accuracy.METRICS if row[metric]]
        assert scores
        assert all(0 < score < 1 for score in scores)
        assert row["source"]


@pytest.fixture
def folders(tmp_path):
    """Options of the folders of a program, with a small log in place of Toys; its item ids are no indices."""
    rows = WORLD.sample(40, min_length=5, max_length=9).sequences()
    lines = (" ".join(map(str, [user, *(1000 + item for item in rows[user])])) for user in range(len(rows)))
    (tmp_path / "toys.txt").write_text("\n".join(lines))
    return ["--data-dir", str(tmp_path), "--runs", str(tmp_path / "runs"), "--out", str(tmp_path)]


@pytest.mark.parametrize("name", [name for name in systems.PRINTED if name not in systems.WITHOUT_COMMON])
def test_a_system_keeps_its_encoder_and_its_further_losses_in_the_common_recipe(name):
    own, common = (systems.trials("toys")[each].build(range(9), 0) for each in (name, f"{name}{systems.COMMON}"))
    shared = best_with("toys").training.config()
    assert systems.trials("toys")[f"{name}{systems.COMMON}"].training.config() == {**shared, "precision": "auto"}
    terms = common.config()["objective"]["terms"]
    assert terms[0]["name"] == "cross-entropy"
    kept = [term for term in own.config()["objective"]["terms"] if term["name"] not in systems.RANKING]
    assert terms[1:] == kept
    if name not in systems.ENCODERS:
        assert type(common.denoiser.encoder) is type(own.denoiser.encoder)
    assert common.embedding.dim == 64


def test_systems_have_rows_beside_their_printed_ones_and_keep_earlier_rows(folders, tmp_path):
    common = ["--systems", "--datasets", "toys", "--budget", "1", "--minutes", "1", *folders]
    table2.main([*common, "--models", "gru4rec"])
    table2.main([*common, "--models", "gru4rec-common"])
    with (tmp_path / "systems-quick.csv").open(newline="") as file:
        found = [row for row in csv.DictReader(file) if row["model"].lower().startswith("gru4rec")]
    assert [(row["model"], row["history"]) for row in found] == [
        ("GRU4Rec", "not said"), ("gru4rec", "masked"), ("gru4rec", "unmasked"),
        ("gru4rec-common", "masked"), ("gru4rec-common", "unmasked"),
    ]  # fmt: skip
    assert (tmp_path / "systems-quick.png").is_file()


@pytest.mark.slow
def test_the_programs_train_once_and_write_their_tables(folders, tmp_path, capsys):
    common = ["--datasets", "toys", "--models", "diffurec", "--budget", "1", "--minutes", "1"]
    accuracy.main([*common, *folders])
    with (tmp_path / "accuracy-quick.csv").open(newline="") as file:
        found = [row for row in csv.DictReader(file) if row["model"] == "diffurec"]
    assert [(row["history"], bool(row["source"])) for row in found] == [
        ("unmasked", True), ("masked", False), ("unmasked", False),
    ]  # fmt: skip
    noise_audit.main([*common, *folders, "--users", "10", "--repeats", "1"])
    with (tmp_path / "noise_audit-quick.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert float(row["test_ndcg@10"]) == float(found[1]["ndcg@10"])
    assert float(row["serving_over_one_step_of_best"]) > 0
    assert "== finished" in capsys.readouterr().out  # the audit trains nothing
    with pytest.raises(ValueError, match="No training of these models with this limit and seed is finished"):
        noise_audit.main([*common[:-1], "2", *folders])
    assert (tmp_path / "noise_audit-quick.png").is_file()
