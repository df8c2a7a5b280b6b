"""The trials of tables and figures differ in one choice at a time, and are those of the recorded results."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path

import pytest

from benchmarks.harness import read_csv
from benchmarks.paper import figure2, figure3, figure4, figure5, recipes, table2
from benchmarks.paper.rows import published
from benchmarks.paper.running import NETWORK_ALONE
from benchmarks.paper.settings import (
    BEST_NETWORK,
    DATASETS,
    FIXED_SNR,
    base,
    from_last_item,
    on_another_network,
    one_target_per_user,
    short_windows,
    with_fixed_snr,
)
from benchmarks.paper.trial import PLACEHOLDER, portable, with_epochs
from diffusers_rec import DiffRec, Vocabulary
from diffusers_rec.presets import best, paper
from diffusers_rec.recommenders.migration import migrated
from diffusers_rec.training import TrainingConfig

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
VARIANTS = {"figure2": figure2, "figure3": figure3, "figure4": figure4, "figure5": figure5}
ITEMS = Vocabulary(range(30))


def config_of(trial, seed=0):
    """Config of the built model."""
    return trial.build(ITEMS, seed).config()


def changed(before, after):
    """The keys whose values differ."""
    return {key for key in before if before[key] != after[key]}


def test_a_preset_trial_builds_the_preset():
    built = config_of(base("best", "ml-1m"), seed=4)
    assert built == best(ITEMS, dim=128, dropout=0.2, max_length=200, low_pass=0.0, seed=4).config()
    assert config_of(base("paper", "toys"), seed=4) == paper(ITEMS, dropout=0.3, seed=4).config()


def test_a_trial_has_the_published_row_of_its_data_set():
    for dataset in DATASETS:
        for trial in (base("paper", dataset), with_fixed_snr(dataset)):
            assert trial.dataset == dataset
            assert [trial.published] == published(dataset, "DiffRec")


def test_windows_are_shortened_where_they_are_longer_than_the_papers():
    assert short_windows("best", "beauty") == base("best", "beauty")
    for preset in ("best", BEST_NETWORK):
        long, short = base(preset, "ml-1m"), short_windows(preset, "ml-1m")
        assert short.name == f"{preset}-length-50"
        assert config_of(short)["denoiser"] == {**config_of(long)["denoiser"], "max_length": 50}


def recorded_trials():
    """Result file, its trials by label as a function of the data set, and the column that contains the label."""
    yield "table2", table2.trials, "model"
    for name, figure in VARIANTS.items():
        for preset, ending in ((BEST_NETWORK, ""), ("paper", "-paper")):
            if (RESULTS / f"{name}{ending}.csv").is_file():
                yield f"{name}{ending}", partial(figure.variants, preset), "setting"
    yield "recipes", recipes.of_best, "recipe"
    yield "recipes-paper", recipes.of_paper, "recipe"


@pytest.mark.parametrize(("file", "trials", "column"), [*recorded_trials()])
def test_recorded_results_are_those_of_the_trials(file, trials, column):
    rows = [row for row in read_csv(RESULTS / f"{file}.csv") if row["settings"]]
    recorded = {(row["dataset"], label_of(row[column]), settings_of(row["settings"])) for row in rows}
    by_dataset = {dataset: trials(dataset) for dataset in {row["dataset"] for row in rows}}
    assert recorded
    for dataset, label, settings in recorded:
        model, training = json.loads(settings)
        trial = by_dataset[dataset][label]
        assert portable(DiffRec.from_config(PLACEHOLDER, migrated(model)).config()) == portable(config_of(trial)), label
        assert TrainingConfig(**training, epochs=trial.training.epochs) == trial.training, label


def label_of(text):
    """The trial's label in a column of models, which names ensembles and networks without their memory too."""
    return re.sub(", [0-9]+ trainings together$", "", text.removesuffix(NETWORK_ALONE))


def settings_of(text):
    """The recorded settings as text, without those in which runs of one trial differ: the seeds and the epochs."""
    settings = json.loads(text)
    training = {key: value for key, value in settings["training"].items() if key not in ("seed", "epochs")}
    return json.dumps([portable(settings["model"]), training], sort_keys=True)


@pytest.mark.parametrize("preset", ["best", BEST_NETWORK, "paper"])
@pytest.mark.parametrize("dataset", ["beauty", "ml-1m"])
@pytest.mark.parametrize(
    ("name", "parts", "keys"),
    [
        ("figure2", {"schedule"}, {"name", "offset", "max_beta", "beta_start", "beta_end", "rescale"}),
        ("figure3", {"schedule", "timesteps"}, {"num_timesteps"}),
        ("figure4", {"denoiser"}, {"position_embedding", "step_embedding"}),
        ("figure5", {"noising"}, {"name", "k", "ahead", "independent_steps"}),
    ],
)
def test_variants_differ_only_in_the_settings_that_the_figure_compares(preset, dataset, name, parts, keys):
    built = VARIANTS[name].variants(preset, dataset)
    configs = {label: config_of(trial, seed=3) for label, trial in built.items()}
    default = configs.pop(str(VARIANTS[name].DEFAULT))
    assert len({trial.name for trial in built.values()}) == len(built), "two trials share a folder"
    assert len({trial.training for trial in built.values()}) == 1
    for config in configs.values():
        assert changed(config, default) == parts
        for part in parts:
            both = {**default[part], **config[part]}
            assert {key for key in both if config[part].get(key) != default[part].get(key)} - keys == set()


def test_figures_share_the_trial_of_the_table():
    for dataset in DATASETS:
        for preset in ("best", "paper"):
            wanted = table2.trials(dataset)[preset]
            for name in ("figure2", "figure3"):
                found = VARIANTS[name].variants(preset, dataset)[str(VARIANTS[name].DEFAULT)]
                assert found == wanted


@pytest.mark.parametrize("preset", recipes.RECIPES_OF)
@pytest.mark.parametrize("dataset", DATASETS)
def test_recipes_differ_and_have_folders_of_their_own(preset, dataset):
    found = recipes.RECIPES_OF[preset](dataset)
    assert len({trial.name for trial in found.values()}) == len(found)
    assert all(trial.name.split("-")[0] == preset for trial in found.values())
    configs = [json.dumps(config_of(trial), sort_keys=True) for trial in found.values()]
    trainings = [str(trial.training) for trial in found.values()]
    assert len(set(zip(configs, trainings, strict=True))) == len(found)


def test_cumulative_changes_add_up():
    found = recipes.of_paper("beauty")
    before = config_of(found["paper"])
    for label, (_, parts) in recipes.CUMULATIVE.items():
        config = config_of(found[label])
        assert changed(before, config) == set(parts)
        before = config


def test_separate_changes_start_from_the_same_trial():
    found = recipes.of_paper("beauty")
    before = config_of(found["no step embedding, signal fixed"])
    for label, (_, parts) in recipes.SEPARATE.items():
        after = config_of(found[f"no step embedding, signal fixed, {label}"])
        assert changed(before, after) == set(parts)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("paper", "answer out of the last item"),
        ("no step embedding", "no step embedding, answer out of the last item"),
        ("and a fiftieth of the signal", "signal fixed, answer out of the last item"),
        ("no step embedding, signal fixed", "no step embedding, signal fixed, answer out of the last item"),
    ],
)
def test_a_prediction_from_the_last_item_changes_one_setting(before, after):
    found = recipes.of_paper("beauty")
    one, other = (config_of(found[label]) for label in (before, after))
    assert changed(one, other) == {"denoiser"}
    assert changed(one["denoiser"], other["denoiser"]) == {"target_token"}
    assert other["denoiser"]["target_token"] == "last-item"
    assert found[before].training == found[after].training


@pytest.mark.parametrize("dataset", DATASETS)
def test_another_network_is_all_that_changes_in_the_paper(dataset):
    whole, other = base("paper", dataset), on_another_network(dataset)
    before, after = config_of(whole), config_of(other)
    assert changed(before, after) == {"denoiser"}
    shared = before["denoiser"].keys() & after["denoiser"].keys()
    assert changed({key: before["denoiser"][key] for key in shared}, after["denoiser"]) == {"name"}
    unlike = changed(whole.training.config(), other.training.config())
    assert unlike == ({"examples"} if dataset == "ml-1m" else set())


@pytest.mark.parametrize("dataset", DATASETS)
def test_the_fixed_snr_is_all_that_changes_in_the_other_network(dataset):
    other, fixed = on_another_network(dataset), with_fixed_snr(dataset)
    assert changed(config_of(other), config_of(fixed)) == set(FIXED_SNR)
    assert fixed.training == other.training


@pytest.mark.parametrize("dataset", DATASETS)
def test_from_last_item_keeps_the_papers_network_and_training(dataset):
    whole, variant = base("paper", dataset), from_last_item(dataset)
    before, after = config_of(whole), config_of(variant)
    assert changed(before, after) == {"denoiser", *FIXED_SNR}
    assert changed(before["denoiser"], after["denoiser"]) == {"target_token"}
    assert variant.training == whole.training
    assert recipes.of_paper(dataset)["signal fixed, answer out of the last item"].name == variant.name


@pytest.mark.parametrize("dataset", DATASETS)
def test_table2_trains_from_last_item_for_four_epochs_on_ml_1m(dataset):
    variant, in_table = from_last_item(dataset), table2.trials(dataset)
    assert f"{variant.name}-control" in in_table
    assert config_of(in_table[variant.name]) == config_of(variant)
    epochs = 4 if dataset == "ml-1m" else 50
    assert in_table[variant.name].training == with_epochs(variant, epochs).training


@pytest.mark.parametrize("dataset", DATASETS)
def test_one_target_per_user_is_the_same_model_for_the_papers_fifty_epochs(dataset):
    whole, short = base("paper", dataset), one_target_per_user(dataset)
    assert config_of(whole) == config_of(short)
    assert changed(whole.training.config(), short.training.config()) <= {"examples", "epochs", "patience"}
    assert (short.training.examples, short.training.epochs, short.training.patience) == ("last-target", 50, 0)
    assert table2.trials(dataset)["paper"].training == whole.training
    assert {short.name, f"{short.name}-control"} < set(table2.trials(dataset))


def test_the_network_alone_is_best_without_its_memory():
    whole, alone = (config_of(base(name, "ml-1m")) for name in ("best", BEST_NETWORK))
    assert alone == {**whole, "memory": {"name": "none"}}
