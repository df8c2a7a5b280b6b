from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import gaussian, over, schedules, seeded

from diffusers_rec.processes.noising import LastK, NoisingStrategy, TargetOnly, WholeSequence
from diffusers_rec.testing.noising import CLAUSES, LONGEST, asked, each


@st.composite
def strategies(draw):
    """Any registered strategy, with any k where it has one."""
    settings = {"k": draw(st.integers(1, LONGEST + 1)), "independent_steps": draw(st.booleans())}
    return NoisingStrategy.build_with(settings, draw(st.sampled_from(NoisingStrategy.names())))


targets = st.lists(st.lists(st.integers(-1, LONGEST - 1), min_size=3, max_size=3), min_size=1, max_size=4).map(
    torch.tensor
)


@over(CLAUSES)
@given(strategy=strategies(), targets=targets)
def test_every_strategy_keeps_its_contract(clause, strategy, targets):
    clause(strategy, targets)


@given(targets=targets, k=st.integers(1, LONGEST + 1))
def test_each_strategy_noises_what_it_says(targets, k):
    for strategy, count in (
        (TargetOnly(), 1),
        (LastK(k), k),
        (WholeSequence(), LONGEST),
    ):
        assert asked(strategy, targets).count.equal((targets + 1).clamp(max=count))


@given(k=st.integers(1, LONGEST - 1), data=st.data())
def test_ahead_asks_for_the_next_k_jointly(k, data):
    strategy = LastK(k, ahead=True)
    assert strategy.new_items == k
    lengths = data.draw(st.lists(st.integers(1, LONGEST - k), min_size=1, max_size=4).map(torch.tensor))
    questions = strategy.serving(lengths, strategy.max_noised(LONGEST))
    for row, (visible, noised, answer) in enumerate(each(questions)):
        length = lengths[row].item()
        assert visible == length
        assert noised == list(range(length, length + k))
        assert answer == 0


@given(k=st.integers(1, 5), targets=targets)
def test_ahead_trains_as_ever(k, targets):
    assert list(each(asked(LastK(k, ahead=True), targets))) == list(each(asked(LastK(k), targets)))


@given(strategy=strategies(), schedule=schedules(), row=st.lists(st.integers(0, LONGEST - 1), min_size=4, max_size=4))
def test_only_the_question_is_noised(strategy, schedule, row):
    """TargetOnly: the history stays bit for bit what it was (Eq. 7)."""
    targets = torch.tensor(row)[:, None]
    questions = asked(strategy, targets)
    clean = gaussian(len(row), LONGEST + questions.positions.shape[-1], 3)
    index = questions.positions[:, 0, :, None].expand(-1, -1, 3)
    x0 = clean.gather(1, index)[:, None]
    shape = strategy.timestep_shape(questions)
    steps = torch.randint(1, schedule.num_timesteps + 1, shape, generator=seeded(0))
    xn = schedule.add_noise(x0, gaussian(*x0.shape, seed=1), steps)
    noised = clean.scatter(1, index, torch.where(questions.mask[..., None], xn, x0)[:, 0])
    moved = (noised != clean).any(-1)
    for sequence, visible, target in zip(moved, questions.visible[:, 0], targets[:, 0], strict=True):
        first = target if isinstance(strategy, TargetOnly) else visible
        assert sequence.nonzero()[:, 0].tolist() == list(range(first, target + 1))


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: LastK(0), ValueError, "k must be an integer >= 1, got 0"),
        (lambda: LastK(1.5), TypeError, "k must be an integer >= 1"),
        (lambda: LastK(2, ahead=1), TypeError, "ahead must be True or False"),
        (lambda: WholeSequence(independent_steps="no"), TypeError, "independent_steps must be True or False"),
    ],
)
def test_refuses_bad_settings(build, error, message):
    with pytest.raises(error, match=message):
        build()
