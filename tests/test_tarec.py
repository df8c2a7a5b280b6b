"""The preset ``tarec``, against the equations that its docstring states; there is no public code to compare with."""

from __future__ import annotations

import pytest
import torch

from diffusers_rec import ConsistencyTerm, Queries, SyntheticWorld, TrainingBatches
from diffusers_rec.evaluation import evaluate, evaluate_popularity
from diffusers_rec.objectives import WeightedObjective
from diffusers_rec.presets import control, tarec
from diffusers_rec.testing import check_component
from diffusers_rec.training import RECIPES, TrainingConfig, train

SPLIT = SyntheticWorld(num_items=60).sample(num_users=200).sequences().leave_one_out()
ITEMS = SPLIT.train.vocabulary
BATCH = next(iter(TrainingBatches(SPLIT.train, max_length=9, batch_targets=32).epoch(0)))
N = 1000


def made(**changes):
    return tarec(ITEMS, dim=8, max_length=9, dropout=0.0).replace(**changes).double().eval()


@pytest.fixture
def steps(monkeypatch):
    """Training steps that the objective was called with."""
    found, call = [], WeightedObjective.__call__
    monkeypatch.setattr(WeightedObjective, "__call__", lambda self, step: found.append(step) or call(self, step))
    return found


def test_the_term_keeps_its_contract():
    """Except that the prediction of the earlier step, a target, has no gradient."""
    check_component(ConsistencyTerm, waive=["gradients_reach_the_declared_passes"])


def test_the_loss_is_that_of_its_equations(steps):
    loss = made().loss(BATCH, torch.Generator().manual_seed(3))
    (step,) = steps
    true, other, before = step.sampled, step.at("paired"), step.at("adjacent")
    beta = torch.linspace(1e-4, 0.02, N, dtype=torch.float64)
    alpha_bar = torch.cat([torch.ones(1), (1 - beta).cumprod(0)])
    for each in (true, other, before):
        level = alpha_bar[each.timesteps][:, None]
        torch.testing.assert_close(each.xn, level.sqrt() * each.x0 + (1 - level).sqrt() * true.noise)
    assert torch.equal(before.timesteps, (true.timesteps - 1).clamp(min=1))
    near, far = ((each.x0 - each.output).square().mean(1) for each in (true, other))
    consistency = (true.output - before.output).square().mean(1)
    cosine = torch.nn.functional.cosine_similarity(true.x0, other.x0)
    strength = ((1 - true.timesteps / N) + (1 - cosine)) / 2
    preference = -(strength * (far - near)).sigmoid().log()
    torch.testing.assert_close(loss.total, (near + 0.5 * consistency + preference).mean())


def test_serving_is_one_step_from_noise():
    model, calls = made(), []
    histories = [ITEMS.ids[:3], ITEMS.ids[4:9]]
    model.denoiser.register_forward_hook(lambda module, args, output: calls.append((args[0], args[1])))
    found = model.sample(histories, seeds=1)
    ((noise, n),) = calls
    assert (n == N).all()
    history = model.encode_histories(histories)
    context = model.denoiser.encode(history.with_latents(model.embedding(history.items)))
    condition = model.denoiser.condition(context, Queries.next_item(history.lengths))
    torch.testing.assert_close(found, model.denoiser(noise, n, condition))


def test_the_settings_are_those_of_the_text():
    model = tarec(ITEMS)
    assert (model.embedding.dim, model.history_length, model.denoiser.registered_name) == (64, 10, "state-mlp")
    assert not model.head.use_bias, "inner products"
    assert RECIPES["tarec"] == RECIPES["dreamrec"]


def test_the_second_stage_starts_from_the_first_and_leaves_the_encoder_as_it_is():
    model = tarec(ITEMS, dim=8, max_length=9)
    second = model.replace(objective={"terms": [model.objective.config()["terms"][-1]]})
    second.denoiser.encoder.requires_grad_(False)
    first = {name: weight.clone() for name, weight in model.state_dict().items()}
    train(second, SPLIT.train, config=TrainingConfig(epochs=1))
    moved = {name for name, weight in second.state_dict().items() if not torch.equal(weight, first[name])}
    assert {"denoiser.join.weight", "denoiser.step.0.weight"} <= moved
    assert not any(name.startswith("denoiser.encoder.") for name in moved)


def test_the_control_keeps_the_distance_and_the_preference():
    plain = control(made())
    assert [term["name"] for term in plain.objective.config()["terms"]] == ["squared", "preference"]


@pytest.mark.slow
def test_it_ranks_ahead_of_popularity():
    model = tarec(ITEMS, dim=32)
    train(model, SPLIT.train, config=TrainingConfig(epochs=12, batch_targets=256, learning_rate=1e-2))
    ours = evaluate(model, SPLIT.test).metrics()["ndcg@10"]
    assert ours > 1.5 * evaluate_popularity(SPLIT.train, SPLIT.test).metrics()["ndcg@10"]
