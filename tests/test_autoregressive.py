"""The denoiser ``autoregressive`` and the noising ``every-item``; ``test_adrec.py`` has numbers of a public code."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from diffusers_rec import AutoregressiveDenoiser, Batch, DiffRec, History, Queries
from diffusers_rec.presets import control
from diffusers_rec.testing import check_component

DIM, LENGTH = 8, 5


def gaussian(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def denoiser():
    return AutoregressiveDenoiser(DIM, 8, dropout=0.0, embedding_dropout=0.0, uncertainty=0.5).double().eval()


def history(copies=None, steps=None):
    plain = History.of_latents(gaussian(2, LENGTH, DIM), torch.tensor([LENGTH, LENGTH]))
    return replace(plain, copies=copies, copy_steps=steps)


def predicted(denoiser, history, visible=LENGTH):
    condition = denoiser.condition(denoiser.encode(history), Queries.next_item(torch.full((2,), visible)))
    return denoiser(gaussian(2, 1, 1, DIM, seed=2), torch.full((2, 1), 7), condition)


QUIET = {"name": "autoregressive", "dropout": 0.0, "embedding_dropout": 0.0}


def model(**changes):
    settings = {"denoiser": QUIET, "noising": "every-item", "head": "tied"}
    return DiffRec(range(20), dim=DIM, max_length=8, **settings | changes)


BATCH = Batch(History(torch.arange(12).view(2, 6), torch.tensor([6, 6])), torch.arange(1, 6).expand(2, -1))


@pytest.mark.parametrize("settings", [{}, {"denoiser_layers": 1}, {"num_layers": 1, "uncertainty": 0.5}], ids=str)
def test_keeps_the_contract_of_a_denoiser(settings):
    check_component(AutoregressiveDenoiser, **settings)


@pytest.mark.parametrize("step", [0, 1])
def test_a_history_without_noise_is_its_own_copy(denoiser, step):
    clean = history()
    copied = history(clean.latent(), torch.full((2, LENGTH), step))
    torch.testing.assert_close(predicted(denoiser, copied), predicted(denoiser, clean))


@pytest.mark.parametrize("visible", range(LENGTH + 1))
def test_a_query_reads_the_copies_of_its_items_after_the_first(denoiser, visible):
    copies = gaussian(2, LENGTH, DIM, seed=1).requires_grad_()
    found = predicted(denoiser, history(copies, torch.full((2, LENGTH), 3)), visible)
    (gradient,) = torch.autograd.grad(found.square().sum() + 0 * copies.sum(), copies)
    read = (gradient.abs().sum(-1) > 0)[0].nonzero()[:, 0].tolist()
    assert read == list(range(1, visible))


def test_each_copy_has_a_step_of_its_own(denoiser):
    copies, steps = gaussian(2, LENGTH, DIM, seed=1), torch.full((2, LENGTH), 3)
    expected = predicted(denoiser, history(copies, steps))
    for position in range(1, LENGTH):
        other = steps.clone()
        other[:, position] = 20
        assert not torch.allclose(predicted(denoiser, history(copies, other)), expected)


def test_lambda_scales_the_latents_with_the_step(denoiser):
    """The difference of two step embeddings takes the place of a step."""
    step = denoiser.step
    moved = step(torch.tensor(4 * denoiser.step_scale)) - step(torch.tensor(2 * denoiser.step_scale))
    copies = gaussian(2, LENGTH, DIM, seed=1)
    expected = predicted(denoiser, history(copies, torch.full((2, LENGTH), 5)))
    found = predicted(denoiser, history(copies + moved, torch.full((2, LENGTH), 3)))
    torch.testing.assert_close(found, expected)


def test_training_noises_copies_of_the_history(monkeypatch):
    seen, plain = [], AutoregressiveDenoiser.encode
    monkeypatch.setattr(AutoregressiveDenoiser, "encode", lambda self, x: seen.append(x) or plain(self, x))
    trained = model()
    trained.loss(BATCH, torch.Generator().manual_seed(0))
    given = seen[0]
    clean, (copies, steps) = given.latent(), given.noised()
    assert torch.equal(clean, trained.embedding(BATCH.items[:, :5]))
    assert steps.min() >= 1
    assert len(steps.unique()) > 5, "a step for each item"
    signal, sigma = trained.schedule.levels(clean, steps)
    noise = ((copies - signal * clean) / sigma).detach()
    assert noise.mean().abs() < 0.3
    assert 0.7 < noise.std() < 1.3
    trained.recommend([[1, 2, 3]], k=2)
    assert seen[-1].copies is None, "the history is clean when serving"


def test_only_every_item_draws_the_copies():
    one, other = (model(noising=name, timesteps="uniform") for name in ("every-item", "target"))
    losses = [each.loss(BATCH, torch.Generator().manual_seed(0)).total for each in (one, other)]
    assert losses[0] != losses[1]


def test_the_control_has_a_clean_history():
    plain = control(model().replace(objective={"name": "weighted", "terms": ["cross-entropy"]}))
    assert plain.noising.registered_name == "target"
    first, second = (plain.loss(BATCH, torch.Generator().manual_seed(seed)).total for seed in (0, 1))
    assert first == second


@pytest.mark.parametrize("wrapped", [False, True])
def test_copies_that_nothing_reads_are_refused(wrapped):
    base = "conditional-mlp"
    with pytest.raises(ValueError, match=r"the noising 'every-item' .* does not read them"):
        model(denoiser={"name": "classifier-free", "base": base} if wrapped else base)


def test_a_guide_reads_the_copies_of_its_base():
    guided = model(denoiser={"name": "classifier-free", "base": "autoregressive"})
    assert torch.isfinite(guided.loss(BATCH, torch.Generator().manual_seed(0)).total)


def test_copies_ride_along():
    given = history(gaussian(2, LENGTH, DIM, seed=1), torch.arange(2 * LENGTH).view(2, LENGTH))
    for changed, expected in (
        (given.first(3), (given.copies[:, :3], given.copy_steps[:, :3])),
        (given.take(torch.tensor([1])), (given.copies[1:], given.copy_steps[1:])),
    ):
        assert all(torch.equal(one, other) for one, other in zip(changed.noised(), expected, strict=True))


def test_copies_without_steps_are_refused():
    with pytest.raises(ValueError, match="copies and copy_steps belong together"):
        history(gaussian(2, LENGTH, DIM))


def test_the_loss_depends_on_the_generator_and_on_no_global_state():
    trained = model(denoiser="autoregressive").train()
    first, second = (trained(BATCH, torch.Generator().manual_seed(0)).total for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(trained(BATCH, torch.Generator().manual_seed(1)).total, first)


def test_no_later_item_reaches_an_earlier_prediction_in_training():
    trained, predictions = model().double().eval(), []
    trained.denoiser.register_forward_hook(lambda module, args, output: predictions.append(output[:, :, 0]))
    later = BATCH.items.clone()
    later[:, 4] = 19
    for items in (BATCH.items, later):
        trained(Batch(History(items, BATCH.lengths), BATCH.positions), torch.Generator().manual_seed(0))
    same = torch.isclose(*predictions, rtol=0, atol=1e-12).all(-1)
    assert same.all(0).tolist() == [True, True, True, False, False], "three before the item, itself, one after"
