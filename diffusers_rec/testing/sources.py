"""The contract of a source: a centre for each query, which depends on the items that the query sees."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from diffusers_rec.data.history import History
from diffusers_rec.processes.noising import Queries
from diffusers_rec.processes.source import Source
from diffusers_rec.testing.contract import SIZES, Case, Maker, Suite, expect, expect_close, expect_equal
from diffusers_rec.testing.inputs import DTYPES, gaussian

DIM = SIZES["dim"]


def one_centre_a_query(source: Source) -> None:
    """A centre is ``(B, Q, 1, D)`` in the dtype of the latents, or None."""
    history, queries = example()
    for dtype in DTYPES:
        centre = source.centre(history.with_latents(history.latent().to(dtype)), queries)
        if centre is not None:
            expect(centre.shape == (2, 4, 1, DIM), f"a centre (2, 4, 1, {DIM})", tuple(centre.shape))
            expect(centre.dtype == dtype, f"a centre in {dtype}", centre.dtype)
            expect(centre.isfinite().all(), f"a finite centre in {dtype}", centre.flatten()[:3].tolist())


def a_query_sees_its_visible_items_alone(source: Source) -> None:
    """Later items have no effect, and a query without visible items has the centre zero."""
    history, queries = example()
    centre = _centre(source, history, queries)
    for query in range(queries.visible.shape[1]):
        hidden = torch.arange(history.items.shape[1]) >= queries.visible[:, query : query + 1]
        changed = torch.where(hidden[..., None], 7.0, history.latent())
        again = _centre(source, history.with_latents(changed), queries)
        expect_equal(f"the centre of query {query} with other later items", again[:, query], centre[:, query])
    blind = _centre(source, history, queries.blind())
    expect_equal("the centre of queries that see nothing", blind, torch.zeros_like(blind))


def a_row_has_its_centre_alone(source: Source) -> None:
    """A centre does not depend on the batch or on other queries."""
    history, queries = example()
    centre = _centre(source, history, queries)
    for row in range(len(history)):
        part = slice(row, row + 1)
        for query in range(queries.visible.shape[1]):
            names = "visible", "positions", "count", "answer"
            own = replace(queries, **{name: getattr(queries, name)[part, query : query + 1] for name in names})
            alone = _centre(source, history.take(part), own)
            expect_close(f"row {row}, query {query} alone", alone[0, 0], centre[row, query], rtol=1e-5, atol=1e-6)


CLAUSES = (one_centre_a_query, a_query_sees_its_visible_items_alone, a_row_has_its_centre_alone)


def example() -> tuple[History, Queries]:
    """Two histories of five and three items, and four queries each that see 0, 1, ... of them."""
    lengths = torch.tensor([5, 3])
    visible = torch.tensor([[0, 1, 4, 5], [0, 1, 2, 3]])
    queries = Queries(visible, visible[..., None], torch.ones_like(visible), torch.zeros_like(visible))
    return History.of_latents(gaussian(2, 5, DIM), lengths), queries


def _centre(source: Source, history: History, queries: Queries) -> Tensor:
    centre = source.centre(history, queries)
    shape = (*queries.visible.shape, 1, history.latent().shape[-1])
    return torch.zeros(shape, dtype=history.latent().dtype) if centre is None else centre


def _cases(maker: Maker) -> Iterator[Case]:
    yield Case("as given", (maker(),))


def _outputs(source: Source) -> list[Tensor]:
    return [_centre(source, *example())]


SUITE = Suite(Source, _cases, CLAUSES, _outputs)
