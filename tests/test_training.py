"""Training: the same start has the same end, it learns, and bad arguments are refused."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from training_runs import BEST, CONFIG, KINDS, SPLIT, build, end, files, fit, uninterrupted

from diffusers_rec import DDIMSampler, DiffRec, Holdout, SyntheticWorld, Vocabulary
from diffusers_rec.core.checkpoint import CONFIG_FILE
from diffusers_rec.evaluation import evaluate
from diffusers_rec.training import TrainingConfig, train
from diffusers_rec.training.run_store import LOG_FILE


@pytest.mark.parametrize("kind", KINDS)
def test_same_seed_same_bits(kind):
    assert end(*fit(**KINDS[kind])) == uninterrupted(kind)


@pytest.mark.parametrize("other", [{"seed": 1}, {"learning_rate": 1e-3}, {"batch_targets": 50}])
def test_another_setting_another_end(other):
    model, result = fit(model=build(), **other)
    assert end(model, result)[0] != uninterrupted()[0]


def test_a_directory_changes_nothing(tmp_path):
    model, result = fit(tmp_path / "new" / "run")
    assert end(model, result) == uninterrupted()
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
        assert end(*fit()) == uninterrupted()


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
    assert end(model, result) == uninterrupted()


def test_a_swapped_part_that_does_not_fit_is_refused_before_the_folder_is_made(tmp_path):
    model = build()
    model.sampler = DDIMSampler(num_steps=6)
    with pytest.raises(ValueError, match="sampler takes num_steps=6, but the schedule has num_timesteps=5"):
        fit(tmp_path / "run", model=model)
    assert not files(tmp_path)


def test_training_learns():
    world = SyntheticWorld(40, num_groups=4)
    split = world.sample(600).sequences().leave_one_out()
    model = build(vocabulary=split.train.vocabulary, **BEST)
    untrained = evaluate(model, split.validation, seeds=1).metrics()["ndcg@10"]
    config = replace(CONFIG, epochs=6, learning_rate=2e-2, examples="all-positions", batch_targets=300)
    result = train(model, split.train, split.validation, config, device="cpu")
    for term in ("reconstruction", "recommendation"):
        losses = [row[term] for row in result.history]
        assert losses[-1] < losses[0]
    assert losses[-1] < math.log(len(model.vocabulary)) - 0.2, "no better than a guess"
    best = world.best_metrics(split.validation)["ndcg@10"]
    assert result.best_score > untrained + 0.5 * (best - untrained)


@pytest.mark.parametrize("kind", ["rate", "weights", "late"])
def test_a_diverging_run_is_reported_and_leaves_the_best_loadable(kind, tmp_path):
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


def test_progress_goes_to_standard_error(capsys):
    train(build(), SPLIT.train, SPLIT.validation, replace(CONFIG, epochs=1), device="cpu", progress=True)
    shown = capsys.readouterr()
    assert "epoch 1/1" in shown.err
    assert not shown.out


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
