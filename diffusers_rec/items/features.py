"""Item features as arrays in the order of the vocabulary: one vector or one bag of attributes per item."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from diffusers_rec.core.entrances import explained
from diffusers_rec.core.errors import check_choice, shown
from diffusers_rec.data.vocabulary import Vocabulary, listed, plain


@dataclass(frozen=True, eq=False)  # == of tensors is elementwise
class AttributeBags:
    """Attributes of all items.

    Attributes:
        indices: Attribute indices of each item, int64 ``(V, A)``, padded at the end with -1.
        attributes: Raw attribute ids in the order of their indices.
    """

    made_by: ClassVar[str] = "attribute_bags(vocabulary, {item: [attribute, ...]})"
    indices: Tensor
    attributes: Vocabulary

    def __len__(self) -> int:
        return len(self.indices)


@explained
def attribute_bags(
    items: Vocabulary | Iterable[Hashable],
    attributes: Mapping[Any, Iterable[Hashable]] | Sequence[Iterable[Hashable]],
    *,
    known: Vocabulary | Iterable[Hashable] | None = None,
    unknown: Literal["error", "drop"] = "error",
) -> AttributeBags:
    """Build bags of attributes, such as genres, brands or categories, in the order of the items.

    ::

        bags = attribute_bags(vocabulary, {"Alien": ["horror", "space"], "Amelie": ["comedy"]})
        embedding = AttributeEmbedding.from_features(bags, dim=64)
        later = attribute_bags(["Aliens"], {"Aliens": ["space"]}, known=bags.attributes)

    Args:
        items: Item ids; the vocabulary of a model, or new items.
        attributes: Raw attribute ids of each item, as a mapping by item id, or as one collection per item in the order
            of ``items``. A collection may be empty. Entries of other items are ignored, and repeated attributes count
            once.
        known: Attributes that a model was trained with; those that occur, in order of appearance, if None.
        unknown: Treatment of attributes that are not in ``known``: ``"error"`` or ``"drop"``.

    Raises:
        ValueError: An item has no entry, an attribute is unknown, or there are no attributes.
    """
    check_choice("unknown", unknown, ("error", "drop"))
    ids, given = _by_item(items, attributes, "attributes", "Give an empty list to an item without attributes.")
    bags = [dict.fromkeys(plain(each) for each in listed(bag, f"attributes of item {shown(item)}")) for item, bag in
            zip(ids, given, strict=True)]  # fmt: skip
    found = dict.fromkeys(attribute for bag in bags for attribute in bag)
    if known is None:
        if not found:
            raise ValueError(f"Expected attributes, but none of the {len(ids)} items has any.")
        known = found
    vocabulary = known if isinstance(known, Vocabulary) else Vocabulary(known)
    if unknown == "drop":
        bags = [{attribute: None for attribute in bag if attribute in vocabulary} for bag in bags]
    encoded = [vocabulary.encode(bag) for bag in bags]
    width = max(1, *map(len, encoded)) if encoded else 1
    indices = np.full((len(ids), width), -1, np.int64)
    for row, bag in zip(indices, encoded, strict=True):
        row[: len(bag)] = bag
    return AttributeBags(torch.from_numpy(indices), vocabulary)


@explained
def feature_vectors(items: Vocabulary | Iterable[Hashable], vectors: Mapping[Any, Any]) -> Tensor:
    """Build feature vectors in the order of the items, float32 ``(V, F)``.

    Args:
        items: Item ids; the vocabulary of a model, or new items.
        vectors: Vector of each item, ``(F,)``, by item id. Entries of other items are ignored.

    Raises:
        ValueError: An item has no entry, or vectors have different lengths.
    """
    ids, given = _by_item(items, vectors, "vectors", "Give a vector to every item.")
    shapes = [np.shape(vector) for vector in given]
    for item, shape in zip(ids, shapes, strict=True):
        if len(shape) != 1 or shape != shapes[0]:
            raise ValueError(
                f"Expected vectors (F,) of one length, got {shapes[0]} for item {shown(ids[0])} and {shape} for item "
                f"{shown(item)}."
            )
    return as_vectors(np.stack([np.asarray(vector) for vector in given])).float()


def as_vectors(features: Any) -> Tensor:
    """Convert feature vectors to a floating-point tensor ``(N, F)``.

    Raises:
        TypeError: The features are not numbers.
        ValueError: The shape is wrong, or a value is not finite.
    """
    found = _matrix(features, "vectors (items, num_features)", "feature_vectors() makes them from a mapping.")
    found = found.to(torch.promote_types(found.dtype, torch.float32))
    if not bool(found.isfinite().all()):
        row = int((~found.isfinite()).any(1).int().argmax())
        raise ValueError(f"features must be finite, but those in row {row} are not.")
    return found


def as_bags(features: Any) -> Tensor:
    """Convert bags of attributes to int64 ``(N, A)``, padded with -1.

    Raises:
        TypeError: The features are neither :class:`AttributeBags` nor integers.
        ValueError: The shape is wrong, or an index is below -1.
    """
    given = features.indices if isinstance(features, AttributeBags) else features
    remedy = "attribute_bags() makes them from raw ids, a list an item."
    found = _matrix(given, "attribute indices (items, attributes of an item)", remedy)
    if found.is_floating_point() or found.dtype == torch.bool:
        raise TypeError(f"Expected attribute indices (integers), got {found.dtype}. {remedy}")
    if int(found.min()) < -1:
        raise ValueError(f"Attribute indices must be at least 0, or -1 for padding, got {int(found.min())}.")
    return found.long()


def _matrix(features: Any, expected: str, remedy: str) -> Tensor:
    """Convert a matrix of numbers to a tensor."""
    if not isinstance(features, Tensor):
        try:
            array = np.array(features)
        except ValueError as error:
            raise ValueError(f"Expected {expected}, got rows of different lengths. {remedy}") from error
        if array.dtype.kind not in "biuf":
            raise TypeError(f"Expected {expected}, got {shown(features)}. {remedy}")
        features = torch.from_numpy(array.astype({"f": np.float32, "b": np.bool_}.get(array.dtype.kind, np.int64)))
    if features.is_complex() or features.is_quantized or features.layout != torch.strided or features.is_meta:
        raise TypeError(f"Expected {expected} as a dense tensor of real numbers, got {features.layout} of "
                        f"{features.dtype} on {features.device}.")  # fmt: skip
    if features.ndim != 2 or not features.numel():
        raise ValueError(f"Expected {expected}, got shape {tuple(features.shape)}. {remedy}")
    return features.detach()


def _by_item(
    items: Vocabulary | Iterable[Hashable], given: Any, name: str, remedy: str
) -> tuple[list[Hashable], list[Any]]:
    """Item ids and the entry of each item."""
    ids = list((items if isinstance(items, Vocabulary) else Vocabulary(items)).ids)
    if not isinstance(given, Mapping):
        rows = list(given)
        if len(rows) != len(ids):
            raise ValueError(f"Expected {name} of {len(ids)} items, in their order, got {len(rows)}.")
        return ids, rows
    missing = [item for item in ids if item not in given]
    if missing:
        some = ", ".join(map(shown, missing[:5])) + (", ..." if len(missing) > 5 else "")
        kinds = {type(item).__name__ for item in ids}, {type(item).__name__ for item in given}
        other = " The ids of items are {}, those of {name} are {}. Convert one of them.".format(
            *(" and ".join(sorted(kind)) for kind in kinds), name=name
        )
        hint = other if given and not kinds[0] & kinds[1] else f" {remedy}"
        raise ValueError(f"Expected {name} of {len(ids)} items, but {len(missing)} have no entry: {some}.{hint}")
    return ids, [given[item] for item in ids]
