"""The contract of a denoiser: a prediction depends only on the noise, the step and the visible history of its query.

The prediction is the same alone and in any batch, later items have no effect, and one encoding and one condition serve
every step and noise draw. A guide is a denoiser and has the same contract.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from diffusers_rec.denoisers import Denoiser
from diffusers_rec.processes.prediction import PREDICTIONS
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
from diffusers_rec.testing.inputs import gaussian, perturbed, strided
from diffusers_rec.testing.queries import DenoiserInput, each_part, num_timesteps, queries_of, random_input

SHAPES = [  # rows, queries, positions per query, length, one step per position
    (3, 3, 2, 6, False),
    (2, 3, 3, 5, True),
    (2, 4, 1, 6, False),
    (1, 1, 1, 1, False),
    (2, 2, 2, 0, False),
]


def prediction_is_declared(denoiser: Denoiser, given: DenoiserInput) -> None:
    """The attribute ``prediction`` has a known value."""
    expect(denoiser.prediction in PREDICTIONS, f"prediction to be one of {', '.join(PREDICTIONS)}",
           repr(denoiser.prediction))  # fmt: skip


def prediction_is_like_xn(denoiser: Denoiser, given: DenoiserInput) -> None:
    """The prediction has the shape and dtype of xn."""
    prediction = given.predict(denoiser)
    expect(
        prediction.shape == given.xn.shape, f"a prediction {tuple(given.xn.shape)}, like xn", tuple(prediction.shape)
    )
    expect(prediction.dtype == given.xn.dtype, f"a prediction in {given.xn.dtype}", prediction.dtype)


def serving_is_deterministic(denoiser: Denoiser, given: DenoiserInput) -> None:
    """In evaluation mode, the same input gives the same prediction bit for bit."""
    expect_equal("a second prediction", given.predict(denoiser), given.predict(denoiser))


def every_step_from_1_to_n_is_accepted(denoiser: Denoiser, given: DenoiserInput) -> None:
    """Timesteps start at 1 and include N, where serving starts."""
    for n in (1, 2, num_timesteps(denoiser) - 1, num_timesteps(denoiser)):
        expect_finite(f"the prediction at n = {n}", given.at_step(max(1, n)).predict(denoiser))


def rows_are_independent(denoiser: Denoiser, given: DenoiserInput) -> None:
    """A row has the same prediction alone, in any batch, and in any order."""
    whole = given.predict(denoiser)
    for row in range(len(whole)):
        alone = given.select(slice(row, row + 1))
        expect_close(f"row {row} alone", alone.predict(denoiser)[alone.real], whole[row][given.real[row]])
    backwards = torch.arange(len(whole)).flip(0)
    turned = given.select(backwards)
    expect_close("the rows backwards", turned.predict(denoiser)[turned.real], whole[backwards][turned.real])


def queries_are_independent(denoiser: Denoiser, given: DenoiserInput) -> None:
    """A query has the same prediction alone and with other queries."""
    whole = given.predict(denoiser)
    for q in range(whole.shape[1]):
        part = slice(q, q + 1)
        alone = given.select(queries=part)
        expect_close(f"query {q} alone", alone.predict(denoiser)[alone.real], whole[:, part][alone.real])


def padding_is_ignored(denoiser: Denoiser, given: DenoiserInput) -> None:
    """The content and the amount of padding have no effect, in the history and among corrupted positions."""
    expected = given.predict(denoiser)[given.real]
    for padding, size in ((0, 1e4), (1, 0.0), (2, 1.0), (3, 1e4)):
        padded = _padded(given, padding, size, denoiser.max_length)
        got = padded.predict(denoiser)[padded.real]
        what = f"the prediction with other padding (of size {size:g}, {padding} positions more)"
        expect_close(what, got, expected)


def one_step_a_query_equals_the_same_step_at_each_position(denoiser: Denoiser, given: DenoiserInput) -> None:
    """Timesteps ``(B, Q)`` and equal timesteps ``(B, Q, K)`` give the same prediction."""
    steps = given.timesteps if given.timesteps.ndim == 2 else given.timesteps[..., 0]
    together = replace(given, timesteps=steps).predict(denoiser)
    apart = replace(given, timesteps=steps[..., None].expand(given.xn.shape[:3])).predict(denoiser)
    expect_close("the prediction with a step a position", apart[given.real], together[given.real])


def only_visible_items_and_own_positions_are_seen(denoiser: Denoiser, given: DenoiserInput) -> None:
    """The gradient of a prediction is exactly zero in all other items, queries and rows."""
    for row, q in {(0, 0), (len(given.xn) - 1, given.xn.shape[1] - 1)}:
        in_history, in_noise = _dependence(denoiser, given, row, q)
        visible = given.queries.visible[row, q]
        expect(not in_history[row, visible:].any(), f"a prediction from the first {visible} items", "one from more")
        seen = in_history[row, :visible]
        expect(seen.all(), f"a prediction from all of the first {visible} items", f"one from {seen.tolist()}")
        others = torch.arange(len(in_history)) != row
        expect(not in_history[others].any(), "a prediction from its own history", "one from another row's")
        own = torch.zeros_like(in_noise)
        own[row, q] = given.real[row, q]
        expect(not in_noise[~own].any(), "a prediction from its own real positions", "one from others")


def nothing_behind_the_visible_items_is_read(denoiser: Denoiser, given: DenoiserInput) -> None:
    """Ids, times and number of later items have no effect."""
    for q in range(given.xn.shape[1]):
        alone = given.select(queries=slice(q, q + 1))
        visible = alone.queries.visible
        later = torch.arange(given.history.items.shape[1]) >= visible
        history = alone.history
        times = None if history.times is None else history.times.where(~later, history.times + 7)
        other = replace(
            history, items=history.items.where(~later, 0), times=times, lengths=visible[:, 0].to(history.lengths)
        )
        got = replace(alone, history=other).predict(denoiser)[alone.real]
        expect_close("the prediction with other items after the visible ones", got, alone.predict(denoiser)[alone.real])


def only_copies_of_visible_items_are_read(denoiser: Denoiser, given: DenoiserInput) -> None:
    """Noised copies of later items have no effect, and a denoiser without ``reads_copies`` reads none."""
    copies = gaussian(*given.history.latent().shape, seed=10).to(given.xn)
    steps = torch.ones(copies.shape[:2], dtype=torch.int64)
    for q in range(given.xn.shape[1]):
        alone = given.select(queries=slice(q, q + 1))
        changed = torch.arange(copies.shape[1]) >= (alone.queries.visible if denoiser.reads_copies else 0)
        expected = _with_copies(alone, copies, steps).predict(denoiser)
        other = copies.where(~changed[..., None], copies + 1), steps.where(~changed, num_timesteps(denoiser))
        got = _with_copies(alone, *other).predict(denoiser)[alone.real]
        expect_close("the prediction with other noised copies of what it must not read", got, expected[alone.real])


def one_encoding_serves_every_condition(denoiser: Denoiser, given: DenoiserInput) -> None:
    """One context gives the conditions of other queries and the null condition."""
    context = denoiser.encode(given.history)
    fewer = given.with_visible(given.queries.visible.clamp(max=1))
    for what, each, null in (("fewer items", fewer, False), ("no item", given, True), ("the same items", given, False)):
        condition = denoiser.condition(context, each.queries, null=null)
        got = denoiser(each.xn, each.timesteps, condition)
        expect_close(f"the prediction from {what} by a used context", got, each.predict(denoiser, null=null))


def one_condition_serves_every_step(denoiser: Denoiser, given: DenoiserInput) -> None:
    """A prediction does not depend on earlier predictions from the same condition."""
    condition = denoiser.condition(denoiser.encode(given.history), given.queries)
    for n in (num_timesteps(denoiser), 3, 1):
        now = given.at_step(min(n, num_timesteps(denoiser)))
        reused = denoiser(now.xn, now.timesteps, condition)
        expect_equal(f"the prediction at n = {n} by a used condition", reused, now.predict(denoiser))


def one_condition_serves_every_draw(denoiser: Denoiser, given: DenoiserInput) -> None:
    """S noise draws with the condition of one query equal S queries."""
    one, draws = given.select(queries=slice(0, 1)), 3
    shape = (len(one.xn), draws, *one.xn.shape[2:])
    many = DenoiserInput(
        one.history,
        each_part(one.queries, lambda part: part.repeat_interleave(draws, dim=1)),
        gaussian(*shape, seed=4).to(one.xn),
        torch.cat([one.timesteps, (one.timesteps - 1).clamp(min=1), torch.ones_like(one.timesteps)], dim=1),
    )
    condition = denoiser.condition(denoiser.encode(one.history), one.queries)
    got = denoiser(many.xn, many.timesteps, condition)
    expect_close("the predictions of draws that share a condition", got[many.real], many.predict(denoiser)[many.real])


def conditions_carry_gradients(denoiser: Denoiser, given: DenoiserInput) -> None:
    """A condition has gradients, also after a call without gradients from the same context."""
    parameters = dict(denoiser.named_parameters())

    def gradients(used: bool) -> tuple[Tensor | None, ...]:
        latents = given.history.latent().clone().requires_grad_()
        context = denoiser.encode(given.history.with_latents(latents))
        if used:
            with torch.no_grad():
                denoiser(given.xn, given.timesteps, denoiser.condition(context, given.queries))
        prediction = denoiser(given.xn, given.timesteps, denoiser.condition(context, given.queries))
        scalar = prediction[given.real].sum() + 0 * latents.sum()
        return torch.autograd.grad(scalar, [*parameters.values(), latents], allow_unused=True)

    for name, expected, got in zip([*parameters, "the history"], gradients(False), gradients(True), strict=True):
        what = f"the gradient of {name} after a prediction without gradients"
        expect((expected is None) == (got is None), f"{what} to be there as before it", got)
        if expected is not None and got is not None:
            expect_close(what, got, expected)


def null_hides_the_history(denoiser: Denoiser, given: DenoiserInput) -> None:
    """With ``null=True``, the prediction is that of ``queries.blind()`` for any history and user."""
    expected = given.predict(denoiser, null=True)[given.real]
    if not denoiser.user_features:  # blind queries see these
        blind = replace(given, queries=given.queries.blind()).predict(denoiser)
        expect_close("the prediction of blind queries", blind[given.real], expected)
    other = gaussian(*given.history.latent().shape, seed=6).to(given.xn)
    features = {name: 1 - feature for name, feature in given.history.features.items()}
    other_history = replace(given, history=replace(given.history.with_latents(other), features=features))
    replaced = other_history.predict(denoiser, null=True)
    expect_close("the prediction with null=True from another history", replaced[given.real], expected)


def null_mask_hides_the_history_of_its_queries(denoiser: Denoiser, given: DenoiserInput) -> None:
    """A mask ``null`` ``(B, Q)`` selects the null condition where True, and the usual one where False."""
    mask = torch.arange(given.queries.visible.numel()).view_as(given.queries.visible) % 2 == 0
    plain, null = given.predict(denoiser), given.predict(denoiser, null=True)
    expected = torch.where(mask[..., None, None], null, plain)
    got = given.predict(denoiser, null=mask)
    expect_close("the prediction where some queries are null", got[given.real], expected[given.real])


def finite_in_every_dtype(denoiser: Denoiser, given: DenoiserInput) -> None:
    """Predictions and gradients are finite in every dtype and under autocast, also for empty queries."""
    visible, count = given.queries.visible.clone(), given.queries.count.clone()
    visible[0, 0], count[0, 0] = 0, 0
    for dtype in (torch.float32, torch.bfloat16, torch.float64, None):
        own = dtype or torch.float32
        cast = copy.deepcopy(denoiser).to(own)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype is None):
            prediction = given.to(own).with_visible(visible, count).predict(cast)
        expect_finite(f"the prediction in {dtype or 'autocast'}", prediction)
        expect(dtype is None or prediction.dtype == dtype, f"a prediction in {dtype}", prediction.dtype)
        scalar = prediction[given.real].float().sum()
        expect_finite_gradients(f" in {dtype or 'autocast'}", scalar, dict(cast.named_parameters()))


def memory_layout_does_not_matter(denoiser: Denoiser, given: DenoiserInput) -> None:
    """Tensors need not be contiguous, and draws may share memory by ``expand``."""
    apart = DenoiserInput(
        replace(given.history.with_latents(strided(given.history.latent())), items=strided(given.history.items)),
        each_part(given.queries, strided),
        strided(given.xn),
        strided(given.timesteps),
    )
    got, expected = apart.predict(denoiser), given.predict(denoiser)
    expect_close("the prediction from strided tensors", got[given.real], expected[given.real])
    one = given.select(queries=slice(0, 1))
    many = DenoiserInput(
        one.history,
        each_part(one.queries, lambda part: part.expand(-1, 3, *part.shape[2:])),
        one.xn.expand(-1, 3, -1, -1),
        one.timesteps.expand(-1, 3, *one.timesteps.shape[2:]),
    )
    expected = one.predict(denoiser).expand_as(many.xn)
    expect_close("the prediction from expanded tensors", many.predict(denoiser)[many.real], expected[many.real])


def every_weight_learns(denoiser: Denoiser, given: DenoiserInput) -> None:
    """Each weight has a gradient in a batch with a blank and all lengths of history from 0; small ones are skipped."""
    if min(given.history.items.shape[1], given.xn.shape[1]) > 2 and given.xn.shape[2] > 1:
        full = given.full()
        xn = full.xn.clone()
        xn[:, :, 0] = 0
        full = replace(full, xn=xn)
        lengths = torch.linspace(0, full.history.items.shape[1], full.xn.shape[1]).long()
        prediction = full.with_visible(lengths.expand_as(full.queries.visible)).predict(denoiser)
        weighted = prediction * gaussian(*prediction.shape, seed=3).to(prediction)
        expect_all_learn(weighted.sum(), dict(denoiser.named_parameters()))


def noise_matters(denoiser: Denoiser, given: DenoiserInput) -> None:
    """Each real corrupted position changes the prediction of its query."""
    seen = _dependence(denoiser, given, 0, 0)[1][0, 0]
    expect(seen[given.real[0, 0]].all(), "a prediction from each corrupted position", f"one from {seen.tolist()}")


def each_step_matters(denoiser: Denoiser, given: DenoiserInput) -> None:
    """The prediction differs between consecutive steps, so no table of steps is too short."""
    last, real = num_timesteps(denoiser), given.real[..., None]
    for n in sorted({1, last // 2, last - 1} - {0}):
        one, other = (given.at_step(step).predict(denoiser) * real for step in (n, n + 1))
        change = (one - other).abs().amax(dim=(2, 3))
        expected = f"another prediction at n = {n + 1} than at {n}"
        expect((change > 1e-6).all(), expected, f"one that changes by {change.min()}")


def corrupted_positions_see_one_another(denoiser: Denoiser, given: DenoiserInput) -> None:
    """The prediction at each position depends on all positions of the query."""
    whole = given.with_visible(given.queries.visible, torch.full_like(given.queries.count, given.xn.shape[2]))
    for position in range(given.xn.shape[2]):
        in_noise = _dependence(denoiser, whole, 0, 0, position)[1][0, 0]
        expect(in_noise.all(), "a prediction from all positions of its query", f"one from {in_noise.tolist()}")


def order_matters(denoiser: Denoiser, given: DenoiserInput) -> None:
    """The prediction depends on the order of the items of the history."""
    if given.history.items.shape[1] > 1:
        full = given.full()
        turned = full.with_latents(full.history.latent().flip(1))
        changes = not torch.allclose(turned.predict(denoiser), full.predict(denoiser))
        expect(changes, "another prediction from the history backwards", "the same")


CLAUSES = (
    prediction_is_declared,
    prediction_is_like_xn,
    serving_is_deterministic,
    every_step_from_1_to_n_is_accepted,
    rows_are_independent,
    queries_are_independent,
    padding_is_ignored,
    one_step_a_query_equals_the_same_step_at_each_position,
    only_visible_items_and_own_positions_are_seen,
    nothing_behind_the_visible_items_is_read,
    only_copies_of_visible_items_are_read,
    one_encoding_serves_every_condition,
    one_condition_serves_every_step,
    one_condition_serves_every_draw,
    conditions_carry_gradients,
    null_hides_the_history,
    null_mask_hides_the_history_of_its_queries,
    finite_in_every_dtype,
    memory_layout_does_not_matter,
    every_weight_learns,
    noise_matters,
    each_step_matters,
    corrupted_positions_see_one_another,
    order_matters,
)


def perturbed_denoiser(maker: Maker, seed: int = 0) -> Denoiser:
    """Build a denoiser in float64 without zero weights."""
    denoiser: Denoiser = perturbed(maker(dtype=torch.float64), seed)
    return denoiser


def _padded(given: DenoiserInput, padding: int, size: float, longest: int) -> DenoiserInput:
    """Change the content of the padding, and add padding where ``longest`` positions leave space."""
    rows, queries, width, dim = given.xn.shape
    history = given.history
    behind, among = (max(0, min(padding, longest - taken)) for taken in (history.items.shape[1], width))
    latents = torch.where(history.mask[..., None], history.latent(), size * gaussian(*history.latent().shape, seed=7))
    latents = torch.cat([latents, size * gaussian(rows, behind, dim, seed=8)], dim=1)
    items = torch.cat([history.items * history.mask, torch.zeros(rows, behind, dtype=torch.int64)], dim=1)
    times = torch.arange(items.shape[1]).expand(rows, -1)
    padded = queries_of(given.queries.visible, given.queries.count, width + among)
    xn = size * gaussian(rows, queries, width + among, dim, seed=9)
    xn[padded.mask] = given.xn[given.real]
    steps = given.timesteps
    if steps.ndim == 3:
        steps = torch.ones_like(padded.positions)
        steps[padded.mask] = given.timesteps[given.real]
    history = replace(history, items=items, times=times, latents=latents)
    return DenoiserInput(history, padded, xn, steps)


def _with_copies(given: DenoiserInput, copies: Tensor, steps: Tensor) -> DenoiserInput:
    return replace(given, history=replace(given.history, copies=copies, copy_steps=steps))


def _dependence(
    denoiser: Denoiser, given: DenoiserInput, row: int, q: int, position: int | slice = slice(None)
) -> tuple[Tensor, Tensor]:
    """Items ``(B, L)`` and corrupted positions ``(B, Q, K)`` that the prediction of a query depends on."""
    latents, xn = (x.clone().requires_grad_() for x in (given.history.latent(), given.xn))
    prediction = replace(given.with_latents(latents), xn=xn).predict(denoiser)[row, q]
    chosen = torch.zeros(prediction.shape[:1], dtype=torch.bool)
    chosen[position] = True
    prediction = prediction[chosen & given.real[row, q]]
    scalar = (prediction * gaussian(*prediction.shape)).sum() + 0 * (latents.sum() + xn.sum())
    in_history, in_noise = torch.autograd.grad(scalar, (latents, xn))
    return in_history.abs().sum(-1) > 0, in_noise.abs().sum(-1) > 0


def _cases(maker: Maker) -> Iterator[Case]:
    denoiser = perturbed_denoiser(maker)
    longest = denoiser.max_length
    for seed, (rows, queries, most, items, own_steps) in enumerate(SHAPES):
        width = min(most, longest - 1)
        length = min(items, longest - width)
        given = random_input(denoiser, rows, queries, width, length, own_steps=own_steps, seed=seed)
        yield Case(f"B={rows}, Q={queries}, K={width}, L={length}", (denoiser, given))
    longest_history = random_input(denoiser, 2, 2, 1, longest - 1, seed=9).full()
    yield Case(f"a history of {longest - 1} items", (denoiser, longest_history))


def _outputs(denoiser: Any) -> list[Tensor]:
    dtype = next((p.dtype for p in denoiser.parameters()), torch.float32)
    with torch.no_grad():
        return [random_input(denoiser, 2, 3, 1, min(4, denoiser.max_length - 1)).to(dtype).predict(denoiser)]


SUITE = Suite(Denoiser, _cases, CLAUSES, _outputs)
