"""Chains of both processes on a world with a known joint distribution over three positions."""

from __future__ import annotations

import math
from itertools import permutations, product

import pytest
import torch
from joint_world import CELLS, K, V, chain, joint, p_value, predictor, world
from scipy.stats import chi2_contingency
from strategies import seeded

from diffusers_rec import GAP, DDIMSampler, DDPMSampler, MaskProcess, NoiseSchedule, UnmaskSampler
from diffusers_rec.samplers.unmask import ORDERS

DRAWS = 3000
LIKELY, UNLIKELY = 1e-3, 1e-6
"""p values of draws from the distribution itself, with fixed seeds, and from another one."""

MASK, MIXED, GAUSSIAN = (world(process) for process in ("mask", "mixed", "gaussian"))
ANCESTRAL = DDPMSampler("posterior")
LAST = 2


def unmask(model=MASK, **settings):
    return UnmaskSampler(model.head, model.embedding, **settings)


CHAINS = {
    "mask, ancestral": (MASK, ANCESTRAL),
    **{f"mask, {order}": (MASK, unmask(order=order)) for order in ORDERS},
    "mixed, random": (MIXED, unmask(MIXED)),
    "mask, remask": (MASK, unmask(remask=2)),
    "gaussian": (GAUSSIAN, ANCESTRAL),
    "gaussian, 50 steps": (GAUSSIAN, DDPMSampler("posterior", num_steps=50)),
    "gaussian, one after another": (GAUSSIAN, DDPMSampler("posterior", num_steps=50, stagger=25)),
    "gaussian, deterministic": (GAUSSIAN, DDIMSampler()),
    "mixed": (MIXED, ANCESTRAL),
}
every_chain = pytest.mark.parametrize(("model", "sampler"), CHAINS.values(), ids=CHAINS)


@every_chain
def test_a_chain_lands_on_the_joint_distribution(model, sampler):
    items, _ = chain(model, sampler, DRAWS, last=LAST)
    assert p_value(items, joint()[LAST]) > LIKELY
    assert p_value(items, joint()[1]) < UNLIKELY
    marginals = [joint()[LAST].sum([other for other in range(K) if other != place]) for place in range(K)]
    assert p_value(items, torch.einsum("a,b,c->abc", *marginals)) < UNLIKELY


@every_chain
@pytest.mark.parametrize("place", range(K))
def test_a_known_position_stays_and_conditions_the_others(model, sampler, place):
    known = [-1] * K
    known[place] = 3
    items, latents = chain(model, sampler, 1000, last=LAST, known=known)
    assert (items[:, place] == 3).all()
    assert torch.equal(latents[:, place], model.embedding.table()[3].expand(1000, V))
    others = joint()[LAST].select(place, 3)
    assert p_value(items[:, [other for other in range(K) if other != place]], others / others.sum()) > LIKELY


def test_unmasking_is_ancestral_sampling():
    counts = []
    for sampler, seed in ((ANCESTRAL, 1), (unmask(), 2)):
        items, _ = chain(MASK, sampler, DRAWS, seed=seed, last=LAST)
        counts.append(torch.bincount(items @ torch.tensor([V * V, V, 1]), minlength=V**K))
    counts = torch.stack(counts)
    assert chi2_contingency(counts[:, counts.sum(0) > 5].numpy()).pvalue > LIKELY


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("known", [(-1, -1, -1), (-1, 1, -1), (2, -1, -1)])
@torch.no_grad()
def test_the_log_likelihood_is_that_of_the_items_whatever_the_order(order, known):
    denoise = predictor(MASK, LAST, process=MASK.process, known=known)
    found = unmask(order=order).fill(denoise, MASK.process, torch.zeros(1, 300, K, V).double(), seeded(3))
    given = tuple(slice(None) if item < 0 else item for item in known)
    of_known = joint()[LAST][given].sum().log()
    expected = joint()[LAST][found.items[0].unbind(-1)].log() - of_known
    torch.testing.assert_close(found.log_likelihood[0], expected, rtol=0, atol=1e-9)
    assert len(set(map(tuple, found.items[0].tolist()))) > 5


def without_repeats(p):
    """What left-to-right unmasking draws from, where no item may come twice."""
    found = torch.zeros_like(p)
    for cell in CELLS:
        if len(set(cell)) == K:
            probability = 1.0
            for place in range(K):
                conditional = p[cell[:place]].flatten(1).sum(1) if place < K - 1 else p[cell[:place]].clone()
                conditional[list(cell[:place])] = 0
                probability *= conditional[cell[place]] / conditional.sum()
            found[cell] = probability
    return found


def independent(p):
    """Draws from the marginals, from left to right, where no item may come twice."""
    marginals = [p.sum([other for other in range(K) if other != place]) for place in range(K)]
    found = torch.zeros_like(p)
    for cell in CELLS:
        if len(set(cell)) == K:
            left = [1 - marginal[list(cell[:place])].sum() for place, marginal in enumerate(marginals)]
            found[cell] = math.prod(marginals[place][cell[place]] / left[place] for place in range(K))
    return found


@pytest.mark.parametrize(("steps", "expected"), [(None, without_repeats), (3, without_repeats), (1, independent)])
@torch.no_grad()
def test_distinct_items_are_drawn_from_what_is_left(steps, expected):
    sampler = unmask(order="left-to-right", distinct=True, num_steps=steps)
    denoise = predictor(MASK, LAST)
    found = sampler.fill(denoise, MASK.process, torch.zeros(1, DRAWS, K, V).double(), seeded(5))
    p = expected(joint()[LAST])
    assert p.sum() == pytest.approx(1)
    assert p_value(found.items[0], p) > LIKELY
    torch.testing.assert_close(found.log_likelihood[0], p[found.items[0].unbind(-1)].log(), rtol=0, atol=1e-9)


@torch.no_grad()
def test_two_of_three_in_one_step_are_independent_given_nothing():
    sampler = unmask(order="left-to-right", num_steps=2)
    found = sampler.fill(predictor(MASK, LAST), MASK.process, torch.zeros(1, DRAWS, K, V).double(), seeded(5))
    p = joint()[LAST]
    first, second, both = p.sum((1, 2)), p.sum((0, 2)), p.sum(2)
    expected = first[:, None, None] * second[None, :, None] * p / both[..., None]
    assert p_value(found.items[0], expected) > LIKELY
    assert p_value(found.items[0], p) < UNLIKELY


def tempered(p, temperature, top_p):
    p = p ** (1 / temperature)
    p = p / p.sum()
    kept, total = torch.zeros_like(p), 0.0
    for item in p.argsort(descending=True).tolist():
        if total < top_p:
            kept[item] = p[item]
        total += float(p[item])
    return kept / kept.sum()


@pytest.mark.parametrize(("temperature", "top_p"), [(0.5, 1.0), (2.0, 1.0), (1.0, 0.9), (1.5, 0.8)])
@torch.no_grad()
def test_temperature_and_top_p_change_the_distribution_as_written(temperature, top_p):
    sampler = unmask(temperature=temperature, top_p=top_p)
    denoise = predictor(MASK, LAST, known=(1, -1, 0))
    found = sampler.fill(denoise, MASK.process, torch.zeros(1, DRAWS, K, V).double(), seeded(6))
    expected = tempered(joint()[LAST, 1, :, 0], temperature, top_p)
    assert p_value(found.items[0, :, 1:2], expected) > LIKELY
    torch.testing.assert_close(found.log_likelihood[0], expected[found.items[0, :, 1]].log(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("temperature", [1e-300, 1e-9])
@torch.no_grad()
def test_no_temperature_is_too_low(temperature):
    start = torch.zeros(1, 5, K, V).double()
    cold, greedy = (
        unmask(temperature=each, order="confidence").fill(predictor(MASK, LAST), MASK.process, start, seeded(0))
        for each in (temperature, 0.0)
    )
    assert torch.equal(cold.items, greedy.items)


@pytest.mark.parametrize("settings", [{"top_p": 1e-9}, {"top_p": 0.3}, {"temperature": 0.0}])
@pytest.mark.parametrize("num_steps", [1, 2, None])
@pytest.mark.parametrize("order", ORDERS)
@torch.no_grad()
def test_distinct_items_never_repeat_however_few_are_likely(order, num_steps, settings):
    sampler = unmask(order=order, distinct=True, num_steps=num_steps, **settings)
    found = sampler.fill(predictor(MASK, LAST), MASK.process, torch.zeros(1, 200, K, V).double(), seeded(0))
    ordered = found.items.sort(-1).values
    assert (ordered[..., 1:] > ordered[..., :-1]).all()
    assert found.log_likelihood.isfinite().all()


@torch.no_grad()
def test_remasking_may_give_no_item_that_is_barred():
    allowed = torch.tensor([[True, False, True, True]])
    denoise = predictor(MASK, LAST, allowed=allowed)
    sampler = unmask(distinct=True, remask=6)
    items = sampler.fill(denoise, MASK.process, torch.zeros(1, 200, K, V).double(), seeded(0)).items
    assert items.sort(-1).values.eq(torch.tensor([0, 2, 3])).all()


# The bound


def clean_given(p, cell, place, shown):
    """p(item at a place | the items at the places that are shown)."""
    hidden = [other for other in range(K) if other not in shown and other != place]
    p = p.sum(hidden, keepdim=True) if hidden else p
    index = tuple(0 if other in hidden else cell[other] for other in range(K))
    whole = p.sum(place, keepdim=True)
    return p[index] / whole[tuple(0 if other == place else i for other, i in enumerate(index))]


def bound(process, p, cell):
    """The sum over all steps and all patterns of blanks, by ``bound_weight``."""
    total = 0.0
    for n in range(1, process.schedule.num_timesteps + 1):
        kept, weight = float(process.schedule.alpha_bar[n]), float(process.bound_weight(torch.tensor(n)))
        for pattern in product((False, True), repeat=K):
            shown = [place for place in range(K) if pattern[place]]
            chance = math.prod(kept if each else 1 - kept for each in pattern)
            blanks = (place for place in range(K) if not pattern[place])
            total -= chance * weight * sum(clean_given(p, cell, place, shown).log() for place in blanks)
    return float(total)


def times(process):
    """Steps n at which a position is filled in, from n to n - 1, and their probabilities."""
    kept = process.schedule.alpha_bar
    return [(n, float(kept[n - 1] - kept[n])) for n in range(1, process.schedule.num_timesteps + 1)]


def trajectories(process, p, cell):
    """Probability of every way to fill the positions in, and that of the items given the way."""
    for way in product(times(process), repeat=K):
        chance = math.prod(probability for _, probability in way)
        likelihood = 1.0
        for place in range(K):
            shown = [other for other in range(K) if way[other][0] > way[place][0]]
            likelihood *= float(clean_given(p, cell, place, shown))
        yield [n for n, _ in way], chance, likelihood


def mask_to_nothing(num_timesteps):
    """An absorbing process that keeps nothing at step N."""
    return MaskProcess(NoiseSchedule.from_alpha_bar(torch.linspace(1, 0, num_timesteps + 1)[1:].tolist()))


def test_the_bound_is_the_mean_over_the_ways_to_fill_the_positions():
    """And above -log p of the chain that takes these steps, by Jensen's inequality."""
    process, p = mask_to_nothing(4), joint()[LAST]
    for cell in CELLS[::5]:
        ways = list(trajectories(process, p, cell))
        assert sum(chance for _, chance, _ in ways) == pytest.approx(1, abs=1e-12)
        mean = -sum(chance * math.log(likelihood) for _, chance, likelihood in ways)
        assert bound(process, p, cell) == pytest.approx(mean, abs=1e-12)
        assert mean >= -math.log(sum(chance * likelihood for _, chance, likelihood in ways)) - 1e-12


def test_a_way_that_fills_one_position_a_step_has_the_likelihood_of_the_items():
    process, p = mask_to_nothing(4), joint()[LAST]
    for cell in CELLS[::5]:
        for steps, _, likelihood in trajectories(process, p, cell):
            if len(set(steps)) == K:
                assert likelihood == pytest.approx(float(p[cell]), rel=1e-12)


def test_the_bound_closes_as_two_positions_are_less_often_filled_together():
    p = joint()[LAST]
    for cell in (CELLS[3], CELLS[40]):
        gaps = [abs(bound(mask_to_nothing(steps), p, cell) + float(p[cell].log())) for steps in (25, 50, 100)]
        assert gaps[0] / gaps[1] == pytest.approx(2, rel=0.1)
        assert gaps[1] / gaps[2] == pytest.approx(2, rel=0.1)


@pytest.mark.parametrize("steps", [1, 2, 20])
def test_the_bound_is_tight_for_independent_positions(steps):
    p = torch.einsum("a,b,c->abc", *(each.softmax(0) for each in joint()[0, 0, :K] / 0.01))
    for cell in CELLS[::7]:
        assert bound(mask_to_nothing(steps), p, cell) == pytest.approx(-float(p[cell].log()), abs=1e-12)


def test_every_order_of_the_exact_conditionals_has_one_likelihood():
    p = joint()[LAST]
    for cell, order in product(CELLS[::5], permutations(range(K))):
        chain_rule = sum(clean_given(p, cell, place, order[:index]).log() for index, place in enumerate(order))
        assert float(chain_rule) == pytest.approx(float(p[cell].log()), abs=1e-12)


# The calls of a model


def test_one_gap_at_the_end_is_drawn_from_the_probabilities_of_the_next_item():
    (p,) = MASK.predict_proba([[LAST]])
    torch.testing.assert_close(p, joint()[LAST].sum((1, 2)))
    found = MASK.complete([[LAST, GAP]], DRAWS, exclude_seen=False)
    assert p_value(torch.tensor([sample[1:] for sample in found[0]]), p) > LIKELY
    assert {item: pytest.approx(float(p[item])) for item in range(V)} == dict(found.marginals[0][0])
    expected = torch.stack([p[sample[1]] for sample in found[0]]).log()
    torch.testing.assert_close(found.log_likelihood[0], expected, rtol=0, atol=1e-9)


def test_one_gap_at_the_end_is_restricted_to_the_items_that_are_allowed():
    (p,) = MASK.predict_proba([[LAST]])
    found = MASK.complete([[LAST, GAP]], DRAWS, candidates=[0, 1, LAST], exclude=[0])
    assert {sample[1] for sample in found[0]} == {1}
    found = MASK.complete([[LAST, GAP]], DRAWS, exclude=[0])
    allowed = p * torch.tensor([0, 1, 0, 1])
    assert p_value(torch.tensor([sample[1:] for sample in found[0]]), allowed / allowed.sum()) > LIKELY


@pytest.mark.parametrize(("model", "sampler"), [(MASK, "unmask"), (MIXED, "unmask"), (GAUSSIAN, ANCESTRAL)])
def test_completions_come_from_the_joint_distribution_given_both_sides(model, sampler):
    found = model.complete([[LAST, GAP, 1, GAP]], 2000, exclude_seen=False, sampler=sampler)
    assert all(sample[0] == LAST and sample[2] == 1 for sample in found[0])
    p = joint()[LAST, :, 1]
    assert p_value(torch.tensor([sample[1::2] for sample in found[0]]), p / p.sum()) > LIKELY
    for gap, marginal in zip(found.marginals[0], (p.sum(1), p.sum(0)), strict=True):
        assert [item for item, _ in gap] == marginal.argsort(descending=True).tolist()
        if sampler == "unmask":
            assert [each for _, each in gap] == pytest.approx(
                (marginal / p.sum()).sort(descending=True).values.tolist()
            )


def test_a_greedy_slate_takes_the_surest_position_first():
    for last in range(V):
        p, slate, total = joint()[last], [None] * K, 0.0
        while None in slate:
            best = (0.0, None, None)
            for place in (place for place in range(K) if slate[place] is None):
                given = tuple(slice(None) if item is None or at == place else item for at, item in enumerate(slate))
                left = [at for at in range(K) if slate[at] is None]
                others = [left.index(at) for at in left if at != place]
                conditional = p[given].sum(others) if others else p[given].clone()
                conditional[[item for item in slate if item is not None]] = 0
                conditional = conditional / conditional.sum()
                best = max(best, (float(conditional.max()), place, int(conditional.argmax())))
            slate[best[1]] = best[2]
            total += math.log(best[0])
        found = MASK.slate([[last]], exclude_seen=False)
        assert found[0] == [slate]
        assert found.log_likelihood.item() == pytest.approx(total, abs=1e-9)
