"""The denoiser ``added-latent``; ``test_diffurec.py`` compares it with the authors' code."""

from __future__ import annotations

import pytest
import torch
from formulas import wave

from diffusers_rec import AddedLatentDenoiser
from diffusers_rec.data import History
from diffusers_rec.processes.noising import Queries

DIM = 8


@pytest.fixture
def denoiser():
    return AddedLatentDenoiser(DIM, 6, num_layers=2, dropout=0.0, embedding_dropout=0.0, uncertainty=0.25).double()


def predicted(denoiser, latents, xn, n=3):
    """Predictions of one query with one corrupted position for each history, ``(B, D)``."""
    lengths = torch.full((len(latents),), latents.shape[1])
    history = History.of_latents(latents, lengths)
    condition = denoiser.condition(denoiser.encode(history), Queries.next_item(lengths))
    return denoiser(xn[:, None, None], torch.full((len(latents), 1), n), condition)[:, 0, 0]


def test_lambda_has_equal_mean_and_deviation(denoiser):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        uncertain = denoiser.train()._uncertain(torch.empty(400, 10, DIM))
    assert uncertain.mean().item() == pytest.approx(0.25, abs=0.005)
    assert uncertain.std(0).mean().item() == pytest.approx(0.25, abs=0.005), "for each item and dimension"
    assert denoiser.eval()._uncertain(torch.empty(3)) == 0.25


def test_a_training_pass_draws_lambda_anew(denoiser):
    latents, xn = wave((1, 4, DIM), 0), wave((1, DIM), 2)
    with torch.random.fork_rng():
        first, second = (predicted(denoiser.train(), latents, xn) for _ in range(2))
    assert not torch.allclose(first, second)


def test_what_is_added_to_the_items_is_the_scaled_latent_with_the_step(denoiser):
    """A latent that differs by the difference of two step embeddings takes the place of the step."""
    latents, xn = wave((2, 4, DIM), 0), wave((2, DIM), 2)
    moved = denoiser.step(torch.tensor(4 * denoiser.step_scale)) - denoiser.step(torch.tensor(2 * denoiser.step_scale))
    expected = predicted(denoiser.eval(), latents, xn, n=5)
    torch.testing.assert_close(predicted(denoiser, latents, xn + moved, n=3), expected)


def test_only_the_last_item_has_a_place(denoiser):
    latents, xn = wave((1, 5, DIM), 0), wave((1, DIM), 2)
    expected = predicted(denoiser.eval(), latents, xn)
    torch.testing.assert_close(predicted(denoiser, latents[:, [2, 0, 3, 1, 4]], xn), expected)
    assert not torch.allclose(predicted(denoiser, latents[:, [0, 1, 2, 4, 3]], xn), expected)
