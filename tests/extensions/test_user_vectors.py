"""A model without item latents: diffusion of a user's multi-hot vector over all items (Wang et al. 2023, *DiffRec*).

The clean vector is 1 for each item of the user. It is corrupted by a Gaussian process, and a network predicts it back;
the prediction at an item the user has not seen is its score.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from diffusers_rec import (
    DiffRec,
    Ensemble,
    GaussianProcess,
    Interactions,
    Loss,
    Recommender,
    Scores,
    TruncatedLinearSchedule,
    Vocabulary,
)
from diffusers_rec.core.randomness import generators_from, isolated_rng
from diffusers_rec.evaluation import evaluate
from diffusers_rec.training import TrainingConfig, train

GROUPS, EACH = 3, 8


class UserDiffusion(Recommender):
    """Ranks by the denoised multi-hot vector of the history."""

    def __init__(self, items, *, width=32, num_timesteps=40, history_length=10, seeds=3, temperature=0.1, seed=0):
        super().__init__()
        self.vocabulary = items if isinstance(items, Vocabulary) else Vocabulary(items)
        self.process = GaussianProcess(TruncatedLinearSchedule(num_timesteps, log_snr_shift=4.0))  # little noise
        self.length, self.seeds, self.temperature = history_length, seeds, temperature
        size = len(self.vocabulary)
        with isolated_rng(seed):
            self.network = nn.Sequential(nn.Linear(size + 1, width), nn.Tanh(), nn.Linear(width, size))
        self.register_buffer("popularity", torch.zeros(size, dtype=torch.int64))

    @property
    def device(self):
        return self.popularity.device

    @property
    def history_length(self):
        return self.length

    def vectors(self, history):
        """Multi-hot vectors, ``(B, 1, V)``."""
        found = torch.zeros(len(history), len(self.vocabulary), device=history.items.device)
        return found.scatter_reduce(1, history.items, history.mask.float(), "amax")[:, None]

    def denoised(self, xn, timesteps):
        step = timesteps[..., None] / self.process.schedule.num_timesteps
        return self.network(torch.cat([xn, step.to(xn.dtype)], dim=-1))

    def forward(self, batch, generator):
        x0 = self.vectors(batch.history)
        last = self.process.schedule.num_timesteps
        timesteps = torch.randint(1, last + 1, (len(x0), 1), generator=generator).to(x0.device)
        predicted = self.denoised(self.process.corrupt(x0, timesteps, generator).xn, timesteps)
        loss = (predicted - x0).square().mean()
        return Loss(loss, {"reconstruction": loss.detach()})

    def score(self, history, *, seeds=None, sampler=None):
        draws = generators_from(self.seeds if seeds is None else seeds)
        x0 = self.vectors(history).expand(-1, len(draws), -1)
        few = torch.full(x0.shape[:2], self.process.schedule.num_timesteps // 8, device=x0.device)
        predicted = self.denoised(self.process.corrupt(x0, few, draws).xn, few).mean(1)
        yield Scores.of_logits(predicted / self.temperature)


@pytest.fixture(scope="module")
def split():
    """Users that choose items of one group each, in random order."""
    generator = torch.Generator().manual_seed(0)
    rows = [
        (user, int(item) + user % GROUPS * EACH, time)
        for user in range(60)
        for time, item in enumerate(torch.randperm(EACH, generator=generator)[:6])
    ]
    return Interactions.from_arrays(*zip(*rows, strict=True)).sequences().leave_one_out()


@pytest.fixture(scope="module")
def trained(split):
    model = UserDiffusion(split.train.vocabulary)
    config = TrainingConfig(epochs=60, batch_targets=10, examples="last-target", learning_rate=1e-2, validate_every=20)
    result = train(model, split.train, split.validation, config, device="cpu")
    assert result.history[-1]["reconstruction"] < 0.6 * result.history[0]["reconstruction"]
    return model


def test_it_ranks_the_group_of_the_user(split, trained):
    metrics = evaluate(trained, split.test, ks=[5]).metrics(exclude_seen=True)
    assert metrics["hr@5"] > 0.6  # chance is 5 of 19 unseen items
    found = trained.recommend([[0, 1, 2], [9, 11, 13]], k=3)
    assert [[item // EACH for item in items] for items in found.items] == [[0] * 3, [1] * 3]
    assert trained.recommend([[]], k=1, empty="popularity").scores.item() == pytest.approx(
        float(trained.popularity.max() / trained.popularity.sum())
    )


def test_it_is_scored_together_with_a_model_of_another_kind(split, trained):
    other = DiffRec(split.train.vocabulary, dim=8, max_length=11, schedule={"name": "sqrt", "num_timesteps": 10})
    both = Ensemble([trained, other.eval()])
    histories = [[0, 1, 2], [9, 11]]
    mean = (trained.predict_proba(histories) + other.predict_proba(histories)) / 2
    assert torch.allclose(both.predict_proba(histories), mean, atol=1e-6)
    assert evaluate(both, split.test, ks=[5]).num_users == 60
