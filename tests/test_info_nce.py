"""InfoNCE between two views, and the views that an objective declares."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from diffusers_rec import InfoNCETerm, PairTerm, WeightedObjective
from diffusers_rec.objectives.views import Views, joint_views
from diffusers_rec.testing.training_steps import random_step, select

NAMES = "dropout", "same-target"


def step_of(one, other, items, names=NAMES):
    step = random_step(("sampled",), len(items))
    states = {names[0]: (one, other)} if names[0] == names[1] else dict(zip(names, ((one,), (other,)), strict=True))
    return type(step)(step.passes, step.weights, step.head, views=Views(states, torch.tensor(items)))


def by_loops(one, other, items, temperature, similarity, false_negatives):
    """The equation, with a loop for each sum."""
    views, size = [*one, *other], len(one)

    def score(a, b):
        norm = math.sqrt(float(a @ a) * float(b @ b)) if similarity == "cosine" else 1.0
        return math.exp(float(a @ b) / norm / temperature)

    total = 0.0
    for i, view in enumerate(views):
        own = (i + size) % (2 * size)
        below = score(view, views[own])
        for j, negative in enumerate(views):
            if j in (i, own) or (not false_negatives and items[i % size] == items[j % size]):
                continue
            below += score(view, negative)
        total -= math.log(score(view, views[own]) / below)
    return total / (2 * size)


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
@pytest.mark.parametrize("false_negatives", [True, False])
@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_the_loss_is_the_equation(similarity, false_negatives, temperature):
    one, other = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    items = [3, 1, 3, 2, 1]
    settings = {"temperature": temperature, "similarity": similarity, "false_negatives": false_negatives}
    got = InfoNCETerm(views=NAMES, **settings)(step_of(one, other, items))
    assert float(got) == pytest.approx(by_loops(one, other, items, **settings), abs=1e-12)


def test_views_of_one_name_come_in_their_order():
    one, other = torch.randn(2, 3, 4)
    names = "augmented", "augmented"
    repeated = InfoNCETerm(views=names)(step_of(one, other, [0, 1, 2], names))
    assert torch.equal(repeated, InfoNCETerm(views=NAMES)(step_of(one, other, [0, 1, 2])))


def test_one_history_has_no_negatives_and_no_history_gives_zero():
    step = step_of(*torch.randn(2, 3, 4), [0, 1, 2])
    assert float(InfoNCETerm(views=NAMES)(select(step, slice(1)))) == 0
    assert float(InfoNCETerm(views=NAMES)(step_of(torch.ones(0, 4), torch.ones(0, 4), []))) == 0


def test_the_pair_term_is_the_same_loss_with_a_weight_for_each_step():
    step = random_step(("sampled",), 5)
    sampled = step.sampled
    term = PairTerm(temperature=0.3)
    loss = InfoNCETerm(views=NAMES, similarity="cosine", temperature=0.3)
    all_steps = torch.ones_like(sampled.timesteps)
    one, other = sampled.prediction, sampled.xn
    first = type(sampled)(sampled.items, sampled.x0, other, sampled.noise, all_steps, one, "x0", sampled.schedule)
    got = term(type(step)({"sampled": first}, step.weights, step.head))
    torch.testing.assert_close(got, loss(step_of(F.normalize(one), 2 * other, [*range(5)])))


def test_an_objective_declares_the_views_of_its_terms():
    objective = WeightedObjective(["cross-entropy", {"name": "info-nce", "views": ["mask", "mask"], "mask": 0.5}])
    assert objective.views == ("mask", "mask")
    assert objective.augmentations.mask == 0.5
    assert WeightedObjective(["cross-entropy"]).views == ()
    assert joint_views([("crop", "mask"), ("mask", "mask"), ()]) == ("crop", "mask", "mask")
    assert WeightedObjective.build(objective.config()).config() == objective.config()


def test_terms_that_share_views_must_agree_on_their_settings():
    class Other(InfoNCETerm):
        pass

    with pytest.raises(ValueError, match="the settings of these differ"):
        WeightedObjective([InfoNCETerm(), Other(crop=0.5)])


@pytest.mark.parametrize("views", ["dropout", ("dropout",), ("dropout", "blur")])
def test_unknown_views_are_refused(views):
    with pytest.raises(ValueError, match="views"):
        InfoNCETerm(views=views)


def test_a_step_without_the_views_is_refused():
    with pytest.raises(ValueError, match=r"has 0 views 'augmented'. Declare \('augmented', 'augmented'\)"):
        InfoNCETerm()(random_step(("sampled",), 3))
