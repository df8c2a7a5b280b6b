"""The contract of a denoiser: a question is answered from its noise, its step and its visible history alone.

Whatever the backbone: the answer is the same alone and in any company, what lies behind the visible items is never
seen, and a history is encoded once for every step and noise draw.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from diffusers_rec.denoisers import Denoiser
from diffusers_rec.testing.asked import Asked, ask, steps_of
from diffusers_rec.testing.contract import (
    Case,
    Maker,
    Suite,
    expect,
    expect_all_learn,
    expect_close,
    expect_equal,
    expect_finite,
    expect_finite_gradients,
)
from diffusers_rec.testing.every_kind import check
from diffusers_rec.testing.inputs import gaussian, learned, strided

SHAPES = [  # rows, questions, noised, length, own steps
    (3, 3, 2, 6, False),
    (2, 3, 3, 5, True),
    (2, 4, 1, 6, False),
    (1, 1, 1, 1, False),
    (2, 2, 2, 0, False),
]


def check_denoiser(make: Callable[..., Denoiser], /, *, waive: Collection[str] = (), **settings: Any) -> None:
    """Check that a denoiser keeps its contract, with weights as if trained, in float64 where nothing else is said.

    Args:
        make: the class, or a factory.
        waive: names of clauses (functions of this module) that need not hold: ``noise_matters``, ``each_step_matters``,
            ``order_matters`` and ``noised_positions_see_one_another`` are what an ablation may leave out.
        settings: constructor parameters. ``dim``, ``max_length``, ``num_timesteps``, and the parts that a pipeline
            shares, are supplied where they are left open.

    Raises:
        ContractError: the first clause that is broken.
    """
    check(SUITE, make, waive, settings)


def the_answer_is_like_xn(denoiser: Denoiser, asked: Asked) -> None:
    """In shape and precision."""
    answer = asked.of(denoiser)
    expect(answer.shape == asked.xn.shape, f"an answer {tuple(asked.xn.shape)}, like xn", tuple(answer.shape))
    expect(answer.dtype == asked.xn.dtype, f"an answer in {asked.xn.dtype}", answer.dtype)


def a_row_answers_the_same_alone_and_in_any_batch(denoiser: Denoiser, asked: Asked) -> None:
    """And in any order."""
    whole = asked.of(denoiser)
    for row in range(len(whole)):
        alone = asked.at(slice(row, row + 1))
        expect_close(f"row {row} alone", alone.of(denoiser)[alone.real], whole[row][asked.real[row]])
    backwards = torch.arange(len(whole)).flip(0)
    turned = asked.at(backwards)
    expect_close("the rows backwards", turned.of(denoiser)[turned.real], whole[backwards][turned.real])


def questions_at_once_answer_as_one_by_one(denoiser: Denoiser, asked: Asked) -> None:
    """They are independent."""
    whole = asked.of(denoiser)
    for q in range(whole.shape[1]):
        part = slice(q, q + 1)
        alone = asked.at(questions=part)
        expect_close(f"question {q} alone", alone.of(denoiser)[alone.real], whole[:, part][alone.real])


def padding_is_never_seen(denoiser: Denoiser, asked: Asked) -> None:
    """Whatever lies behind the history, at noised positions that are not real, or in questions that are none."""
    expected = asked.of(denoiser)[asked.real]
    for padding, size in ((0, 1e4), (1, 0.0), (2, 1.0), (3, 1e4)):
        padded, real = _padded(asked, padding, size, denoiser.max_length)
        got = padded.of(denoiser)[real]
        expect_close(f"the answer with other padding (of size {size:g}, {padding} places more)", got, expected)


def no_count_means_that_all_are_real(denoiser: Denoiser, asked: Asked) -> None:
    """``count=None``."""
    asked = replace(asked, count=torch.full_like(asked.count, asked.xn.shape[2]))
    context = denoiser.encode(asked.history, asked.mask)
    got = denoiser(asked.xn, asked.timesteps, asked.visible, context)
    expect_close("the answer without a count", got, asked.of(denoiser))


def one_step_a_question_is_that_step_at_each_position(denoiser: Denoiser, asked: Asked) -> None:
    """Timesteps ``(B, Q)`` and the same, ``(B, Q, K)``."""
    steps = asked.timesteps if asked.timesteps.ndim == 2 else asked.timesteps[..., 0]
    together = replace(asked, timesteps=steps)
    apart = replace(asked, timesteps=steps[..., None].expand(asked.xn.shape[:3]))
    expect_close("the answer with a step a position", apart.of(denoiser)[asked.real],
                 together.of(denoiser)[asked.real])  # fmt: skip


def a_question_sees_its_visible_history_and_its_own_noise_alone(denoiser: Denoiser, asked: Asked) -> None:
    """The gradient of its answer is exactly zero in every other item, question and row."""
    for row, q in {(0, 0), (len(asked.xn) - 1, asked.xn.shape[1] - 1)}:
        in_history, in_noise = _gradients(denoiser, asked, row, q)
        visible = asked.visible[row, q]
        expect(not in_history[row, visible:].any(), f"an answer from the first {visible} items", "one from more")
        seen = in_history[row, :visible]
        expect(seen.all(), f"an answer from all of the first {visible} items", f"one from {seen.tolist()}")
        others = torch.arange(len(in_history)) != row
        expect(not in_history[others].any(), "an answer from its own history", "one from another row's")
        own = torch.zeros_like(in_noise)
        own[row, q] = asked.real[row, q]
        expect(not in_noise[~own].any(), "an answer from its own real noised positions", "one from others")


def noise_matters(denoiser: Denoiser, asked: Asked) -> None:
    """Each real noised position moves its question's answer."""
    in_noise = _gradients(denoiser, asked, 0, 0)[1][0, 0]
    expect(in_noise[asked.real[0, 0]].all(), "an answer from each noised position", f"one from {in_noise.tolist()}")


def noised_positions_see_one_another(denoiser: Denoiser, asked: Asked) -> None:
    """The answer at each depends on all of its question."""
    asked = replace(asked, count=torch.full_like(asked.count, asked.xn.shape[2]))
    for position in range(asked.xn.shape[2]):
        in_noise = _gradients(denoiser, asked, 0, 0, position)[1][0, 0]
        expect(in_noise.all(), "an answer from all noised positions of its question", f"one from {in_noise.tolist()}")


def order_matters(denoiser: Denoiser, asked: Asked) -> None:
    """Of the history's items."""
    if asked.history.shape[1] > 1:
        asked = asked.in_full()
        turned = replace(asked, history=asked.history.flip(1))
        moved = not torch.allclose(turned.of(denoiser), asked.of(denoiser))
        expect(moved, "another answer to the history backwards", "the same")


def every_step_from_1_to_n_is_known(denoiser: Denoiser, asked: Asked) -> None:
    """Timesteps are 1-based: n = N, where serving starts, is one of them."""
    for n in (1, 2, steps_of(denoiser) - 1, steps_of(denoiser)):
        expect_finite(f"the answer at n = {n}", asked.at_step(max(1, n)).of(denoiser))


def each_step_matters(denoiser: Denoiser, asked: Asked) -> None:
    """Every question's answer moves from a step to the next; a table with an entry too few would repeat its end."""
    last, real = steps_of(denoiser), asked.real[..., None]
    for n in sorted({1, last // 2, last - 1} - {0}):
        one, other = (asked.at_step(step).of(denoiser) * real for step in (n, n + 1))
        moved = (one - other).abs().amax(dim=(2, 3))
        expect((moved > 1e-6).all(), f"another answer at n = {n + 1} than at {n}", f"one that moves by {moved.min()}")


def one_encoding_serves_every_step_and_draw(denoiser: Denoiser, asked: Asked) -> None:
    """What was asked of a context before changes nothing."""
    context = denoiser.encode(asked.history, asked.mask)
    for n in (steps_of(denoiser), 3, 1):
        now = asked.at_step(min(n, steps_of(denoiser)))
        kept = denoiser(now.xn, now.timesteps, now.visible, context, now.count)
        expect_equal(f"the answer at n = {n} from a context in use", kept, now.of(denoiser))
    fewer = replace(asked.at_step(1), visible=asked.visible.clamp(max=0), xn=asked.xn + 1)
    kept = denoiser(fewer.xn, fewer.timesteps, fewer.visible, context, fewer.count)
    expect_close("the answer to other questions from a context in use", kept, fewer.of(denoiser))


def finite_in_every_dtype(denoiser: Denoiser, asked: Asked) -> None:
    """And under autocast; questions about nothing (no item seen, no real position) included, and their gradients."""
    visible, count = asked.visible.clone(), asked.count.clone()
    visible[0, 0], count[0, 0] = 0, 0
    for dtype in (torch.float32, torch.bfloat16, torch.float64, None):
        own = dtype or torch.float32
        cast = copy.deepcopy(denoiser).to(own)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype is None):
            answer = replace(asked.to(own), visible=visible, count=count).of(cast)
        expect_finite(f"the answer in {dtype or 'autocast'}", answer)
        expect(dtype is None or answer.dtype == dtype, f"an answer in {dtype}", answer.dtype)
        scalar = answer[asked.real].float().sum()
        expect_finite_gradients(f" in {dtype or 'autocast'}", scalar, dict(cast.named_parameters()))


def memory_layout_does_not_matter(denoiser: Denoiser, asked: Asked) -> None:
    """Nothing need be contiguous, and steps and noise may be expanded over the draws that share them."""
    names = ("history", "xn", "timesteps", "visible", "count")
    apart = replace(asked, **{name: strided(getattr(asked, name)) for name in names})
    expect_close("the answer to strided tensors", apart.of(denoiser)[asked.real], asked.of(denoiser)[asked.real])
    one = asked.at(questions=slice(0, 1))
    shape = (-1, 3)
    many = replace(
        one,
        xn=one.xn.expand(*shape, -1, -1),
        visible=one.visible.expand(shape),
        count=one.count.expand(shape),
        timesteps=one.timesteps.expand(*shape, *one.timesteps.shape[2:]),
    )
    expected = one.of(denoiser).expand_as(many.xn)
    expect_close("the answer to expanded questions", many.of(denoiser)[many.real], expected[many.real])


def every_weight_learns(denoiser: Denoiser, asked: Asked) -> None:
    """From a batch that sees all lengths of history, the empty one too; smaller ones are passed over."""
    if min(asked.history.shape[1], asked.xn.shape[1]) > 2 and asked.xn.shape[2] > 1:
        asked = asked.in_full()
        lengths = torch.linspace(0, asked.history.shape[1], asked.xn.shape[1]).long()
        answer = replace(asked, visible=lengths.expand_as(asked.visible)).of(denoiser)
        expect_all_learn((answer * gaussian(*answer.shape, seed=3)).sum(), dict(denoiser.named_parameters()))


def serving_draws_nothing(denoiser: Denoiser, asked: Asked) -> None:
    """Dropout rests: the same question, the same bits."""
    expect_equal("the answer asked again", asked.of(denoiser), asked.of(denoiser))


CLAUSES = (
    the_answer_is_like_xn,
    serving_draws_nothing,
    every_step_from_1_to_n_is_known,
    a_row_answers_the_same_alone_and_in_any_batch,
    questions_at_once_answer_as_one_by_one,
    padding_is_never_seen,
    no_count_means_that_all_are_real,
    one_step_a_question_is_that_step_at_each_position,
    a_question_sees_its_visible_history_and_its_own_noise_alone,
    one_encoding_serves_every_step_and_draw,
    finite_in_every_dtype,
    memory_layout_does_not_matter,
    every_weight_learns,
    noise_matters,
    each_step_matters,
    noised_positions_see_one_another,
    order_matters,
)


def as_if_trained(maker: Maker, seed: int = 0) -> Denoiser:
    """A denoiser in float64, none of whose weights is zero."""
    denoiser: Denoiser = learned(maker(dtype=torch.float64), seed)
    return denoiser


def _padded(asked: Asked, padding: int, size: float, longest: int) -> tuple[Asked, Tensor]:
    """The same questions with other padding, and more of it where there is room; and which positions are real."""
    rows, questions, noised, width = asked.xn.shape
    behind, among = (max(0, min(padding, longest - taken)) for taken in (asked.history.shape[1], noised))
    history = torch.where(asked.mask[..., None], asked.history, size * gaussian(*asked.history.shape, seed=7))
    history = torch.cat([history, size * gaussian(rows, behind, width, seed=8)], dim=1)
    real = torch.arange(noised + among) < asked.count[..., None]
    xn = size * gaussian(rows, questions, noised + among, width, seed=9)
    xn[real] = asked.xn[asked.real]
    steps = asked.timesteps
    if steps.ndim == 3:
        steps = torch.ones_like(real, dtype=torch.int64)
        steps[real] = asked.timesteps[asked.real]
    return replace(asked, history=history, xn=xn, timesteps=steps), real


def _gradients(
    denoiser: Denoiser, asked: Asked, row: int, q: int, position: int | slice = slice(None)
) -> tuple[Tensor, Tensor]:
    """Which items of the histories ``(B, L)`` and which noised positions ``(B, Q, K)`` a question's answer is from."""
    history, xn = (x.clone().requires_grad_() for x in (asked.history, asked.xn))
    answer = replace(asked, history=history, xn=xn).of(denoiser)[row, q]
    chosen = torch.zeros(answer.shape[:1], dtype=torch.bool)
    chosen[position] = True
    answer = answer[chosen & asked.real[row, q]]
    scalar = (answer * gaussian(*answer.shape)).sum() + 0 * (history.sum() + xn.sum())
    in_history, in_noise = torch.autograd.grad(scalar, (history, xn))
    return in_history.abs().sum(-1) > 0, in_noise.abs().sum(-1) > 0


def _cases(maker: Maker) -> Iterator[Case]:
    denoiser = as_if_trained(maker)
    longest = denoiser.max_length
    for seed, (rows, questions, most, items, own_steps) in enumerate(SHAPES):
        noised = min(most, longest - 1)
        length = min(items, longest - noised)
        asked = ask(denoiser, rows, questions, noised, length, own_steps=own_steps, seed=seed)
        yield Case(f"B={rows}, Q={questions}, K={noised}, L={length}", (denoiser, asked))
    yield Case(f"a history of {longest - 1} items", (denoiser, ask(denoiser, 2, 2, 1, longest - 1, seed=9).in_full()))


def _answers(denoiser: Denoiser) -> list[Tensor]:
    dtype = next((p.dtype for p in denoiser.parameters()), torch.float32)
    with torch.no_grad():
        return [ask(denoiser, 2, 3, 1, min(4, denoiser.max_length - 1)).to(dtype).of(denoiser)]


SUITE = Suite(Denoiser, _cases, CLAUSES, _answers, usual=("dim", "max_length"))
