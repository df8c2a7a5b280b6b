from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import over, seeds

from diffusers_rec.objectives import ContrastiveObjective, Objective, SimplifiedObjective
from diffusers_rec.testing.contract import SIZES
from diffusers_rec.testing.objectives import CLAUSES, batch_of

WIDTH = SIZES["dim"]
SETTINGS = [
    {"name": name, "distance": distance, "reduction": reduction}
    for name in Objective.names()
    for distance in ("squared", "cosine")
    for reduction in ("mean", "sum")
]
few = settings(max_examples=25)
every_objective = pytest.mark.parametrize("spec", SETTINGS, ids=lambda spec: "-".join(spec.values()))


def case(seed=0, latents=5):
    return batch_of(SimplifiedObjective(recommend_from="start"), latents, seed)


def built(spec, **settings):
    """Whatever of the settings the objective has."""
    return Objective.build_with(settings, spec)


@every_objective
@over(CLAUSES)
@few
@given(seed=seeds, latents=st.integers(1, 6))
def test_every_objective_keeps_its_contract(clause, spec, seed, latents):
    objective = built(spec)
    clause(objective, batch_of(objective, latents, seed))


@every_objective
@few
@given(seed=seeds, left=st.floats(0, 5), right=st.floats(0, 5))
def test_the_total_is_the_weighted_sum_of_its_terms(spec, seed, left, right):
    weights = {"reconstruction_weight": left, "recommendation_weight": right, "contrastive_weight": 0.0}
    terms = built(spec, **weights)(**case(seed))
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
def test_a_weight_of_zero_silences_its_term(spec):
    for silenced, name in (("reconstruction_weight", "predicted"), ("recommendation_weight", "from_start")):
        given_case = case()
        given_case["predicted"].requires_grad_()
        given_case["from_start"].requires_grad_()
        built(spec, **{silenced: 0.0, "contrastive_weight": 0.0})(**given_case).total.backward()
        gradients = {key: given_case[key].grad for key in ("predicted", "from_start")}
        assert [key for key, grad in gradients.items() if grad is None or not grad.any()] == [name]


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


@few
@given(seed=seeds, latents=st.integers(1, 6), temperature=st.sampled_from([0.05, 0.5]))
def test_the_contrastive_term_is_info_nce_without_the_same_item(seed, latents, temperature):
    given_case = case(seed, latents)
    terms = ContrastiveObjective(contrastive_weight=0.3, temperature=temperature)(**given_case)
    plain = SimplifiedObjective(recommend_from="start")(**given_case)
    items = given_case["items"].tolist()
    cosine = torch.cosine_similarity(given_case["predicted"][:, None], given_case["from_start"][None], dim=-1).double()
    expected = 0.0
    for i in range(latents):
        kept = [j for j in range(latents) if j == i or items[j] != items[i]]
        for side in (cosine[i, kept], cosine[kept, i]):
            expected += float((side / temperature).logsumexp(0) - cosine[i, i] / temperature) / (2 * latents)
    assert terms.named["contrastive"].item() == pytest.approx(expected, rel=1e-4, abs=1e-5)
    torch.testing.assert_close(terms.total, plain.total + 0.3 * terms.named["contrastive"])


def test_the_contrastive_term_needs_its_second_view():
    with pytest.raises(ValueError, match="recommend_from must be one of 'start', got 'sampled'"):
        ContrastiveObjective(recommend_from="sampled")
