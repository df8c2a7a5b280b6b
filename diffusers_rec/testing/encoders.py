"""The contract of a history encoder: a state depends on the items of its prefix alone, in any batch and padding."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from diffusers_rec.data.history import History
from diffusers_rec.encoders import HistoryEncoder
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


def a_state_for_each_query(encoder: HistoryEncoder, latents: Tensor, visible: Tensor) -> None:
    """States are ``(B, Q, D)`` in the dtype of the latents, and the same bits a second time."""
    states = states_of(encoder, latents, visible)
    expect(states.shape == (*visible.shape, encoder.dim), f"states {(*visible.shape, encoder.dim)}", states.shape)
    expect(states.dtype == latents.dtype, f"states in {latents.dtype}", states.dtype)
    expect_equal("the states a second time", states_of(encoder, latents, visible), states)


def rows_and_queries_are_independent(encoder: HistoryEncoder, latents: Tensor, visible: Tensor) -> None:
    """A state is the same alone, in any batch, and beside any other queries."""
    whole = states_of(encoder, latents, visible)
    for row, query in torch.cartesian_prod(*map(torch.arange, visible.shape)).tolist():
        part = slice(row, row + 1), slice(query, query + 1)
        alone = states_of(encoder, latents[part[0]], visible[part])
        expect_close(f"the state of row {row}, query {query} alone", alone, whole[part])
    turned = states_of(encoder, latents.flip(0), visible.flip(0, 1))
    expect_close("the states of rows and queries backwards", turned, whole.flip(0, 1))


def later_items_and_padding_are_not_read(encoder: HistoryEncoder, latents: Tensor, visible: Tensor) -> None:
    """What stands behind a prefix, and how much, has no effect."""
    whole, length = states_of(encoder, latents, visible), latents.shape[1]
    for query in range(visible.shape[1]):
        of_query = visible[:, query : query + 1]
        behind = (torch.arange(length) >= of_query)[..., None]
        changed = torch.where(behind, 1e3 * gaussian(*latents.shape, seed=5), latents)
        cut = changed[:, : int(of_query.max())]
        more = F.pad(cut, (0, 0, 0, min(3, encoder.max_length - cut.shape[1])), value=1e3)
        for what, other in (("other later items", changed), ("less padding", cut), ("more padding", more)):
            got = states_of(encoder, other, of_query)
            expect_close(f"the states of query {query} with {what}", got, whole[:, query : query + 1])


def every_item_of_the_prefix_is_read(encoder: HistoryEncoder, latents: Tensor, visible: Tensor) -> None:
    """The gradient of a state is zero exactly in the items that it must not see."""
    latents = latents.clone().requires_grad_()
    states = states_of(encoder, latents, visible)
    for row, query in {(0, 0), (len(visible) - 1, visible.shape[1] - 1)}:
        scalar = (states[row, query] * gaussian(encoder.dim)).sum()
        (gradient,) = torch.autograd.grad(scalar, latents, retain_graph=True)
        seen, expected = gradient.abs().sum(-1) > 0, torch.zeros(latents.shape[:2], dtype=torch.bool)
        expected[row, : visible[row, query]] = True
        what = f"a state from items {expected.nonzero().tolist()}"
        expect(torch.equal(seen, expected), what, seen.nonzero().tolist())


def one_encoding_serves_all_queries(encoder: HistoryEncoder, latents: Tensor, visible: Tensor) -> None:
    """A context gives the states of other queries, and is not used up."""
    context = encoder.encode(_history(latents, visible))
    for other in (visible, torch.ones_like(visible), visible.flip(1), visible):
        expect_close("states from a used context", encoder.states(context, other), states_of(encoder, latents, other))


def finite_in_every_dtype(encoder: HistoryEncoder, latents: Tensor, visible: Tensor) -> None:
    """States and gradients are finite in every dtype and under autocast."""
    for dtype in (torch.float32, torch.bfloat16, torch.float64, None):
        own = dtype or torch.float32
        cast = copy.deepcopy(encoder).to(own)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype is None):
            states = states_of(cast, latents.to(own), visible)
        expect_finite(f"the states in {dtype or 'autocast'}", states)
        expect(dtype is None or states.dtype == dtype, f"states in {dtype}", states.dtype)
        expect_finite_gradients(f" in {dtype or 'autocast'}", states.float().sum(), dict(cast.named_parameters()))


def memory_layout_does_not_matter(encoder: HistoryEncoder, latents: Tensor, visible: Tensor) -> None:
    """Tensors need not be contiguous, and queries may share memory by ``expand``."""
    got, expected = states_of(encoder, strided(latents), strided(visible)), states_of(encoder, latents, visible)
    expect_close("the states from strided tensors", got, expected)
    shared = states_of(encoder, latents, visible[:, :1].expand(-1, 3))
    expect_close("the states of expanded queries", shared, expected[:, :1].expand(-1, 3, -1))


def every_weight_learns(encoder: HistoryEncoder, latents: Tensor, visible: Tensor) -> None:
    """States and penalties of all lengths give each weight a gradient; short histories are skipped."""
    length = latents.shape[1]
    if length == encoder.max_length:
        visible = torch.arange(1, length + 1).expand(len(latents), -1)
        context = encoder.encode(_history(latents, visible))
        states = encoder.states(context, visible)
        weighted = (states * gaussian(*states.shape, seed=3).to(states)).sum()
        penalties = sum(penalty.sum() for penalty in encoder.penalties(context, visible).values())
        expect_all_learn(weighted + penalties, dict(encoder.named_parameters()))


def penalties_are_a_number_for_each_query(encoder: HistoryEncoder, latents: Tensor, visible: Tensor) -> None:
    """Penalties are finite, ``(B, Q)``, with the declared names, and without random numbers in evaluation mode."""
    once, again = (encoder.penalties(encoder.encode(_history(latents, visible)), visible) for _ in range(2))
    expect(set(once) == set(encoder.penalised), f"the penalties {sorted(encoder.penalised)}", sorted(once))
    for name, penalty in once.items():
        expect(penalty.shape == visible.shape, f"{name} of {tuple(visible.shape)}", tuple(penalty.shape))
        expect_finite(name, penalty)
        expect_equal(f"{name} a second time", again[name], penalty)


def order_matters(encoder: HistoryEncoder, latents: Tensor, visible: Tensor) -> None:
    """A state depends on the order of the items."""
    if latents.shape[1] > 1:
        full = torch.full_like(visible, latents.shape[1])
        one, other = states_of(encoder, latents, full), states_of(encoder, latents.flip(1), full)
        expect(not torch.allclose(one, other), "another state from the history backwards", "the same")


CLAUSES = (
    a_state_for_each_query,
    rows_and_queries_are_independent,
    later_items_and_padding_are_not_read,
    every_item_of_the_prefix_is_read,
    one_encoding_serves_all_queries,
    finite_in_every_dtype,
    memory_layout_does_not_matter,
    every_weight_learns,
    penalties_are_a_number_for_each_query,
    order_matters,
)


def states_of(encoder: HistoryEncoder, latents: Tensor, visible: Tensor) -> Tensor:
    """States after each prefix, by a new encoding."""
    return encoder.states(encoder.encode(_history(latents, visible)), visible)


def _history(latents: Tensor, visible: Tensor) -> History:
    return History.of_latents(latents, visible.amax(1))


def _visible(rows: int, queries: int, length: int, seed: int = 0) -> Tensor:
    return torch.randint(1, length + 1, (rows, queries), generator=torch.Generator().manual_seed(seed))


def _cases(maker: Maker) -> Iterator[Case]:
    encoder: HistoryEncoder = perturbed(maker(dtype=torch.float64))
    for rows, queries, items in ((3, 3, 6), (1, 1, 1), (2, 8, 4), (2, 2, encoder.max_length)):
        length = min(items, encoder.max_length)
        given = gaussian(rows, length, encoder.dim, seed=length), _visible(rows, queries, length)
        yield Case(f"B={rows}, Q={queries}, L={length}", (encoder, *given))


def _outputs(encoder: Any) -> list[Tensor]:
    dtype = next((p.dtype for p in encoder.parameters()), torch.float32)
    length = min(4, encoder.max_length)
    with torch.no_grad():
        return [states_of(encoder, gaussian(2, length, encoder.dim, dtype=dtype), _visible(2, 3, length))]


SUITE = Suite(HistoryEncoder, _cases, CLAUSES, _outputs)
