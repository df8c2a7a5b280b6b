"""The contract of an item embedding: an item has one clean latent, wherever and with whomever it is asked for."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator
from typing import Any

import torch
from torch import Tensor

from diffusers_rec.items.embeddings import ItemEmbedding
from diffusers_rec.testing.all_kinds import check
from diffusers_rec.testing.contract import Case, Maker, Suite, expect, expect_all_learn, expect_close, expect_finite
from diffusers_rec.testing.inputs import gaussian, strided

SHAPES = [(), (3,), (2, 0), (2, 3), (2, 1, 4)]


def check_embedding(make: Callable[..., ItemEmbedding], /, *, waive: Collection[str] = (), **settings: Any) -> None:
    """Check that an item embedding keeps its contract.

    Args:
        make: the class, or a factory.
        waive: names of clauses (functions of this module) that need not hold.
        settings: constructor parameters.

    Raises:
        ContractError: the first clause that is broken.
    """
    check(SUITE, make, waive, settings)


def an_item_gets_its_row(embedding: ItemEmbedding) -> None:
    """Of the table ``(V, D)``; indices of any shape, in any layout."""
    table, items = embedding.table(), embedding.num_items
    expect(table.shape == (items, embedding.dim), f"a table ({items}, {embedding.dim})", tuple(table.shape))
    for shape in SHAPES:
        asked = torch.arange(torch.Size(shape).numel()).view(shape) * 5 % items
        expect_close(f"latents of items of shape {shape}", embedding(asked), table[asked], rtol=1e-6, atol=1e-7)
        expect_close("latents of strided items", embedding(strided(asked)), table[asked], rtol=1e-6, atol=1e-7)


def latents_have_the_precision_of_the_weights(embedding: ItemEmbedding) -> None:
    """In float64 as in bfloat16, finite."""
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        table = copy.deepcopy(embedding).to(dtype).table()
        expect(table.dtype == dtype, f"latents in {dtype}", table.dtype)
        expect_finite("a latent", table)


def every_weight_learns(embedding: ItemEmbedding) -> None:
    """From the latents of all items."""
    table = embedding.table()
    expect_all_learn((table * gaussian(*table.shape).to(table)).sum(), dict(embedding.named_parameters()))


CLAUSES = (
    an_item_gets_its_row,
    latents_have_the_precision_of_the_weights,
    every_weight_learns,
)


def _cases(maker: Maker) -> Iterator[Case]:
    yield Case("", (maker(),))
    yield Case("in float64", (maker(dtype=torch.float64),))


def _answers(embedding: ItemEmbedding) -> list[Tensor]:
    return [embedding.table().detach(), embedding(torch.tensor([[0, embedding.num_items - 1]])).detach()]


SUITE = Suite(ItemEmbedding, _cases, CLAUSES, _answers)
