"""The preset ``mfgan`` and its judges.

There is no oracle: the code needs TensorFlow 1, and files that are not in its repository. Expected values come from
loops over users, items and factors, which run the block of a judge on one whole sequence at a time.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from strategies import perturbed, seeded

from diffusers_rec import (
    AttributeEmbedding,
    Batch,
    DiffRec,
    FeatureEmbedding,
    History,
    PlainDenoiser,
    Queries,
    Sequences,
    TrainingBatches,
    Vocabulary,
    attribute_bags,
    load_pretrained,
)
from diffusers_rec.presets import control, mfgan
from diffusers_rec.training import RECIPES

VOCABULARY, DIM = range(8), 6
CATEGORIES = attribute_bags(VOCABULARY, [["a"], ["a", "b"], ["b"], [], ["c"], ["c"], ["a"], ["b", "c"]])
ROWS = torch.tensor([[3, 7, 1, 5, 2], [6, 6, 4, 0, 0]])
BATCH = Batch(History(ROWS, torch.tensor([5, 3])), torch.tensor([[1, 2, 3, 4], [1, 2, -1, -1]]))
TARGETS, LAST, LENGTHS = ROWS[0, 1:].tolist() + ROWS[1, 1:3].tolist(), (2, 4), (4, 2)


def built(fakes=3, **settings):
    """In float64, without dropout and zero weights."""
    model = mfgan(VOCABULARY, categories=CATEGORIES, dim=DIM, max_length=6, dropout=0.0, **settings)
    return perturbed(model.replace(denoiser={"fakes": fakes, "judge_dropout": 0.0}).double())


def log_of(users, size=8):
    items = np.array([item for user in users for item in user])
    offsets = np.cumsum([0, *map(len, users)])
    return Sequences(items, offsets, Vocabulary(range(len(users))), Vocabulary(range(size)))


def prefixes():
    return [ROWS[row, :length] for row, length in enumerate(LENGTHS)]


def judged(judge, prefix, item):
    """Logit of one judge, for one whole sequence."""
    items = torch.cat([prefix, torch.tensor([item])])
    tokens = judge.factor(items)[None] + judge.places(torch.arange(len(items)))[None]
    seen = torch.ones(1, 1, len(items), len(items), dtype=torch.bool)
    return judge.out(judge.block(tokens, seen)[0, -1]).squeeze()


def ranking(model, prefix):
    """Items of the model, best first."""
    latents = model.embedding(prefix[None])
    states = model.denoiser.encoder.sequence(latents)
    return model.head.logits(states[:, -1])[0].argsort(descending=True).tolist()


def penalties(model, batch=BATCH):
    queries = model.noising.training(batch.positions, 1, seeded(0))
    history = queries.cut(batch.history).first(int(queries.visible.max()))
    history = history.with_latents(model.embedding(history.items))
    items = batch.items.gather(1, queries.positions.flatten(1).clamp(min=0))[..., None]
    return model.denoiser.penalties(model.denoiser.encode(history), queries, items)


def logistic(x):
    return 1 / (1 + math.exp(-x.item()))


@pytest.mark.parametrize("fakes", [1, 3, 100])
def test_losses_and_rewards_are_those_of_a_loop_over_sequences(fakes):
    model = built(fakes)
    found = penalties(model)
    for row, (prefix, true) in enumerate(zip(prefixes(), LAST, strict=True)):
        ranked = ranking(model, prefix)
        generated = [item for item in ranked if item != true][:fakes]
        loss, reward = 0.0, 0.0
        for judge in model.denoiser.judges:
            real = -math.log(logistic(judged(judge, prefix, true)))
            fake = sum(-math.log(1 - logistic(judged(judge, prefix, item))) for item in generated)
            squares = judge.out.weight.square().sum().item() + judge.out.bias.item() ** 2
            loss += (real + fake) / (1 + len(generated)) + 0.1 / 2 * squares
            reward += logistic(judged(judge, prefix, ranked[0])) / len(model.denoiser.judges)
        assert found["discriminator"][row].tolist() == pytest.approx([loss] * 4)
        assert found["reward"][row].tolist() == pytest.approx([reward] * 4)


def test_the_loss_of_the_generator_is_that_of_a_loop_over_targets(monkeypatch):
    model = built().replace(objective={"name": "weighted", "terms": ["rewarded-bce"]}).double()
    rewards = penalties(model)["reward"][:, 0].tolist()
    drawn, draw = [], type(model.negatives).draw
    monkeypatch.setattr(type(model.negatives), "draw", lambda *given: drawn.append(draw(*given)) or drawn[0])
    loss = model.loss(BATCH, seeded(0)).total
    negatives = drawn[0].items[:, 0].tolist()
    rows = [(0, place) for place in range(1, 5)] + [(1, place) for place in range(1, 3)]
    expected = 0.0
    for (row, place), target, negative in zip(rows, TARGETS, negatives, strict=True):
        state = model.denoiser.encoder.sequence(model.embedding(ROWS[row : row + 1, :place]))[0, -1]
        scores = model.head.logits(state)
        expected -= rewards[row] * math.log(logistic(scores[target])) + math.log(1 - logistic(scores[negative]))
    assert loss.item() == pytest.approx(expected / 2 / len(rows))


def reached(model, loss):
    """Names of the weights that a loss reaches."""
    weights = dict(model.named_parameters())
    grads = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
    return {name for name, grad in zip(weights, grads, strict=True) if grad is not None and bool((grad != 0).any())}


def test_the_gradient_of_each_side_stops_at_the_other():
    model = built()
    model.train()
    judges = {name for name, _ in model.named_parameters() if name.startswith("denoiser.judges")}
    found = penalties(model)
    assert reached(model, found["discriminator"].sum()) == judges
    assert not found["reward"].requires_grad
    alone = model.replace(objective={"name": "weighted", "terms": ["rewarded-bce"]})
    generator = reached(alone, alone.loss(BATCH, seeded(0)).total)
    assert generator
    assert not generator & judges
    both = reached(model, model.loss(BATCH, seeded(0)).total)
    assert both == judges | generator


def test_judges_read_nothing_behind_the_longest_history():
    """The row of two items is padded, and its queries at -1 are none."""
    changed = ROWS.clone()
    changed[1, 3:] = 5
    other = Batch(History(changed, BATCH.history.lengths), BATCH.positions)
    model = built()
    for name, value in penalties(model).items():
        assert torch.equal(value, penalties(model, other)[name])


def test_judges_see_no_history_before_the_first_item():
    model = built()
    one = Batch(History(torch.tensor([[3], [2]]), torch.tensor([1, 1])), torch.tensor([[0], [0]]))
    found = penalties(model, one)
    first = model.head.logits(model.denoiser.empty).argmax().item()
    none = torch.tensor([], dtype=torch.int64)
    expected = sum(logistic(judged(judge, none, first)) for judge in model.denoiser.judges)
    assert found["reward"].flatten().tolist() == pytest.approx([expected / 3] * 2)
    assert model.loss(one, seeded(0)).total.isfinite()


def test_predictions_are_those_of_the_plain_model():
    model = built()
    config = {"name": "plain", "encoder": {"name": "positional-transformer", "dropout": 0.0}}
    plain = model.replace(denoiser=config, objective={"name": "weighted", "terms": ["cross-entropy"]})
    assert type(plain.denoiser) is PlainDenoiser
    weights = model.state_dict()
    plain.load_state_dict({name: weights[name] for name in plain.state_dict()})
    assert torch.equal(model.sample([[3, 7, 1]], seeds=1), plain.sample([[3, 7, 1]], seeds=1))


def test_popularity_classes_are_quantiles_and_are_saved(tmp_path):
    log = log_of([[0, 1, 2, 3, 4], [1, 2, 3, 4], [2, 3, 4], [3, 4], [4, 4, 4, 4, 4]], size=5)
    model = mfgan(log.vocabulary, dim=DIM).replace(denoiser={"classes": 5})
    assert model.denoiser.popularity.features.flatten().tolist() == [0] * 5
    model.prepare(log)
    assert model.denoiser.popularity.features.flatten().tolist() == [0, 1, 2, 3, 4]
    model.denoiser.fit(torch.tensor([1, 7, 1, 2, 7]))
    assert model.denoiser.popularity.features.flatten().tolist() == [0, 3, 0, 2, 3]
    model.save_pretrained(tmp_path)
    again = load_pretrained(tmp_path)
    assert torch.equal(again.denoiser.popularity.features, model.denoiser.popularity.features)
    larger = again.extend(["new"])
    assert larger.denoiser.popularity.features.flatten().tolist() == [0, 3, 0, 2, 3, 0]


def test_a_control_and_a_wrapped_model_keep_the_factors():
    model = built()
    plain = control(model)
    assert torch.equal(plain.denoiser.base.factors[0].features, CATEGORIES.indices)
    assert plain.config()["objective"] == model.config()["objective"]
    wrapped = model.replace(denoiser="noiseless")
    assert wrapped.loss(BATCH, seeded(0)).total.isfinite()
    wrapped.prepare(log_of([[0, 1, 1, 2]]))
    five_are_rarer, seven_are_rarer = 5 * 10 // 8, 7 * 10 // 8
    expected = [five_are_rarer, seven_are_rarer, five_are_rarer, 0, 0, 0, 0, 0]
    assert wrapped.denoiser.base.popularity.features.flatten().tolist() == expected


def test_factors_are_any_embeddings_and_belong_to_the_identity_of_a_run():
    model = built()
    vectors = FeatureEmbedding.from_features(torch.eye(8, 3), dim=4)
    changed = model.replace(denoiser={"factors": [vectors, *model.denoiser.factors]})
    assert [judge.factor.dim for judge in changed.denoiser.judges] == [DIM, DIM, 4, DIM]
    assert changed.given().keys() == {"factor 0 features", "factor 1 features"}
    other = AttributeEmbedding.from_features(CATEGORIES.indices.flip(0), DIM, num_attributes=3)
    again = model.replace(denoiser={"factors": [other]})
    assert torch.equal(again.given()["factor 0 features"], CATEGORIES.indices.flip(0))
    with pytest.raises(ValueError, match="items of a factor is 3, items of the embedding is 8"):
        mfgan(VOCABULARY, categories=attribute_bags(range(3), [["a"]] * 3), dim=DIM)
    with pytest.raises(ValueError, match="num_heads must divide dim"):
        model.replace(denoiser={"judge_heads": 4})


def test_an_encoder_with_a_discriminator_of_its_own_is_refused():
    with pytest.raises(ValueError, match="has a discriminator of its own"):
        DiffRec(range(8), dim=DIM, denoiser={"name": "judged", "encoder": "adversarial"})


def test_the_generator_can_be_trained_first():
    model = mfgan(VOCABULARY, dim=DIM, max_length=6)
    first = model.replace(objective={"name": "weighted", "terms": ["sampled-bce"]})
    again = first.replace(objective=model.objective)
    assert again.config() == model.config()
    assert all(torch.equal(weight, first.state_dict()[name]) for name, weight in again.state_dict().items())


def test_a_reward_needs_a_denoiser_that_gives_one():
    with pytest.raises(ValueError, match="reads the penalty 'reward', but the encoder of the denoiser 'plain'"):
        DiffRec(range(8), dim=DIM, denoiser="plain", objective={"name": "weighted", "terms": ["rewarded-bce"]})


def test_the_settings_and_the_recipe_are_those_of_the_code():
    denoiser = mfgan(VOCABULARY).denoiser
    assert (denoiser.dim, denoiser.encoder.dropout, denoiser.judge_dropout, denoiser.fakes) == (50, 0.2, 0.25, 10)
    assert (denoiser.encoder.num_layers, denoiser.encoder.num_heads, denoiser.judge_heads) == (2, 2, 2)
    recipe = RECIPES["mfgan"]
    assert (recipe.epochs, recipe.learning_rate, recipe.clip_norm, recipe.examples) == (400, 1e-3, 0, "all-positions")


def test_judges_learn_to_tell_true_items():
    """Users repeat their first item, which an untrained model does not generate."""
    log = log_of([[user % 4] * 5 for user in range(32)], size=40)
    model = mfgan(log.vocabulary, dim=8, max_length=6).train()
    model.prepare(log, examples="last-target")
    batch = next(iter(TrainingBatches(log, max_length=6, examples="last-target", batch_targets=32).epoch(0)))
    alone = model.replace(objective={"name": "weighted", "terms": ["discriminator"]})
    optimizer = torch.optim.Adam(alone.parameters(), 1e-2)
    losses = []
    for step in range(60):
        loss = alone.loss(batch, seeded(step)).total
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < 0.8 * losses[0]


def test_queries_are_those_of_the_next_item():
    """Where a query corrupts several items, the first of them follows the history."""
    model = built()
    history = History(ROWS[:1, :3], torch.tensor([3]))
    context = model.denoiser.encode(history.with_latents(model.embedding(history.items)))
    one = Queries.next_item(torch.tensor([3]))
    two = Queries(one.visible, torch.tensor([[[3, 4]]]), torch.tensor([[2]]), torch.tensor([[0]]))
    found = model.denoiser.penalties(context, two, torch.tensor([[[5, 2]]]))
    for name, value in model.denoiser.penalties(context, one, torch.tensor([[[5]]])).items():
        assert torch.equal(value, found[name])
