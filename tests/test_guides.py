"""Guides that steer a call: counts against enumeration, tilts against their formulas, and what a call accepts."""

from __future__ import annotations

import itertools
import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import gaussian, seeds

from diffusers_rec import (
    GAP,
    AttributeGuide,
    Denoiser,
    DiffRec,
    FunctionGuide,
    History,
    JointDenoiser,
    LinearSchedule,
    NegativeGuide,
    Queries,
    SyntheticWorld,
    TableEmbedding,
)
from diffusers_rec.guidance import ClassifierFreeGuide, guided
from diffusers_rec.guidance.counts import given_count
from diffusers_rec.guidance.interval import acting
from diffusers_rec.presets import joint
from diffusers_rec.testing import check_component
from diffusers_rec.testing.inputs import perturbed

V, K = 4, 3
ITEMS = SyntheticWorld(30).items.ids
GENRE = dict.fromkeys(ITEMS[::3], 1)
HISTORIES = [list(ITEMS[:4]), list(ITEMS[7:12])]
SCHEDULE = LinearSchedule(30, rescale=False)
ENCODER = {"name": "causal-transformer", "num_layers": 1, "dropout": 0.0}
few = settings(max_examples=settings.default.max_examples // 4)


@pytest.fixture(scope="module")
def model():
    return perturbed(joint(ITEMS, dim=8, max_length=12, k=4, dropout=0.0), seed=1).eval()


def distributions(seed, *, rows=1, width=K, items=V):
    """Log-probabilities ``(R, K, V)``, some of them impossible."""
    drawn = 2 * gaussian(rows, width, items, seed=seed)
    drawn[..., 1:] = drawn[..., 1:].masked_fill(gaussian(rows, width, items - 1, seed=seed + 1) < -1, -torch.inf)
    return drawn.log_softmax(-1)


def steering(cls, **settings):
    embedding = TableEmbedding(V, 8)
    return cls(JointDenoiser(8, 9, encoder=ENCODER), schedule=SCHEDULE, embedding=embedding, **settings).eval()


def steer(guide, log_probabilities, items, timesteps=None):
    steps = torch.where(items >= 0, 0, SCHEDULE.num_timesteps) if timesteps is None else timesteps
    return guide.steer(log_probabilities, steps, items)


def counted(rows, genre=GENRE):
    return [[sum(item in genre for item in sample) for sample in row] for row in rows]


# Counts


@given(
    seed=seeds,
    has=st.lists(st.booleans(), min_size=V, max_size=V),
    wanted=st.integers(0, K),
    order=st.permutations(range(K)),
)
def test_drawing_one_position_after_another_is_drawing_from_the_conditional_distribution(seed, has, wanted, order):
    """The product of the steered conditionals of all K draws is the product distribution given the count."""
    p, has = distributions(seed), torch.tensor(has)
    joint_p = {
        drawn: p[0, range(K), drawn].sum() for drawn in itertools.product(range(V), repeat=K)
        if sum(has[list(drawn)].tolist()) == wanted
    }  # fmt: skip
    total = torch.stack(list(joint_p.values())).logsumexp(0) if joint_p else torch.tensor(-torch.inf)
    if total.isneginf():
        return
    for drawn, chance in joint_p.items():
        items, log_likelihood = torch.full((1, K), -1), torch.zeros(())
        for place in order:
            log_likelihood = log_likelihood + given_count(p, has, items, wanted)[0, place, drawn[place]]
            items[0, place] = drawn[place]
            if log_likelihood.isneginf():
                break
        torch.testing.assert_close(log_likelihood.exp(), (chance - total).exp().to(log_likelihood))


@given(seed=seeds, wanted=st.integers(0, K), decided=st.lists(st.integers(-1, V - 1), min_size=K, max_size=K))
def test_a_count_that_is_out_of_reach_is_the_nearest_in_reach(seed, wanted, decided):
    p, has, items = gaussian(1, K, V, seed=seed).log_softmax(-1), torch.arange(V) < 2, torch.tensor([decided])
    held, gaps = int((has[items.clamp(min=0)] & (items >= 0)).sum()), int((items < 0).sum())
    nearest = min(max(wanted, held), held + gaps)
    got = given_count(p, has, items, wanted)
    assert torch.equal(got, given_count(p, has, items, nearest))
    assert torch.equal(got[items >= 0], p[items >= 0])
    torch.testing.assert_close(got.exp().sum(-1), torch.ones(1, K, dtype=got.dtype))


def test_a_probability_below_the_smallest_number_still_counts():
    p = torch.tensor([[[-300.0, -301.0, 0.0, -1e3]] * K])  # float32, whose smallest number is about e^-103
    got = given_count(p, torch.tensor([True, True, False, False]), torch.full((1, K), -1), K)
    expected = torch.tensor([0.0, -1.0]).log_softmax(0).expand(1, K, 2)
    torch.testing.assert_close(got[..., :2], expected, atol=1e-4, rtol=0)
    assert got[..., 2:].isneginf().all()


@given(seed=seeds, scale=st.floats(-3, 3), count=st.integers(0, K))
def test_given_the_count_a_tilt_of_the_attribute_cancels(seed, scale, count):
    p, has = gaussian(2, K, V, seed=seed).log_softmax(-1), torch.tensor([1.0, 0.0, 1.0, 0.0])
    items = torch.full((2, K), -1)
    tilted = (p + scale * has).log_softmax(-1)
    torch.testing.assert_close(given_count(tilted, has > 0, items, count), given_count(p, has > 0, items, count))


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("samples", [None, 5])
def test_every_slate_has_exactly_the_wanted_share(model, share, samples):
    guidance = {"name": "attribute", "values": GENRE, "share": share}
    slates = model.slate(HISTORIES, 4, samples, guidance=guidance)
    assert counted(slates.items) == [[round(4 * share)] * (samples or 1)] * 2
    assert all(len(set(slate)) == 4 for row in slates.items for slate in row)


def test_known_items_count_towards_the_wanted_number(model):
    among = [each for each in ITEMS if each in GENRE]
    sequence = [ITEMS[1], GAP, among[3], GAP, ITEMS[2]]  # the window from the first gap on has four positions
    for count in (1, 2, 3):
        filled = model.complete([sequence], 4, guidance={"name": "attribute", "values": GENRE, "count": count})
        assert counted([[sample[1:] for sample in filled[0]]]) == [[count] * 4]


def test_a_guided_call_changes_nothing_else(model):
    plain = model.slate(HISTORIES, 3, 2)
    guided_once = model.slate(HISTORIES, 3, 2, guidance={"name": "attribute", "values": GENRE, "count": 3})
    assert model.slate(HISTORIES, 3, 2).items == plain.items != guided_once.items


def test_a_guide_of_a_call_shares_the_weights(model):
    denoiser = guided(model.denoiser, {"name": "attribute", "values": GENRE}, model)
    assert denoiser.base is model.denoiser
    assert not denoiser.training
    assert isinstance(model.denoiser, JointDenoiser)


# Tilts


@given(seed=seeds, scale=st.floats(-5, 5), values=st.lists(st.floats(-2, 2), min_size=V, max_size=V))
def test_a_tilt_multiplies_by_the_exponential(seed, scale, values):
    p, items = distributions(seed, rows=2), torch.full((2, K), -1)
    got = steer(steering(AttributeGuide, values=values, scale=scale), p, items)
    weights = p.exp() * (scale * torch.tensor(values, dtype=p.dtype)).exp()
    torch.testing.assert_close(got.exp(), weights / weights.sum(-1, keepdim=True))


@given(seed=seeds, scale=st.floats(-3, 3))
def test_a_linear_function_is_an_attribute(seed, scale):
    """The tilt to first order is exact for a score that is linear in the probabilities."""
    p, items = distributions(seed, rows=2), torch.tensor([[-1, 2, -1], [-1, -1, -1]])
    price = gaussian(V, seed=seed + 2)
    by_function = steering(FunctionGuide, function=lambda each: (each * price.to(each)).sum((1, 2)), scale=scale)
    by_attribute = steering(AttributeGuide, values=price, scale=scale)
    torch.testing.assert_close(steer(by_function, p, items), steer(by_attribute, p, items))


@given(seed=seeds)
def test_a_function_sees_decided_items_and_a_small_step_raises_its_score(seed):
    seen = []

    def distinct(probabilities):
        seen.append(probabilities.detach())
        return -probabilities.sum(1).square().sum(-1)

    p, items = gaussian(2, K, V, seed=seed).log_softmax(-1), torch.tensor([[1, -1, -1], [-1, -1, 0]])
    steered = steer(steering(FunctionGuide, function=distinct, scale=0.01), p, items)
    decided = torch.nn.functional.one_hot(items.clamp(min=0), V).to(p)
    before, after = (torch.where(items[..., None] >= 0, decided, each.exp()) for each in (p, steered))
    torch.testing.assert_close(seen[0], before)
    assert (distinct(after) >= distinct(before) - 1e-9).all()


@given(seed=seeds, scale=st.floats(0, 4), negative=st.lists(st.integers(0, 6), min_size=1, max_size=6))
@few
def test_negative_guidance_extrapolates_away_from_the_negative_prediction(seed, scale, negative):
    embedding = TableEmbedding(7, 8, seed=1)
    base = perturbed(JointDenoiser(8, 12, encoder=ENCODER, joint_dropout=0.0), seed=3).eval()
    guide = NegativeGuide(base, history=negative, scale=scale, embedding=embedding, schedule=SCHEDULE).eval()

    def prediction(denoiser, items):
        items = torch.tensor([items])
        history = History(items, torch.tensor([items.shape[1]])).with_latents(embedding(items))
        queries = Queries.next_item(history.lengths)
        xn, steps = gaussian(1, 2, 1, 8, seed=seed).float(), torch.tensor([[30, 4]])
        return denoiser(xn, steps, denoiser.condition(denoiser.encode(history), queries))

    with torch.no_grad():
        given_one, other = prediction(base, [1, 2, 3]), prediction(base, negative)
        torch.testing.assert_close(prediction(guide, [1, 2, 3]), given_one + scale * (given_one - other))
        torch.testing.assert_close(prediction(guide, negative), other)


def test_classifier_free_guidance_extrapolates_the_logits_of_items(model):
    made = model.replace(denoiser="classifier-free").eval()
    perturbed(made.denoiser, seed=5)
    latents = {scale: _states(made, scale) for scale in (0.0, 1.0, 3.0)}
    logits = {scale: made.head.logits(each).log_softmax(-1) for scale, each in latents.items()}
    expected = (logits[0.0] + 3 * (logits[1.0] - logits[0.0])).log_softmax(-1)
    torch.testing.assert_close(logits[3.0], expected)
    assert not torch.allclose(logits[3.0], logits[1.0])


def _states(model, scale):
    """What the head takes for the next item, by one step."""
    history = model.encode_histories(HISTORIES)
    return model.next_item_latents(history, seeds=1, guidance={"scale": scale})


# Intervals


@given(start=st.floats(0, 1), length=st.floats(0, 1), filled=st.integers(0, K - 1))
def test_in_the_absorbing_process_the_share_of_filled_positions_stands_for_the_steps(start, length, filled):
    stop = min(1.0, start + length)
    guide = steering(AttributeGuide, values=[1, 0, 0, 1], scale=2.0, start=start, stop=stop)
    p = gaussian(1, K, V, seed=1).log_softmax(-1)
    items = torch.tensor([[2] * filled + [-1] * (K - filled)])
    acts = start <= 1 - (K - filled) / K < stop
    edge = min(abs(filled / K - start), abs(filled / K - stop)) < 1e-9
    assert edge or torch.equal(steer(guide, p, items), p) is not acts


def test_with_gaussian_noise_the_share_is_that_of_the_steps():
    steps = torch.tensor([[30, 30], [15, 15], [1, 1]])
    assert acting(0.5, 1.0, steps, 30, together=True).tolist() == [[False], [True], [True]]
    assert acting(0.0, 0.5, steps, 30, together=False)[:, 0].tolist() == [True, False, False]


# Components


@pytest.mark.parametrize(
    ("cls", "given_settings"),
    [
        (AttributeGuide, {"values": [0, 1, 0, 1, 1, 0, 0], "share": 0.5}),
        (AttributeGuide, {"values": [0.5, 1, -2, 1, 1, 0, 0], "scale": -1.0}),
        (NegativeGuide, {"history": [3, 1, 2], "scale": 2.0}),
        (NegativeGuide, {"history": [3], "scale": 2.0, "start": 0.2, "stop": 0.8}),
        (FunctionGuide, {}),
    ],
    ids=str,
)
def test_steering_guides_keep_the_contract_of_a_denoiser(cls, given_settings):
    check_component(cls, **given_settings)


def test_a_stored_attribute_is_that_of_a_call(model, tmp_path):
    values = [float(each in GENRE) for each in ITEMS]
    stored = model.replace(denoiser={"name": "attribute", "values": values, "count": 2})
    json.dumps(stored.config())
    stored.save_pretrained(tmp_path)
    again = DiffRec.from_pretrained(tmp_path)
    expected = model.slate(HISTORIES, 4, 3, guidance={"name": "attribute", "values": values, "count": 2}).items
    assert again.slate(HISTORIES, 4, 3).items == expected
    assert counted(again.slate(HISTORIES, 4, 3, guidance={"count": 1}).items) == [[1] * 3] * 2
    every = {"values": dict.fromkeys(ITEMS, 1), "count": 4}
    assert counted(again.slate(HISTORIES, 4, 3, guidance=every).items, ITEMS) == [[4] * 3] * 2


def test_no_config_stores_a_function():
    with pytest.raises(ValueError, match=r"a config cannot store a function.*per call"):
        steering(FunctionGuide, function=lambda each: each.sum((1, 2))).config()
    assert steering(FunctionGuide).config()["function"] is None


def test_guides_of_a_call_are_combined(model):
    """A tilt of one attribute and a count of another, away from a history, in any chain."""
    other = dict.fromkeys(ITEMS[1::3], 1)
    guidance = [
        {"name": "negative", "history": ITEMS[20:24], "scale": 0.5},
        {"name": "attribute", "values": other, "scale": -60.0},
        {"name": "attribute", "values": GENRE, "count": 2},
    ]
    slates = model.slate(HISTORIES, 4, 3, guidance=guidance)
    assert counted(slates.items) == [[2] * 3] * 2
    assert counted(slates.items, other) == [[0] * 3] * 2
    for sampler in ("unmask", {"name": "ddim", "num_steps": 3}, {"name": "ddpm", "num_steps": 2}):
        assert model.sample(HISTORIES, sampler=sampler, guidance=guidance[:2], seeds=2).shape == (2, 2, 1, 8)


def test_settings_without_a_name_are_those_of_the_models_own_guide(model):
    own = model.replace(denoiser={"name": "classifier-free", "scale": 4.0}).eval()
    steered = guided(own.denoiser, [{"name": "attribute", "values": GENRE}, 2.0], own)
    assert isinstance(steered, AttributeGuide)
    assert steered.scale == 1.0
    assert isinstance(steered.base, ClassifierFreeGuide)
    assert steered.base.scale == 2.0
    assert own.denoiser.scale == 4.0


def test_values_may_be_of_items_that_the_model_does_not_know(model):
    some = model.slate(HISTORIES, 3, guidance={"name": "attribute", "values": {**GENRE, "another": 1}, "count": 3})
    assert some.items == model.slate(HISTORIES, 3, guidance={"name": "attribute", "values": GENRE, "count": 3}).items


# Errors


@pytest.mark.parametrize(
    ("guidance", "error", "message"),
    [
        ({"values": [1, 0]}, ValueError, r"one number for each of the 30 items.*got 2"),
        ({"values": [[1] * 30]}, ValueError, r"values must be numbers \(V,\), one an item, got the shape \(1, 30\)"),
        ({"values": [float("nan")] * 30}, ValueError, "values must be finite numbers, got nan for item 0"),
        ({"values": "drama"}, TypeError, "values must be numbers over the items, got 'drama'"),
        ({"values": {}}, ValueError, "values is empty"),
        ({"values": {"nowhere": 1}}, ValueError, "the model knows none of the ids in values, such as 'nowhere'"),
        ({"values": [0.5] * 30, "share": 0.5}, ValueError, r"share=0\.5 counts items.*must be 0 or 1, got 0\.5"),
        ({"values": GENRE, "share": 0.5, "count": 2}, ValueError, r"got share=0\.5 and count=2. Give one"),
        ({"values": GENRE, "share": 1.5}, ValueError, r"share must be a finite number at least 0 and at most 1"),
        ({"values": GENRE, "count": 5}, ValueError, r"count=5 items with the attribute are wanted of a set of 4"),
        ({"values": {ITEMS[20]: 1}, "count": 2}, ValueError, "means 2 of 4 items.*between 0 and 1 are possible"),
        ({"values": dict.fromkeys(ITEMS, 1), "count": 2}, ValueError, "between 4 and 4 are possible"),
        ({"values": GENRE, "start": 0.7, "stop": 0.2}, ValueError, "stop must be"),
        ({}, ValueError, "guidance of 'attribute' lacks values, without which it changes nothing"),
        ({"values": GENRE, "base": "joint"}, ValueError, "wraps the model's own denoiser. Remove the base"),
        ({"values": GENRE, "shares": 0.5}, ValueError, "'shares'.*Did you mean 'share'"),
        ({"name": "attribut"}, ValueError, "'attribut'.*Did you mean 'attribute'"),
        ({"name": "joint"}, ValueError, "The denoiser 'joint' is a JointDenoiser, expected a Guide"),
        ({"name": "classifier-free", "scale": 2.0}, ValueError, "which a model must be trained with"),
        ({"name": "negative", "history": ["nowhere"]}, ValueError, "negative: history: .*unknown id.*'nowhere'"),
        ({"name": "negative", "history": []}, ValueError, "negative: history is empty"),
        ({"name": "negative", "history": "item-001"}, TypeError, "negative: history: .*Wrap a single id in a list"),
        ({"name": "negative", "history": ITEMS[:2], "scale": -1.0}, ValueError, "scale must be"),
        ({"name": "function", "function": 3}, TypeError, "function must be Callable or None, got int"),
        ({"name": "function", "function": torch.sum}, ValueError, r"expected one score a set, \(2,\).*got \(\)"),
        ({"name": "function", "function": lambda p: p.detach().sum((1, 2))}, ValueError, "can be differentiated"),
        ({"name": "function", "function": lambda p: p.log().sum((1, 2))}, ValueError, "gradient .* is not finite"),
    ],
)  # fmt: skip
def test_wishes_that_cannot_be_met_are_refused(model, guidance, error, message):
    with pytest.raises(error, match=message):
        model.slate(HISTORIES, 4, guidance={"name": "attribute", **guidance})


def test_contradictory_wishes_are_refused(model):
    counts = [{"name": "attribute", "values": GENRE, "count": 1}] * 2
    with pytest.raises(ValueError, match="one share or count can be wanted at a time, got two"):
        model.slate(HISTORIES, guidance=counts)
    sequence = [ITEMS[1], GAP, ITEMS[3], GAP]
    with pytest.raises(
        ValueError, match=r"means 0 of 3 items.*between 1 and 3 are possible: 1 of those that are known"
    ):
        model.complete([sequence], guidance={"name": "attribute", "values": GENRE, "count": 0})


def test_items_may_repeat_where_a_sequence_may(model):
    guidance = {"name": "attribute", "values": {ITEMS[20]: 1}, "count": 2}
    filled = model.complete([[ITEMS[1], GAP, GAP]], exclude_seen=False, guidance=guidance)
    assert filled[0] == [[ITEMS[1], ITEMS[20], ITEMS[20]]]


def test_a_guide_that_steers_needs_items_and_a_chain(model):
    other = DiffRec(ITEMS, dim=8, max_length=9, sampler="ddim")
    with pytest.raises(ValueError, match="'attribute' wraps a denoiser that predicts items, but the base predicts x0"):
        other.sample(HISTORIES, guidance={"name": "attribute", "values": GENRE})
    with pytest.raises(ValueError, match=r"steers the distributions that a chain draws from.*one step draws none"):
        model.recommend(HISTORIES, guidance={"name": "attribute", "values": GENRE})
    with pytest.raises(ValueError, match=r"guidance=2\.0, but the model has no guide"):
        model.slate(HISTORIES, guidance=2.0)
    with pytest.raises(ValueError, match="The guide 'attribute' needs a model"):
        guided(model.denoiser, {"name": "attribute", "values": GENRE})


def test_negative_guidance_is_not_for_items_alone():
    other = DiffRec(ITEMS, dim=8, max_length=9, denoiser="conditional-mlp", source="last-item", sampler="ddim")
    with pytest.raises(ValueError, match="Use source='zero' with the guide 'negative'"):
        other.sample(HISTORIES, guidance={"name": "negative", "history": ITEMS[:2]})
    plain = perturbed(DiffRec(ITEMS, dim=8, max_length=9, denoiser="conditional-mlp"))
    away = plain.recommend(HISTORIES, 3, guidance={"name": "negative", "history": ITEMS[20:22], "scale": 3.0})
    assert away.items != plain.recommend(HISTORIES, 3).items


def test_steering_guides_are_registered():
    assert {"attribute", "function", "negative"} <= set(Denoiser.names())
