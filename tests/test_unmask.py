"""The sampler that fills in blanks, and what a chain calls where items are predicted."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from joint_world import CELLS, K, V, predictor, world
from strategies import built, gaussian, seeded

from diffusers_rec import DDIMSampler, MaskProcess, Queries, Sampler, SqrtSchedule, UnmaskSampler
from diffusers_rec.samplers import item_predictor
from diffusers_rec.samplers.unmask import ORDERS
from diffusers_rec.testing.samplers import halved

MASK, GAUSSIAN = world("mask", 20), world("gaussian", 20)
BLANKS = torch.zeros(1, 30, K, V).double()
few = settings(max_examples=3)


def unmask(**given):
    return UnmaskSampler(MASK.head, MASK.embedding, **given)


def fill(sampler, generator=0, start=BLANKS, **given):
    with torch.no_grad():
        return sampler.fill(predictor(MASK, 1, **given), MASK.process, start, seeded(generator))


def steps(sampler, known=(-1,) * K):
    """What a callback sees."""
    seen = []
    with torch.no_grad():
        denoise = predictor(MASK, 1, known=known)
        sampler.sample(denoise, MASK.process, BLANKS, seeded(0), callback=seen.append)
    return seen


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("num_steps", [None, 1, 2, 3, 9])
def test_the_blanks_are_filled_in_the_steps_that_were_asked_for(order, num_steps):
    seen = steps(unmask(order=order, num_steps=num_steps))
    taken = min(num_steps or K, K)
    assert len(seen) == taken
    filled = [int((step.previous == 0).sum(-1).max()) for step in seen]
    assert filled == {1: [3], 2: [2, 3], 3: [1, 2, 3]}[taken]
    assert all(((step.timestep == 20) | (step.timestep == 0)).all() for step in seen)
    for step, later in pairwise(seen):
        assert torch.equal(step.previous, later.timestep)
        stands = step.previous == 0
        assert torch.equal(step.xn[stands], later.xn[stands])


def test_left_to_right_fills_from_the_left():
    for index, step in enumerate(steps(unmask(order="left-to-right"))):
        assert (step.previous[..., : index + 1] == 0).all()
        assert (step.previous[..., index + 1 :] == 20).all()


def test_a_random_order_differs_by_draw():
    (first, *_) = steps(unmask())
    assert len(torch.unique(first.previous[0], dim=0)) == K


def test_confidence_fills_the_surest_first():
    (first, *_) = steps(unmask(order="confidence"))
    ((_, scores),) = predictor(MASK, 1).distributions(BLANKS[:, :1], torch.full((1, 1), 20))
    assert (first.previous[0].argmin(-1) == scores[0].amax(-1).argmax()).all()


def test_a_known_position_takes_no_step():
    seen = steps(unmask(), known=(-1, 2, -1))
    assert len(seen) == 2
    assert all((step.timestep[..., 1] == 0).all() for step in seen)
    assert steps(unmask(), known=(0, 2, 1)) == []


def test_remasking_fills_one_gap_again():
    seen = steps(unmask(remask=4), known=(-1, 2, -1))
    assert len(seen) == 2 + 4
    for step in seen[2:]:
        assert (step.timestep != 0).sum(-1).eq(1).all()
        assert (step.timestep[..., 1] == 0).all()
        assert (step.previous == 0).all()
    assert not torch.equal(seen[1].xn, seen[-1].xn)


@few
@given(order=st.sampled_from(ORDERS), num_steps=st.integers(1, 3), distinct=st.booleans(), remask=st.integers(0, 2))
def test_neither_chunks_nor_the_other_draws_matter(order, num_steps, distinct, remask):
    sampler = unmask(order=order, num_steps=num_steps, distinct=distinct, remask=remask)
    generators = [seeded(seed) for seed in range(5)]
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        whole = sampler.fill(predictor(MASK, 1), MASK.process, BLANKS[:, :5], generators)
        patch.setattr(item_predictor, "CHUNK_SCORES", 1)
        chunked = sampler.fill(predictor(MASK, 1), MASK.process, BLANKS[:, :5], [seeded(seed) for seed in range(5)])
        assert torch.equal(chunked.items, whole.items)
        torch.testing.assert_close(chunked.log_likelihood, whole.log_likelihood)
        for draw in range(5):
            alone = sampler.fill(predictor(MASK, 1), MASK.process, BLANKS[:, :1], [seeded(draw)])
            assert torch.equal(alone.items[0, 0], whole.items[0, draw])
            torch.testing.assert_close(alone.log_likelihood[0, 0], whole.log_likelihood[0, draw])


@pytest.mark.parametrize("order", ORDERS)
def test_starts_that_differ_are_not_taken_for_one(order):
    """A function of the latents may tell draws apart from the first step on."""
    sampler = UnmaskSampler(MASK.head, MASK.embedding, order=order, temperature=0.0)
    start = 5 * gaussian(2, 4, K, V)
    start[:, 1] = start[:, 0]
    found = sampler.fill(lambda xn, n: xn, MASK.process, start, seeded(0))
    assert torch.equal(found.items, start.argmax(-1))


@pytest.mark.parametrize("shape", [(2, 3, 8), (2, 3, 1, 8), (2, 3, 4, 8), (2, 3, 2, 2, 8)])
def test_a_plain_function_of_any_axes_is_sampled(shape):
    sampler = built(Sampler, "unmask")
    seen = []
    sample = sampler.sample(halved, SqrtSchedule(7), gaussian(*shape), seeded(0), callback=seen.append)
    assert sample.shape == shape
    table = sampler.embedding.table().double()
    assert (torch.cdist(sample.view(-1, 8), table).amin(-1) < 1e-6).all()
    assert all(step.xn.shape == shape and step.timestep.shape == shape[:-1] for step in seen)


def test_a_start_without_draws_is_refused():
    with pytest.raises(ValueError, match=r"The sampler 'unmask' takes latents \(B, S, K, D\), got \(2, 8\)"):
        built(Sampler, "unmask").sample(halved, SqrtSchedule(7), gaussian(2, 8), seeded(0))


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"order": "backwards"}, ValueError, "order must be one of 'random', 'confidence', 'left-to-right'"),
        ({"num_steps": 0}, ValueError, "num_steps must be an integer >= 1, got 0"),
        ({"temperature": -1}, ValueError, "temperature must be a finite number at least 0, got -1"),
        ({"top_p": 0.0}, ValueError, "top_p must be a finite number above 0 and at most 1, got 0"),
        ({"top_p": 1.5}, ValueError, "top_p must be a finite number above 0 and at most 1, got 1.5"),
        ({"remask": -1}, ValueError, "remask must be an integer >= 0, got -1"),
        ({"distinct": 1}, TypeError, "distinct must be True or False, got 1"),
    ],
)
def test_bad_settings_are_refused(given, error, message):
    with pytest.raises(error, match=message):
        unmask(**given)


def test_it_runs_the_chain_of_the_absorbing_process():
    own = unmask().own_process(GAUSSIAN.process)
    assert isinstance(own, MaskProcess)
    assert own.schedule is GAUSSIAN.schedule
    assert DDIMSampler().own_process(GAUSSIAN.process) is GAUSSIAN.process


# The predictor


def test_a_denoiser_of_latents_has_no_items_to_predict(monkeypatch):
    monkeypatch.setattr(MASK.denoiser, "prediction", "x0")
    with pytest.raises(ValueError, match=r"predicts x0, expected a prediction of items\. Use the preset 'joint'"):
        predictor(MASK)


@torch.no_grad()
def test_the_predicted_latent_is_the_mean_under_the_distribution():
    denoise = predictor(GAUSSIAN, 1)
    xn, n = gaussian(1, 6, K, V), torch.full((1, 6), 9)
    scores = torch.cat([part for _, part in denoise.distributions(xn, n)])
    expected = (scores.exp() @ GAUSSIAN.embedding.table()).view(xn.shape)
    torch.testing.assert_close(denoise(xn, n), expected)
    torch.testing.assert_close(scores.logsumexp(-1), torch.zeros(6, K).double())


@torch.no_grad()
def test_a_chosen_place_has_the_distribution_that_all_places_have():
    denoise, places = predictor(GAUSSIAN, 1), torch.tensor([[[2, 0]], [[1, 1]]]).view(1, 2, 2)
    xn, n = gaussian(1, 2, K, V), torch.full((1, 2), 9)
    ((_, every),) = denoise.distributions(xn, n)
    ((_, some),) = denoise.distributions(xn, n, places=places)
    torch.testing.assert_close(some, every.gather(1, places[0, :, :, None].expand(-1, -1, V)))


@torch.no_grad()
def test_the_exact_denoiser_predicts_the_posterior_of_each_position():
    """Written from the joint density of all positions, and so with the evidence of the own one."""
    xn, n = gaussian(1, 1, K, V), 7
    level, table = GAUSSIAN.schedule.level(n), GAUSSIAN.embedding.table()
    density = torch.distributions.Normal(level.signal * table, level.variance**0.5)
    each = density.log_prob(xn[0, 0][:, None]).sum(-1)
    weights = GAUSSIAN.denoiser.p[1].log().clone()
    for cell in CELLS:
        weights[cell] += sum(each[place, item] for place, item in enumerate(cell))
    posterior = weights.flatten().softmax(0).view(V, V, V)
    ((_, scores),) = predictor(GAUSSIAN, 1).distributions(xn, torch.full((1, 1), n))
    for place in range(K):
        marginal = posterior.sum([other for other in range(K) if other != place])
        torch.testing.assert_close(scores[0, place].exp(), marginal, rtol=1e-6, atol=1e-9)


@torch.no_grad()
def test_the_nearest_items_are_allowed_and_distinct_on_request():
    table = MASK.embedding.table()
    latents = table[torch.tensor([2, 2, 1])][None, None] + 0.01
    allowed = torch.tensor([[True, True, True, False]])
    denoise = predictor(MASK, 1, allowed=allowed)
    assert denoise.nearest(latents, distinct=False).tolist() == [[[2, 2, 1]]]
    distinct = denoise.nearest(latents)[0, 0].tolist()
    assert distinct[0] == 2
    assert sorted(distinct) == [0, 1, 2]
    known = predictor(MASK, 1, known=(-1, 3, -1), allowed=allowed)
    assert known.nearest(latents).tolist() == [[[2, 3, 1]]]


def test_steering_sees_what_is_decided(monkeypatch):
    """And its distribution is the one that is drawn from."""
    calls = []

    def steer(log_probabilities, timesteps, items):
        calls.append(items.clone())
        return torch.full_like(log_probabilities, -torch.inf).index_fill(-1, torch.tensor(3), 0.0)

    monkeypatch.setattr(MASK.denoiser, "steers", True)
    monkeypatch.setattr(MASK.denoiser, "steer", steer)
    for order in ORDERS:
        calls.clear()
        found = fill(unmask(order=order), known=(-1, 2, -1))
        assert found.items.unbind(-1)[0].eq(3).all()
        assert found.items[..., 1].eq(2).all()
        assert [int((items >= 0).sum(-1).max()) for items in calls] == [1, 2]
        assert all(items[:, 1].eq(2).all() for items in calls)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("order", ORDERS)
def test_guidance_that_leaves_no_item_is_refused(monkeypatch, order, temperature):
    def steer(log_probabilities, timesteps, items):
        return torch.full_like(log_probabilities, -torch.inf).index_fill(-1, torch.tensor(3), 0.0)

    monkeypatch.setattr(MASK.denoiser, "steers", True)
    monkeypatch.setattr(MASK.denoiser, "steer", steer)
    sampler = unmask(order=order, temperature=temperature, distinct=True)
    with pytest.raises(ValueError, match=r"No item is left to fill a gap with.*against the guidance"):
        fill(sampler)


@pytest.mark.parametrize("order", ORDERS)
def test_rows_that_have_used_up_their_items_wait_for_the_others(order):
    """Two rows of two allowed items: one has two gaps, the other one."""
    allowed = torch.tensor([[True, True, False, False], [True, False, False, True]])
    denoise = predictor(MASK, 1)
    denoise.allowed, denoise.known = allowed, torch.tensor([[[-1, -1, 2]], [[-1, 3, 2]]])
    sampler = unmask(order=order, distinct=True)
    items = sampler.fill(denoise, MASK.process, BLANKS.expand(2, -1, -1, -1), seeded(0)).items
    assert items[0].sort(-1).values.eq(torch.tensor([0, 1, 2])).all()
    assert items[1].eq(torch.tensor([0, 3, 2])).all()


def test_queries_that_are_narrower_than_the_world_are_marginals():
    """Of the oracle itself: a query of two positions has the joint distribution of the first two."""
    history = MASK.encode_histories([[1]])
    queries = Queries(*(torch.tensor(each) for each in ([[1]], [[[1, 2]]], [[2]], [[0]])))
    condition = MASK.denoiser.condition(MASK.denoiser.encode(history), queries)
    torch.testing.assert_close(condition[0, 0].exp(), MASK.denoiser.p[1].sum(-1))
