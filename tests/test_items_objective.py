"""Item predictions in training: the cross-entropy with evidence, what it teaches, and that nothing leaks."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import gaussian, perturbed, schedule_of, schedules, seeded

from diffusers_rec import (
    Batch,
    DiffRec,
    History,
    ItemsObjective,
    LinearHead,
    MixedProcess,
    Pass,
    Queries,
    TableEmbedding,
    TrainingStep,
)
from diffusers_rec.items.evidence import EvidenceHead, with_evidence
from diffusers_rec.items.negatives import NegativeSample
from diffusers_rec.objectives import WeightedObjective
from diffusers_rec.presets import joint
from diffusers_rec.processes.process import GaussianProcess, Process

V, D, M = 7, 4, 40
HEAD, EMBEDDING = LinearHead(V, D, seed=1).double(), TableEmbedding(V, D, seed=2).double()
few = settings(max_examples=8)
small = schedules(num_timesteps=st.integers(1, 25))


def a_pass(process, output, seed=0):
    """Items drawn uniformly, corrupted at random steps."""
    generator = seeded(seed)
    items = torch.randint(V, (len(output),), generator=generator)
    steps = torch.randint(1, process.schedule.num_timesteps + 1, (len(output),), generator=generator)
    x0 = EMBEDDING(items).detach()
    xn, noise = (each[0] for each in vars(process.corrupt(x0[None], steps[None], generator)).values())
    return Pass(items, x0, xn, noise, steps, output, "items", process.schedule, 0.0, process, EMBEDDING)


@few
@given(schedule=small)
def test_the_cross_entropy_weighs_the_prediction_with_the_density_of_the_latent(schedule):
    made = a_pass(GaussianProcess(schedule), gaussian(M, D))
    density = []
    for xn, n in zip(made.xn, made.timesteps.tolist(), strict=True):
        level = schedule.level(n)
        normal = torch.distributions.Normal(level.signal * EMBEDDING.table(), level.variance**0.5)
        density.append(normal.log_prob(xn).sum(-1))
    scores = HEAD.logits(made.output).log_softmax(-1) + torch.stack(density)
    expected = -scores.log_softmax(-1)[torch.arange(M), made.items].mean()
    torch.testing.assert_close(made.cross_entropy(HEAD), expected, rtol=1e-6, atol=1e-9)


@few
@given(schedule=small)
def test_a_blank_is_weighed_by_the_prediction_alone(schedule):
    for name in ("mask", "mixed"):
        process = Process.build({"name": name}, schedule=schedule)
        made = a_pass(process, gaussian(M, D))
        made = replace(made, xn=torch.zeros_like(made.xn))
        expected = torch.nn.functional.cross_entropy(HEAD.logits(made.output), made.items)
        torch.testing.assert_close(made.cross_entropy(HEAD), expected)


@pytest.mark.parametrize("negatives", [None, NegativeSample(torch.arange(V), torch.zeros(V).double())])
def test_blanks_and_corrupted_latents_of_one_batch_count_alike(negatives):
    made = a_pass(MixedProcess(schedule_of("cosine", 20)), gaussian(M, D).requires_grad_())
    made = replace(made, xn=made.xn * (torch.arange(M) % 3 > 0)[:, None])  # a third are blanks
    joined = with_evidence(made.process, made.output, made.xn, made.timesteps)
    expected = EvidenceHead(HEAD, EMBEDDING).loss(joined, made.items, negatives)
    found = made.cross_entropy(HEAD, negatives)
    torch.testing.assert_close(found, expected)
    for got, exact in zip(
        *(torch.autograd.grad(x, [made.output, HEAD.weight]) for x in (found, expected)), strict=True
    ):
        torch.testing.assert_close(got, exact)


def test_the_cross_entropy_is_least_at_the_prior_of_the_items():
    """In a world of one position, the prediction that evidence is added to is log p(item): no more, no less."""
    draws, prior = 40_000, torch.tensor([0.4, 0.25, 0.15, 0.1, 0.05, 0.03, 0.02], dtype=torch.float64)
    head, process = LinearHead(V, V).double(), GaussianProcess(schedule_of("cosine", 20))
    head.load_state_dict({"weight": torch.eye(V).double(), "offset": torch.zeros(V).double()})
    embedding = TableEmbedding(V, V, seed=2).double()
    generator = seeded(0)
    items = torch.multinomial(prior, draws, replacement=True, generator=generator)
    steps = torch.randint(1, 21, (draws,), generator=generator)
    x0 = embedding(items).detach()
    xn = process.corrupt(x0[None], steps[None], generator).xn[0]

    def gradient(logits):
        logits = logits.clone().requires_grad_()
        output = logits.expand(draws, V)
        made = Pass(items, x0, xn, xn, steps, output, "items", process.schedule, 0.0, process, embedding)
        return torch.autograd.grad(made.cross_entropy(head), logits)[0].norm()

    assert gradient(prior.log()) < 5e-3
    assert gradient(torch.zeros(V).double()) > 0.1
    assert gradient(2 * prior.log()) > 0.05


@few
@given(schedule=small, count=st.integers(1, V))
def test_sampled_negatives_weigh_the_evidence_too(schedule, count):
    """All items as negatives are the full cross-entropy; the correction is that of the sample."""
    made = a_pass(GaussianProcess(schedule), gaussian(M, D))
    joined = with_evidence(made.process, made.output, made.xn, made.timesteps)
    head = EvidenceHead(HEAD, EMBEDDING)
    some = torch.randperm(V, generator=seeded(3))[:count]
    sample = NegativeSample(some, torch.zeros(count, dtype=torch.float64))
    torch.testing.assert_close(head.keys(some), head.keys()[some])
    torch.testing.assert_close(head.bias(some), head.bias()[some])
    assert made.cross_entropy(HEAD, sample).isfinite()
    if count == V:
        torch.testing.assert_close(
            made.cross_entropy(HEAD, sample), head.loss(joined, made.items), rtol=1e-5, atol=1e-7
        )


def test_the_evidence_teaches_the_embedding_nothing():
    process = GaussianProcess(schedule_of("cosine", 20))
    made = a_pass(process, gaussian(M, D).requires_grad_())
    embedding = TableEmbedding(V, D, seed=2).double()
    replace(made, embedding=embedding).cross_entropy(HEAD).backward()
    assert embedding.weight.grad is None
    assert made.output.grad.any()


def step_of(weights=(1.0, 1.0)):
    process = MixedProcess(schedule_of("cosine", 20))
    passes = {name: a_pass(process, gaussian(M, D, seed=seed), seed) for seed, name in enumerate(("sampled", "next"))}
    objective = ItemsObjective(sampled_weight=weights[0], next_weight=weights[1])
    return objective, TrainingStep({name: passes[name] for name in objective.passes}, torch.ones(M).double(), HEAD)


@given(weights=st.tuples(st.floats(0, 3), st.floats(0, 3)))
def test_the_objective_weighs_the_corrupted_positions_and_the_next_item(weights):
    objective, step = step_of(weights)
    assert ("next" in objective.passes) == (weights[1] > 0)
    loss = objective(step)
    total = sum(
        weight * step.at(name).cross_entropy(HEAD) for name, weight in zip(objective.passes, weights, strict=False)
    )
    torch.testing.assert_close(loss.total, total)
    assert not loss.per_latent.any()


def test_a_distribution_is_no_latent():
    with pytest.raises(ValueError, match=r"A prediction of items is a distribution.*Pass\.cross_entropy"):
        step_of()[1].sampled.prediction  # noqa: B018


@pytest.mark.parametrize("weights", [{"sampled_weight": -1}, {"next_weight": -1}])
def test_weights_below_0_are_refused(weights):
    with pytest.raises(ValueError, match="must be a finite number at least 0, got -1"):
        ItemsObjective(**weights)


@pytest.mark.parametrize("objective", ["simplified", {"name": "weighted", "terms": ["cosine"]}, "contrastive"])
def test_an_objective_of_latents_does_not_fit_a_prediction_of_items(objective):
    with pytest.raises(ValueError, match=r"compares latents, but the denoiser predicts items. Use objective='items'"):
        DiffRec(range(9), dim=8, max_length=8, denoiser="joint", objective=objective)


@pytest.mark.parametrize("terms", [["cross-entropy"], [{"name": "cross-entropy", "at": "next"}]])
def test_a_weighted_objective_of_cross_entropies_fits(terms):
    model = DiffRec(range(9), dim=8, max_length=8, denoiser="joint", objective={"name": "weighted", "terms": terms})
    assert isinstance(model.objective, WeightedObjective)
    assert model.loss(batch_of([1, 2, 3, 4]), seeded(0)).total.isfinite()


def test_a_prediction_of_items_needs_latents_that_are_centred_on_zero():
    with pytest.raises(ValueError, match=r"centred on zero, but the source is 'last-item'. Use source='zero'"):
        DiffRec(range(9), dim=8, max_length=8, denoiser="joint", objective="items", source="last-item")


# What a batch teaches


def batch_of(*rows):
    rows = torch.tensor(rows)
    positions = torch.arange(1, rows.shape[1]).expand(len(rows), -1)
    return Batch(History(rows, torch.full((len(rows),), rows.shape[1])), positions)


def model_of(process="mixed", **changes):
    model = joint(range(12), dim=8, max_length=9, k=3, dropout=0.0)
    model = model.replace(schedule={"num_timesteps": 12}, process=process, memory="none", **changes)
    return perturbed(model).double().train()


@pytest.mark.parametrize("process", ["mask", "mixed", "gaussian"])
def test_no_known_position_is_in_the_loss(process, monkeypatch):
    model, seen = model_of(process), []
    plain = model.noising.training
    monkeypatch.setattr(model.noising, "training", lambda *args: seen.append(plain(*args)) or seen[-1])
    batch = batch_of([1, 2, 3, 4, 5, 6, 7], [8, 9, 10, 11, 0, 1, 2])
    judged = []
    monkeypatch.setattr(Pass, "cross_entropy", lambda self, *_: judged.append(self) or self.output.sum())
    model.loss(batch, seeded(0))
    (queries,) = seen
    sampled, following = judged
    truth = batch.items.gather(1, queries.positions.flatten(1)).view(queries.positions.shape)
    if process == "mask":  # of the gaps, those that are blank
        remaining = truth[queries.gaps].tolist()
        for item in sampled.items.tolist():
            remaining.remove(item)
        assert (sampled.xn == 0).all()
    else:
        assert torch.equal(sampled.items, truth[queries.gaps])
    assert (sampled.timesteps > 0).all()
    assert torch.equal(following.items, batch.items[:, 1:].flatten())


def test_the_timestep_sampler_learns_from_the_drawn_steps():
    """Not from step N, which the denoiser is given at every blank."""
    found = {
        step
        for seed in range(5)
        for step in model_of("mask").loss(batch_of([*range(8)]), seeded(seed)).timesteps.tolist()
    }
    assert len(found) > 3


@pytest.mark.parametrize("process", ["mask", "mixed", "gaussian"])
def test_a_query_sees_its_history_and_its_known_positions_alone(process):
    """By gradients: of what is predicted at a gap with respect to all items of the sequence."""
    model = model_of(process).eval()
    batch = batch_of([1, 2, 3, 4, 5, 6, 7, 8])
    queries = model.noising.training(batch.positions, 3, seeded(2))
    clean = model.embedding(batch.items).detach().requires_grad_()
    known = queries.steps(torch.full(queries.visible.shape, 12)) == 0
    at = queries.positions.clamp(max=7)[..., None].expand(*queries.positions.shape, 8)
    x0 = clean[:, None].expand(-1, at.shape[1], -1, -1).gather(2, at)
    blank = torch.where(known[..., None], x0, torch.zeros_like(x0))
    context = model.denoiser.encode(History.of_latents(clean, torch.tensor([8])))
    steps = model.process.seen_steps(blank, queries.steps(torch.full(queries.visible.shape, 12)))
    output = model.denoiser(blank, steps, model.denoiser.condition(context, queries))
    checked = 0
    for query in range(queries.visible.shape[1]):
        if not queries.count[0, query]:
            continue
        shown = set(range(int(queries.visible[0, query])))
        shown |= set(queries.positions[0, query][known[0, query] & queries.mask[0, query]].tolist())
        for place in queries.gaps[0, query].nonzero().flatten().tolist():
            (gradient,) = torch.autograd.grad(output[0, query, place].square().sum(), clean, retain_graph=True)
            reached = set(gradient[0].abs().sum(-1).nonzero().flatten().tolist())
            assert reached == shown
            checked += 1
    assert checked > 8


def test_a_prefix_alone_predicts_the_next_item_of_the_whole_row(monkeypatch):
    """The pass "next" is the distribution that ranks, at every prefix of the row."""
    model, judged = model_of("mixed").eval(), []
    monkeypatch.setattr(Pass, "cross_entropy", lambda self, *_: judged.append(self) or self.output.sum())
    row = [1, 2, 3, 4, 5, 6, 7]
    model.loss(batch_of(row), seeded(0))
    p = model.head.logits(judged[1].output).softmax(-1)
    expected = torch.cat([model.predict_proba([row[:length]]) for length in range(1, 7)])
    torch.testing.assert_close(p, expected, rtol=1e-6, atol=1e-9)


def test_the_same_generator_gives_the_same_loss():
    model = model_of()
    batch = batch_of([1, 2, 3, 4, 5, 6, 7])
    one, again, other = (model.loss(batch, seeded(seed)).total for seed in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_a_query_without_history_and_one_without_positions_are_finite():
    model = model_of().eval()
    queries = Queries(*(torch.tensor(each) for each in ([[0, 0]], [[[0, 1], [0, 1]]], [[2, 0]], [[0, 0]])))
    context = model.denoiser.encode(History.of_latents(gaussian(1, 3, 8), torch.tensor([3])))
    output = model.denoiser(gaussian(1, 2, 2, 8), torch.full((1, 2), 12), model.denoiser.condition(context, queries))
    assert output.isfinite().all()
