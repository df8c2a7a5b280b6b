"""``DiffRec`` as a whole: what training sees, what serving answers, what it refuses."""

from __future__ import annotations

import inspect
import random
from contextlib import contextmanager
from dataclasses import fields
from functools import lru_cache
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Generator
from torch.testing import assert_close

from diffusers_rec import (
    Batch,
    ConditionalMLPDenoiser,
    DDPMSampler,
    Denoiser,
    DiffRec,
    History,
    ImportanceTimestepSampler,
    ItemHead,
    LinearHead,
    NoisingStrategy,
    Queries,
    Sampler,
    TableEmbedding,
    TiedHead,
)

V, D, N, LENGTH = 24, 16, 12, 8
ITEMS = [f"i{v}" for v in range(V)]


def buildable(family):
    """The library's own members that need nothing but sizes, so that the pipeline can build them by name."""
    sizes = {"self", "num_items", "dim", "max_length", "seed", "embedding"}
    return [
        name
        for name in family.names()
        if family.named(name).__module__.startswith("diffusers_rec.")
        and {
            parameter.name
            for parameter in inspect.signature(family.named(name).__init__).parameters.values()
            if parameter.default is inspect.Parameter.empty
        }
        <= sizes
    ]


HEADS, SAMPLERS = buildable(ItemHead), buildable(Sampler)
DENOISERS = [name for name in buildable(Denoiser) if Denoiser.named(name).reads_xn]  # test_plain_presets.py has "plain"
PREDICT_ITEMS = [name for name in DENOISERS if Denoiser.named(name).prediction == "items"]
NOISINGS = [  # that fit every denoiser; test_autoregressive.py has the others
    *(name for name in buildable(NoisingStrategy) if not NoisingStrategy.named(name).noises_history),
    {"name": "last-k", "k": 3, "independent_steps": True},
    {"name": "last-k", "k": 3, "ahead": True},
    {"name": "whole", "independent_steps": True},
]

every_denoiser = pytest.mark.parametrize("denoiser", DENOISERS)
every_noising = pytest.mark.parametrize("noising", NOISINGS, ids=str)
DRAWN = "gaps", "whole-windows"
every_fixed_noising = pytest.mark.parametrize("noising", [each for each in NOISINGS if each not in DRAWN], ids=str)
"""Strategies that draw nothing: training has the queries of the targets."""
every_latent_denoiser = pytest.mark.parametrize("denoiser", [each for each in DENOISERS if each not in PREDICT_ITEMS])
every_head = pytest.mark.parametrize("head", HEADS)
every_sampler = pytest.mark.parametrize("sampler", SAMPLERS)

# Every denoiser with every strategy and with every sampler, but not every triple: a sampler sees a function alone.
every_composition = pytest.mark.parametrize(
    ("denoiser", "noising", "sampler"),
    [
        (denoiser, noising, SAMPLERS[(i + j) % len(SAMPLERS)])
        for i, denoiser in enumerate(DENOISERS)
        for j, noising in enumerate(NOISINGS)
    ],
    ids=str,
)


def objective_of(denoiser):
    """The default objective, or the one of a denoiser that predicts items."""
    name = denoiser["name"] if isinstance(denoiser, dict) else denoiser
    return "items" if name in PREDICT_ITEMS else "simplified"


def with_dropout(denoiser, rate):
    """Config of a denoiser, or of its history encoder, with a dropout rate."""
    if "encoder" in Denoiser.named(denoiser).settings():
        default = inspect.signature(Denoiser.named(denoiser)).parameters["encoder"].default
        encoder = {"name": default} if isinstance(default, str) else default
        return {"name": denoiser, "encoder": {**encoder, "dropout": rate}}
    return {"name": denoiser, "dropout": rate}


def build(denoiser="causal-transformer", items=ITEMS, **settings):
    """A tiny model away from its initialisation, where some layers are zero and would hide mistakes."""
    schedule = {"name": "sqrt", "num_timesteps": N}
    size = {"dim": D, "max_length": LENGTH, "schedule": schedule, "seeds": 3}
    model = DiffRec(items, **{**size, "denoiser": denoiser, "objective": objective_of(denoiser)} | settings)
    generator = Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)
    return model


@lru_cache
def serving(denoiser="causal-transformer", noising=None, head="linear", sampler="one-step"):
    """One shared model for tests that only serve it."""
    return build(denoiser, noising=dict(noising) if noising else "target", head=head, sampler=sampler).eval()


def shared(denoiser, noising):
    return serving(denoiser, tuple(noising.items()) if isinstance(noising, dict) else (("name", noising),))


def seeded(seed=0):
    return Generator().manual_seed(seed)


def make_batch(*rows):
    """Every position but the first of each row is a target; rows may differ in length."""
    width = max(map(len, rows))
    positions = torch.arange(1, width).expand(len(rows), -1)
    lengths = torch.tensor([len(row) for row in rows])
    items = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])
    return Batch(History(items, lengths), positions.where(positions < lengths[:, None], -1))


ROWS = [[3, 7, 1, 20, 5, 2], [9, 9, 4], [0, 23], [11, 3, 8, 15, 6, 2, 17, 21]]
BATCH = make_batch(*ROWS)

histories = st.lists(st.lists(st.sampled_from(ITEMS), min_size=1, max_size=LENGTH + 4), min_size=1, max_size=5)


@contextmanager
def untouched_global_randomness():
    def state():
        return torch.get_rng_state().tolist(), repr(np.random.get_state()), random.getstate()  # noqa: NPY002

    before = state()
    yield
    assert state() == before


def spy(monkeypatch, owner, name):
    """Record the arguments and the result of each call of ``owner.name``."""
    calls, original = [], getattr(owner, name)

    def recorded(*args, **kwargs):
        result = original(*args, **kwargs)
        calls.append((args, result))
        return result

    monkeypatch.setattr(owner, name, recorded)
    return calls


# Training


@every_noising
@every_denoiser
def test_the_loss_depends_on_the_generator_and_on_no_global_state(denoiser, noising):
    model = build(denoiser, noising=noising, head="tied").train()
    first = model(BATCH, seeded()).total
    with torch.random.fork_rng():
        torch.manual_seed(99)
        assert torch.equal(model(BATCH, seeded()).total, first)
    assert not torch.equal(model(BATCH, seeded(1)).total, first)


@every_denoiser
def test_dropout_acts_in_training_alone(denoiser):
    model, plain = build(denoiser).eval(), build(with_dropout(denoiser, 0.0)).eval()
    assert torch.equal(model(BATCH, seeded()).total, plain(BATCH, seeded()).total)
    assert not torch.equal(model.train()(BATCH, seeded()).total, plain.train()(BATCH, seeded()).total)


@every_noising
@every_denoiser
def test_global_random_states_are_never_touched(denoiser, noising):
    with untouched_global_randomness():
        model = build(denoiser, noising=noising)
        model.train().loss(BATCH, seeded()).total.backward()
        for sampler in SAMPLERS:
            model.sample([ITEMS[:3]], sampler=Sampler.build(sampler))
        model.recommend([ITEMS[:3]], k=2)
        model.predict_proba([ITEMS[:3]])


def fix_draws(monkeypatch, model, timesteps, noise):
    """Let a batch's queries draw from tables: ``timesteps`` (B, Q, K) and ``noise`` (B, Q, K, D)."""

    def sample(shape, generator, device=None):
        drawn = timesteps[:, :, : shape[2]] if len(shape) == 3 else timesteps[:, :, 0]
        return drawn, 1 + drawn / N

    monkeypatch.setattr(model.timesteps, "sample", sample)
    monkeypatch.setattr("diffusers_rec.processes.process.randn", lambda shape, *_, **__: noise[:, :, : shape[2]])


@pytest.mark.parametrize("recommend_from", ["sampled", "final"])
@every_fixed_noising
@every_latent_denoiser
def test_the_loss_of_a_batch_is_the_mean_over_its_prefixes_alone_gradients_too(
    denoiser, noising, recommend_from, monkeypatch
):
    objective = {"name": "simplified", "recommend_from": recommend_from}
    model = build(denoiser, noising=noising, head="tied", objective=objective).double().eval()
    shape = (len(ROWS), LENGTH - 1, LENGTH)
    timesteps = torch.randint(1, N + 1, shape, generator=seeded())
    noise = torch.randn(*shape, D, generator=seeded(), dtype=torch.float64)
    parameters = dict(model.named_parameters())

    def measured(batch, rows, queries):
        fix_draws(monkeypatch, model, timesteps[rows, queries], noise[rows, queries])
        loss = model(batch, seeded())
        return loss, torch.autograd.grad(loss.total, parameters.values(), allow_unused=True, materialize_grads=True)

    together, gradients = measured(BATCH, slice(None), slice(0, BATCH.positions.shape[1]))
    total, mean = 0, [torch.zeros_like(gradient) for gradient in gradients]
    for row, items in enumerate(ROWS):
        for position in range(1, len(items)):
            prefix = torch.tensor([items[: position + 1]])
            alone, parts = measured(
                Batch(History(prefix, torch.tensor([position + 1])), torch.tensor([[position]])),
                slice(row, row + 1),
                slice(position - 1, position),
            )
            share = len(alone.per_latent) / len(together.per_latent)
            total = total + share * alone.total
            mean = [sofar + share * part for sofar, part in zip(mean, parts, strict=True)]
    assert_close(together.total, total, rtol=1e-9, atol=0)
    for name, got, expected in zip(parameters, gradients, mean, strict=True):
        assert_close(got, expected, rtol=1e-6, atol=1e-10, msg=lambda text, name=name: f"{name}: {text}")


@every_fixed_noising
@every_denoiser
def test_no_later_item_reaches_an_earlier_prediction_in_training(denoiser, noising, monkeypatch):
    model = build(denoiser, noising=noising).eval()
    calls = spy(monkeypatch, model.denoiser, "forward")
    row, changed = ROWS[-1], 4
    for items in (row, [*row[:changed], 22, 19, *row[changed + 2 :]]):
        model(make_batch(items), seeded())
    (_, before), (_, after) = calls[0], calls[len(calls) // 2]
    real = model.noising.queries(make_batch(row).positions, before.shape[2]).mask[:, : changed - 1]
    assert_close(after[:, : changed - 1][real], before[:, : changed - 1][real])
    assert not torch.equal(after[:, changed:], before[:, changed:])


@every_denoiser
def test_under_target_only_noising_the_target_enters_through_xn_alone(denoiser, monkeypatch):
    model = build(denoiser).double().eval()
    encoded, answered = spy(monkeypatch, model.denoiser, "encode"), spy(monkeypatch, model.denoiser, "forward")
    ends = torch.tensor([[len(row) - 1] for row in ROWS])
    swapped = BATCH.items.scatter(1, ends, 10)
    for items in (BATCH.items, swapped):
        model(Batch(History(items, BATCH.lengths), ends), seeded())
    (xn, timesteps, _), prediction = answered[0]
    changed_xn = answered[len(answered) // 2][0][0]
    embedded = [model.embedding(items.gather(1, ends)) for items in (BATCH.items, swapped)]
    root = model.schedule.alpha_bar[timesteps].sqrt()[..., None]
    assert_close((changed_xn - xn)[:, :, 0], root * (embedded[1] - embedded[0]))
    (history,), (changed_history,) = (call[0] for call in encoded)
    seen = torch.arange(history.items.shape[1]) < ends
    assert torch.equal(history.latent()[seen], changed_history.latent()[seen])
    condition = model.denoiser.condition(encoded[1][1], model.noising.queries(ends, xn.shape[2]))
    again = model.denoiser.forward(xn, timesteps, condition)
    assert_close(again, prediction, rtol=1e-12, atol=1e-12)


@every_fixed_noising
@every_latent_denoiser
def test_recommend_from_final_judges_the_prediction_at_the_last_step(denoiser, noising, monkeypatch):
    model = build(denoiser, noising=noising, objective={"name": "simplified", "recommend_from": "final"}).eval()
    answered, judged = spy(monkeypatch, model.denoiser, "forward"), spy(monkeypatch, model.head, "loss")
    loss = model(BATCH, seeded())
    (xn, timesteps, _), prediction = answered[0]
    if model.denoiser.prediction == "velocity":
        prediction = model.schedule.x0_from_velocity(prediction, xn, timesteps)
    half = BATCH.positions.shape[1]
    assert (timesteps[:, half:] == N).all()
    assert not (loss.timesteps == N).all()
    real = model.noising.queries(BATCH.positions, xn.shape[2]).mask
    assert torch.equal(judged[0][0][0], prediction[:, half:][real])


def test_only_loss_in_training_teaches_the_timestep_sampler():
    model = build().train()
    assert isinstance(model.timesteps, ImportanceTimestepSampler)
    model(BATCH, seeded())
    model.eval().loss(BATCH, seeded())
    assert model.timesteps.state_dict()["seen"].sum() == 0
    loss = model.train().loss(BATCH, seeded())
    arrivals = torch.bincount(loss.timesteps - 1, minlength=N)
    assert torch.equal(model.timesteps.state_dict()["seen"], arrivals)
    assert arrivals.sum() == BATCH.num_targets


@every_denoiser
def test_every_weight_of_the_model_is_trained(denoiser):
    process = "mask" if denoiser in ("bidirectional", "cloze") else "gaussian"  # they have a weight for blanks
    model = build(denoiser, noising={"name": "last-k", "k": 2}, process=process)
    model.loss(BATCH, seeded()).total.backward()
    still = [name for name, parameter in model.named_parameters() if not parameter.grad.count_nonzero()]
    assert not still


def test_a_batch_longer_than_the_denoiser_takes_is_refused():
    with pytest.raises(ValueError, match="batch holds 9 positions, but the denoiser takes 8"):
        build().loss(make_batch(range(LENGTH + 1)), seeded())


# Serving


@every_composition
def test_serving_embeds_the_items_of_the_history_and_nothing_else(denoiser, noising, sampler, monkeypatch):
    model = build(denoiser, noising=noising, sampler=sampler)
    looked_up, answered = spy(monkeypatch, model.embedding, "forward"), spy(monkeypatch, model.denoiser, "forward")
    for history in ([3, 5, 3], [9, 8, 7]):
        model.predict_proba([[ITEMS[index] for index in history]])
        assert looked_up[0][0][0].tolist() == [history]
        assert {index for args, _ in looked_up for index in args[0].flatten().tolist()} <= set(history)
        looked_up.clear()
    if "target" not in str(noising) and "ahead" not in str(noising):
        return  # what is noised there belongs to the history, and so differs with it
    starts = [args[0] for args, _ in answered if (args[1] == N).all()]
    assert torch.equal(*starts)  # the chain starts from the same noise, whatever the history


@every_composition
@settings(max_examples=3)
@given(rows=histories, batch_size=st.integers(1, 5))
def test_a_history_is_answered_the_same_alone_and_in_company(denoiser, noising, sampler, rows, batch_size):
    model, sampler = shared(denoiser, noising), Sampler.build(sampler)
    together = model.predict_proba(rows, sampler=sampler)
    alone = torch.cat([model.predict_proba([row], sampler=sampler) for row in rows])
    assert_close(together, alone, rtol=0, atol=1e-5)
    found = model.recommend(rows, V, exclude_seen=False, sampler=sampler, batch_size=batch_size)
    for row in range(len(rows)):
        scores = torch.tensor([dict(zip(found.items[row], found.scores[row].tolist(), strict=True))[i] for i in ITEMS])
        assert_close(scores, alone[row], rtol=0, atol=1e-5)


@every_composition
def test_probabilities_average_the_seeds_and_std_is_their_deviation(denoiser, noising, sampler):
    model, sampler = shared(denoiser, noising), Sampler.build(sampler)
    rows = [ITEMS[:4], ITEMS[5:6], ITEMS]
    single = torch.stack([model.predict_proba(rows, seeds=[seed], sampler=sampler) for seed in (7, 0, 2)])
    mean = model.predict_proba(rows, seeds=[7, 0, 2], sampler=sampler)
    assert_close(mean, single.mean(0))
    assert_close(mean.sum(1), torch.ones(3))
    assert not torch.equal(single[0], single[1])
    found = model.recommend(rows, 5, seeds=[7, 0, 2], sampler=sampler, exclude_seen=False)
    index = torch.tensor([[ITEMS.index(item) for item in items] for items in found.items])
    assert_close(found.scores, mean.gather(1, index))
    assert_close(found.std, single.std(0, correction=0).gather(1, index), rtol=1e-3, atol=1e-6)
    assert all(first >= second for row in found.scores.tolist() for first, second in pairwise(row))
    assert not model.recommend(rows, 5, seeds=1, sampler=sampler).std.any()


@pytest.mark.parametrize("method", ["sample", "predict_proba", "recommend"])
def test_a_call_takes_a_sampler_in_every_form_that_the_constructor_takes(method):
    model = serving()
    component, config, name = (
        getattr(model, method)([ITEMS[:3]], sampler=sampler)
        for sampler in (DDPMSampler(), {"name": "ddpm", "num_steps": N}, "ddpm")
    )
    own = getattr(model, method)([ITEMS[:3]])
    tensors = [found if isinstance(found, torch.Tensor) else found.scores for found in (component, config, name, own)]
    assert torch.equal(tensors[0], tensors[1])
    assert torch.equal(tensors[0], tensors[2])
    assert not torch.equal(tensors[0], tensors[3])
    with pytest.raises(ValueError, match=r"Unknown sampler name: 'dpmm'.*Did you mean 'ddpm'"):
        getattr(model, method)([ITEMS[:3]], sampler="dpmm")
    with pytest.raises(ValueError, match="num_steps=13, but the schedule has num_timesteps=12"):
        getattr(model, method)([ITEMS[:3]], sampler={"name": "ddim", "num_steps": N + 1})


class OneByOne(Denoiser):
    """Encodes each history by itself and conditions anew, at every call of every draw."""

    def __init__(self, denoiser):
        super().__init__(denoiser.dim, denoiser.max_length, 0)
        self.denoiser, self.prediction = denoiser, denoiser.prediction

    def encode(self, history):
        return history

    def condition(self, context, queries, *, null=False):
        return context, queries

    def forward(self, xn, timesteps, condition):
        history, queries = condition
        predicted = torch.empty_like(xn)
        for row, draw in np.ndindex(*xn.shape[:2]):
            one, rows = (slice(row, row + 1), slice(draw, draw + 1)), slice(row, row + 1)
            parts = {
                field.name: getattr(queries, field.name)[rows] for field in fields(queries) if field.name != "known"
            }
            alone = self.denoiser.condition(self.denoiser.encode(history.take(rows)), Queries(**parts))
            predicted[one] = self.denoiser(xn[one], timesteps[one].clone(), alone)
        return predicted


@every_composition
def test_what_is_kept_between_steps_and_draws_changes_no_answer(denoiser, noising, sampler):
    model = build(denoiser, noising=noising, sampler=sampler).to(torch.float64).eval()
    histories = [ITEMS[:2], ITEMS[3:10], ITEMS[5:6]]
    fast = model.sample(histories, seeds=3)
    model.denoiser = OneByOne(model.denoiser)
    assert_close(fast, model.sample(histories, seeds=3), rtol=1e-9, atol=1e-9)


def test_a_number_of_seeds_stands_for_the_first_ones():
    model = serving()
    expected = model.predict_proba([ITEMS[:3]], seeds=[0, 1, 2])
    for seeds in (3, None, range(3), np.arange(3)):  # the model's own are 3
        assert torch.equal(model.predict_proba([ITEMS[:3]], seeds=seeds), expected)
    assert_close(model.predict_proba([ITEMS[:3]], seeds=[2, 0, 1]), expected)


@pytest.mark.parametrize(
    ("seeds", "error", "message"),
    [
        ([1, 2, 1], ValueError, r"seeds must differ, but \[1\]"),
        ([0, -1], ValueError, "each seed must be an integer >= 0, got -1"),
        ([], ValueError, "at least one seed"),
        (0, ValueError, "seeds .* >= 1 and <= 10000, got 0"),
        (True, TypeError, "seeds .* integer"),
        ([0.5], TypeError, "each seed must be an integer"),
    ],
)
def test_bad_seeds_are_refused_when_building_and_when_serving(seeds, error, message):
    with pytest.raises(error, match=message):
        build(seeds=seeds)
    with pytest.raises(error, match=message):
        serving().recommend([ITEMS[:3]], seeds=seeds)


@settings(max_examples=15)
@given(rows=histories, pool=st.sets(st.sampled_from(ITEMS), min_size=1))
def test_the_seen_are_left_out_however_long_ago_and_only_candidates_come(rows, pool):
    model = serving()
    ranked = model.recommend(rows, V, exclude_seen=False)
    found = model.recommend(rows, len(pool), candidates=iter(sorted(pool)))
    for row, history in enumerate(rows):
        expected = [item for item in ranked.items[row] if item in pool and item not in history]
        assert found.items[row] == expected
        assert [item for item, _, _ in found[row]] == expected
        assert not found.scores[row, len(expected) :].any()


@every_head
@every_denoiser
def test_permuting_the_vocabulary_permutes_the_answers_and_changes_nothing_else(denoiser, head):
    model = serving(denoiser, head=head)
    order = torch.randperm(V, generator=seeded())
    other = build(denoiser, items=[ITEMS[index] for index in order], head=head)
    other.load_state_dict(
        {
            name: tensor[order] if name.split(".")[0] in {"embedding", "head"} else tensor
            for name, tensor in model.state_dict().items()
        }
    )
    rows = [ITEMS[:3], ITEMS[4:5], ITEMS[3:18]]
    assert_close(other.predict_proba(rows), model.predict_proba(rows)[:, order])
    ours, theirs = model.recommend(rows), other.recommend(rows)
    assert ours.items == theirs.items
    assert_close(ours.std, theirs.std)


@pytest.mark.parametrize(
    "make",
    [int, str, lambda v: (v, "x"), np.int64, np.str_, lambda v: frozenset({v})],
    ids=["int", "str", "tuple", "numpy int", "numpy str", "frozenset"],
)
def test_ids_may_be_anything_hashable_and_come_back_as_they_are(make):
    ids = [make(1000 - v) for v in range(V)]
    model, plain = build(items=ids), serving()
    found = model.recommend([ids[:3], ids[5:6]], 4)
    expected = plain.recommend([ITEMS[:3], ITEMS[5:6]], 4)
    assert found.items == [[ids[ITEMS.index(item)] for item in row] for row in expected.items]


@pytest.mark.parametrize("wrap", [tuple, np.array, torch.tensor, iter], ids=["tuple", "numpy", "torch", "iterator"])
def test_a_history_may_be_any_sequence(wrap):
    model = build(items=range(V))
    assert model.recommend([wrap([3, 1, 4]), wrap([1])]).items == model.recommend([[3, 1, 4], [1]]).items


@every_noising
@every_denoiser
def test_of_a_long_history_the_last_items_count(denoiser, noising):
    model = shared(denoiser, noising)
    new = 3 if "ahead" in str(noising) else 1
    assert model.history_length == LENGTH - new
    last = ITEMS[-model.history_length :]
    probabilities = model.predict_proba([ITEMS, last, ["i0", *last], last[1:]])
    assert_close(probabilities[:3], probabilities[:1].expand(3, -1))
    assert (probabilities[0] - probabilities[3]).abs().max() > least_effect(denoiser)


def least_effect(denoiser):
    """The least effect of an item on a probability; added latents are scaled by a thousandth."""
    return 1e-5 if denoiser in ("added-latent", "autoregressive", "macaron") else 1e-4


class Failing(Sampler):
    def sample(self, denoise, process, start, generator, *, callback=None):
        raise RuntimeError("on purpose")


@every_denoiser
def test_serving_turns_dropout_off_and_leaves_every_module_as_it_was(denoiser):
    model, quiet = build(denoiser).train(), build(denoiser).eval()
    model.embedding.eval()  # a part that its owner has frozen
    modes = [module.training for module in model.modules()]
    assert torch.equal(model.predict_proba([ITEMS[:3]]), quiet.predict_proba([ITEMS[:3]]))
    assert [module.training for module in model.modules()] == modes
    with pytest.raises(RuntimeError, match="on purpose"):
        model.recommend([ITEMS[:3]], sampler=Failing())
    assert [module.training for module in model.modules()] == modes


def test_serving_keeps_no_gradient_and_leaves_gradients_on():
    model = build()
    found = model.recommend([ITEMS[:3]])
    for tensor in (model.sample([ITEMS[:3]]), model.predict_proba([ITEMS[:3]]), found.scores, found.std):
        assert not tensor.requires_grad
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("schedule", ["sqrt", "cosine"])
@every_sampler
@every_denoiser
def test_a_single_step_is_enough(denoiser, sampler, schedule):
    model = build(denoiser, schedule={"name": schedule, "num_timesteps": 1}, sampler=sampler)
    assert model.loss(BATCH, seeded()).total.isfinite()
    assert_close(model.predict_proba([ITEMS[:3]]).sum(), torch.tensor(1.0))


@every_sampler
@every_denoiser
def test_the_next_k_are_drawn_jointly(denoiser, sampler):
    model = build(denoiser, noising={"name": "last-k", "k": 3, "ahead": True}, sampler=sampler)
    rows = [ITEMS[:3], ITEMS[:1], ITEMS]
    latents = model.sample(rows, seeds=4)
    assert latents.shape == (3, 4, 3, D)
    assert_close(model.sample(rows[1:2], seeds=[2])[0, 0], latents[1, 2], rtol=0, atol=1e-5)
    assert torch.equal(model.next_item_latents(model.encode_histories(rows), seeds=4), latents[:, :, 0])


# What is refused


@pytest.mark.parametrize(
    ("histories", "error", "message"),
    [
        ([["i1"], []], ValueError, r"histories\[1\] is empty"),
        ([], ValueError, "histories is empty"),
        ([["i1"], ["i2", "nowhere"]], ValueError, r"histories\[1\].*unknown id.*'nowhere'"),
        ([["i1"], [1]], ValueError, r"histories\[1\].*has str ids, 1 is a int"),
        (["i1", "i2"], TypeError, r"histories\[0\] must be a list of item ids, got 'i1'.*\[\[\.\.\.\]\]"),
        ([3, 4], TypeError, r"histories\[0\] must be a list of item ids, got 3"),
        (torch.tensor([3, 4]), (TypeError, ValueError), r"histories\[0\]"),
        (np.array([3, 4]), TypeError, r"histories\[0\] must be a list of item ids"),
        ("i1", TypeError, "histories must be a list of histories"),
        ({"user": ["i1"]}, TypeError, "histories must be a list of histories"),
        (7, TypeError, "histories must be a list of histories"),
        ([["i1"], [["i2"]]], TypeError, r"histories\[1\].*hashable"),
    ],
)
@pytest.mark.parametrize("method", ["recommend", "predict_proba", "sample"])
def test_bad_histories_are_refused(method, histories, error, message):
    with pytest.raises(error, match=message):
        getattr(serving(), method)(histories)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"k": 0}, ValueError, r"k must lie in 1\.\.24.*got 0"),
        ({"k": -1}, ValueError, r"k must lie in 1\.\.24.*got -1"),
        ({"k": V + 1}, ValueError, r"k must lie in 1\.\.24.*got 25"),
        ({"k": 3, "candidates": ["i1", "i2", "i1"]}, ValueError, r"k must lie in 1\.\.2, .*got 3"),
        ({"k": 2.0}, TypeError, "k must be an integer"),
        ({"candidates": ["nowhere"]}, ValueError, "candidates:.*unknown id.*'nowhere'"),
        ({"candidates": "i1"}, TypeError, "candidates must be a list.*'i1'"),
        ({"candidates": []}, ValueError, "candidates is empty"),
        ({"batch_size": 0}, ValueError, "batch_size must be an integer >= 1"),
        ({"exclude_seen": 1}, TypeError, "exclude_seen must be True or False"),
    ],
)
def test_bad_requests_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        serving().recommend([["i1"]], **arguments)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"denoiser": "transfomer"}, "Unknown denoiser name: 'transfomer'.*Did you mean 'transformer'"),
        ({"schedule": {"name": "sqrt", "steps": 5}}, "Unknown key in the config of schedule 'sqrt': 'steps'"),
        ({"head": {"name": "tied", "embedding": None}}, "Unknown key in the config of head 'tied': 'embedding'"),
        ({"embedding": TableEmbedding(V - 1, D)}, "items of the embedding is 23, items of the vocabulary is 24"),
        ({"denoiser": ConditionalMLPDenoiser(8)}, "dim of the denoiser is 8, dim of the embedding is 16"),
        ({"head": LinearHead(V + 1, D)}, "items of the head is 25, items of the vocabulary is 24"),
        ({"head": LinearHead(V, 8)}, "dim of the head is 8, dim of the embedding is 16"),
        ({"timesteps": ImportanceTimestepSampler(5)}, "num_timesteps of the timestep sampler is 5.* is 12"),
        ({"head": TiedHead(TableEmbedding(V, D))}, "the head holds another embedding"),
        ({"max_length": 1}, "max_length must be an integer >= 2, got 1"),
        ({"max_length": 3, "noising": {"name": "last-k", "k": 3, "ahead": True}}, "max_length=3 leaves no room"),
        ({"negatives": "in-batch", "noising": "whole"}, "whose counts correct in-batch negatives"),
        ({"sampler": DDPMSampler(num_steps=N + 1)}, "num_steps=13, but the schedule has num_timesteps=12"),
        ({"sampler": {"name": "ddim", "num_steps": 50}}, "sampler takes num_steps=50"),
        ({"items": []}, "at least one id"),
        ({"items": ["a", "b", "a"]}, "every id must occur once.*'a'"),
    ],
)
def test_parts_that_do_not_exist_or_do_not_fit_are_refused_when_building(settings, message):
    with pytest.raises(ValueError, match=message):
        build(**settings)


# What it is


@every_noising
@every_denoiser
def test_a_config_builds_an_equal_pipeline(denoiser, noising):
    model = build(with_dropout(denoiser, 0.1), noising=noising, head="cosine", sampler=DDPMSampler("posterior"))
    assert DiffRec.from_config(ITEMS, model.config()).config() == model.config()


@every_denoiser
def test_the_seed_alone_decides_the_initial_weights(denoiser):
    settings = {"dim": D, "denoiser": denoiser, "objective": objective_of(denoiser)}
    first, again, other = (DiffRec(ITEMS, **settings, seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_an_unknown_key_in_the_pipelines_config_is_refused():
    with pytest.raises(ValueError, match=r"Unknown keys in the config of DiffRec: \['colour'\]"):
        DiffRec.from_config(ITEMS, serving().config() | {"colour": 1})


@every_sampler
@every_denoiser
@pytest.mark.parametrize("noising", ["whole", {"name": "last-k", "k": 3}], ids=["whole", "last-k"])
def test_corrupted_items_of_the_history_still_inform(denoiser, noising, sampler):
    # Where items are predicted, little noise shows the drawn item as well, which leaves nothing to the history.
    mild = {"name": "sqrt", "num_timesteps": N, "log_snr_shift": 0.0 if denoiser in PREDICT_ITEMS else 4.0}
    model = build(denoiser, noising=noising, schedule=mild)
    one, other = (
        model.predict_proba([[ITEMS[v] for v in row]], sampler=Sampler.build(sampler)) for row in ([3, 5, 7], [3, 5, 8])
    )
    assert (one - other).abs().max() > 0.1 * least_effect(denoiser)


def test_causal_queries_know_their_order():
    model = shared("causal-transformer", "whole")
    with torch.no_grad():
        model.denoiser.among_bias.normal_(generator=torch.Generator().manual_seed(0))
    xn = torch.randn(1, 1, 4, D, generator=torch.Generator().manual_seed(1))
    context = model.denoiser.encode(History.of_latents(torch.zeros(1, 0, D), torch.tensor([0])))
    condition = model.denoiser.condition(context, model.noising.queries(torch.tensor([[3]]), 4))
    forward, backward = (model.denoiser(x, torch.ones(1, 1).long(), condition) for x in (xn, xn.flip(2)))
    assert (forward - backward.flip(2)).abs().max() > 1e-4


def test_more_items_than_the_model_reads_are_refused():
    model = build()
    with pytest.raises(ValueError, match="reads 7 items at most, got 9"):
        model.next_item_latents(History(torch.zeros(1, 9, dtype=torch.int64), torch.tensor([9])))


def test_a_schedule_that_keeps_the_signal_is_warned_of():
    with pytest.warns(UserWarning, match=r"At the last step 60% of the signal is left"):
        build(schedule={"name": "linear", "num_timesteps": 50, "rescale": False})
