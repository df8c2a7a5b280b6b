"""The contract of a noising strategy: every target becomes one question that tiles the sequence up to it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any

import torch
from torch import Tensor

from diffusers_rec.processes.noising import NoisingStrategy, Questions
from diffusers_rec.testing.contract import Case, Maker, Suite, expect, expect_equal
from diffusers_rec.testing.every_kind import check
from diffusers_rec.testing.inputs import strided

LONGEST = 7
TARGETS = [[[6, 0, -1], [-1, 3, 3], [2, 1, 5]], [[-1, -1, -1]], [[4], [6]]]


def check_noising(make: Callable[..., NoisingStrategy], /, *, waive: Collection[str] = (), **settings: Any) -> None:
    """Check that a noising strategy keeps its contract.

    Args:
        make: the class, or a factory.
        waive: names of clauses (functions of this module) that need not hold.
        settings: constructor parameters.

    Raises:
        ContractError: the first clause that is broken.
    """
    check(SUITE, make, waive, settings)


def seen_and_noised_positions_tile_the_sequence_up_to_the_target(strategy: NoisingStrategy, targets: Tensor) -> None:
    """0..visible-1 are seen, the others up to the target are noised, nothing lies behind; -1 asks nothing."""
    questions = asked(strategy, targets)
    expect_equal("how many positions are real", questions.mask.sum(-1), questions.count)
    for visible, noised, _, target in each(questions, targets):
        expected = list(range(target + 1))
        expect([*range(visible), *noised] == expected, f"{expected} for a target at {target}", (visible, noised))


def the_answer_is_the_target(strategy: NoisingStrategy, targets: Tensor) -> None:
    """Of a question's positions, the one that ``answer`` names."""
    for _, noised, answer, target in each(asked(strategy, targets), targets):
        expect(0 <= answer < max(1, len(noised)), f"an answer among {noised}", answer)
        expect(target < 0 or noised[answer] == target, f"an answer at {target}", noised)


def a_question_is_the_same_in_any_company(strategy: NoisingStrategy, targets: Tensor) -> None:
    """Alone, in the batch, and from targets that are not contiguous."""
    whole = list(each(asked(strategy, targets)))
    alone = [question for target in targets.flatten() for question in each(asked(strategy, target.view(1, 1)))]
    expect(alone == whole, f"the questions {whole}, asked one by one", alone)
    apart = list(each(asked(strategy, strided(targets))))
    expect(apart == whole, f"the questions {whole} of strided targets", apart)


def width_is_padding_alone(strategy: NoisingStrategy, targets: Tensor) -> None:
    """More room than the longest question needs changes nothing of it."""
    width = strategy.max_noised(LONGEST)
    expect(1 <= width <= LONGEST, f"max_noised({LONGEST}) from 1 to {LONGEST}", width)
    narrow, wide = strategy.questions(targets, width), strategy.questions(targets, width + 2)
    shape = (*targets.shape, width + 2)
    expect(wide.positions.shape == shape, f"positions of shape {shape}", tuple(wide.positions.shape))
    expect(list(each(narrow)) == list(each(wide)), f"the questions {list(each(narrow))} at any width",
           list(each(wide)))  # fmt: skip


def serving_asks_for_the_item_behind_the_history(strategy: NoisingStrategy, targets: Tensor) -> None:
    """One question a history, which sees nothing but the history and adds ``new_items`` positions behind it."""
    new = strategy.new_items
    expect(new >= 1, "one new item at the least", new)
    lengths = targets.flatten().clamp(1, max(1, LONGEST - new))
    questions = strategy.serving(lengths, max(new, strategy.max_noised(LONGEST)))
    expect(questions.visible.shape == (len(lengths), 1), f"one question for each of {len(lengths)} histories",
           tuple(questions.visible.shape))  # fmt: skip
    for length, (visible, noised, answer) in zip(lengths.tolist(), each(questions), strict=True):
        expect(visible <= length, f"at most {length} items seen", visible)
        expect(noised[answer] == length, f"an answer at {length}", noised)
        every = list(range(length + new))
        expect([*range(visible), *noised] == every, f"{every} for a history of {length}", (visible, noised))


def a_step_a_question_or_a_step_a_position(strategy: NoisingStrategy, targets: Tensor) -> None:
    """As ``independent_steps`` says."""
    questions = asked(strategy, targets)
    expected = questions.positions.shape if strategy.independent_steps else questions.visible.shape
    got = strategy.timestep_shape(questions)
    expect(got == expected, f"timesteps of shape {tuple(expected)}", tuple(got))


CLAUSES = (
    seen_and_noised_positions_tile_the_sequence_up_to_the_target,
    the_answer_is_the_target,
    a_question_is_the_same_in_any_company,
    width_is_padding_alone,
    serving_asks_for_the_item_behind_the_history,
    a_step_a_question_or_a_step_a_position,
)


def asked(strategy: NoisingStrategy, targets: Tensor) -> Questions:
    """Its questions about sequences of up to ``LONGEST`` items."""
    return strategy.questions(targets, strategy.max_noised(LONGEST))


def each(questions: Questions, *others: Tensor) -> Iterator[tuple[Any, ...]]:
    """Visible, real positions, answer and the others of every question, row by row."""
    for index in torch.cartesian_prod(*(torch.arange(size) for size in questions.visible.shape)).tolist():
        at = tuple(index)
        yield (
            questions.visible[at].item(),
            questions.positions[at][questions.mask[at]].tolist(),
            questions.answer[at].item(),
            *(other[at].item() for other in others),
        )


def _cases(maker: Maker) -> Iterator[Case]:
    for targets in TARGETS:
        yield Case(f"targets={targets}", (maker(), torch.tensor(targets)))


def _answers(strategy: NoisingStrategy) -> list[Tensor]:
    questions = asked(strategy, torch.tensor(TARGETS[0]))
    return [questions.visible, questions.positions, questions.count, questions.answer]


SUITE = Suite(NoisingStrategy, _cases, CLAUSES, _answers)
