"""A trained model with a larger catalogue: known items keep their weights, new ones start afresh."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor

from diffusers_rec.core.errors import shown
from diffusers_rec.data.vocabulary import Vocabulary, listed, plain
from diffusers_rec.items.embeddings import ItemEmbedding
from diffusers_rec.recommenders.pretrained import Pretrained

M = TypeVar("M", bound=Pretrained)


def extended(model: M, items: Iterable[Hashable], features: Any = None) -> M:
    """A model of the same config and weights with more items; see :meth:`DiffRec.extend <diffusers_rec.DiffRec>`."""
    new = [plain(item) for item in listed(items, "items")]
    _check_new(model.vocabulary, new)
    _check_features(model.embedding, len(new), features)
    known = len(model.vocabulary)
    vocabulary = Vocabulary([*model.vocabulary.ids, *new])
    larger = type(model).from_config(vocabulary, _resized(model.config(), known, len(vocabulary)))
    fresh = larger.state_dict()
    carried = {name: _carried(name, tensor, fresh[name]) for name, tensor in model.state_dict().items()}
    larger.to(model.embedding.device, model.embedding.dtype)  # what no state dict holds
    larger.load_state_dict(carried, assign=True)
    for ours, theirs in zip(larger.parameters(), model.parameters(), strict=True):
        ours.requires_grad_(theirs.requires_grad)
    if features is not None:
        larger.embedding.set_features(features, first=known)
    return larger.train(model.training)


def _check_new(vocabulary: Vocabulary, new: list[Hashable]) -> None:
    if not new:
        raise ValueError("extend: expected at least one new item, got none.")
    known = [item for item in new if item in vocabulary]
    if known:
        raise ValueError(
            f"extend: expected new items alone, but the model knows {len(known)} of {len(new)} already, the first "
            f"{shown(known[0])}. Leave them out."
        )


def _check_features(embedding: ItemEmbedding, number: int, features: Any) -> None:
    if embedding.takes_features and features is None:
        raise ValueError(
            f"extend: the embedding {embedding.registered_name!r} computes vectors from features, expected features "
            f"with one row for each of the {number} new items, got none. feature_vectors() and attribute_bags() make "
            "them from a mapping."
        )
    if not embedding.takes_features and features is not None:
        raise ValueError(
            f"extend: features were given, but the embedding {embedding.registered_name!r} takes none. Leave them out."
        )


def _resized(config: Any, known: int, number: int) -> Any:
    """A config of as many items as ``number`` wherever it has as many as are known."""
    if isinstance(config, Mapping):
        sizes = {key: number for key, value in config.items() if key == "num_items" and value == known}
        return {key: _resized(value, known, number) for key, value in config.items()} | sizes
    return [_resized(each, known, number) for each in config] if isinstance(config, list) else config


def _carried(name: str, old: Tensor, fresh: Tensor) -> Tensor:
    """The old tensor in the corner of the fresh one, in the old one's precision."""
    if old.ndim != fresh.ndim or any(size > other for size, other in zip(old.shape, fresh.shape, strict=True)):
        raise ValueError(
            f"extend: {name} is {tuple(old.shape)}, but a model with more items has {tuple(fresh.shape)}. Expected a "
            "tensor that keeps its size or grows with num_items."
        )
    found = fresh.to(old, copy=True)
    with torch.no_grad():
        found[tuple(slice(size) for size in old.shape)] = old
    return found
