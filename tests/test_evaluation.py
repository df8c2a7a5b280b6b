"""Evaluation: metrics against torchmetrics, rankings against dense ones, models against what is possible at best."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache, partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import perturbed
from torch import Generator

from diffusers_rec import DDPMSampler, DiffRec, Holdout, Sequences, SyntheticWorld, Vocabulary
from diffusers_rec.evaluation import (
    audit,
    evaluate,
    evaluate_item_to_item,
    evaluate_memory,
    evaluate_popularity,
    hit_rate,
    ndcg,
    ranking_metrics,
)
from diffusers_rec.recommenders.memory import NoMemory
from diffusers_rec.recommenders.ranking import UNRANKED, Scores, target_ranks
from diffusers_rec.training import TrainingConfig, train

KS = (1, 5, 10, 20)
WORLD = SyntheticWorld(40, num_groups=4)
SPLIT = WORLD.sample(150, min_length=3, max_length=25).sequences().leave_one_out()  # longer than the model reads
LENGTH = 8


@lru_cache
def model():
    """Away from its initialisation, where all histories may look alike."""
    built = DiffRec(
        SPLIT.test.histories.vocabulary,
        dim=16,
        max_length=LENGTH,
        schedule={"name": "sqrt", "num_timesteps": 6},
        denoiser={"name": "causal-transformer", "num_layers": 1, "num_heads": 2},
        seeds=3,
    )
    return perturbed(built)


def holdout(histories, targets, num_items=40):
    offsets = np.cumsum([0, *map(len, histories)])
    flat = np.concatenate([np.asarray(history, np.int64) for history in histories])
    users = Vocabulary(range(len(histories)))
    return Holdout(Sequences(flat, offsets, users, Vocabulary(range(num_items))), np.asarray(targets, np.int64))


def reference_rank(scores, target, left_out=()):
    """How many items that are not left out score at least as much as the target; UNRANKED where it is itself out."""
    if target in left_out:
        return UNRANKED
    return sum(1 for item, score in enumerate(scores) if score >= scores[target] and item not in left_out)


def reference_metrics(ranks, ks):
    metrics = {}
    for k in ks:
        metrics[f"hr@{k}"] = sum(rank <= k for rank in ranks) / len(ranks)
        metrics[f"ndcg@{k}"] = sum(1 / math.log2(rank + 1) for rank in ranks if rank <= k) / len(ranks)
    return metrics


def reference_report(scores, data, ks=KS):
    """Masked and unmasked metrics of a dense table of scores."""
    pairs = list(zip(scores.tolist(), data.targets.tolist(), map(set, data.histories), strict=True))
    masked = reference_metrics([reference_rank(*pair) for pair in pairs], ks)
    unmasked = reference_metrics([reference_rank(row, target) for row, target, _ in pairs], ks)
    return masked, unmasked


def dense(data, trained=None, **settings):
    vocabulary = data.histories.vocabulary
    return (trained or model()).predict_proba([vocabulary.decode(history) for history in data.histories], **settings)


def assert_report(report, expected):
    assert report.metrics() == pytest.approx(expected[0])
    assert report.metrics(exclude_seen=False) == pytest.approx(expected[1])


# Metrics


@given(seed=st.integers(0, 10_000), users=st.integers(1, 20), items=st.integers(2, 40), k=st.integers(1, 25))
def test_metrics_are_those_of_torchmetrics(seed, users, items, k):
    from torchmetrics.retrieval import RetrievalHitRate, RetrievalNormalizedDCG

    generator = Generator().manual_seed(seed)
    scores = torch.stack([torch.randperm(items, generator=generator) for _ in range(users)]).float()  # no ties
    targets = torch.randint(items, (users,), generator=generator)
    relevant = torch.nn.functional.one_hot(targets, items)
    indexes = torch.arange(users)[:, None].expand(users, items)
    ranks = 1 + (scores > scores.gather(1, targets[:, None])).sum(1)
    for ours, theirs in ((hit_rate, RetrievalHitRate(top_k=k)), (ndcg, RetrievalNormalizedDCG(top_k=k))):
        expected = float(theirs(scores.flatten(), relevant.flatten(), indexes=indexes.flatten()))
        assert ours(ranks, k) == pytest.approx(expected, abs=1e-6)


@given(data=st.data(), users=st.integers(1, 5), items=st.integers(1, 12), chunk=st.integers(1, 12))
def test_ties_count_against_the_target(data, users, items, chunk):
    table = st.lists(st.lists(st.integers(0, 3), min_size=items, max_size=items), min_size=users, max_size=users)
    scores = torch.tensor(data.draw(table)).float()
    index = st.integers(0, items - 1)
    targets = data.draw(st.lists(index, min_size=users, max_size=users))
    seen = data.draw(st.lists(st.lists(index, min_size=3, max_size=3), min_size=users, max_size=users))
    cuts = [slice(at, min(at + chunk, items)) for at in range(0, items, chunk)]
    chunks = [Scores(slice(0, users), cut, scores[:, cut]) for cut in cuts]
    ranks, masked = target_ranks(chunks, torch.tensor(targets), excluded=torch.tensor(seen))
    triples = list(zip(scores.tolist(), targets, seen, strict=True))
    assert ranks.tolist() == [reference_rank(row, target) for row, target, _ in triples]
    assert masked.tolist() == [reference_rank(*triple) for triple in triples]


def test_metrics_by_hand():
    ranks = torch.tensor([1, 3, 11])
    expected = {"hr@3": 2 / 3, "ndcg@3": (1 + 1 / 2) / 3, "hr@1": 1 / 3, "ndcg@1": 1 / 3}
    assert ranking_metrics(ranks, (3, 1)) == pytest.approx(expected)


def test_nothing_to_measure_is_refused():
    with pytest.raises(ValueError, match="There is nothing to measure"):
        ranking_metrics(torch.zeros(0, dtype=torch.int64))
    with pytest.raises(ValueError, match="each k must be an integer >= 1, got 0"):
        ranking_metrics(torch.tensor([1]), [5, 0])
    with pytest.raises(TypeError, match="each k must be an integer"):
        ranking_metrics(torch.tensor([1]), [2.5])


# Full ranking


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_evaluate_is_a_dense_ranking(batch_size):
    report = evaluate(model(), SPLIT.test, ks=KS, batch_size=batch_size)
    assert_report(report, reference_report(dense(SPLIT.test), SPLIT.test))
    assert report.num_users == len(SPLIT.test)
    assert 0 < report.metrics()["hr@10"] < 1
    assert report.metrics() != report.metrics(exclude_seen=False)


def test_evaluate_in_chunks_of_items(monkeypatch):
    """Also where users and items together do not fit into one chunk."""
    expected = reference_report(dense(SPLIT.test), SPLIT.test)
    monkeypatch.setattr("diffusers_rec.recommenders.head_scores.head_scores.__kwdefaults__", {"chunk_scores": 64})
    monkeypatch.setattr("diffusers_rec.evaluation.full_ranking.SCORES_AT_ONCE", 3 * 40)
    calls = []
    score = DiffRec.score
    monkeypatch.setattr(DiffRec, "score", lambda *given, **more: calls.append(len(given[1])) or score(*given, **more))
    assert_report(evaluate(model(), SPLIT.test, ks=KS, batch_size=5), expected)
    assert max(calls) == 3


def test_the_old_names_of_a_report_still_work(monkeypatch):
    monkeypatch.setattr("diffusers_rec.core.deprecation._SHOWN", set())
    report = evaluate(model(), SPLIT.test)
    with pytest.warns(FutureWarning, match=r"Report\.masked is deprecated.*use Report\.metrics\(exclude_seen=True\)"):
        assert report.masked == report.metrics()
    with pytest.warns(FutureWarning, match=r"Report\.unmasked is deprecated"):
        assert report.unmasked == report.metrics(exclude_seen=False)


@pytest.mark.parametrize(
    "choice",
    [
        {"seeds": 1},
        {"seeds": [7, 5]},
        {"sampler": DDPMSampler()},
        {"sampler": {"name": "ddim", "num_steps": 2}},
        {"sampler": "ddpm"},
    ],
    ids=str,
)
def test_seeds_and_sampler_are_passed_on(choice):
    assert_report(
        evaluate(model(), SPLIT.test, ks=KS, **choice), reference_report(dense(SPLIT.test, **choice), SPLIT.test)
    )


def test_evaluate_leaves_the_model_and_global_randomness_as_they_were():
    before = torch.get_rng_state()
    model().train()
    assert evaluate(model(), SPLIT.test) == evaluate(model().eval(), SPLIT.test), "dropout was on"
    model().train()
    evaluate(model(), SPLIT.validation)
    assert model().training
    assert all(parameter.grad is None for parameter in model().parameters())
    assert torch.equal(before, torch.get_rng_state())


def test_the_order_of_users_does_not_matter():
    order = np.random.default_rng(0).permutation(len(SPLIT.test))
    shuffled = Holdout(SPLIT.test.histories.take(order), SPLIT.test.targets[order])
    for one, other in (
        (evaluate(model(), SPLIT.test, batch_size=16), evaluate(model(), shuffled, batch_size=16)),
        (evaluate_popularity(SPLIT.train, SPLIT.test), evaluate_popularity(SPLIT.train, shuffled)),
    ):
        assert_report(one, (other.metrics(), other.metrics(exclude_seen=False)))


def test_a_mean_over_users_counts_each_user_once():
    parts = np.array_split(np.arange(len(SPLIT.test)), 4)
    sums = [
        len(part)
        * evaluate(model(), Holdout(SPLIT.test.histories.take(part), SPLIT.test.targets[part])).metrics()["hr@10"]
        for part in parts
    ]
    assert sum(sums) / len(SPLIT.test) == pytest.approx(evaluate(model(), SPLIT.test).metrics()["hr@10"])


def test_items_seen_long_ago_are_masked_too():
    """Two users whom the model cannot tell apart, for it reads the last items alone: one has seen all rivals before."""
    recent = list(range(LENGTH - 1))
    trained = replace_vocabulary(model())
    scores = trained.predict_proba([recent])[0]
    scores[recent] = -1
    order = scores.argsort(descending=True).tolist()
    target, rivals = order[9], order[:9]
    data = holdout([recent, rivals * 12 + recent], [target, target])
    assert len(data.histories[1]) > 100
    alone = [
        evaluate(trained, Holdout(data.histories.take([u]), data.targets[u : u + 1]), ks=[1, 9, 10]) for u in (0, 1)
    ]
    assert alone[0].metrics() == pytest.approx(reference_metrics([10], [1, 9, 10]))
    assert alone[1].metrics() == pytest.approx(reference_metrics([1], [1, 9, 10]))
    assert alone[0].metrics(exclude_seen=False) == alone[1].metrics(exclude_seen=False)


def replace_vocabulary(trained):
    """The same model for the items 0..V-1."""
    other = DiffRec.from_config(range(40), trained.config())
    other.load_state_dict(trained.state_dict())
    return other


def test_a_target_seen_before_is_never_hit_under_the_mask():
    data = holdout([[3, 4, 5], [1, 2]], [4, 2])
    counted = Sequences(np.arange(40), np.array([0, 40]), Vocabulary(["u"]), data.histories.vocabulary)
    for report in (
        evaluate(replace_vocabulary(model()), data, ks=[40, 1000]),
        evaluate_popularity(counted, data, ks=[40, 1000]),
        evaluate_item_to_item(counted, data, ks=[40, 1000]),
        evaluate_memory(NoMemory(), data, ks=[40, 1000]),
    ):
        assert set(report.metrics().values()) == {0}
        assert report.metrics(exclude_seen=False)["hr@40"] == 1


@pytest.mark.parametrize("noising", [{"name": "last-k", "k": 3}, "whole"], ids=str)
def test_every_noising_strategy_can_be_evaluated(noising):
    several = DiffRec.from_config(SPLIT.test.histories.vocabulary, {**model().config(), "noising": noising})
    report = evaluate(several, SPLIT.test, ks=KS, batch_size=9)
    assert_report(report, reference_report(dense(SPLIT.test, several), SPLIT.test))


EVALUATORS = {
    "evaluate": lambda data: evaluate(model(), data),
    "audit": lambda data: audit(model(), data, users=1000, seeds=2, steps=[2], levels=1),
    "popularity": lambda data: evaluate_popularity(SPLIT.train, data),
    "item to item": lambda data: evaluate_item_to_item(SPLIT.train, data),
}


@pytest.mark.parametrize("evaluator", EVALUATORS.values(), ids=EVALUATORS)
def test_items_are_matched_by_id(evaluator):
    """In another order, and beside one that never occurs."""
    other = SPLIT.test.reindexed(Vocabulary([*reversed(model().vocabulary.ids), "never seen"]))
    assert other.targets.tolist() != SPLIT.test.targets.tolist()
    assert evaluator(other) == evaluator(SPLIT.test)


@pytest.mark.parametrize("evaluator", EVALUATORS.values(), ids=EVALUATORS)
def test_unknown_items_are_refused_by_name(evaluator):
    renamed = Vocabulary([f"my {raw_id}" for raw_id in model().vocabulary.ids])
    histories = replace(SPLIT.test.histories, vocabulary=renamed)
    with pytest.raises(ValueError, match=r"does not know all items of the holdout\..*: ('my item-\d+', ){5}\.\.\."):
        evaluator(Holdout(histories, SPLIT.test.targets))


@pytest.mark.parametrize("evaluator", [*EVALUATORS.values(), partial(evaluate_memory, NoMemory())])
def test_a_holdout_is_asked_for(evaluator):
    with pytest.raises(TypeError, match=r"holdout must be Holdout, got Split\b"):
        evaluator(SPLIT)


def test_a_batch_size_below_one_is_refused():
    with pytest.raises(ValueError, match="batch_size must be an integer >= 1, got 0"):
        evaluate(model(), SPLIT.test, batch_size=0)


# Popularity


def test_popularity_is_a_dense_ranking_by_counts():
    counts = np.bincount(SPLIT.train.items, minlength=len(SPLIT.train.vocabulary))
    assert len(set(counts.tolist())) < len(counts), "no ties: this test sees half"
    report = evaluate_popularity(SPLIT.train, SPLIT.test, ks=KS)
    table = np.tile(counts, (len(SPLIT.test), 1))
    assert_report(report, reference_report(table, SPLIT.test))
    assert report.num_users == len(SPLIT.test)


def test_item_to_item_is_the_sum_of_cosines_with_the_history():
    num_items = len(SPLIT.train.vocabulary)
    owned = np.zeros((len(SPLIT.train), num_items))
    for user, row in enumerate(SPLIT.train):
        owned[user, row] = 1
    length = np.sqrt(np.maximum(owned.sum(0), 1))
    cosine = owned.T @ owned / length / length[:, None]
    table = np.stack([cosine[np.unique(row)].sum(0) for row in SPLIT.test.histories])
    report = evaluate_item_to_item(SPLIT.train, SPLIT.test, ks=KS)
    masked, unmasked = reference_report(table.round(5), SPLIT.test)  # equal sums may differ in the last digits
    assert report.metrics() == pytest.approx(masked, abs=0.01)
    assert report.metrics(exclude_seen=False) == pytest.approx(unmasked, abs=0.01)


def test_popularity_ties_count_against_it():
    data = holdout([[0], [1]], [3, 2], num_items=4)
    histories = data.histories  # items 0 and 1 occur once, 2 and 3 never
    report = evaluate_popularity(histories, data, ks=[2, 3, 4])
    assert report.metrics(exclude_seen=False) == pytest.approx(reference_metrics([4, 4], [2, 3, 4]))
    assert report.metrics() == pytest.approx(reference_metrics([3, 3], [2, 3, 4]))


# What is possible at best


@lru_cache
def big():
    return WORLD.sample(2500, min_length=4, max_length=14).sequences().leave_one_out()


def sampling_error(best, users):
    """Four standard errors of a mean of values in 0..1 with this mean."""
    return 4 * math.sqrt(best * (1 - best) / users)


def oracle_report(data):
    own = WORLD.items.encode(data.histories.vocabulary.ids)
    scores = torch.from_numpy(WORLD.next_item_probabilities([own[row] for row in data.histories])[:, own])
    chunks = [Scores(slice(0, len(data)), slice(0, len(own)), scores)]
    nobody = torch.full((len(data), 1), -1)
    ranks, _ = target_ranks(chunks, torch.from_numpy(data.targets), excluded=nobody)
    return ranking_metrics(ranks, KS)


def test_the_oracle_reaches_the_best_metrics():
    data = big().test
    best = WORLD.best_metrics(data, KS)
    for name, value in oracle_report(data).items():
        assert value == pytest.approx(best[name], abs=sampling_error(best[name], len(data)))


def test_no_trained_model_exceeds_the_best_metrics():
    split = big()
    trained = DiffRec(
        split.train.vocabulary,
        dim=16,
        max_length=LENGTH,
        embedding={"name": "table", "scale": "unit", "init_std": 0.02},
        denoiser={
            "name": "conditional-mlp",
            "encoder": {"name": "causal-transformer", "num_layers": 1, "num_heads": 2, "dropout": 0.1},
        },
        head="tied",
        objective={"name": "simplified", "recommend_from": "start", "distance": "cosine", "reconstruction_weight": 0.1},
        schedule={"name": "sqrt", "num_timesteps": 20},
    )
    config = TrainingConfig(epochs=3, examples="all-positions", batch_targets=400, learning_rate=1e-2)
    train(trained, split.train, split.validation, config, device="cpu")
    report, best = evaluate(trained, split.test, ks=KS), WORLD.best_metrics(split.test, KS)
    popular = evaluate_popularity(split.train, split.test, ks=KS)
    for name, most in best.items():
        error = sampling_error(most, len(split.test))
        assert report.metrics()[name] < most + error
        assert report.metrics(exclude_seen=False)[name] <= report.metrics()[name]
        assert report.metrics()[name] > popular.metrics()[name] + 0.5 * (most - popular.metrics()[name]), (
            "it has learned little"
        )
