"""A trial is data: it goes to JSON and back, and variations change the named settings alone."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from benchmarks.paper import recipes
from benchmarks.paper.settings import DATASETS, base, with_fixed_snr
from benchmarks.paper.trial import SUPPLIED, Trial, control_of, converted, with_epochs, with_parts, with_training
from diffusers_rec import Vocabulary
from diffusers_rec.presets import control
from diffusers_rec.training import TrainingConfig

ITEMS = Vocabulary(range(30))


def config_of(trial, seed=0):
    """Config of the built model."""
    return trial.build(ITEMS, seed).config()


def changed(before, after):
    """The keys whose values differ."""
    return {key for key in before if before[key] != after[key]}


@pytest.mark.parametrize("dataset", DATASETS)
def test_a_trial_goes_to_json_and_back(dataset):
    for trial in (base("best", dataset), control_of(with_fixed_snr(dataset))):
        saved = json.loads(json.dumps(asdict(trial)))
        loaded = Trial(**{**saved, "training": TrainingConfig(**saved["training"])})
        assert loaded == trial
        assert config_of(loaded, seed=4) == config_of(trial, seed=4)


def test_a_trials_model_holds_nothing_that_building_supplies():
    def keys(config):
        for key, value in config.items():
            yield key
            yield from keys(value) if isinstance(value, dict) else ()

    for trial in recipes.of_paper("beauty").values():
        assert not set(keys(trial.model)) & set(SUPPLIED)


def test_a_mapping_without_a_name_changes_settings_of_the_present_part():
    trial = base("best", "beauty")
    before = json.dumps(asdict(trial))
    varied = with_parts(trial, "new", schedule={"num_timesteps": 50}, timesteps={"num_timesteps": 50})
    assert varied.name == "best-new"
    assert varied.model["schedule"] == {**trial.model["schedule"], "num_timesteps": 50}
    assert changed(trial.model, varied.model) == {"schedule", "timesteps"}
    assert (varied.dataset, varied.training, varied.published) == (trial.dataset, trial.training, trial.published)
    assert json.dumps(asdict(trial)) == before, "the trial itself has changed"


@pytest.mark.parametrize("part", ["last-k", {"name": "last-k", "k": 3}])
def test_a_name_or_a_config_with_one_replaces_the_part(part):
    trial = with_parts(base("paper", "toys"), "noised", noising=part)
    assert trial.model["noising"] == ({"name": part} if isinstance(part, str) else part)
    assert config_of(trial)["noising"]["name"] == "last-k"


def test_a_converted_part_keeps_the_settings_that_both_have():
    trial = with_parts(base("best", "ml-1m"), "four-heads", denoiser={"encoder": {"num_heads": 4}})
    found = converted(trial, "denoiser", "transformer")
    config = config_of(with_parts(trial, "transformer", denoiser=found), seed=4)["denoiser"]
    shared = {"dim": 128, "max_length": 200, "num_layers": 2, "num_heads": 4, "dropout": 0.2}
    assert found == {"name": "transformer", **shared}
    assert config.items() >= {**found, "seed": 13}.items()


def test_other_training_settings_leave_the_model():
    trial = base("best", "toys")
    other = with_training(trial, "slow", learning_rate=1e-4)
    assert (other.name, other.model) == ("best-slow", trial.model)
    assert changed(trial.training.config(), other.training.config()) == {"learning_rate"}
    assert with_epochs(trial, 0) == trial
    assert with_epochs(trial, 3) == with_training(trial, "", epochs=3)


@pytest.mark.parametrize("preset", ["best", "paper"])
def test_the_control_of_a_trial_builds_the_control_of_its_model(preset):
    trial = base(preset, "ml-1m")
    assert control_of(trial).name == f"{preset}-control"
    assert control_of(trial).training == trial.training
    assert config_of(control_of(trial), seed=4) == control(trial.build(ITEMS, 4)).config()
