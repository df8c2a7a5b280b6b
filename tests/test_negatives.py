from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import gaussian, over, seeded, seeds

from diffusers_rec.data import TrainingBatches
from diffusers_rec.data.synthetic import SyntheticWorld
from diffusers_rec.items.negatives import (
    AllItems,
    InBatchNegatives,
    Negatives,
    NegativeSample,
    PopularityNegatives,
    UniformNegatives,
    sampled_cross_entropy,
)
from diffusers_rec.recommenders.diffrec import DiffRec
from diffusers_rec.testing.negatives import CLAUSES, training_targets
from diffusers_rec.testing.negatives import COUNTS as COUNTS_OF_TRAINING
from diffusers_rec.testing.negatives import fitted as fit

COUNTS = torch.tensor(COUNTS_OF_TRAINING)
ITEMS = len(COUNTS)
SAMPLED = [name for name in Negatives.names() if name != "all"]


def fitted(name, **settings):
    return fit(Negatives.build_with(settings, name))


OWN = {"name": "uniform", "shared": False}


@pytest.mark.parametrize("name", [*Negatives.names(), OWN], ids=str)
@over(CLAUSES)
def test_negatives_keep_their_contract(clause, name):
    clause(fitted(name, count=50))


@pytest.mark.parametrize("name", ["uniform", "popularity", OWN], ids=str)
def test_the_normaliser_over_the_others_is_unbiased(name):
    """The mean over draws of the sum that the sampled loss holds beside the target is the sum over all other items."""
    scores, negatives = gaussian(ITEMS, seed=1), fitted(name, count=200)
    sums = []
    for seed in range(400):
        sample = negatives.draw(torch.zeros(1, dtype=torch.int64), ITEMS, seeded(seed))
        positive = scores[:1]
        loss = sampled_cross_entropy(positive, scores[sample.items].view(1, -1), torch.tensor([0]), sample)
        sums.append((loss + positive[0]).exp() - positive[0].exp())
    assert torch.stack(sums).mean().item() == pytest.approx(scores[1:].exp().sum().item(), rel=0.02)


@pytest.mark.parametrize("count", [2, pytest.param(5, marks=pytest.mark.slow)])
def test_among_the_targets_of_a_batch_the_normaliser_is_unbiased_for_each_of_them(count):
    scores, negatives = gaussian(ITEMS, seed=1), fitted("in-batch")
    sums, rows = torch.zeros(2, ITEMS, dtype=torch.float64)
    for seed in range(4000):
        targets = training_targets(count, seed)
        sample = negatives.draw(targets, ITEMS, seeded(seed))
        for target in targets:
            one = target[None]
            loss = sampled_cross_entropy(scores[one], scores[sample.items][None], one, sample)
            sums[target] += (loss + scores[target]).exp() - scores[target].exp()
            rows[target] += 1
    for target in (0, 1, 2):
        others = (torch.arange(ITEMS) != target) & (COUNTS > 0)
        assert (sums / rows)[target].item() == pytest.approx(scores[others].exp().sum().item(), rel=0.1)


@given(seed=seeds, count=st.integers(1, 9))
def test_negatives_of_its_own_are_never_the_target(seed, count):
    targets = training_targets(20, seed)
    sample = fitted(OWN, count=count).draw(targets, ITEMS, seeded(seed))
    assert sample.items.shape == (20, count)
    assert bool((sample.items != targets[:, None]).all())
    rows = torch.tensor([3, 1])
    assert torch.equal(sample.of(rows).items, sample.items[rows])


@pytest.mark.parametrize("head", ["linear", "tied", "cosine"])
def test_scores_of_pairs_are_logits(head):
    model = DiffRec(range(9), dim=8, head=head)
    latent, target = gaussian(5, 8, seed=2), torch.tensor([0, 8, 3, 3, 1])
    logits, rows = model.head.logits(latent), torch.arange(5)[:, None]
    shared = NegativeSample(torch.tensor([2, 2, 7]), torch.zeros(3))
    own = NegativeSample(torch.arange(20).view(5, 4) % 9, torch.zeros(5, 4))
    for sample, items in ((None, torch.arange(9)), (shared, shared.items), (own, own.items)):
        positive, negative = model.head.pair_scores(latent, target, sample)
        torch.testing.assert_close(positive, logits.gather(1, target[:, None])[:, 0])
        torch.testing.assert_close(negative, logits[rows, items])
    row_by_row = [
        model.head.loss(latent[row], target[row], NegativeSample(own.items[row], torch.zeros(4))) for row in range(5)
    ]
    torch.testing.assert_close(model.head.loss(latent, target, own), torch.stack(row_by_row).mean())


def test_negatives_of_its_own_do_not_fit_other_targets():
    with pytest.raises(ValueError, match="the pass 'next', whose targets are others than those"):
        DiffRec(range(9), dim=8, objective={"name": "weighted", "terms": [{"name": "cross-entropy", "at": "next"}]},
                negatives=OWN)  # fmt: skip


@pytest.mark.parametrize("targets", [[3], [3, 3], [5, 0]])
def test_a_lone_target_or_one_never_counted_stays_finite(targets):
    targets = torch.tensor(targets)
    sample = fitted("in-batch").draw(targets, ITEMS, seeded(0))
    scores = gaussian(len(targets), seed=1).requires_grad_()
    loss = sampled_cross_entropy(scores, scores.detach().expand(len(targets), -1), targets, sample)
    loss.backward()
    assert loss.isfinite()
    assert scores.grad.isfinite().all()


@given(seed=seeds, targets=st.lists(st.integers(0, ITEMS - 1), min_size=1, max_size=5))
def test_a_drawn_target_is_not_its_own_negative(seed, targets):
    targets = torch.tensor(targets)
    sample = NegativeSample(torch.tensor([0, 1, 0]), torch.tensor([0.5, -0.5, 0.5]))
    positive, negative = gaussian(len(targets), seed=seed), gaussian(len(targets), 3, seed=seed + 1)
    expected = []
    for row, target in enumerate(targets.tolist()):
        total = positive[row].exp()
        for j, item in enumerate([0, 1, 0]):
            if item != target:
                total = total + negative[row, j].exp() / sample.log_expected[j].exp()
        expected.append(total.log() - positive[row])
    torch.testing.assert_close(
        sampled_cross_entropy(positive, negative, targets, sample), torch.stack(expected).mean(), rtol=1e-6, atol=1e-6
    )


def test_all_items_draws_nothing():
    assert AllItems().draw(training_targets(3), ITEMS, seeded(0)) is None


@pytest.mark.parametrize("power", [0.0, 1.0])
def test_power_goes_from_uniform_to_popularity(power):
    sample = fitted("popularity", count=4, power=power).draw(training_targets(1), ITEMS, seeded(0))
    share = (COUNTS + 1) / (COUNTS + 1).sum() if power else torch.full((ITEMS,), 1 / ITEMS)
    torch.testing.assert_close(sample.log_expected, (4 * share[sample.items]).log())


@pytest.mark.parametrize("negatives", [InBatchNegatives(), PopularityNegatives()], ids=repr)
def test_refuses_to_draw_without_counts_or_with_those_of_another_catalogue(negatives):
    with pytest.raises(ValueError, match=r"which no checkpoint holds. Call model\.prepare\(sequences\)"):
        negatives.draw(training_targets(3), ITEMS, seeded(0))
    for wrong in ([1, -1], [[1, 2]], [1, math.nan], [math.inf, 1], 3):
        for counts in (wrong, torch.tensor(wrong)):
            with pytest.raises(ValueError, match=r"counts must hold how often each item is a target, \(V,\)"):
                negatives.fit(counts)
    for wrong in (None, "many", {1: 2}):
        with pytest.raises(TypeError, match="counts must be a tensor or an array of V numbers, got"):
            negatives.fit(wrong)
    negatives.fit(COUNTS)
    with pytest.raises(ValueError, match="fitted to 6 items, but the model has 7"):
        negatives.draw(training_targets(3), 7, seeded(0))


@pytest.mark.parametrize("name", ["in-batch", "popularity"])
def test_counts_may_come_in_any_form(name):
    tensor, *others = (Negatives.build(name) for _ in range(3))
    tensor.fit(COUNTS)
    for negatives, counts in zip(others, (COUNTS.tolist(), COUNTS.numpy()), strict=True):
        negatives.fit(counts)
        drawn, expected = (each.draw(training_targets(9), ITEMS, seeded(0)) for each in (negatives, tensor))
        assert torch.equal(drawn.items, expected.items)
        assert torch.equal(drawn.log_expected, expected.log_expected)


@pytest.mark.parametrize("name", ["in-batch", "popularity"])
def test_a_loaded_model_serves_without_counts_and_says_how_to_train_it(name, tmp_path):
    split = SyntheticWorld(num_items=20).sample(num_users=30, seed=2).sequences().leave_one_out()
    batches = TrainingBatches(split.train, max_length=5)
    model = DiffRec(split.train.vocabulary, dim=8, max_length=5, negatives=name)
    model.negatives.fit(batches.target_counts())
    model.save_pretrained(tmp_path)
    loaded = DiffRec.from_pretrained(tmp_path).train()
    assert loaded.recommend([split.train.vocabulary.ids[:2]], k=3).scores.isfinite().all()
    batch = next(batches.epoch(0))
    with pytest.raises(ValueError, match=r"Call model\.prepare\(sequences\)"):
        loaded.loss(batch, seeded(0))
    loaded.negatives.fit(batches.target_counts())
    assert torch.equal(loaded.loss(batch, seeded(0)).total, model.loss(batch, seeded(0)).total)


@pytest.mark.parametrize("count", [0, -1])
def test_refuses_an_empty_sample(count):
    for family in (UniformNegatives, PopularityNegatives):
        with pytest.raises(ValueError, match="count must be an integer >= 1"):
            family(count)


@pytest.mark.slow
@pytest.mark.parametrize("name", [{"name": name} for name in SAMPLED] + [{**OWN, "count": 20}], ids=str)
@pytest.mark.parametrize("head", ["linear", "tied", "cosine"])
def test_a_pipeline_learns_with_sampled_negatives(name, head):
    split = SyntheticWorld(num_items=40).sample(num_users=20, seed=1).sequences().leave_one_out()
    batches = TrainingBatches(split.train, examples="all-positions", max_length=12, batch_targets=10**6)
    model = DiffRec(
        split.train.vocabulary, dim=16, max_length=12, head=head, negatives=name,
        denoiser={"name": "conditional-mlp", "encoder": {"name": "causal-transformer", "dropout": 0.0}},
    )  # fmt: skip
    model.negatives.fit(batches.target_counts())
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    (batch,) = batches.epoch(0)
    full = []
    for step in range(30):
        loss = model.loss(batch, seeded(step))
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        full.append(recommendation_over_all_items(model, batch))
    assert full[-1] < full[0] - 0.3


def recommendation_over_all_items(model, batch):
    sampled, model.negatives = model.negatives, AllItems()
    with torch.no_grad():
        loss = model.loss(batch, seeded(99)).named["recommendation"].item()
    model.negatives = sampled
    return loss


@pytest.mark.parametrize("examples", ["every-prefix", "last-target", "all-positions"])
def test_target_counts_are_those_of_an_epoch(examples):
    split = SyntheticWorld(num_items=20).sample(num_users=30, seed=2).sequences().leave_one_out()
    batches = TrainingBatches(split.train, examples=examples, max_length=5, batch_targets=7)
    counts = torch.zeros(len(split.train.vocabulary), dtype=torch.int64)
    for batch in batches.epoch(3):
        real = batch.positions >= 0
        counts += torch.bincount(batch.items.gather(1, batch.positions.clamp(min=0))[real], minlength=len(counts))
    assert torch.equal(batches.target_counts(), counts)
