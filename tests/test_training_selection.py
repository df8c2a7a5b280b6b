"""The best epoch is kept, by any metric."""

from __future__ import annotations

import math
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from training_runs import CONFIG, SPLIT, build, fit, validations

from diffusers_rec import DiffRec
from diffusers_rec.evaluation import evaluate


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
    assert evaluate(DiffRec.from_pretrained(tmp_path), SPLIT.validation, seeds=1).metrics()["ndcg@10"] == max(scores)
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
    assert result.best_score == report.metrics(exclude_seen=exclude_seen)[select_by]
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
    assert result.best_score == evaluate(model, SPLIT.validation, seeds=3).metrics()["ndcg@10"]


# A metric of the user


def minus_confidence(model, holdout):
    """A score of a model that is always negative."""
    items = holdout.histories.vocabulary.ids[:5]
    return -float(model.predict_proba([items]).max())


def test_a_metric_of_the_user_chooses_the_epoch(tmp_path):
    model, result = fit(tmp_path, learning_rate=0.05, epochs=5, metric=minus_confidence, calibrate=False)
    scores = [row["validation_minus_confidence"] for row in result.history]
    assert max(scores) < 0
    assert len(set(scores)) == 5
    assert result.best_score == max(scores)
    assert result.best_epoch == 1 + int(np.argmax(scores))
    assert minus_confidence(model, SPLIT.validation) == pytest.approx(result.best_score)
    assert "validation_ndcg@10" not in result.history[0]


def test_the_metric_gets_the_average_in_evaluation_mode_without_gradients_and_the_holdout():
    seen = []

    def metric(model, holdout):
        seen.append((model.training, torch.is_grad_enabled(), holdout is SPLIT.validation))
        seen.append(next(model.parameters()).requires_grad)
        return torch.tensor(0.5)

    _, result = fit(epochs=1, average_decay=0.9, metric=metric)
    assert seen == [(False, False, True), False]
    assert result.best_score == 0.5


@pytest.mark.parametrize("name", ["lambda", "partial", "object"])
def test_a_metric_without_a_name_is_called_metric(name):
    class Constant:
        def __call__(self, model, holdout):
            return 0.0

    metric = {"lambda": lambda *_: 0.0, "partial": partial(Constant()), "object": Constant()}[name]
    _, result = fit(epochs=1, metric=metric)
    assert result.history[0]["validation_metric"] == 0.0


def test_patience_counts_validations_by_the_metric():
    left = [0.1, 0.3, 0.2, 0.3, 0.1]
    _, result = fit(epochs=9, patience=2, metric=lambda *_: left.pop(0))
    assert result.best_epoch == 2
    assert len(result.history) == 4


@pytest.mark.parametrize(("value", "error"), [(math.nan, ValueError), ("good", TypeError), (None, TypeError)])
def test_a_metric_that_returns_no_finite_number_is_refused(value, error):
    with pytest.raises(error, match=r"metric\(model, validation\) must be a finite number, got"):
        fit(epochs=1, metric=lambda *_: value)


def test_a_metric_without_validation_is_refused():
    with pytest.raises(ValueError, match="metric scores the model on validation, which is None"):
        fit(validation=None, metric=minus_confidence)


def test_another_metric_is_another_run(tmp_path):
    fit(tmp_path, epochs=1, metric=minus_confidence)
    with pytest.raises(ValueError, match="holds a run with other settings"):
        fit(tmp_path, epochs=1)
