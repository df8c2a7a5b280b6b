"""A chain that completes one position after another: each of K corrupted positions has steps of its own."""

from __future__ import annotations

import pytest
import torch

from diffusers_rec import DDIMSampler, DiffRec, GaussianProcess, LastK, SqrtSchedule, SyntheticWorld, TrainingBatches
from diffusers_rec.testing import check_component

SEQUENCES = SyntheticWorld(20).sample(20).sequences()
HISTORIES = [SEQUENCES.vocabulary.ids[:3], SEQUENCES.vocabulary.ids[5:6]]


class OneAfterAnother(DDIMSampler, name="one-after-another"):
    """A position walks from N to 1 while those behind it wait at N and those before it rest at 1."""

    def course(self, num_timesteps, start):
        steps = super().course(num_timesteps, start)
        if start.ndim < 4:  # latents without an axis of positions
            return steps
        now = torch.full(start.shape[:3], num_timesteps, device=start.device)
        visited = [now]
        for position in range(start.shape[2]):
            for n in steps[1:]:
                now = now.clone()
                now[:, :, position] = n
                visited.append(now)
        return visited


def test_keeps_the_contract_of_a_sampler():
    check_component(OneAfterAnother, num_steps=2)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_resting_positions_keep_every_bit(eta):
    start = torch.randn(2, 4, 3, 5, generator=torch.Generator().manual_seed(0))
    course, latents = [], []

    def denoise(xn, timesteps):
        course.append(timesteps)
        latents.append(xn)
        return xn.sin() + xn.mean(2, keepdim=True)  # positions see one another

    sampler = OneAfterAnother(num_steps=6, eta=eta)
    sampler.sample(denoise, GaussianProcess(SqrtSchedule(20)), start, torch.Generator().manual_seed(1))
    assert len(course) == 1 + 3 * 5
    for before, after, n, m in zip(latents[:-1], latents[1:], course[:-1], course[1:], strict=True):
        rests = (n == m)[..., None].expand_as(after)
        assert rests.sum() == after.numel() * 2 / 3
        assert torch.equal(after[rests], before[rests])
        assert not torch.isclose(after[~rests], before[~rests]).all()


def test_positions_that_do_not_see_one_another_end_where_each_ends_alone():
    process, start = GaussianProcess(SqrtSchedule(20)), torch.linspace(-2, 2, 24).view(1, 2, 3, 4).double()
    together = OneAfterAnother(num_steps=6).sample(lambda xn, n: xn.sin(), process, start, None)
    plain = DDIMSampler(num_steps=6).sample(lambda xn, n: xn.sin(), process, start, None)
    torch.testing.assert_close(together, plain)


def test_the_next_three_items_are_drawn_one_after_another():
    """A stagger of a whole chain is the same course."""
    noising = LastK(k=3, ahead=True, independent_steps=True)
    schedule = {"name": "sqrt", "num_timesteps": 20}
    model = DiffRec(SEQUENCES.vocabulary, dim=8, max_length=8, noising=noising, schedule=schedule).train()
    batch = next(iter(TrainingBatches(SEQUENCES, max_length=8, batch_targets=8).epoch(0)))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for seed in range(3):
        optimizer.zero_grad()
        loss = model.loss(batch, torch.Generator().manual_seed(seed))
        loss.total.backward()
        optimizer.step()
    model.eval()
    ours = model.sample(HISTORIES, seeds=2, sampler={"name": "one-after-another", "num_steps": 5})
    assert ours.shape == (2, 2, 3, 8)
    torch.testing.assert_close(ours, model.sample(HISTORIES, seeds=2, sampler=DDIMSampler(num_steps=5, stagger=4)))
    assert not torch.allclose(ours, model.sample(HISTORIES, seeds=2, sampler=DDIMSampler(num_steps=5)))
