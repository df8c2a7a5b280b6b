"""The preset ``flowrec``, against the equations that its docstring states; there is no public code to compare with."""

from __future__ import annotations

import pytest
import torch

from diffusers_rec import DiffRec, EncoderSource, History, Queries, SyntheticWorld, TrainingBatches
from diffusers_rec.evaluation import evaluate, evaluate_popularity
from diffusers_rec.presets import control, flowrec
from diffusers_rec.testing import check_component
from diffusers_rec.training import TrainingConfig, train

SPLIT = SyntheticWorld(num_items=60).sample(num_users=200).sequences().leave_one_out()
ITEMS = SPLIT.train.vocabulary
BATCH = next(iter(TrainingBatches(SPLIT.train, max_length=9, batch_targets=32).epoch(0)))


def made(**changes):
    """A small model in float64, with weights of the field that are not zero."""
    model = flowrec(ITEMS, dim=8, max_length=9, dropout=0.0).replace(**changes).double().eval()
    torch.nn.init.normal_(model.denoiser.out.weight, std=0.3, generator=torch.Generator().manual_seed(0))
    return model


def test_the_source_keeps_its_contract():
    check_component(EncoderSource)


def test_the_centre_is_the_state_of_the_encoder_after_the_visible_items():
    source = EncoderSource(8, 6, encoder={"name": "causal-transformer", "num_heads": 1}).double().eval()
    latents = torch.randn(1, 4, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    visible = torch.tensor([[0, 2, 4]])
    queries = Queries(visible, visible[..., None], torch.ones_like(visible), torch.zeros_like(visible))
    history = History.of_latents(latents, torch.tensor([4]))
    centre = source.centre(history, queries)
    states = source.encoder.states(source.encoder.encode(history), torch.tensor([[2, 4]]))
    torch.testing.assert_close(centre[0, 1:, 0], states[0])
    assert not centre[0, 0].any()


def test_the_weights_of_the_source_follow_the_seed_and_a_checkpoint(tmp_path):
    one, again, other = (flowrec(ITEMS, dim=8, seed=seed).source.state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(weight, again[name]) for name, weight in one.items())
    assert any(not torch.equal(weight, other[name]) for name, weight in one.items())
    model = made()
    kept = model.replace(sampler={"name": "euler", "num_steps": 3})
    model.save_pretrained(tmp_path)
    loaded = DiffRec.from_pretrained(tmp_path)
    for found in (kept, loaded):
        for name, weight in model.source.state_dict().items():
            torch.testing.assert_close(found.source.state_dict()[name], weight)


def test_a_source_of_another_width_is_refused():
    with pytest.raises(ValueError, match="dim of the source"):
        flowrec(ITEMS, dim=8).replace(source=EncoderSource(16))


def test_the_loss_is_that_of_its_equations(monkeypatch):
    model, steps = made(), []
    monkeypatch.setattr(
        type(model.objective), "__call__", lambda self, step: steps.append(step) or original(self, step)
    )
    loss = model.loss(BATCH, torch.Generator().manual_seed(3))
    (step,) = steps
    sampled, final = step.sampled, step.at("final")
    t = sampled.timesteps[:, None] / 1000
    start = sampled.centre + sampled.noise
    torch.testing.assert_close(sampled.xn, (1 - t) * sampled.x0 + t * start)
    velocity = (start - sampled.x0 - sampled.output).square().mean()
    torch.testing.assert_close(final.xn, final.centre + final.noise)
    aligned = torch.nn.functional.cross_entropy(model.head.logits(final.xn - final.output), step.items)
    prior = torch.nn.functional.cross_entropy(model.head.logits(sampled.centre), step.items)
    torch.testing.assert_close(loss.total, velocity + aligned + prior)


original = type(flowrec(range(3), dim=2).objective).__call__


@pytest.mark.parametrize("num_steps", [1, 4])
def test_a_chain_walks_along_the_velocity_from_the_state_of_the_history(num_steps):
    model = made(sampler={"name": "euler", "num_steps": num_steps})
    histories, calls = [ITEMS.ids[:3], ITEMS.ids[4:9]], []
    model.denoiser.register_forward_hook(lambda module, args, output: calls.append((args[0], args[1], output)))
    found = model.sample(histories, seeds=2)
    assert len(calls) == num_steps
    (x, n, v), *later = calls
    for xm, m, vm in later:
        torch.testing.assert_close(xm, x + (m - n)[..., None, None] / 1000 * v)
        x, n, v = xm, m, vm
    torch.testing.assert_close(found, x - n[..., None, None] / 1000 * v)
    history = model.encode_histories(histories)
    history = history.with_latents(model.embedding(history.items))
    centre = model.source.centre(history, Queries.next_item(history.lengths))
    draws = calls[0][0] - centre
    torch.testing.assert_close(draws[0], draws[1], msg="one noise for all histories")


def test_every_loss_trains_the_source():
    for kept in ("squared", "cross-entropy", "source"):
        terms = [term for term in made().objective.config()["terms"] if term["name"] == kept]
        model = made(objective={"terms": [*terms]}).train()
        model.loss(BATCH, torch.Generator().manual_seed(0)).total.backward()
        assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in model.source.parameters())


def test_a_velocity_has_no_control():
    with pytest.raises(ValueError, match="'velocity-mlp' predicts velocity, which is not defined without noise"):
        control(flowrec(ITEMS, dim=8))


@pytest.mark.slow
def test_it_ranks_ahead_of_popularity():
    model = flowrec(ITEMS, dim=32, max_length=11, dropout=0.1)
    train(model, SPLIT.train, config=TrainingConfig(epochs=12, batch_targets=256, learning_rate=3e-3))
    ours = evaluate(model, SPLIT.test).metrics()["ndcg@10"]
    assert ours > 1.5 * evaluate_popularity(SPLIT.train, SPLIT.test).metrics()["ndcg@10"]
