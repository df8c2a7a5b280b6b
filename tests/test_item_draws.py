"""Drawing items from shared distributions: every number gives the item that a walk along the items gives."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import gaussian, seeded, seeds

from diffusers_rec.samplers.item_draws import ItemDraws

R, P, V, COPIES = 2, 3, 6, 4


def walk(p, number, excluded):
    """The first item at which the mass of the items that are left exceeds ``number`` of it."""
    left = [item for item in range(V) if item not in excluded]
    target, sofar = number * sum(float(p[item]) for item in left), 0.0
    for item in left:
        sofar += float(p[item])
        if target < sofar:
            return item, float(p[item]) / sum(float(p[other]) for other in left)
    return left[-1], float(p[left[-1]]) / sum(float(p[other]) for other in left)


@given(seed=seeds, excluded=st.integers(0, V - 1), greedy=st.booleans())
def test_draws_are_those_of_a_walk_along_the_items(seed, excluded, greedy):
    scores = 2 * gaussian(R, P, V, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    place = torch.randint(P, (R * COPIES, 1), generator=generator)
    number = torch.rand(R * COPIES, 1, generator=generator, dtype=torch.float64)
    barred = torch.stack([torch.randperm(V, generator=generator)[:excluded] for _ in range(R * COPIES)])
    draws = ItemDraws(scores, scores, COPIES, greedy=greedy, most=V)
    items, log_probability = draws.draw(place, number, barred)
    for row in range(R * COPIES):
        p, out = scores[row // COPIES, place[row, 0]].softmax(0), barred[row].tolist()
        item, probability = walk(p, float(number[row]), out)
        if greedy:
            item = max((other for other in range(V) if other not in out), key=lambda other: float(p[other]))
            probability = float(p[item]) / sum(float(p[other]) for other in range(V) if other not in out)
        assert items[row].item() == item
        assert log_probability[row].exp().item() == pytest.approx(probability)


def test_padding_excludes_nothing():
    scores, number = gaussian(1, 1, V), torch.linspace(0, 0.999, 50).double()[:, None]
    draws, place = ItemDraws(scores, scores, 50, greedy=False, most=1), torch.zeros(50, 1).long()
    some, none = (draws.draw(place, number, torch.full((50, width), -1)) for width in (2, 0))
    assert torch.equal(some[0], none[0])
    assert torch.equal(some[1], none[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_excluded_item_is_never_drawn_by_rounding(dtype):
    """At the very ends of the parts, and where nearly all of the mass is excluded."""
    scores = torch.tensor([[[0.0, -40.0, -80.0, 0.0, -torch.inf, -90.0]]], dtype=dtype)
    random = torch.rand(60, generator=seeded(0))
    number = torch.cat([torch.zeros(20), torch.ones(20) - 2**-24, random]).double()[:, None]
    place = torch.zeros(100, 1).long()
    draws = ItemDraws(scores, scores, 100, greedy=False, most=4)
    for barred in ([0], [3], [0, 3], [0, 1, 3]):
        items, log_probability = draws.draw(place, number, torch.tensor([barred]).expand(100, -1))
        assert not set(items.flatten().tolist()) & {*barred, 4}
        assert log_probability.isfinite().all()


def test_where_nothing_likely_is_left_the_likeliest_of_the_whole_is_taken():
    whole = torch.tensor([[[3.0, 2.0, 1.0, 0.0]]])
    cut = torch.tensor([[[3.0, -torch.inf, -torch.inf, -torch.inf]]])
    draws = ItemDraws(cut, whole, 1, greedy=False, most=2)
    item, log_probability = draws.draw(torch.zeros(1, 1).long(), torch.tensor([[0.3]]), torch.tensor([[0]]))
    assert item.item() == 1
    assert log_probability.item() == 0.0, "no other could be taken"


def test_what_little_is_left_is_drawn_from_as_it_is():
    """Nearly all of the mass is excluded: in float32, nothing would be left of the rest."""
    scores = torch.full((1, 1, 1000), -25.0)
    scores[0, 0, 0] = 0.0
    scores = scores.log_softmax(-1)
    draws = ItemDraws(scores, scores, 400, greedy=False, most=2)
    numbers = torch.rand(400, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    item, log_probability = draws.draw(torch.zeros(400, 1).long(), numbers, torch.zeros(400, 1).long())
    assert len(item.unique()) > 250
    assert torch.allclose(log_probability, torch.full_like(log_probability, -math.log(999)), atol=1e-5)
