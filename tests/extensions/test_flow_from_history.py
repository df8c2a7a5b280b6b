"""A rectified flow from the history's state to the next item: a source, a schedule, and a velocity."""

from __future__ import annotations

import pytest
import torch

from diffusers_rec import Denoiser, DiffRec, Interactions, Source, TrainingBatches
from diffusers_rec.testing import check_component
from diffusers_rec.training import TrainingConfig, train

V = 12
RING = [[(start + step) % V for step in range(5)] for start in range(V)]  # after each item comes the next one


class FirstAndLast(Source, name="first-and-last"):
    """The mean of the first and the last visible item."""

    def centre(self, history, queries):
        latents = torch.nn.functional.pad(history.latent(), (0, 0, 1, 0))  # zero before the first
        places = torch.stack([queries.visible, queries.visible.clamp(max=1)])
        first, last = (latents.gather(1, each[..., None].expand(-1, -1, latents.shape[-1])) for each in places)
        return ((first + last) / 2)[:, :, None]


class ExactVelocity(Denoiser, name="exact-velocity"):
    """(x_n - x_0) / t towards the item that follows on the ring, wherever the path began."""

    prediction = "velocity"
    requires = frozenset({"embedding", "schedule"})

    def __init__(self, dim=256, max_length=50, *, embedding, schedule, seed=0):
        super().__init__(dim, max_length, seed)
        self.shared = embedding, schedule  # in a tuple, since their owner trains and saves them

    def encode(self, history):
        return self.shared[0]((history.items + 1) % V)

    def condition(self, context, queries, *, null=False):
        last = (queries.visible - 1)[..., None].expand(-1, -1, self.dim)
        return context.gather(1, last)[:, :, None]

    def forward(self, xn, timesteps, condition):
        _, sigma = self.shared[1].levels(xn, timesteps)
        return (xn - condition) / sigma


def sequences():
    users, times = torch.arange(V).repeat_interleave(5).tolist(), range(5 * V)
    return Interactions.from_arrays(users, [item for row in RING for item in row], [*times]).sequences()


def flow(denoiser, source, **settings):
    parts = {"embedding": {"name": "table", "init_std": 1.0}, "head": "tied", "timesteps": "uniform"} | settings
    levels = {"name": "rectified", "num_timesteps": 20}
    return DiffRec(range(V), dim=8, max_length=6, schedule=levels, denoiser=denoiser, source=source, **parts)


def velocity_loss(*more):
    return {"name": "weighted", "terms": [{"name": "squared", "of": "output"}, *more]}


def test_keeps_the_contracts():
    check_component(FirstAndLast)


every_source = pytest.mark.parametrize("source", ["zero", "last-item", "history", "first-and-last"])


@every_source
@pytest.mark.parametrize("num_steps", [1, 3, 20])
def test_the_exact_velocity_lands_on_the_next_item_in_any_number_of_steps(source, num_steps):
    model = flow("exact-velocity", source, sampler={"name": "euler", "num_steps": num_steps}).double().eval()
    sample = model.sample(RING, seeds=3)
    expected = model.embedding(torch.tensor([(row[-1] + 1) % V for row in RING]))[:, None, None]
    torch.testing.assert_close(sample, expected.expand_as(sample))


@every_source
def test_the_exact_velocity_has_no_loss(source):
    model = flow("exact-velocity", source, objective=velocity_loss()).double()
    batch = next(iter(TrainingBatches(sequences()).epoch(0)))
    assert model.loss(batch, torch.Generator().manual_seed(0)).total < 1e-20


def test_the_path_is_straight_and_begins_around_the_centre():
    starts = []
    for source in ("zero", "first-and-last"):
        model, path = flow("exact-velocity", source, sampler="euler").double().eval(), []
        model.sample(RING, callback=lambda step, path=path: path.append(step.xn))
        moves = torch.stack(path).diff(dim=0)
        torch.testing.assert_close(moves, moves[:1].expand_as(moves))
        starts.append(path[0] - moves[0])
    centre = model.embedding(torch.tensor(RING))[:, [0, -1]].mean(1)[:, None, None]
    torch.testing.assert_close(starts[1] - starts[0], centre.expand_as(starts[0]))


def test_a_trained_flow_recommends_the_next_item():
    denoiser = {"name": "velocity-mlp", "encoder": {"name": "causal-transformer", "num_layers": 1, "dropout": 0.0}}
    model = flow(denoiser, "first-and-last", objective=velocity_loss("cross-entropy"), sampler="euler")
    result = train(model, sequences(), config=TrainingConfig(epochs=120, batch_targets=48, learning_rate=1e-2))
    assert result.history[-1]["squared"] < 0.5 * result.history[0]["squared"]
    found = model.recommend([row[:3] for row in RING], 1, seeds=4).items
    assert sum(item == (row[2] + 1) % V for row, (item,) in zip(RING, found, strict=True)) >= V - 1
