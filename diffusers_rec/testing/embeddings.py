"""The contract of an item embedding: an item has the same clean latent at any place in any batch.

The suite sets features for embeddings of the library. A class with other features is checked by a factory that sets
them, without the clause ``config_round_trips``.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from diffusers_rec.items.embeddings import ItemEmbedding
from diffusers_rec.items.feature_embeddings import AttributeEmbedding, FeatureEmbedding
from diffusers_rec.testing.contract import (
    Case,
    Maker,
    Suite,
    expect,
    expect_all_learn,
    expect_close,
    expect_equal,
    expect_finite,
    expect_refusal,
)
from diffusers_rec.testing.inputs import gaussian, strided

SHAPES = [(), (3,), (2, 0), (2, 3), (2, 1, 4)]


def an_item_gets_its_row(embedding: ItemEmbedding) -> None:
    """Latents and vectors of items are rows of those of all items, for indices of any shape and layout."""
    items = embedding.num_items
    for what, every, some in (
        ("latents", embedding.table(), embedding),
        ("vectors", embedding.vectors(), embedding.vectors),
    ):
        expect(every.shape == (items, embedding.dim), f"{what} ({items}, {embedding.dim})", tuple(every.shape))
        atol = 1e-7 + 1e-6 * float(every.detach().abs().max())
        for shape in SHAPES:
            index = torch.arange(torch.Size(shape).numel()).view(shape) * 5 % items
            expect_close(f"{what} of items of shape {shape}", some(index), every[index], rtol=1e-6, atol=atol)
            expect_close(f"{what} of strided items", some(strided(index)), every[index], rtol=1e-6, atol=atol)


def latents_are_the_vectors_at_their_scale(embedding: ItemEmbedding) -> None:
    """Latents are the vectors, or the vectors divided by their root mean square."""
    vectors, table = embedding.vectors(), embedding.table()
    if embedding.scale == "unit":
        vectors = torch.nn.functional.normalize(vectors, dim=-1) * math.sqrt(embedding.dim)
    expect_close(f"latents at scale {embedding.scale!r}", table, vectors, rtol=1e-6, atol=1e-6)


def an_index_that_is_no_items_is_refused(embedding: ItemEmbedding) -> None:
    """An index below 0 or from V on is an error, on the CPU."""
    for index in (-1, embedding.num_items):
        expect_refusal(f"latents of item {index}", lambda index=index: embedding(torch.tensor([0, index])))  # type: ignore[misc]


def latents_have_the_precision_of_the_weights(embedding: ItemEmbedding) -> None:
    """Latents are finite and have the dtype of the weights, also under autocast."""
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        cast = copy.deepcopy(embedding).to(dtype)
        table = cast.table()
        expect(cast.dtype == dtype, f"an embedding of dtype {dtype}", cast.dtype)
        expect(table.dtype == dtype, f"latents in {dtype}", table.dtype)
        expect_finite("a latent", table)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            expect_equal("latents under autocast", cast.table(), table)


def every_weight_learns(embedding: ItemEmbedding) -> None:
    """Each weight has a gradient from the latents of all items."""
    table = embedding.table()
    expect_all_learn((table * gaussian(*table.shape).to(table)).sum(), dict(embedding.named_parameters()))


def features_are_part_of_the_state_and_not_of_the_config(embedding: ItemEmbedding) -> None:
    """An embedding built from a config has no latents until features are set or a state is loaded."""
    if embedding.takes_features and embedding.registered_name is not None:
        blank = ItemEmbedding.build(embedding.config())
        expect(not blank.complete, "an embedding from a config to be incomplete", "a complete one")
        expect_refusal("vectors before features are set", blank.vectors)
        blank.load_state_dict(embedding.state_dict(), assign=True)
        expect(blank.complete, "an embedding with a loaded state to be complete", "an incomplete one")
        expect_equal("latents after loading the state", blank.table(), embedding.table())
    else:
        expect(embedding.complete, "an embedding that takes no features to be complete", "an incomplete one")


CLAUSES = (
    an_item_gets_its_row,
    latents_are_the_vectors_at_their_scale,
    an_index_that_is_no_items_is_refused,
    latents_have_the_precision_of_the_weights,
    every_weight_learns,
    features_are_part_of_the_state_and_not_of_the_config,
)


def with_features(embedding: ItemEmbedding) -> ItemEmbedding:
    """Set features of the suite if the embedding has none."""
    for part in embedding.modules():
        if isinstance(part, ItemEmbedding) and not part.complete:
            if isinstance(part, FeatureEmbedding):
                part.set_features(gaussian(part.num_items, part.num_features, seed=11))
            elif isinstance(part, AttributeEmbedding):
                part.set_features(_bags(part.num_items, part.num_attributes))
    return embedding


def _bags(num_items: int, num_attributes: int) -> Tensor:
    """Up to three different attributes per item; the last of several items has none."""
    bags = torch.arange(num_items)[:, None] * 2 + torch.arange(min(3, num_attributes))
    bags = bags % num_attributes
    bags[1::2, 1:] = -1
    if num_items > 1:
        bags[-1] = -1
    return bags


def _cases(maker: Maker) -> Iterator[Case]:
    yield Case("", (with_features(maker()),))
    yield Case("in float64", (with_features(maker(dtype=torch.float64)),))


def _outputs(embedding: ItemEmbedding) -> list[Tensor]:
    with_features(embedding)
    return [embedding.table().detach(), embedding(torch.tensor([[0, embedding.num_items - 1]])).detach()]


SUITE = Suite(ItemEmbedding, _cases, CLAUSES, _outputs)
