from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare
from strategies import gaussian, over, schedules, seeded

from diffusers_rec.processes.noising import Gaps, LastK, NoisingStrategy, Queries, TargetOnly, WholeSequence
from diffusers_rec.processes.noising.whole_windows import WholeWindows
from diffusers_rec.testing.noising import CLAUSES, LONGEST, each_query, queries_about


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
def test_each_strategy_corrupts_its_last_positions(targets, k):
    for strategy, count in (
        (TargetOnly(), 1),
        (LastK(k), k),
        (WholeSequence(), LONGEST),
    ):
        assert queries_about(strategy, targets).count.equal((targets + 1).clamp(max=count))


@given(k=st.integers(1, LONGEST - 1), data=st.data())
def test_ahead_predicts_the_next_k_jointly(k, data):
    strategy = LastK(k, ahead=True)
    assert strategy.new_items == k
    lengths = data.draw(st.lists(st.integers(1, LONGEST - k), min_size=1, max_size=4).map(torch.tensor))
    queries = strategy.serving(lengths, strategy.max_noised(LONGEST))
    for row, (visible, corrupted, answer) in enumerate(each_query(queries)):
        length = lengths[row].item()
        assert visible == length
        assert corrupted == list(range(length, length + k))
        assert answer == 0


@given(k=st.integers(1, 5), targets=targets)
def test_ahead_trains_as_without_it(k, targets):
    ahead, plain = (queries_about(LastK(k, ahead=on), targets) for on in (True, False))
    assert list(each_query(ahead)) == list(each_query(plain))


@given(strategy=strategies(), schedule=schedules(), row=st.lists(st.integers(0, LONGEST - 1), min_size=4, max_size=4))
def test_only_the_query_is_corrupted(strategy, schedule, row):
    """TargetOnly: the history does not change by a bit (Eq. 7)."""
    targets = torch.tensor(row)[:, None]
    queries = queries_about(strategy, targets)
    clean = gaussian(len(row), LONGEST + queries.positions.shape[-1], 3)
    index = queries.positions[:, 0, :, None].expand(-1, -1, 3)
    x0 = clean.gather(1, index)[:, None]
    shape = strategy.timestep_shape(queries)
    steps = torch.randint(1, schedule.num_timesteps + 1, shape, generator=seeded(0))
    xn = schedule.add_noise(x0, gaussian(*x0.shape, seed=1), steps)
    corrupted = clean.scatter(1, index, torch.where(queries.mask[..., None], xn, x0)[:, 0])
    changed = (corrupted != clean).any(-1)
    for sequence, visible, target in zip(changed, queries.visible[:, 0], targets[:, 0], strict=True):
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


@pytest.mark.parametrize("gaps", ["all", "drawn"])
def test_a_whole_window_is_one_query_behind_its_first_item(gaps):
    targets = torch.tensor([[1, 2, 3, 4], [1, 2, -1, -1], [1, -1, -1, -1]])
    queries = WholeWindows(5, gaps=gaps).training(targets, 5, seeded(0))
    assert list(each_query(queries)) == [(1, [1, 2, 3, 4], 3), (1, [1, 2], 1), (1, [1], 0)]
    assert gaps == "drawn" or queries.gaps.equal(queries.mask)


def test_a_whole_window_has_no_setting_without_effect():
    assert WholeWindows.settings() == ["k", "gaps", "share", "last_share", "independent_steps"]
    with pytest.raises(TypeError, match="per_row"):
        WholeWindows(2, per_row=3)


@pytest.mark.parametrize("last_share", [0.0, 0.25])
def test_a_share_of_the_positions_is_corrupted_and_the_last_one_if_there_is_none(last_share):
    rows, length, share = 4000, 6, 0.3
    targets = torch.arange(1, length).expand(rows, -1)
    strategy = WholeWindows(length - 1, gaps="share", share=share, last_share=last_share)
    gaps = strategy.training(targets, length - 1, seeded(0)).gaps[:, 0].double()
    none = (1 - last_share) * (1 - share) ** (length - 1) + last_share
    expected = [(1 - last_share) * share] * (length - 2) + [(1 - last_share) * share + none]
    assert gaps.mean(0).tolist() == pytest.approx(expected, abs=0.03)
    assert bool(gaps.any(1).all())


def test_shares_belong_to_their_gaps():
    for wrong in ({"share": 0.3}, {"gaps": "share"}, {"gaps": "all", "last_share": 0.1}):
        with pytest.raises(ValueError, match="share and last_share belong to gaps='share'"):
            WholeWindows(3, **wrong)


def test_a_short_k_leaves_a_history():
    queries = WholeWindows(2, gaps="all").training(torch.tensor([[1, 2, 3, 4]]), 2, seeded(0))
    assert list(each_query(queries)) == [(3, [3, 4], 1)]


@given(strategy=strategies(), targets=targets, data=st.data())
def test_blind_queries_see_nothing_and_keep_all_else(strategy, targets, data):
    queries = queries_about(strategy, targets)
    null = torch.tensor(data.draw(st.lists(st.booleans(), min_size=targets.numel(), max_size=targets.numel())))
    blind = queries.blind(null.view(targets.shape))
    assert torch.equal(blind.visible, queries.visible * ~null.view(targets.shape))
    for whole in (queries.blind(), queries.blind(torch.ones_like(targets, dtype=torch.bool))):
        assert not whole.visible.any()
    assert queries.blind(False) is queries
    for name in ("positions", "count", "answer"):
        assert torch.equal(getattr(blind, name), getattr(queries, name))


@given(strategy=strategies(), targets=targets, times=st.integers(1, 3))
def test_repeated_queries_follow_one_another(strategy, targets, times):
    repeated = queries_about(strategy, targets).repeat(times)
    again = queries_about(strategy, targets.repeat(1, times))
    assert list(each_query(repeated)) == list(each_query(again))


@given(lengths=st.lists(st.integers(0, LONGEST), min_size=1, max_size=4).map(torch.tensor))
def test_the_next_item_follows_the_history(lengths):
    expected = TargetOnly().serving(lengths, 1)
    assert list(each_query(Queries.next_item(lengths))) == list(each_query(expected))
    assert torch.equal(expected.visible[:, 0], lengths)


def test_keys_are_the_real_positions_and_never_none():
    queries = queries_about(LastK(2), torch.tensor([[-1, 0, 4]]))
    assert queries.mask.tolist() == [[[False, False], [True, False], [True, True]]]
    assert queries.keys.tolist() == [[[True, False], [True, False], [True, True]]]


# Gaps


def gaps_of(k, targets, seed=0, **settings):
    strategy = Gaps(k, **settings)
    return strategy.training(targets, strategy.max_noised(LONGEST), seeded(seed))


@pytest.mark.parametrize("k", [1, 2, 4])
def test_each_number_of_gaps_gives_as_many_gaps_and_their_places_are_uniform(k):
    queries = gaps_of(k, torch.full((2000, 3), LONGEST - 1), per_row=2)
    assert queries.visible.shape == (2000, 2)
    gaps = queries.gaps.flatten(0, 1)
    number = torch.bincount(gaps.sum(-1), minlength=k + 1)
    assert number[0] == 0
    shares = 1 / torch.arange(1, k + 1).double()
    assert k == 1 or chisquare(number[1:], 4000 * shares / shares.sum()).pvalue > 1e-3
    for count in range(1, k + 1):
        patterns = torch.unique(gaps[gaps.sum(-1) == count].long(), dim=0, return_counts=True)[1]
        assert len(patterns) == math.comb(k, count)
        assert len(patterns) == 1 or chisquare(patterns).pvalue > 1e-3


@given(k=st.integers(1, LONGEST), targets=targets, seed=st.integers(0, 99))
def test_a_query_with_gaps_sees_an_item_where_there_is_one(k, targets, seed):
    """The same positions as the last k, but not those of a query that would see nothing."""
    queries = gaps_of(k, targets, seed)
    for visible, corrupted, answer in each_query(queries):
        if corrupted:
            target = corrupted[-1]
            assert len(corrupted) == min(k, max(target, 1))
            assert visible == target + 1 - len(corrupted)
            assert answer == len(corrupted) - 1
        else:
            assert not (targets >= 0).all()  # a row has as many queries as targets, at most


def test_every_target_of_a_row_is_drawn():
    queries = gaps_of(1, torch.tensor([[-1, 5, -1, 2, 3]]).expand(600, 5), per_row=1)
    count = torch.bincount(queries.positions.flatten(), minlength=6)
    assert count[[0, 1, 4]].tolist() == [0, 0, 0]
    assert chisquare(count[[2, 3, 5]]).pvalue > 1e-3


def test_serving_asks_for_the_next_item_alone():
    queries = Gaps(5).serving(torch.tensor([3, 6]), 5)
    assert queries.positions.tolist() == [[[3]], [[6]]]
    assert queries.gaps.all()


def test_known_positions_have_step_0_and_are_no_gaps():
    queries = replace(TargetOnly().queries(torch.tensor([[2, 4]]), 1), known=torch.tensor([[[True], [False]]]))
    assert queries.gaps.tolist() == [[[False], [True]]]
    assert queries.steps(torch.tensor([[7, 9]])).tolist() == [[[0], [9]]]
    assert queries.repeat(2).gaps.tolist() == [[[False], [True]] * 2]
    plain = replace(queries, known=None)
    assert plain.steps(torch.tensor([[7, 9]])).tolist() == [[7, 9]]


@pytest.mark.parametrize("settings", [{"k": 0}, {"per_row": 0}])
def test_gaps_need_a_position_and_a_query(settings):
    with pytest.raises(ValueError, match="must be an integer >= 1, got 0"):
        Gaps(**settings)
