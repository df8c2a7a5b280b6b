"""Denoisers that predict the noise or the velocity: one attribute, in training and in chains alike."""

from __future__ import annotations

import pytest
import torch

from diffusers_rec import (
    ConditionalMLPDenoiser,
    Denoiser,
    DiffRec,
    SyntheticWorld,
    TrainingBatches,
    VelocityMLPDenoiser,
)
from diffusers_rec.testing import check_component

SEQUENCES = SyntheticWorld(20).sample(30).sequences()
HISTORIES = [SEQUENCES.vocabulary.ids[:3], SEQUENCES.vocabulary.ids[5:6]]


class NoiseMLP(ConditionalMLPDenoiser, name="noise-mlp"):
    prediction = "noise"


class ExactDenoiser(Denoiser, name="exact"):
    """The mean of equally likely items given xn alone, written as x0, noise or velocity."""

    requires = frozenset({"embedding", "schedule"})

    def __init__(self, dim=256, max_length=50, *, prediction="x0", embedding, schedule, seed=0):
        super().__init__(dim, max_length, seed)
        self.prediction = prediction
        self.shared = embedding, schedule  # in a tuple, since their owner trains and saves them

    def encode(self, history):
        return None

    def condition(self, context, queries, *, null=False):
        return None

    def forward(self, xn, timesteps, condition):
        items, schedule = self.shared[0].table(), self.shared[1]
        signal, sigma = (level[..., None] for level in schedule.levels(xn, timesteps))
        x0 = (-((xn[..., None, :] - signal * items) / sigma).square().sum(-1) / 2).softmax(-1) @ items
        if self.prediction == "noise":
            return schedule.noise_from_x0(x0, xn, timesteps)
        return schedule.velocity_from_x0(x0, xn, timesteps) if self.prediction == "velocity" else x0


def build(denoiser, **settings):
    embedding = {"name": "table", "init_std": 1.0}
    settings = {"schedule": {"name": "cosine", "num_timesteps": 40}, "sampler": "ddpm", "seeds": 4} | settings
    return DiffRec(SEQUENCES.vocabulary, dim=8, max_length=8, embedding=embedding, denoiser=denoiser, **settings)


@pytest.mark.parametrize("denoiser", [NoiseMLP, VelocityMLPDenoiser])
def test_keeps_the_contract(denoiser):
    check_component(denoiser)


@pytest.mark.parametrize("denoiser", ["noise-mlp", "velocity-mlp"])
def test_learns_its_own_target_and_samples(denoiser):
    objective = {"name": "weighted", "terms": [{"name": "squared", "of": "output"}]}
    model = build(denoiser, objective=objective).train()
    batches = [*TrainingBatches(SEQUENCES, max_length=8, batch_targets=400).epoch(0)]
    optimizer = torch.optim.Adam(model.denoiser.parameters(), 1e-2)
    losses = []
    for step in range(20):
        optimizer.zero_grad()
        loss = model.loss(batches[step % len(batches)], torch.Generator().manual_seed(step)).total
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
    assert model.eval().sample(HISTORIES).isfinite().all()


@pytest.mark.parametrize("schedule", ["cosine", "sqrt"])
@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpm-solver++"])
def test_three_parametrisations_of_one_model_walk_the_same_chain(sampler, schedule):
    samples = []
    for prediction in ("x0", "noise", "velocity"):
        exact, levels = {"name": "exact", "prediction": prediction}, {"name": schedule, "num_timesteps": 40}
        model = build(exact, sampler=sampler, schedule=levels).double().eval()
        samples.append(model.sample(HISTORIES))
    torch.testing.assert_close(samples[1], samples[0])
    torch.testing.assert_close(samples[2], samples[0])
    assert torch.cdist(samples[0].flatten(0, 2), model.embedding.table()).amin(-1).max() < 0.5  # on items


def test_one_step_from_pure_noise_needs_another_prediction():
    with pytest.raises(ValueError, match=r"one step from pure noise divides a noise prediction .* Use a chain"):
        build("noise-mlp", sampler="one-step")
    with pytest.raises(ValueError, match="Use a chain"):
        build("noise-mlp").recommend(HISTORIES, sampler="one-step")
    assert build("velocity-mlp", sampler="one-step").sample(HISTORIES).isfinite().all()
