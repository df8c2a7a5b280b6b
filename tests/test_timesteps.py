from __future__ import annotations

import math
from collections import deque

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import over, seeded, timestep_samplers

from diffusers_rec.processes.laws import LogitNormalTimestepSampler, ModeTimestepSampler
from diffusers_rec.processes.timesteps import ImportanceTimestepSampler, TimestepSampler, UniformTimestepSampler
from diffusers_rec.testing.timesteps import CLAUSES

losses = st.floats(0, 10, allow_subnormal=False)


def warm(values, **settings):
    """An importance sampler whose last and only loss at step n is ``values[n - 1]``."""
    sampler = ImportanceTimestepSampler(len(values), history=1, **settings)
    sampler.update(torch.arange(1, len(values) + 1), torch.tensor(values, dtype=torch.float64))
    return sampler


@over(CLAUSES)
@given(sampler=timestep_samplers())
def test_every_sampler_keeps_its_contract(clause, sampler):
    clause(sampler)


@pytest.mark.parametrize("name", TimestepSampler.names())
@pytest.mark.parametrize("start_share", [0.0, 0.3])
@pytest.mark.parametrize("warmed", [False, True])
def test_a_sample_average_meets_the_mean(name, start_share, warmed):
    sampler = TimestepSampler.build_with({"num_timesteps": 50, "history": 1, "start_share": start_share}, name)
    loss = torch.linspace(0.2, 3, 50, dtype=torch.float64) ** 2
    if warmed:
        sampler.update(torch.arange(1, 51), loss)
    timesteps, weights = sampler.sample((100_000,), seeded(1))
    weighted = weights * loss[timesteps - 1]
    error = weighted.std() / math.sqrt(len(weighted))
    assert abs(weighted.mean() - loss.mean()) < 4 * error


def test_uniform_is_uniform():
    from scipy import stats

    timesteps, weights = UniformTimestepSampler(100).sample((50_000,), seeded(0))
    assert stats.chisquare(torch.bincount(timesteps, minlength=101)[1:]).pvalue > 0.01
    assert (weights == 1).all()
    assert (UniformTimestepSampler(100, estimate="sum").sample((9,), seeded(0))[1] == 100).all()


@given(
    num_timesteps=st.integers(1, 4),
    history=st.integers(1, 3),
    uniform_share=st.sampled_from([0.0, 0.001, 0.4, 1.0]),
    batches=st.lists(st.lists(st.tuples(st.integers(1, 4), losses), max_size=12), max_size=8),
    shape=st.sampled_from([(-1,), (1, -1), (-1, 1, 1)]),
)
def test_importance_follows_the_last_losses_of_each_step(num_timesteps, history, uniform_share, batches, shape):
    """Against a plain loop; one batch may hold a step many times."""
    sampler = ImportanceTimestepSampler(num_timesteps, history=history, uniform_share=uniform_share)
    seen = [deque(maxlen=history) for _ in range(num_timesteps)]
    for drawn in batches:
        batch = [((n - 1) % num_timesteps + 1, loss) for n, loss in drawn]
        for n, loss in batch:
            seen[n - 1].append(loss)
        steps = torch.tensor([n for n, _ in batch], dtype=torch.int64).view(shape if batch else -1)
        sampler.update(steps, torch.tensor([loss for _, loss in batch], dtype=torch.float64).view(steps.shape))
        full = all(len(kept) == history for kept in seen)
        assert sampler.warm == full
        size = [math.sqrt(sum(loss**2 for loss in kept) / history) for kept in seen]
        if full and sum(size) > 0:
            expected = [(1 - uniform_share) * s / sum(size) + uniform_share / num_timesteps for s in size]
        else:
            expected = [1 / num_timesteps] * num_timesteps
        assert sampler.probabilities().tolist() == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_probabilities_move_once_every_step_has_its_history():
    sampler = ImportanceTimestepSampler(3, history=2)
    uniform = sampler.probabilities()
    sampler.update(torch.tensor([1, 1, 2, 2, 3]), torch.tensor([1.0, 1.0, 2.0, 2.0, 5.0]))
    assert torch.equal(sampler.probabilities(), uniform)
    sampler.update(torch.tensor([3]), torch.tensor([5.0]))
    assert (sampler.probabilities().diff() > 0.1).all()


def test_one_history_a_step():
    sampler, other = warm([1.0, 1.0, 1.0], uniform_share=0.0), warm([1.0, 7.0, 1.0], uniform_share=0.0)
    sampler.update(torch.tensor([2]), torch.tensor([7.0]))
    assert torch.equal(sampler.probabilities(), other.probabilities())
    assert other.probabilities().tolist() == pytest.approx([1 / 9, 7 / 9, 1 / 9])


@given(share=st.floats(0.01, 1), values=st.lists(losses, min_size=2, max_size=5))
def test_uniform_share_bounds_the_weights(share, values):
    assert (1 / (len(values) * warm(values, uniform_share=share).probabilities()) <= 1 / share + 1e-9).all()


def interval_shares(num_timesteps, t):
    """Share of the points t in each interval ((n - 1) / N, n / N]."""
    return torch.histc(t, num_timesteps, 0, 1) / len(t)


@pytest.mark.parametrize("heaviness", [-1.0, 0.0, 0.7, 1.0, 1.75])
def test_mode_is_the_law_of_its_formula(heaviness):
    u = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    t = 1 - u - heaviness * ((torch.pi / 2 * u).cos().square() - 1 + u)
    found = ModeTimestepSampler(40, heaviness=heaviness).probabilities()
    torch.testing.assert_close(found, interval_shares(40, t), atol=2e-5, rtol=0)
    torch.testing.assert_close(found, found.flip(0), atol=1e-7, rtol=0)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (-1.0, 0.6), (2.0, 1.7)])
def test_logit_normal_is_the_law_of_its_formula(mean, std):
    from scipy import stats

    u = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    t = torch.from_numpy(stats.norm.ppf(u.numpy(), mean, std)).sigmoid()
    found = LogitNormalTimestepSampler(40, mean=mean, std=std).probabilities()
    torch.testing.assert_close(found, interval_shares(40, t), atol=2e-5, rtol=0)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (30.0, 0.1), (-30.0, 0.1)])
def test_logit_normal_is_positive_far_from_its_mean(mean, std):
    probabilities = LogitNormalTimestepSampler(100_000, mean=mean, std=std).probabilities()
    assert probabilities.min() > 0
    assert torch.equal(LogitNormalTimestepSampler(9).probabilities(), LogitNormalTimestepSampler(9).probabilities())


def test_as_drawn_losses_are_not_weighted():
    loss = torch.linspace(0, 1, 50, dtype=torch.float64)
    sampler = ModeTimestepSampler(50, estimate="drawn")
    timesteps, weights = sampler.sample((100_000,), seeded(1))
    assert (weights == 1).all()
    assert float(loss[timesteps - 1].mean()) == pytest.approx(float(sampler.probabilities() @ loss), abs=0.005)


def test_state_is_a_copy():
    sampler = warm([1.0, 2.0])
    state = sampler.state_dict()
    sampler.update(torch.tensor([1]), torch.tensor([9.0]))
    fresh = ImportanceTimestepSampler(2, history=1)
    fresh.load_state_dict(state)
    assert torch.equal(fresh.probabilities(), warm([1.0, 2.0]).probabilities())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: s.update(torch.tensor([1]), torch.tensor([[1.0]])), r"one shape, got \(1,\) and \(1, 1\)"),
        (lambda s: s.update(torch.tensor([0]), torch.tensor([1.0])), r"must lie in 1\.\.3"),
        (lambda s: s.update(torch.tensor([4]), torch.tensor([1.0])), r"must lie in 1\.\.3"),
        (lambda s: s.update(torch.tensor([1]), torch.tensor([math.nan])), "not finite"),
        (lambda s: s.load_state_dict({}), r"needs losses \(3, 2\), got nothing"),
        (
            lambda s: s.load_state_dict(ImportanceTimestepSampler(4).state_dict()),
            r"needs losses \(3, 2\), got \(4, 10\)",
        ),
    ],
)
def test_what_importance_refuses_leaves_it_unchanged(call, message):
    sampler = ImportanceTimestepSampler(3, history=2)
    before = sampler.state_dict()
    with pytest.raises(ValueError, match=message):
        call(sampler)
    assert all(torch.equal(before[key], value) for key, value in sampler.state_dict().items())


@pytest.mark.parametrize("name", TimestepSampler.names())
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_timesteps": 0}, "num_timesteps must be an integer >= 1 and <= 1000000, got 0"),
        ({"estimate": "median"}, "estimate must be one of 'mean', 'sum', 'drawn', got 'median'"),
        ({"start_share": 1.5}, "start_share must be a finite number at least 0 and below 1"),
    ],
)
def test_refuses_bad_settings(name, settings, message):
    with pytest.raises(ValueError, match=message):
        TimestepSampler.build({"name": name, **settings})


def test_a_sampler_that_learns_nothing_refuses_a_state():
    with pytest.raises(ValueError, match="keeps no state, got losses"):
        UniformTimestepSampler().load_state_dict(ImportanceTimestepSampler().state_dict())
