from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import gaussian, seeded, seeds

from diffusers_rec.heads import LinearHead
from diffusers_rec.objectives import Objective, SimplifiedObjective

ITEMS, WIDTH = 7, 8
SETTINGS = [
    {"name": name, "distance": distance, "reduction": reduction}
    for name in Objective.names()
    for distance in ("squared", "cosine")
    for reduction in ("mean", "sum")
]
few = settings(max_examples=25)
every_objective = pytest.mark.parametrize("spec", SETTINGS, ids=lambda spec: "-".join(spec.values()))


def case(seed=0, latents=5):
    x0, predicted, from_start = (gaussian(latents, WIDTH, seed=seed + i, dtype=torch.float32) for i in range(3))
    return {
        "x0": x0,
        "predicted": predicted,
        "weights": torch.rand(latents, generator=seeded(seed)) + 0.5,
        "from_start": from_start,
        "items": torch.randint(ITEMS, (latents,), generator=seeded(seed)),
        "head": LinearHead(ITEMS, WIDTH, seed=seed),
    }


def built(spec, **settings):
    """Whatever of the settings the objective has."""
    return Objective.build_with(settings, spec)


@every_objective
@few
@given(seed=seeds, left=st.floats(0, 5), right=st.floats(0, 5))
def test_the_total_is_the_weighted_sum_of_its_terms(spec, seed, left, right):
    terms = built(spec, reconstruction_weight=left, recommendation_weight=right)(**case(seed))
    expected = left * terms.named["reconstruction"] + right * terms.named["recommendation"]
    torch.testing.assert_close(terms.total, expected)
    plain = built(spec)(**case(seed))
    assert plain.named == terms.named


@every_objective
@few
@given(seed=seeds, latents=st.integers(1, 6))
def test_reconstruction_is_the_mean_of_weighted_distances(spec, seed, latents):
    given_case = case(seed, latents)
    terms = built(spec)(**given_case)
    pairs = zip(given_case["x0"].tolist(), given_case["predicted"].tolist(), strict=True)
    expected = [plain_distance(spec, a, b) for a, b in pairs]
    assert terms.per_latent.tolist() == pytest.approx(expected, rel=1e-4, abs=1e-5)
    weighted = sum(w * d for w, d in zip(given_case["weights"].tolist(), expected, strict=True)) / latents
    assert terms.named["reconstruction"].item() == pytest.approx(weighted, rel=1e-4, abs=1e-5)


def plain_distance(spec, a, b):
    if spec["distance"] == "cosine":
        inner = sum(x * y for x, y in zip(a, b, strict=True))
        return 1 - inner / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))
    total = sum((x - y) ** 2 for x, y in zip(a, b, strict=True))
    return total / WIDTH if spec["reduction"] == "mean" else total


@every_objective
@few
@given(seed=seeds)
def test_recommendation_is_the_cross_entropy_of_the_prediction_it_judges(spec, seed):
    given_case = case(seed)
    terms = built(spec)(**given_case)
    expected = given_case["head"].loss(given_case["from_start"], given_case["items"])
    torch.testing.assert_close(terms.named["recommendation"], expected.detach())


@every_objective
def test_a_perfect_prediction_has_nothing_to_reconstruct(spec):
    given_case = case()
    given_case["predicted"] = given_case["x0"].clone()
    assert built(spec)(**given_case).named["reconstruction"].item() == pytest.approx(0, abs=1e-6)


@every_objective
def test_the_gradient_reaches_all_that_learns(spec):
    given_case = case()
    for name in ("x0", "predicted", "from_start"):
        given_case[name].requires_grad_()
    terms = built(spec)(**given_case)
    terms.total.backward()
    taught = [given_case["x0"], given_case["predicted"], given_case["from_start"], *given_case["head"].parameters()]
    assert all(part.grad is not None and part.grad.any() for part in taught)
    assert not terms.per_latent.requires_grad
    assert not any(term.requires_grad for term in terms.named.values())


@every_objective
def test_a_weight_of_zero_silences_its_term(spec):
    for silenced, name in (("reconstruction_weight", "predicted"), ("recommendation_weight", "from_start")):
        given_case = case()
        given_case["predicted"].requires_grad_()
        given_case["from_start"].requires_grad_()
        built(spec, **{silenced: 0.0})(**given_case).total.backward()
        gradients = {key: given_case[key].grad for key in ("predicted", "from_start")}
        assert [key for key, grad in gradients.items() if grad is None or not grad.any()] == [name]


@every_objective
def test_half_precision_predictions_are_judged_in_full(spec):
    given_case = case()
    given_case["predicted"] = given_case["predicted"].bfloat16()
    terms = built(spec)(**given_case)
    given_case["predicted"] = given_case["predicted"].float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        again = built(spec)(**given_case)
    assert terms.per_latent.dtype == again.per_latent.dtype == torch.float32
    assert torch.equal(terms.per_latent, again.per_latent)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reconstruction_weight": -1}, "reconstruction_weight must be a finite number at least 0, got -1"),
        ({"recommendation_weight": math.inf}, "recommendation_weight must be a finite number at least 0, got inf"),
        ({"distance": "l1"}, "distance must be one of 'squared', 'cosine', got 'l1'"),
        ({"reduction": "max"}, "reduction must be one of 'mean', 'sum', got 'max'"),
        ({"recommend_from": "end"}, "recommend_from must be one of 'sampled', 'start', got 'end'"),
    ],
)
def test_refuses_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        SimplifiedObjective(**settings)
