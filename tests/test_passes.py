"""The passes of an objective, and the callbacks and guidance of a call."""

from __future__ import annotations

import pytest
import torch
from strategies import perturbed, seeded

from diffusers_rec import Batch, DiffRec, History, LossTerms, Objective, Pass, Queries, SqrtSchedule
from diffusers_rec.presets import best

ITEMS = [f"i{index}" for index in range(9)]
ROWS = torch.tensor([[3, 7, 1, 5, 2], [8, 8, 4, 0, 0]])
BATCH = Batch(History(ROWS, torch.tensor([5, 3])), torch.tensor([[1, 2, 3, 4], [1, 2, -1, -1]]))


SEEING = "sampled", "final", "negative", "paired", "adjacent"


@pytest.fixture
def seen(fresh_registry):
    """The training step that an objective of all passes was called with."""
    found = []

    class Everything(Objective, name="everything"):
        passes = ("sampled", "final", "null", "negative", "paired", "centroid", "adjacent")

        def __call__(self, step):
            found.append(step)
            total = sum(each.prediction.square().mean() for each in step.passes.values())
            return LossTerms(total, {}, step.x0.new_zeros(len(step.items)))

    class SeeingHistory(Everything, name="seeing-history"):
        passes = SEEING

    return found


def build(**settings):
    return perturbed(
        DiffRec(ITEMS, **{"dim": 8, "max_length": 6, "denoiser": "conditional-mlp", "seeds": 2, **settings})
    )


@pytest.mark.parametrize("source", ["zero", "last-item", "history"])
def test_each_pass_is_what_it_says(seen, source):
    model = build(objective="everything" if source == "zero" else "seeing-history", source=source).eval()
    model(BATCH, seeded(0))
    (step,) = seen
    sampled, final, negative, paired, adjacent = (step.passes[name] for name in SEEING)
    assert sampled.items.tolist() == [7, 1, 5, 2, 8, 4]
    for each in step.passes.values():
        clean, noised = each.x0 - each.centre, each.xn - each.centre
        torch.testing.assert_close(noised, model.schedule.add_noise(clean, each.noise, each.timesteps))
        if each is not step.passes.get("centroid"):
            torch.testing.assert_close(each.x0, model.embedding(each.items))
    assert (final.timesteps == model.schedule.num_timesteps).all()
    assert not torch.equal(final.noise, sampled.noise)
    assert torch.equal(negative.timesteps, sampled.timesteps)
    assert (negative.items != sampled.items).all()
    assert not torch.equal(negative.noise, sampled.noise)
    assert torch.equal(paired.timesteps, sampled.timesteps)
    assert (paired.items != sampled.items).all()
    assert torch.equal(adjacent.items, sampled.items)
    for each in (paired, adjacent):
        assert torch.equal(each.noise, sampled.noise)
    assert torch.equal(adjacent.timesteps, sampled.timesteps - 1)


def test_the_step_before_the_first_is_the_first(seen):
    model = build(objective="seeing-history", schedule={"name": "sqrt", "num_timesteps": 2}).eval()
    for seed in range(5):
        model(BATCH, seeded(seed))
    for step in seen:
        sampled, adjacent = step.sampled, step.at("adjacent")
        assert (adjacent.timesteps == 1).all()
        first = sampled.timesteps == 1
        assert torch.equal(adjacent.xn[first], sampled.xn[first])
    assert {int(n) for step in seen for n in step.sampled.timesteps} == {1, 2}


def test_the_null_pass_sees_no_history(seen):
    model = build(objective="everything").eval()
    model(BATCH, seeded(0))
    other = Batch(History((ROWS + 1) % 9, BATCH.lengths), BATCH.positions)
    model(other, seeded(0))
    null = [step.at("null") for step in seen]
    assert torch.equal(null[0].xn, seen[0].sampled.xn)
    assert not torch.isclose(null[0].output, seen[0].sampled.output).all(1).any()
    condition = model.denoiser.condition(
        model.denoiser.encode(History.of_latents(torch.zeros(1, 0, 8), torch.tensor([0]))),
        Queries.next_item(torch.tensor([0])),
    )
    for each in null:
        alone = model.denoiser(each.xn[None, :, None], each.timesteps[None], condition)
        torch.testing.assert_close(each.output, alone[0, :, 0])


def test_a_guide_hides_the_same_queries_in_every_pass(seen, monkeypatch):
    model = build(objective="everything", denoiser={"name": "classifier-free", "drop": 0.5}).train()
    masks, condition = [], model.denoiser.base.condition

    def spied(context, queries, *, null=False):
        masks.append(null)
        return condition(context, queries, null=null)

    monkeypatch.setattr(model.denoiser.base, "condition", spied)
    model(BATCH, seeded(0))
    sampled, final, null, *others = masks[0].chunk(7, dim=1)
    assert 0 < sampled.sum() < sampled.numel()
    assert torch.equal(sampled, final)
    for each in others:
        assert torch.equal(sampled, each)
    assert null.all()


def test_the_history_that_is_encoded_ends_where_the_last_query_sees(monkeypatch):
    model, found = build().eval(), []
    encode = model.denoiser.encode
    monkeypatch.setattr(model.denoiser, "encode", lambda history: (found.append(history), encode(history))[1])
    model(BATCH, seeded(0))
    assert found[0].lengths.tolist() == [4, 2]  # one less than the rows: the last item is a target


def test_a_schedule_assigned_to_a_model_is_refused():
    model = build().eval()
    model.schedule = SqrtSchedule(50)
    for call in (model.check_fit, lambda: model.recommend([["i1"]])):
        with pytest.raises(ValueError, match=r"another schedule.*model\.replace\(schedule="):
            call()


def test_negatives_are_drawn_from_all_other_items(seen):
    model = build(objective="everything").eval()
    for seed in range(60):
        model(BATCH, seeded(seed))
    drawn = {(int(a), int(b)) for step in seen for a, b in zip(step.items, step.at("negative").items, strict=True)}
    assert drawn == {(item, other) for item in [7, 1, 5, 2, 8, 4] for other in range(9) if other != item}


def test_the_centroid_is_the_mean_of_the_other_targets(seen):
    model = build(objective="everything").eval()
    rows = torch.tensor([[3, 7, 1, 5, 2], [8, 5, 4, 0, 0]])
    model(Batch(History(rows, torch.tensor([5, 3])), BATCH.positions), seeded(0))
    (step,) = seen
    centroid, table = step.at("centroid"), model.embedding.table()
    targets = step.items.tolist()
    assert targets == [7, 1, 5, 2, 5, 4]
    for target, x0 in zip(targets, centroid.x0, strict=True):
        torch.testing.assert_close(x0, table[[other for other in targets if other != target]].mean(0))
    assert (centroid.items == -1).all()
    assert torch.equal(centroid.timesteps, step.sampled.timesteps)
    torch.testing.assert_close(centroid.xn, model.schedule.add_noise(centroid.x0, centroid.noise, centroid.timesteps))


def test_a_batch_of_one_target_is_compared_with_a_drawn_item(seen):
    model = build(objective="everything").eval()
    drawn = set()
    for seed in range(60):
        model(Batch(History(ROWS[:1], torch.tensor([5])), torch.tensor([[4]])), seeded(seed))
        drawn.add(int((model.embedding.table() - seen[-1].at("centroid").x0).norm(dim=1).argmin()))
    assert drawn == {*range(9)} - {2}


def test_a_pass_converts_what_a_denoiser_predicts():
    schedule = build().schedule
    x0, noise = torch.randn(2, 5, 8, generator=seeded(0), dtype=torch.float64)
    timesteps, centre = torch.tensor([1, 300, 500, 700, 900]), torch.ones(5, 8, dtype=torch.float64)
    xn = schedule.add_noise(x0 - centre, noise, timesteps) + centre
    for kind in ("x0", "noise", "velocity"):
        each = Pass(timesteps, x0, xn, noise, timesteps, x0, kind, schedule, centre)
        perfect = Pass(timesteps, x0, xn, noise, timesteps, each.target, kind, schedule, centre)
        torch.testing.assert_close(perfect.prediction, x0)


@pytest.mark.parametrize("source", ["zero", "last-item"])
def test_a_callback_sees_latents_and_scores_where_the_items_are(source):
    model, steps = build(source=source).eval(), []

    def look(step):
        steps.append((step.timestep, step.previous, step.scores.shape))
        assert torch.equal(step.scores, model.head.logits(step.prediction).log_softmax(-1))

    sampler = {"name": "ddim", "num_steps": 3}
    drawn = model.sample([["i1", "i2"]], sampler=sampler, callback=look)
    assert [step[:2] for step in steps] == [(1000, 500), (500, 1), (1, 0)]
    assert steps[0][2] == (1, 2, 1, 9)
    assert torch.equal(drawn, model.sample([["i1", "i2"]], sampler=sampler))

    def replace(step):
        step.xn = model.embedding(torch.full(step.xn.shape[:-1], 3))

    latents = model.sample([["i1", "i2"]], sampler=sampler, callback=replace)
    torch.testing.assert_close(latents, model.embedding(torch.full((1, 2, 1), 3)))


def test_a_call_sets_its_own_guidance():
    model = perturbed(best(ITEMS, dim=8, max_length=6).replace(denoiser="classifier-free", memory="none")).eval()
    plain, guided = (model.predict_proba([["i1"]], guidance=scale) for scale in (None, 3.0))
    assert not torch.allclose(plain, guided)
    assert torch.equal(plain, model.predict_proba([["i1"]], guidance={"scale": 1.0}))
    assert torch.equal(guided, model.replace(denoiser={"scale": 3.0}).predict_proba([["i1"]]))
    late = model.predict_proba([["i1"]], guidance={"scale": 3.0, "start": 0.5})
    assert torch.allclose(late, plain)  # the one step is the first
    with pytest.raises(ValueError, match="Unknown guidance setting of 'classifier-free': 'scal'"):
        model.recommend([["i1"]], guidance={"scal": 3.0})
    with pytest.raises(ValueError, match="the model has no guide"):
        build().eval().recommend([["i1"]], guidance=2.0)
