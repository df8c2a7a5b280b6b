from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import WAIVED, gaussian, over, seeds

from diffusers_rec.items.negatives import NegativeSample
from diffusers_rec.objectives import (
    BinaryTerm,
    BoundTerm,
    BPRTerm,
    ConsistencyTerm,
    ContrastiveObjective,
    ContrastiveTerm,
    CosineTerm,
    CrossEntropyTerm,
    LossTerm,
    Objective,
    PairTerm,
    PreferenceTerm,
    SampledBCETerm,
    SeparationTerm,
    SimplifiedObjective,
    SourceTerm,
    SquaredTerm,
    WeightedObjective,
)
from diffusers_rec.processes.prediction import PREDICTIONS
from diffusers_rec.testing import objectives as objective_suite
from diffusers_rec.testing import terms as term_suite
from diffusers_rec.testing.contract import SIZES
from diffusers_rec.testing.training_steps import change_passes, gradients_of_outputs, random_step, step_for

DIM = SIZES["dim"]
SIMPLIFIED = [
    {"name": name, "distance": distance, "reduction": reduction, **at}
    for name, ats in (("simplified", ({}, {"recommend_from": "final"})), ("contrastive", ({},)))
    for at in ats
    for distance in ("squared", "cosine")
    for reduction in ("mean", "sum")
]
WEIGHTED = [
    {"name": "weighted", "terms": terms}
    for terms in (
        ["squared"],
        ["cross-entropy"],
        [{"name": "squared", "of": "output"}, {"name": "cosine", "weight": 0.3}],
        ["cosine", {"name": "cross-entropy", "at": "final", "weight": 2.0}, "contrastive"],
        ["cross-entropy", "kl", {"name": "information", "weight": 0.3}],
        ["rewarded-bce", "discriminator"],
    )
]
ITEMS = [{"name": "items"}, {"name": "items", "sampled_weight": 0.5, "next_weight": 0.0}]
TERMS = ["squared", "cosine", "cross-entropy", "bound", "binary", "pair-contrastive", "source", "contrastive",
         "info-nce", "bpr", "separation", "sampled-bce", {"name": "sampled-bce", "calibration": 0.75},
         "score-entropy", "consistency", {"name": "squared", "of": "output", "reduction": "sum"},
         "kl", "discriminator", "information", "rewarded-bce",
         *({"name": "cross-entropy", "at": at} for at in ("final", "null", "next")), {"name": "cosine", "power": 2.0},
         "preference", {"name": "preference", "distance": "cosine", "at": "centroid", "over": "batch"},
         {"name": "preference", "at": "paired", "adaptive": True}]  # fmt: skip
few = settings(max_examples=settings.default.max_examples // 4)
every_simplified = pytest.mark.parametrize("spec", SIMPLIFIED, ids=lambda spec: "-".join(spec.values()))
kinds = st.sampled_from([kind for kind in PREDICTIONS if kind != "items"])


def a_step(seed=0, latents=5, kind="x0", names=("sampled", "final")):
    return random_step(names, latents, seed, kind=kind)


@pytest.mark.parametrize("spec", [*SIMPLIFIED, *WEIGHTED, *ITEMS], ids=str)
@over(objective_suite.CLAUSES)
@few
@given(seed=seeds, latents=st.integers(1, 6), kind=st.sampled_from(["x0", "velocity"]))
def test_every_objective_keeps_its_contract(clause, spec, seed, latents, kind):
    objective = Objective.build(spec)
    clause(objective, step_for(objective, latents, seed % 1000, kind=kind))


@pytest.mark.parametrize("spec", TERMS, ids=str)
@over(term_suite.CLAUSES)
@few
@given(seed=seeds, latents=st.integers(1, 6), kind=st.sampled_from(["x0", "velocity"]))
def test_every_term_keeps_its_contract(clause, spec, seed, latents, kind):
    if isinstance(spec, str) and clause.__name__ in WAIVED.get(spec, ()):
        return
    term = LossTerm.build(spec)
    clause(term, step_for(term, latents, seed % 1000, kind=kind))


def test_source_is_the_cross_entropy_of_the_centre():
    step = a_step()
    centre = gaussian(*step.x0.shape, seed=8).to(step.x0.dtype)
    centred = replace(step, passes={"sampled": replace(step.sampled, centre=centre)})
    expected = torch.nn.functional.cross_entropy(step.head.logits(centre), step.items)
    torch.testing.assert_close(SourceTerm()(centred), expected)
    assert SourceTerm().without_noise() is None


def test_every_registered_objective_and_term_is_tested():
    assert {spec["name"] for spec in [*SIMPLIFIED, *WEIGHTED, *ITEMS]} == set(Objective.names())
    assert {spec if isinstance(spec, str) else spec["name"] for spec in TERMS} == set(LossTerm.names())


@few
@given(seed=seeds, kind=kinds, centred=st.booleans())
def test_a_pass_that_outputs_its_target_predicts_x0(seed, kind, centred):
    made = random_step(("sampled",), 6, seed % 1000, kind=kind, dtype=torch.float64).sampled
    centre = gaussian(6, DIM, seed=1) if centred else 0.0
    moved = replace(made, x0=made.x0 + centre, xn=made.xn + centre, centre=centre)
    perfect = replace(moved, output=moved.target)
    torch.testing.assert_close(perfect.prediction, moved.x0)
    assert not torch.allclose(moved.prediction, moved.x0)
    signal, sigma = moved.levels
    torch.testing.assert_close(signal * made.x0 + sigma * made.noise, made.xn)


@few
@given(seed=seeds)
def test_the_target_of_each_kind_is_its_formula(seed):
    made = random_step(("sampled",), 6, seed % 1000, dtype=torch.float64).sampled
    signal, sigma = made.levels
    velocity = signal * made.noise - sigma * made.x0
    for kind, expected in (("x0", made.x0), ("noise", made.noise), ("velocity", velocity)):
        torch.testing.assert_close(replace(made, kind=kind).target, expected)


def test_a_pass_that_was_not_run_is_refused():
    with pytest.raises(ValueError, match=r"has no pass 'null', only sampled, final. Declare it in the objective's"):
        a_step().at("null")


@every_simplified
@few
@given(seed=seeds, left=st.floats(0, 5), right=st.floats(0, 5))
def test_the_total_is_the_weighted_sum_of_its_terms(spec, seed, left, right):
    step = a_step(seed % 1000)
    weights = {"reconstruction_weight": left, "recommendation_weight": right, "contrastive_weight": 0.0}
    terms = Objective.build_with(weights, spec)(step)
    expected = left * terms.named["reconstruction"] + right * terms.named["recommendation"]
    torch.testing.assert_close(terms.total, expected)
    assert Objective.build(spec)(step).named == terms.named


@every_simplified
@few
@given(seed=seeds, latents=st.integers(1, 6))
def test_reconstruction_is_the_mean_of_weighted_distances(spec, seed, latents):
    step = a_step(seed % 1000, latents)
    terms = Objective.build(spec)(step)
    pairs = zip(step.x0.tolist(), step.sampled.prediction.tolist(), strict=True)
    expected = [plain_distance(spec, a, b) for a, b in pairs]
    assert terms.per_latent.tolist() == pytest.approx(expected, rel=1e-4, abs=1e-5)
    weighted = sum(w * d for w, d in zip(step.weights.tolist(), expected, strict=True)) / latents
    assert terms.named["reconstruction"].item() == pytest.approx(weighted, rel=1e-4, abs=1e-5)


def plain_distance(spec, a, b):
    if spec["distance"] == "cosine":
        inner = sum(x * y for x, y in zip(a, b, strict=True))
        return 1 - inner / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))
    total = sum((x - y) ** 2 for x, y in zip(a, b, strict=True))
    return total / DIM if spec["reduction"] == "mean" else total


@every_simplified
def test_a_perfect_prediction_has_no_distance(spec):
    step = a_step()
    perfect = change_passes(step, lambda one: replace(one, output=one.x0.clone()))
    assert Objective.build(spec)(perfect).per_latent.abs().max() < 1e-6
    assert (Objective.build(spec)(step).per_latent > 1e-3).all()


@every_simplified
@few
@given(seed=seeds)
def test_recommendation_is_the_cross_entropy_of_its_pass(spec, seed):
    step, objective = a_step(seed % 1000), Objective.build(spec)
    expected = step.head.loss(step.at(objective.recommend_from).prediction, step.items)
    torch.testing.assert_close(objective(step).named["recommendation"], expected.detach())


@few
@given(seed=seeds)
def test_the_cross_entropy_is_computed_against_the_given_negatives(seed):
    step = a_step(seed % 1000)
    sample = NegativeSample(torch.tensor([0, 3, 3]), torch.tensor([0.1, 0.7, 0.7]))
    loss = CrossEntropyTerm()(replace(step, negatives=sample))
    torch.testing.assert_close(loss, step.head.loss(step.sampled.prediction, step.items, sample))
    assert not torch.allclose(loss, CrossEntropyTerm()(step))


@every_simplified
def test_the_head_and_the_clean_latents_learn(spec):
    step = a_step()
    x0 = step.x0.clone().requires_grad_()
    sampled = replace(step.sampled, x0=x0)
    total = Objective.build(spec)(replace(step, passes={**step.passes, "sampled": sampled})).total
    learning = [x0, *step.head.parameters()]
    assert all(gradient.any() for gradient in torch.autograd.grad(total, learning))


@pytest.mark.parametrize("spec", [spec for spec in SIMPLIFIED if len(Objective.build(spec).passes) > 1], ids=str)
def test_a_weight_of_zero_switches_its_term_off(spec):
    for off, name in (("reconstruction_weight", "sampled"), ("recommendation_weight", "final")):
        objective = Objective.build_with({off: 0.0, "contrastive_weight": 0.0}, spec)
        gradients = gradients_of_outputs(a_step(), lambda step, objective=objective: objective(step).total)
        assert [key for key, gradient in gradients.items() if gradient is None or not gradient.any()] == [name]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reconstruction_weight": -1}, "reconstruction_weight must be a finite number at least 0, got -1"),
        ({"recommendation_weight": math.inf}, "recommendation_weight must be a finite number at least 0, got inf"),
        ({"distance": "l1"}, "distance must be one of 'squared', 'cosine', got 'l1'"),
        ({"reduction": "max"}, "reduction must be one of 'mean', 'sum', got 'max'"),
        ({"recommend_from": "end"}, "recommend_from must be one of 'sampled', 'final', got 'end'"),
    ],
)
def test_refuses_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        SimplifiedObjective(**settings)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: SquaredTerm(of="xn"), "of must be one of 'x0', 'output', got 'xn'"),
        (lambda: SquaredTerm(-1), "weight must be a finite number at least 0, got -1"),
        (lambda: CrossEntropyTerm(at="negative"), "at must be one of 'sampled', 'final', 'null', 'next', got"),
        (lambda: CosineTerm(power=0.5), "power must be a finite number at least 1, got 0.5"),
        (lambda: PreferenceTerm(distance="contrastive"), "distance must be a term of the pass 'sampled' alone"),
        (lambda: PreferenceTerm(distance=SquaredTerm(2)), "with weight 1, got SquaredTerm.* Use 'squared' or 'cosine'"),
        (
            lambda: PreferenceTerm(distance="cross-entropy")(a_step(names=("sampled", "negative"))),
            "one loss per latent",
        ),
        (lambda: PreferenceTerm(at="final"), "at must be one of 'negative', 'paired', 'centroid', got 'final'"),
        (
            lambda: PreferenceTerm(adaptive=True, over="batch"),
            "an adaptive scale belongs to each latent.* Use over='latent'",
        ),
        (lambda: PreferenceTerm(over="epoch"), "over must be one of 'latent', 'batch', got 'epoch'"),
        (lambda: ContrastiveTerm(temperature=0), "temperature must be a finite number above 0, got 0"),
        (lambda: WeightedObjective([]), r"expected terms of different kinds, got \[\]"),
        (lambda: WeightedObjective(["cosine", CosineTerm(2)]), "expected terms of different kinds, got .*CosineTerm"),
        (lambda: WeightedObjective(["l1"]), "Unknown term name: 'l1'"),
    ],
)
def test_refuses_bad_terms(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@few
@given(seed=seeds, weight=st.floats(0, 3))
def test_the_weighted_objective_composes_the_simplified_one(seed, weight):
    step = a_step(seed % 1000)
    whole = SimplifiedObjective(distance="cosine", recommendation_weight=weight, recommend_from="final")
    composed = WeightedObjective([CosineTerm(), CrossEntropyTerm(weight, at="final")])
    assert composed.passes == whole.passes == ("sampled", "final")
    assert torch.equal(composed(step).total, whole(step).total)
    assert torch.equal(composed(step).per_latent, whole(step).per_latent)
    assert composed(step).named == dict(zip(("cosine", "cross-entropy"), whole(step).named.values(), strict=True))


@few
@given(seed=seeds)
def test_per_latent_of_several_terms_is_their_weighted_sum(seed):
    step = a_step(seed % 1000)
    objective = WeightedObjective([SquaredTerm(0.5), CosineTerm(2.0), CrossEntropyTerm()])
    expected = 0.5 * SquaredTerm()(step) + 2 * CosineTerm()(step)
    torch.testing.assert_close(objective(step).per_latent, expected)
    assert not WeightedObjective([CrossEntropyTerm()])(step).per_latent.any()


@few
@given(seed=seeds)
def test_the_preference_is_bpr_of_the_distances(seed):
    step = random_step(("sampled", "centroid"), 4, seed % 1000, dtype=torch.float64)
    near, far = ((each.x0 - each.prediction).square().mean(1) for each in step.passes.values())
    gap = 3 * (far - near)
    each = PreferenceTerm(scale=3.0, at="centroid")(step)
    torch.testing.assert_close(each, -gap.sigmoid().log())
    together = PreferenceTerm(scale=3.0, at="centroid", over="batch")(step)
    torch.testing.assert_close(together, -gap.mean().sigmoid().log())
    assert together <= each.mean(), "Jensen"


@few
@given(seed=seeds)
def test_an_adaptive_preference_is_weak_for_noisy_latents_and_similar_items(seed):
    step = random_step(("sampled", "paired"), 4, seed % 1000, dtype=torch.float64)
    true, other = step.sampled, step.at("paired")
    near, far = ((each.x0 - each.prediction).square().mean(1) for each in (true, other))
    cosine = (true.x0 * other.x0).sum(1) / (true.x0.norm(dim=1) * other.x0.norm(dim=1))
    strength = 0.5 * ((1 - true.timesteps / true.schedule.num_timesteps) + (1 - cosine))
    expected = -(strength * (far - near)).sigmoid().log()
    torch.testing.assert_close(PreferenceTerm(scale=0.5, at="paired", adaptive=True)(step), expected)


@few
@given(seed=seeds)
def test_consistency_pulls_a_prediction_to_that_of_the_step_before(seed):
    step = random_step(("sampled", "adjacent"), 4, seed % 1000, dtype=torch.float64)
    later, earlier = step.sampled, step.at("adjacent")
    assert torch.equal(earlier.timesteps, (later.timesteps - 1).clamp(min=1))
    loss = ConsistencyTerm()
    torch.testing.assert_close(loss(step), (later.output - earlier.output).square().mean(1))
    gradients = gradients_of_outputs(step, lambda leaves: loss(leaves).sum())
    torch.testing.assert_close(gradients["sampled"], 2 * (later.output - earlier.output) / DIM)
    assert gradients["adjacent"] is None
    same = replace(step, passes={"sampled": later, "adjacent": replace(earlier, output=later.output)})
    assert not loss(same).any()
    assert loss.without_noise() is None


def test_the_power_of_the_cosine_distance():
    step = a_step(latents=5)
    torch.testing.assert_close(CosineTerm(power=2.0)(step), CosineTerm()(step).square())


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        (SimplifiedObjective(recommend_from="final"), SimplifiedObjective(reconstruction_weight=0)),
        (ContrastiveObjective(distance="cosine"), SimplifiedObjective(reconstruction_weight=0, distance="cosine")),
        (
            WeightedObjective([CosineTerm(), CrossEntropyTerm(2.0, at="final"), ContrastiveTerm()]),
            WeightedObjective([CrossEntropyTerm(2.0)]),
        ),
    ],
)
def test_without_noise_the_cross_entropy_of_one_pass_remains(objective, expected):
    assert objective.without_noise() == expected.config()


@few
@given(seed=seeds, latents=st.integers(1, 6), sampled=st.booleans())
def test_the_bound_divides_by_the_share_of_what_is_lost(seed, latents, sampled):
    step = random_step(["sampled"], latents, seed % 1000, dtype=torch.float64)
    if sampled:
        items = torch.arange(0, SIZES["num_items"], 2)
        step = replace(step, negatives=NegativeSample(items, torch.zeros(len(items))))
    kept = step.sampled.schedule.alpha_bar
    weights = 1 - (kept[step.sampled.timesteps - 1] - 1) / (kept[step.sampled.timesteps] - 1)
    losses = [step.head.loss(*each, step.negatives) for each in zip(step.sampled.prediction, step.items, strict=True)]
    expected = (weights * torch.stack(losses)).sum() / weights.sum()
    torch.testing.assert_close(BoundTerm()(step), expected, rtol=1e-5, atol=1e-6)
    assert WeightedObjective([BoundTerm(2.0)]).without_noise() == WeightedObjective([CrossEntropyTerm(2.0)]).config()


@few
@given(seed=seeds, latents=st.integers(1, 6))
def test_the_binary_term_compares_with_every_other_item(seed, latents):
    step = random_step(["sampled"], latents, seed % 1000, dtype=torch.float64)
    sampled, expected = step.sampled, []
    for predicted, xn, item, n in zip(
        sampled.prediction, sampled.xn, sampled.items.tolist(), sampled.timesteps.tolist(), strict=True
    ):
        others = [predicted @ latent for place, latent in enumerate(sampled.embedding.table()) if place != item]
        negative = -sum((-score).sigmoid().log() for score in others) / len(others)
        expected.append((negative - (predicted @ xn).sigmoid().log()) / n)
    torch.testing.assert_close(BinaryTerm()(step), torch.stack(expected))
    given = replace(step, negatives=NegativeSample(sampled.items[:1], torch.zeros(1)))
    found = BinaryTerm()(given)[0] * sampled.timesteps[0]
    torch.testing.assert_close(found, -(sampled.prediction[0] @ sampled.xn[0]).sigmoid().log())


def test_the_binary_term_needs_the_embedding():
    step = random_step(["sampled"], 3)
    bare = change_passes(step, lambda one: replace(one, embedding=None))
    with pytest.raises(ValueError, match="The term 'binary' compares clean latents of items"):
        BinaryTerm()(bare)


@few
@given(seed=seeds, latents=st.integers(2, 6), temperature=st.sampled_from([0.05, 0.5]))
def test_the_contrast_of_pairs_is_nt_xent(seed, latents, temperature):
    step = random_step(["sampled"], latents, seed % 1000, dtype=torch.float64)
    both = torch.cat([step.sampled.prediction, step.sampled.xn])
    scores = torch.cosine_similarity(both[:, None], both, dim=-1) / temperature
    total = 0.0
    for i in range(2 * latents):
        others = scores[i, torch.arange(2 * latents) != i].logsumexp(0)
        total = total + (others - scores[i, (i + latents) % (2 * latents)]) / step.sampled.timesteps[i % latents]
    torch.testing.assert_close(PairTerm(temperature=temperature)(step), total / (2 * latents))


@pytest.mark.parametrize("term", [BinaryTerm(2.0), PairTerm(2.0, temperature=0.2)])
def test_a_pair_without_noise_is_that_of_the_clean_latent_at_step_one(term):
    """As if nothing had been corrupted; the control of ``cddrec`` minimises this."""
    step = a_step(latents=5)
    clean = change_passes(step, lambda one: replace(one, xn=one.x0, timesteps=torch.ones_like(one.timesteps)))
    plain = LossTerm.build(term.without_noise())
    assert torch.equal(plain(step), term(clean))
    assert not torch.equal(plain(step), term(step))
    assert plain.without_noise() == plain.config()


@few
@given(seed=seeds, latents=st.integers(1, 6), temperature=st.sampled_from([0.05, 0.5]))
def test_the_contrastive_term_is_info_nce_without_the_same_item(seed, latents, temperature):
    step = a_step(seed % 1000, latents)
    terms = ContrastiveObjective(contrastive_weight=0.3, temperature=temperature)(step)
    plain = SimplifiedObjective(recommend_from="final")(step)
    items = step.items.tolist()
    one, other = step.sampled.prediction[:, None], step.at("final").prediction[None]
    cosine = torch.cosine_similarity(one, other, dim=-1).double()
    expected = 0.0
    for i in range(latents):
        compared = [j for j in range(latents) if j == i or items[j] != items[i]]
        for side in (cosine[i, compared], cosine[compared, i]):
            expected += float((side / temperature).logsumexp(0) - cosine[i, i] / temperature) / (2 * latents)
    assert terms.named["contrastive"].item() == pytest.approx(expected, rel=1e-4, abs=1e-5)
    torch.testing.assert_close(terms.total, plain.total + 0.3 * terms.named["contrastive"])


def test_the_contrastive_term_needs_its_second_view():
    with pytest.raises(ValueError, match="recommend_from must be one of 'final', got 'sampled'"):
        ContrastiveObjective(recommend_from="sampled")


@pytest.mark.parametrize("terms", ["squared", {"name": "squared"}, SquaredTerm()])
def test_one_term_is_no_list(terms):
    with pytest.raises(TypeError, match="terms must be a list of terms"):
        WeightedObjective(terms)


def test_a_term_of_another_shape_is_refused():
    class PerDimension(LossTerm):
        def __call__(self, step):
            return step.sampled.prediction - step.x0

    with pytest.raises(ValueError, match=r"The term 'PerDimension' must be \(6,\) or a scalar, got \(6, "):
        WeightedObjective([PerDimension()])(random_step(("sampled",), 6))


def with_negatives(step, items):
    items = torch.tensor(items)
    return replace(step, negatives=NegativeSample(items, torch.zeros(items.shape)))


def scores_of(step):
    """Scores of each target and of the other items that it is compared with, as numbers."""
    logits, targets = step.head.logits(step.sampled.prediction).tolist(), step.items.tolist()
    given = None if step.negatives is None else step.negatives.items.tolist()
    for row, (each, target) in enumerate(zip(logits, targets, strict=True)):
        items = range(len(each)) if given is None else given[row] if isinstance(given[0], list) else given
        yield each[target], [each[item] for item in items if item != target]


NEGATIVES = [None, [0, 3, 3], [[0, 1, 2, 2], [4, 4, 5, 0], [6, 5, 4, 3]]]


@pytest.mark.parametrize("items", NEGATIVES, ids=str)
def test_bpr_is_the_mean_over_pairs(items):
    step = random_step(["sampled"], 3, 5, dtype=torch.float64)
    step = step if items is None else with_negatives(step, items)
    expected = [
        sum(math.log1p(math.exp(other - own)) for other in others) / len(others) for own, others in scores_of(step)
    ]
    assert BPRTerm()(step).item() == pytest.approx(sum(expected) / 3, abs=1e-12)


@pytest.mark.parametrize("items", NEGATIVES, ids=str)
def test_separation_is_a_hinge_between_scores_of_the_item_and_of_the_prediction(items):
    step = random_step(["sampled"], 3, 4, dtype=torch.float64)
    step = step if items is None else with_negatives(step, items)
    clean = change_passes(step, lambda one: replace(one, output=one.x0, kind="x0"))
    expected = [
        sum(max(0.0, between - own) for between in others) / len(others)
        for (own, _), (_, others) in zip(scores_of(step), scores_of(clean), strict=True)
    ]
    assert SeparationTerm()(step).item() == pytest.approx(sum(expected) / 3, abs=1e-12)
    assert max(expected) > 0


@pytest.mark.parametrize("items", NEGATIVES, ids=str)
@pytest.mark.parametrize("calibration", [0.0, 0.75, 1.0])
def test_the_sampled_bce_is_that_of_sasrec_and_its_calibrated_form_that_of_gsasrec(items, calibration):
    step = random_step(["sampled"], 3, 5, dtype=torch.float64)
    step = step if items is None else with_negatives(step, items)
    expected = 0.0
    for own, others in scores_of(step):
        alpha = len(others) / (SIZES["num_items"] - 1)
        beta = alpha * (calibration * (1 - 1 / alpha) + 1 / alpha)  # as gSASRec has it
        positive = (1 / (1 + math.exp(-own))) ** beta
        expected -= (math.log(positive) + sum(math.log(1 / (1 + math.exp(other))) for other in others)) / (
            len(others) + 1
        )
    assert SampledBCETerm(calibration=calibration)(step).item() == pytest.approx(expected / 3, abs=1e-12)


@pytest.mark.parametrize("term", [BPRTerm(2.0), SeparationTerm(2.0), SampledBCETerm(2.0, calibration=0.5)])
def test_a_loss_of_pairs_is_its_own_without_noise(term):
    assert LossTerm.build(term.without_noise()).config() == term.config()


@pytest.mark.parametrize("term", [BPRTerm(), SeparationTerm(), SampledBCETerm()])
def test_a_target_without_other_items_leaves_finite_numbers(term):
    step = random_step(["sampled"], 3, dtype=torch.float64)
    leaves = change_passes(step, lambda one: replace(one, output=one.output.clone().requires_grad_()))
    loss = term(replace(leaves, negatives=NegativeSample(step.items[:1], torch.zeros(1))))
    loss.backward()
    assert loss.isfinite()
    assert leaves.sampled.output.grad.isfinite().all()
