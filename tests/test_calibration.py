"""Calibration: a mixture in closed form, fitted by likelihood, reported but not ranked by, saved with the model."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import gaussian, seeded
from test_ranking import predictions, rankings
from training_runs import CONFIG, SPLIT, build

from diffusers_rec import DiffRec, Ensemble, History, Recommender, Scores, SyntheticWorld
from diffusers_rec.evaluation import evaluate
from diffusers_rec.evaluation.calibration import ProbabilityMetrics, expected_calibration_error
from diffusers_rec.presets import best
from diffusers_rec.recommenders.calibrating import (
    TEMPERATURES,
    Likelihoods,
    best_calibration,
    list_score,
    mixture_weights,
)
from diffusers_rec.recommenders.calibration import Calibration, Evidence, log_popularity
from diffusers_rec.recommenders.head_scores import head_scores, probabilities_of
from diffusers_rec.recommenders.ranking import joined, top_k
from diffusers_rec.training import TrainingConfig, train

calibrations = st.builds(
    Calibration,
    temperature=st.sampled_from([0.5, 1.0, 3.0]),
    memory=st.sampled_from([0.0, 0.3, 0.9]),
    popularity=st.sampled_from([0.0, 0.2]),
    seen=st.sampled_from([0.01, 1.0, 3.0]),
)


def dense(head, latents, memory, calibration, counts, histories):
    """The calibrated probabilities by the formula, ``(B, V)``, and their standard deviation over the draws."""
    draws = (head.logits(latents) / calibration.temperature).softmax(-1)
    means, deviations = [], []
    for row, history in enumerate(histories):
        factor = torch.ones(len(counts), dtype=torch.float64)
        factor[list(history)] = calibration.seen
        share = calibration.memory if memory is not None and memory.share[row] > 0 else 0.0
        network = factor * draws[row].mean(0)
        mean = (1 - share) * network / network.sum()
        if share:
            remembered = factor * memory.within(slice(0, len(counts)))[row]
            mean = mean + share * remembered / remembered.sum()
        popular = factor * (counts + 1)
        means.append((1 - calibration.popularity) * mean + calibration.popularity * popular / popular.sum())
        own = (1 - calibration.popularity) * (1 - share) / network.sum()
        deviations.append(draws[row].std(0, correction=0) * factor * own)
    return torch.stack(means), torch.stack(deviations)


@given(ranking=rankings(), calibration=calibrations, data=st.data())
def test_reported_probabilities_are_the_mixture_of_the_formula(ranking, calibration, data):
    head, latents, chunk_scores = ranking
    num_items = len(head.keys())
    memory = data.draw(predictions(len(latents), num_items))
    counts = torch.arange(num_items) ** 2
    histories = data.draw(
        st.lists(st.lists(st.integers(0, num_items - 1), max_size=4), min_size=len(latents), max_size=len(latents))
    )
    lengths = torch.tensor([len(row) for row in histories])
    items = torch.tensor([[*row, *[0] * (4 - len(row))] for row in histories])
    evidence = Evidence.of(calibration, History(items, lengths), memory, counts)
    given_ = {"evidence": evidence, "chunk_scores": chunk_scores}
    expected, std = dense(head, latents, memory, calibration, counts, histories)
    torch.testing.assert_close(expected.sum(1), torch.ones(len(latents), dtype=torch.float64))
    columns = torch.arange(num_items).expand(len(latents), -1)
    reported = joined(list(head_scores(head, latents, memory, **given_))).reported(columns)
    torch.testing.assert_close(reported[0].exp(), expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(reported[1], std, rtol=1e-7, atol=1e-12)
    ranked = top_k(head_scores(head, latents, memory, **given_), num_items)
    plain = top_k(head_scores(head, latents, memory, chunk_scores=chunk_scores), num_items)
    assert torch.equal(ranked.items, plain.items)
    torch.testing.assert_close(ranked.scores, expected.gather(1, ranked.items), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(ranked.std, std.gather(1, ranked.items), rtol=1e-7, atol=1e-12)


@given(ranking=rankings(), data=st.data())
def test_probabilities_of_some_items_are_those_of_the_softened_softmax(ranking, data):
    head, latents, chunk_scores = ranking
    item = st.integers(0, len(head.keys()) - 1)
    rows = st.lists(st.lists(item, min_size=2, max_size=2), min_size=len(latents), max_size=len(latents))
    items = data.draw(rows.map(torch.tensor))
    found = probabilities_of(head, latents, items, [0.5, 1.0, 4.0], chunk_scores)
    for row, temperature in zip(found, [0.5, 1.0, 4.0], strict=True):
        expected = (head.logits(latents) / temperature).softmax(-1).mean(1).gather(1, items)
        torch.testing.assert_close(row, expected, rtol=1e-9, atol=1e-12)


def test_the_fit_finds_the_numbers_that_made_the_data():
    users, items, made = 20_000, 12, Calibration(temperature=2.0, memory=0.3, popularity=0.2, seen=0.1)
    logits, memory = 3 * gaussian(users, items, seed=1), gaussian(users, items, seed=2).softmax(-1)
    popularity = gaussian(items, seed=3).softmax(-1).expand(users, -1)
    network = torch.stack([(logits / temperature).softmax(-1) for temperature in TEMPERATURES])
    seen = gaussian(users, items, seed=4).topk(3).indices
    factor = torch.ones(users, items, dtype=torch.float64).scatter(1, seen, made.seen)
    weighted = [factor * part for part in (network[TEMPERATURES.index(2.0)], memory, popularity)]
    own, remembered, popular = (part / part.sum(1, keepdim=True) for part in weighted)
    target = (0.8 * (0.7 * own + 0.3 * remembered) + 0.2 * popular).multinomial(1, generator=seeded(5))

    def of(part):
        return part.gather(-1, target.expand(*part.shape[:-1], 1))[..., 0]

    def of_seen(part):
        return part.gather(-1, seen.expand(*part.shape[:-1], 3)).sum(-1)

    sums = [value for part in (network, memory, popularity) for value in (of(part), of_seen(part))]
    known = torch.ones(users, dtype=torch.bool)
    shown = (factor == 1).double().multinomial(4, generator=seeded(6))  # lists of items that are not in the history
    listed = [part.gather(-1, shown.expand(*part.shape[:-1], 4)).mT for part in (network, memory, popularity)]
    taken = (shown == target).double().T
    taken[3, ::7] = math.nan
    found = best_calibration(Likelihoods(*sums[:4], known, *sums[4:], (seen == target).any(1), *listed, taken))
    assert found.temperature == made.temperature
    assert found.seen == made.seen
    assert found.memory == pytest.approx(made.memory, abs=0.03)
    assert found.popularity == pytest.approx(made.popularity, abs=0.03)


def test_the_score_of_lists_by_hand():
    parts = torch.tensor([[[0.4], [0.2], [0.1]], [[0.0], [0.6], [0.1]], [[0.1], [0.1], [0.1]]], dtype=torch.float64)
    taken = torch.tensor([[1.0], [0.0], [math.nan]])
    first, second = 0.5 * 0.4 + 0.2 * 0.1, 0.5 * 0.2 + 0.3 * 0.6 + 0.2 * 0.1
    assert list_score([0.5, 0.3, 0.2], parts, taken) == pytest.approx(math.log(first) + math.log(1 - second))


def test_no_other_shares_are_likelier():
    parts = gaussian(3, 50, seed=1).sigmoid()
    weights, log_likelihood = mixture_weights(parts)
    assert sum(weights) == pytest.approx(1)
    grid = [index / 20 for index in range(21)]
    others = [(a, b, 1 - a - b) for a in grid for b in grid if a + b <= 1]
    best_of_grid = max(float((torch.tensor(each, dtype=torch.float64) @ parts).log().mean()) for each in others)
    assert log_likelihood >= best_of_grid - 1e-4
    assert mixture_weights(parts, with_memory=False)[0][1] == 0


def trained(**changes):
    model = build()
    train(model, SPLIT.train, SPLIT.validation, replace(CONFIG, epochs=1, **changes), device="cpu")
    return model


def test_training_calibrates_and_changes_no_ranking():
    plain, calibrated = trained(calibrate=False), trained()
    assert plain.calibration is None
    assert isinstance(calibrated.calibration, Calibration)
    assert evaluate(plain, SPLIT.test) == evaluate(calibrated, SPLIT.test)
    before, after = (evaluate(model, SPLIT.test, probabilities=True) for model in (plain, calibrated))
    assert replace(before, probabilities=None) == replace(after, probabilities=None)
    assert after.probabilities.nll < before.probabilities.nll
    histories = [SPLIT.train.vocabulary.decode(SPLIT.test.histories[user]) for user in range(5)]
    found, uncalibrated = calibrated.recommend(histories, k=4), plain.recommend(histories, k=4)
    assert found.items == uncalibrated.items
    assert not torch.allclose(found.scores, uncalibrated.scores)
    probabilities = calibrated.predict_proba(histories)
    torch.testing.assert_close(probabilities.sum(1), torch.ones(5))
    for row, items in enumerate(found.items):
        torch.testing.assert_close(found.scores[row], probabilities[row, calibrated.vocabulary.encode(items)])


def test_a_calibration_makes_the_validation_likelier():
    model = trained(calibrate=False)

    def nll():
        return -sum(
            math.log(model.predict_proba([model.vocabulary.decode(SPLIT.validation.histories[user])])[0, target])
            for user, target in enumerate(SPLIT.validation.targets[:40])
        )

    before = nll()
    assert model.calibrate(SPLIT.validation.sample(40, 0), users=40) is model.calibration
    model.calibrate(type(SPLIT.validation)(SPLIT.validation.histories.take(range(40)), SPLIT.validation.targets[:40]))
    assert nll() < before


def test_without_validation_nothing_is_calibrated():
    model = build()
    train(model, SPLIT.train, None, replace(CONFIG, epochs=1, patience=0), device="cpu")
    assert model.calibration is None


def test_it_is_saved_with_the_model_and_belongs_to_its_parts(tmp_path):
    model = build()
    config = replace(CONFIG, epochs=1)
    train(model, SPLIT.train, SPLIT.validation, config, directory=tmp_path, device="cpu")
    loaded = DiffRec.from_pretrained(tmp_path)
    assert loaded.calibration == model.calibration
    again = build()
    train(again, SPLIT.train, SPLIT.validation, config, directory=tmp_path, device="cpu")  # finished already
    assert again.calibration == model.calibration
    assert DiffRec.from_config(model.vocabulary, model.config()).calibration == model.calibration
    assert model.replace(sampler="ddim").calibration is None
    assert model.extend(["new"]).calibration == model.calibration


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0.0}, "temperature .* above 0, got 0"),
        ({"memory": 1.0}, "memory must .*, got 1.0"),
        ({"popularity": -0.1}, "popularity must .*, got -0.1"),
        ({"scale": 1.0}, r"expected temperature, memory, popularity, seen, got also \['scale'\]"),
    ],
)
def test_wrong_numbers_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        DiffRec(range(5), calibration=settings)


def test_an_ensemble_reports_the_mean_of_what_its_members_report():
    members = [trained(), trained(seed=1), trained(calibrate=False)]
    histories = [SPLIT.train.vocabulary.decode(SPLIT.test.histories[user]) for user in range(3)]
    ensemble = Ensemble(members)
    mean = torch.stack([member.predict_proba(histories) for member in members]).mean(0)
    torch.testing.assert_close(ensemble.predict_proba(histories), mean)
    found = ensemble.recommend(histories, k=3)
    for row, items in enumerate(found.items):
        torch.testing.assert_close(found.scores[row], mean[row, ensemble.vocabulary.encode(items)])


class Truth(Recommender):
    """Scores of the world itself, as they are or sharpened."""

    history_length = 100
    device = torch.device("cpu")

    def __init__(self, world, power=1.0):
        super().__init__()
        self.world, self.power, self.vocabulary = world, power, world.items
        self.register_buffer("popularity", torch.zeros(len(world.items), dtype=torch.int64))

    def score(self, history, *, seeds=None, sampler=None):
        rows = [row[:length].numpy() for row, length in zip(history.items, history.lengths.tolist(), strict=True)]
        yield Scores.of_logits(torch.from_numpy(self.world.next_item_probabilities(rows)).log() * self.power)


def test_the_truth_is_calibrated_and_what_is_sharper_is_not():
    world = SyntheticWorld(num_items=50)
    log = world.sample(4000, seed=3).sequences()
    holdout = log.leave_one_out().test.reindexed(world.items)
    models = [Truth(world).prepare(log), Truth(world, 2.0)]
    truth, sharp = (evaluate(model, holdout, probabilities=True).probabilities for model in models)
    assert truth.ece < 0.01 < sharp.ece
    assert truth.first_stated == pytest.approx(truth.first_true, rel=0.1)
    assert sharp.first_stated > 1.3 * sharp.first_true
    assert truth.nll < sharp.nll
    assert truth.nll < truth.nll_popularity < truth.nll_uniform == math.log(50)
    assert math.isnan(sharp.nll_popularity)  # not counted
    assert truth.brier < sharp.brier
    assert truth.first_is_likeliest == 1


def test_the_metrics_by_hand():
    logits = torch.tensor([[0.5, 0.3, 0.2], [0.6, 0.2, 0.2]]).log()
    metrics = ProbabilityMetrics(3, torch.tensor([3, 1, 0]), k=1)
    list(metrics.watch([Scores.of_logits(logits)], torch.tensor([0, 1]), torch.full((2, 1), -1)))
    report = metrics.report()
    assert report.nll == pytest.approx(-(math.log(0.5) + math.log(0.2)) / 2)
    assert report.nll_popularity == pytest.approx(-(math.log(4 / 7) + math.log(2 / 7)) / 2)
    assert report.brier == pytest.approx((0.5**2 + 0.6**2) / 2)
    assert report.first_stated == pytest.approx(0.55)
    assert report.first_true == 0.5
    assert report.ece == pytest.approx((0.5 + 0.6) / 2)  # each of the two is alone in its bin


def test_the_calibration_error_by_hand():
    stated, true = torch.tensor([0.1, 0.1, 0.8, 0.9]).double(), torch.tensor([0.0, 1.0, 1.0, 1.0]).double()
    assert expected_calibration_error(stated, true, bins=2) == pytest.approx((0.8 + 0.3) / 4)
    assert expected_calibration_error(stated, true, bins=1) == pytest.approx(abs(1.9 - 3) / 4)


def test_popularity_adds_one_to_each_item():
    counts = torch.tensor([0, 3, 5])
    found = log_popularity(counts, torch.arange(3)).exp()
    torch.testing.assert_close(found, torch.tensor([1, 4, 6], dtype=torch.float64) / 11)


@pytest.mark.slow
def test_on_the_demos_world_listed_probabilities_are_within_15_per_cent_of_the_truth():
    world = SyntheticWorld(num_items=200, seed=0)
    split = world.sample(3000, seed=0).sequences().leave_one_out()
    model = best(split.train.vocabulary, dropout=0.2)
    config = TrainingConfig(epochs=10, examples="all-positions", learning_rate=2e-3, batch_targets=400, decay="cosine",
                            average_decay=0.999)  # fmt: skip
    train(model, split.train, split.validation, config)
    users = range(0, 3000, 10)
    histories = [model.vocabulary.decode(split.test.histories[user]) for user in users]
    truth = torch.from_numpy(world.next_item_probabilities([world.items.encode(history) for history in histories]))
    found = model.recommend(histories, k=5)
    listed = torch.stack([truth[row, world.items.encode(items)] for row, items in enumerate(found.items)])
    assert abs(float(found.scores.mean() / listed.mean()) - 1) < 0.15


def test_a_calibrated_model_is_trained_again(tmp_path):
    model, config = build(), replace(CONFIG, epochs=1)
    train(model, SPLIT.train, SPLIT.validation, config, directory=tmp_path, device="cpu")
    calibration = model.calibration
    train(model, SPLIT.train, SPLIT.validation, config, directory=tmp_path, device="cpu")  # the same run
    assert model.calibration == calibration
    train(DiffRec.from_pretrained(tmp_path), SPLIT.train, SPLIT.validation, config, directory=tmp_path, device="cpu")
    train(model, SPLIT.train, None, replace(config, patience=0), device="cpu")
    assert model.calibration is None  # it belonged to other weights


def test_reported_probabilities_carry_no_gradient_and_sum_to_one_in_float32():
    model = trained()
    history = model.encode_histories([SPLIT.train.vocabulary.decode(SPLIT.test.histories[0])])
    assert not top_k(model.score(history), 3).scores.requires_grad
    model.calibration = replace(model.calibration, temperature=0.05, seen=0.001)
    probabilities = model.predict_proba(
        [SPLIT.train.vocabulary.decode(SPLIT.test.histories[user]) for user in range(20)]
    )
    torch.testing.assert_close(probabilities.sum(1), torch.ones(20), rtol=1e-3, atol=0)


def test_places_without_an_item_do_not_count():
    logits = torch.tensor([[0.9, 0.05, 0.05], [0.4, 0.3, 0.3]]).log()
    metrics = ProbabilityMetrics(3, None, k=3)
    list(metrics.watch([Scores.of_logits(logits)], torch.tensor([0, 1]), torch.tensor([[1, 2], [-1, -1]])))
    report = metrics.report()
    assert report.first_stated == pytest.approx((0.9 + 0.4) / 2)
    assert report.ece == pytest.approx((0.1 + 0.4 + 0.7 + 0.3) / 4)
