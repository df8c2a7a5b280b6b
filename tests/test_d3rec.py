"""``d3rec`` predicts, trains and ranks as the authors' code, github.com/c0natus/D3Rec at e88bf82.

``d3rec.json`` holds what that code gave in float64, its schedule included, without dropout, for the weights and draws
that the formulas of this file define.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from formulas import wave

from diffusers_rec import (
    Batch,
    CategoryVectorDiffusion,
    History,
    Interactions,
    SyntheticWorld,
    attribute_bags,
    load_pretrained,
)
from diffusers_rec.evaluation import evaluate, evaluate_popularity
from diffusers_rec.nn import category_mlp
from diffusers_rec.presets import d3rec
from diffusers_rec.processes import process
from diffusers_rec.recommenders import user_categories
from diffusers_rec.training import TrainingConfig, train

PUBLISHED = json.loads(Path(__file__).with_name("d3rec.json").read_text())
HISTORY = History(torch.tensor([[1, 4, 2, 6], [5, 0, 3, 3], [6, 2, 0, 0]]), torch.tensor([4, 3, 2]))
CATEGORIES = torch.tensor([[0, -1], [0, 1], [1, -1], [2, -1], [1, 2], [0, -1], [2, 0]])
TIMESTEPS, SHOWN = torch.tensor([1, 2, 4]), torch.tensor([[1.0], [0.0], [1.0]], dtype=torch.float64)
SCHEDULE = {"name": "linear-variance", "num_timesteps": 5, "minimum": 0.005, "maximum": 0.05, "first_beta": 1e-5}
GENRES = [["a"], ["a", "b"], ["b"], ["c"], ["b", "c"], ["a"], ["c", "a"]]


def sinusoids(steps, dim):
    """The frequencies of the authors' code."""
    rates = 10000 ** (-torch.arange(dim // 2, dtype=torch.float64) / (dim // 2 - 1))
    angle = steps[:, None] * rates
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(-2)


@pytest.fixture(params=sorted(PUBLISHED))
def published(request):
    return PUBLISHED[request.param]


@pytest.fixture
def model(published, monkeypatch):
    built = CategoryVectorDiffusion(
        range(7), num_categories=3, schedule=SCHEDULE, widths=published["widths"], max_length=9, rounds=2,
        balance=published["balance"], scale=published["scale"], regularisation=0.7, dropout=0.0,
    ).double().set_categories(CATEGORIES)  # fmt: skip
    with torch.no_grad():
        for phase, (_, weight) in enumerate(sorted(built.named_parameters())):
            weight.copy_(0.7 * wave(weight.shape, phase))
    monkeypatch.setattr(category_mlp, "step_embedding", sinusoids)
    monkeypatch.setattr(process, "randn", lambda shape, *args, **kwargs: 1.3 * wave(shape, 0.7))
    monkeypatch.setattr(user_categories, "uniform", lambda *args, **kwargs: SHOWN)
    return built


def assert_published(found, expected):
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-9)


def test_the_loss_and_its_gradient_are_those_of_the_authors_code(model, published, monkeypatch):
    monkeypatch.setattr(model.timesteps, "sample", lambda *args, **kwargs: (TIMESTEPS, torch.ones(3)))
    loss = model(Batch(HISTORY, HISTORY.lengths[:, None] - 1), torch.Generator())
    loss.total.backward()
    assert_published(loss.per_latent, published["bound"])
    assert_published(loss.total, published["loss"])
    assert_published(model.network.categories.grad, published["gradient"])


def test_the_network_and_the_chain_are_those_of_the_authors_code(model, published):
    x0 = model.vectors(HISTORY)
    xn = model.process.corrupt(x0, TIMESTEPS, torch.Generator()).xn
    guided = model.preferences(HISTORY) * SHOWN
    assert_published(model.network(xn, TIMESTEPS - 1, guided), published["prediction"])
    assert_published(model.eval().denoise(HISTORY), published["scores"])


@pytest.fixture
def small():
    return d3rec(range(7), categories=attribute_bags(range(7), GENRES), dim=8, max_length=9).eval()


def test_the_preference_is_that_of_the_history_unless_a_call_gives_one(small):
    assert small.shares.T[:2].tolist() == [[1, 0, 0], [0.5, 0.5, 0]]
    torch.testing.assert_close(small.preferences(HISTORY)[2], torch.tensor([0.25, 0.5, 0.25]))
    own = small.predict_proba([[6, 2]])
    same = small.predict_proba([[6, 2]], features={"preference": [[0.25, 0.5, 0.25]]})
    other = small.predict_proba([[6, 2]], features={"preference": [[1.0, 0.0, 0.0]]})
    torch.testing.assert_close(own, same)
    with pytest.raises(ValueError, match=r"one number for each of the 3 categories, got \(1, 2\) for 1 users"):
        small.predict_proba([[6, 2]], features={"preference": [[0.5, 0.5]]})
    assert not torch.allclose(own, other)
    for row in ([1.5, -0.5, 0.0], [1.0, 0.0, float("nan")]):
        with pytest.raises(ValueError, match="numbers from 0, got some that are negative or not finite"):
            small.predict_proba([[6, 2]], features={"preference": [row]})


def test_it_trains_in_bf16():
    sequences = SyntheticWorld(21, seed=0).sample(20, min_length=3, max_length=6).sequences()
    model = d3rec(sequences.vocabulary, categories=attribute_bags(sequences.vocabulary.ids, 3 * GENRES), dim=8)
    train(model, sequences, config=TrainingConfig(epochs=1, examples="last-target", precision="bf16"), device="cpu")
    assert all(weight.isfinite().all() for weight in model.parameters())


def test_equal_preferences_for_all_items_balance_nothing():
    model = d3rec(range(3), categories=attribute_bags(range(3), [["a"]] * 3), dim=8, settings="anime")
    assert model._balance(torch.tensor([[1.0, 0, 0]]), torch.ones(1, 1)).tolist() == [pytest.approx([0.8] * 3)]


def test_it_is_saved_with_its_categories(small, tmp_path):
    small.save_pretrained(tmp_path)
    again = load_pretrained(tmp_path)
    assert torch.equal(again.shares, small.shares)
    assert torch.equal(again.predict_proba([[1, 2]]), small.predict_proba([[1, 2]]))


def test_what_does_not_fit_is_refused(small):
    model = CategoryVectorDiffusion(range(7), num_categories=3, schedule=SCHEDULE, widths=[8])
    sequences = Interactions.from_arrays([0, 0], [1, 2], [0, 1]).sequences()
    with pytest.raises(ValueError, match="The categories of the items are not set"):
        model.prepare(sequences)
    for given in (CATEGORIES[:5], CATEGORIES + 1):
        with pytest.raises(ValueError, match="Expected categories of 7 items, below num_categories=3"):
            model.set_categories(given)
    with pytest.raises(ValueError, match="multiples of 4"):
        CategoryVectorDiffusion(range(7), num_categories=3, schedule=SCHEDULE, widths=[6])
    with pytest.raises(ValueError, match="balance must hold two numbers"):
        CategoryVectorDiffusion(range(7), num_categories=3, schedule=SCHEDULE, balance=[1.0])


@pytest.mark.parametrize(
    ("settings", "steps", "noise", "first"), [("ml-1m", 5, 0.0452, 1e-5), ("game", 15, 5e-7, 5e-8)]
)
def test_the_settings_are_those_of_the_authors_code(settings, steps, noise, first):
    model = d3rec(range(7), categories=attribute_bags(range(7), GENRES), settings=settings)
    assert (model.widths, model.num_timesteps, model.rounds) == ([600, 200], steps, 2)
    assert 1 - float(model.schedule.alpha_bar[-1]) == pytest.approx(noise, rel=1e-2)
    assert float(model.schedule.beta[1]) == pytest.approx(first)


@pytest.mark.slow
def test_it_ranks_ahead_of_popularity_and_follows_the_preference():
    split = SyntheticWorld(120, num_groups=6).sample(400).sequences().leave_one_out()
    vocabulary = split.train.vocabulary
    half = {item: "first" if number < 60 else "second" for number, item in enumerate(sorted(vocabulary.ids))}
    bags = attribute_bags(vocabulary, {item: [name] for item, name in half.items()}, known=["first", "second"])
    model = d3rec(vocabulary, categories=bags, dim=32)
    config = TrainingConfig(epochs=60, batch_targets=40, examples="last-target", learning_rate=3e-3, validate_every=20)
    train(model, split.train, split.validation, config, device="cpu")
    found, popular = evaluate(model, split.test), evaluate_popularity(split.train, split.test)
    assert found.metrics()["ndcg@10"] > popular.metrics()["ndcg@10"]
    histories = [vocabulary.decode(split.test.histories[user]) for user in range(50)]
    first, second = (
        model.recommend(histories, k=10, features={"preference": [row] * 50}).items for row in ([1, 0], [0, 1])
    )
    assert share_of("first", half, first) > share_of("first", half, second)


def share_of(name, half, lists):
    listed = [half[item] for items in lists for item in items]
    return listed.count(name) / len(listed)
