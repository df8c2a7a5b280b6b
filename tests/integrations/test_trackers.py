"""W&B, offline, and MLflow, in a file, get the epochs of a run. Run by `make test-integrations`."""

from __future__ import annotations

import pytest

from diffusers_rec import SyntheticWorld
from diffusers_rec.presets import best
from diffusers_rec.training import TrainingConfig, train

pytestmark = pytest.mark.slow
SPLIT = SyntheticWorld(20, num_groups=2).sample(40, max_length=10).sequences().leave_one_out()


def tracked(name):
    model = best(SPLIT.train.vocabulary, dim=16, max_length=8)
    config = TrainingConfig(epochs=3)
    return train(model, SPLIT.train, SPLIT.validation, config, device="cpu", trackers=[name]).history


def test_mlflow_gets_settings_and_epochs(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="MLflow is not installed; make test-integrations installs it")
    monkeypatch.chdir(tmp_path)
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    history = tracked("mlflow")
    client = mlflow.MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("diffusers_rec").experiment_id])
    assert run.info.status == "FINISHED"
    assert run.data.params["model.schedule.num_timesteps"] == "1000"
    for name in history[0].keys() - {"epoch"}:
        points = client.get_metric_history(run.info.run_id, name.replace("@", "_at_"))
        assert [(point.step, point.value) for point in points] == [(row["epoch"], row[name]) for row in history]


def test_wandb_gets_settings_and_epochs(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="W&B is not installed; make test-integrations installs it")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    history = tracked("wandb")
    (file,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    written = file.read_bytes()
    assert b"model.schedule.num_timesteps" in written
    for row in history:
        for name in row.keys() - {"epoch"}:
            assert name.replace("@", "_at_").encode() in written
            assert repr(row[name]).encode() in written
