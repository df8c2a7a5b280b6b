"""The contract of a noising strategy: the query of a target covers the sequence up to the target."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from diffusers_rec.processes.noising import NoisingStrategy, Queries
from diffusers_rec.testing.contract import Case, Maker, Suite, expect, expect_equal
from diffusers_rec.testing.inputs import seeded, strided

LONGEST = 7
TARGETS = [[[6, 0, -1], [-1, 3, 3], [2, 1, 5]], [[-1, -1, -1]], [[4], [6]]]


def visible_and_corrupted_positions_tile_the_sequence(strategy: NoisingStrategy, targets: Tensor) -> None:
    """Positions 0..visible-1 are visible, the others up to the target are corrupted; a target of -1 is no query."""
    queries = queries_about(strategy, targets)
    expect_equal("the number of real positions", queries.mask.sum(-1), queries.count)
    for visible, corrupted, _, target in each_query(queries, targets):
        expected = list(range(target + 1))
        expect([*range(visible), *corrupted] == expected, f"{expected} for a target at {target}", (visible, corrupted))


def answer_is_the_target(strategy: NoisingStrategy, targets: Tensor) -> None:
    """``answer`` is the index of the target among the positions of its query."""
    for _, corrupted, answer, target in each_query(queries_about(strategy, targets), targets):
        expect(0 <= answer < max(1, len(corrupted)), f"an answer among {corrupted}", answer)
        expect(target < 0 or corrupted[answer] == target, f"an answer at {target}", corrupted)


def queries_are_independent(strategy: NoisingStrategy, targets: Tensor) -> None:
    """A query is the same alone and in a batch, for contiguous and other targets."""
    whole = list(each_query(queries_about(strategy, targets)))
    alone = [query for target in targets.flatten() for query in each_query(queries_about(strategy, target.view(1, 1)))]
    expect(alone == whole, f"the queries {whole}, one by one", alone)
    apart = list(each_query(queries_about(strategy, strided(targets))))
    expect(apart == whole, f"the queries {whole} of strided targets", apart)


def width_only_adds_padding(strategy: NoisingStrategy, targets: Tensor) -> None:
    """A width above that of the longest query adds only padding."""
    width = strategy.max_noised(LONGEST)
    expect(1 <= width <= LONGEST, f"max_noised({LONGEST}) from 1 to {LONGEST}", width)
    narrow, wide = strategy.queries(targets, width), strategy.queries(targets, width + 2)
    shape = (*targets.shape, width + 2)
    expect(wide.positions.shape == shape, f"positions of shape {shape}", tuple(wide.positions.shape))
    expected, got = list(each_query(narrow)), list(each_query(wide))
    expect(expected == got, f"the queries {expected} at any width", got)


def serving_queries_the_next_item(strategy: NoisingStrategy, targets: Tensor) -> None:
    """Each history has one query, which adds ``new_items`` positions after it."""
    new = strategy.new_items
    expect(new >= 1, "at least one new item", new)
    lengths = targets.flatten().clamp(1, max(1, LONGEST - new))
    queries = strategy.serving(lengths, max(new, strategy.max_noised(LONGEST)))
    shape = (len(lengths), 1)
    expect(queries.visible.shape == shape, f"one query a history, {shape}", tuple(queries.visible.shape))
    for length, (visible, corrupted, answer) in zip(lengths.tolist(), each_query(queries), strict=True):
        expect(visible <= length, f"at most {length} visible items", visible)
        expect(corrupted[answer] == length, f"an answer at {length}", corrupted)
        whole = list(range(length + new))
        expect([*range(visible), *corrupted] == whole, f"{whole} for a history of {length}", (visible, corrupted))


def training_leaves_gaps_to_predict(strategy: NoisingStrategy, targets: Tensor) -> None:
    """Training queries cover the sequence up to one of the row's targets, and each has a gap that is not padding."""
    width = strategy.max_noised(LONGEST)
    queries, again = (strategy.training(targets, width, seeded(1)) for _ in range(2))
    for name in ("visible", "positions", "count", "answer", "gaps"):
        expect_equal(f"{name} of the same generator", getattr(again, name), getattr(queries, name))
    found = each_query(queries, queries.gaps.sum(-1), (queries.gaps & ~queries.mask).sum(-1))
    for place, (visible, corrupted, _, gaps, beyond) in enumerate(found):
        ends = set(targets[place // queries.visible.shape[1]].tolist()) - {-1}
        whole = list(range(visible, visible + len(corrupted)))
        expect(corrupted == whole, f"positions that follow the {visible} visible ones", corrupted)
        expect(not corrupted or corrupted[-1] in ends, f"a query up to one of {sorted(ends)}", corrupted)
        expect(bool(gaps) == bool(corrupted) and not beyond, "at least one gap among real positions", gaps)


def timestep_shape_follows_independent_steps(strategy: NoisingStrategy, targets: Tensor) -> None:
    """Timesteps are ``(B, Q, K)`` with ``independent_steps``, and ``(B, Q)`` otherwise."""
    queries = queries_about(strategy, targets)
    expected = queries.positions.shape if strategy.independent_steps else queries.visible.shape
    got = strategy.timestep_shape(queries)
    expect(got == expected, f"timesteps of shape {tuple(expected)}", tuple(got))


CLAUSES = (
    visible_and_corrupted_positions_tile_the_sequence,
    answer_is_the_target,
    queries_are_independent,
    width_only_adds_padding,
    serving_queries_the_next_item,
    training_leaves_gaps_to_predict,
    timestep_shape_follows_independent_steps,
)


def queries_about(strategy: NoisingStrategy, targets: Tensor) -> Queries:
    """Queries of a strategy for sequences of at most ``LONGEST`` items."""
    return strategy.queries(targets, strategy.max_noised(LONGEST))


def each_query(queries: Queries, *others: Tensor) -> Iterator[tuple[Any, ...]]:
    """Visible count, real positions, answer and other values ``(B, Q)`` of every query, row by row."""
    for index in torch.cartesian_prod(*(torch.arange(size) for size in queries.visible.shape)).tolist():
        at = tuple(index)
        yield (
            queries.visible[at].item(),
            queries.positions[at][queries.mask[at]].tolist(),
            queries.answer[at].item(),
            *(other[at].item() for other in others),
        )


def _cases(maker: Maker) -> Iterator[Case]:
    for targets in TARGETS:
        yield Case(f"targets={targets}", (maker(), torch.tensor(targets)))


def _outputs(strategy: NoisingStrategy) -> list[Tensor]:
    queries = queries_about(strategy, torch.tensor(TARGETS[0]))
    return [queries.visible, queries.positions, queries.count, queries.answer]


SUITE = Suite(NoisingStrategy, _cases, CLAUSES, _outputs)
