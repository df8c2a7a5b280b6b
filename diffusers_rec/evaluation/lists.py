r"""Metrics of recommended lists beyond accuracy: coverage, concentration, novelty and diversity.

For lists of k items for each of U users, over a catalogue of V items:

- **coverage**: the share of the catalogue that is in any list (Ge et al. 2010);
- **Gini index**: how unequally the V items are recommended, :math:`\sum_i (2 i - V - 1) c_i / (V \sum_i c_i)` of their
  counts :math:`c_1 \le \dots \le c_V`; 0 if all are recommended equally often, 1 - 1/V if one item alone is (Shani and
  Gunawardana 2011, who divide by V - 1);
- **novelty**: mean self-information :math:`-\log_2(U_v / U)` in bits of an item that :math:`U_v` of U training users
  have (Zhou et al. 2010); an item that nobody has counts as one that a single user has;
- **diversity**: mean Jaccard distance :math:`1 - |A_v \cap A_w| / |A_v \cup A_w|` between the attributes of each pair
  in a list (Ziegler et al. 2005, Zhang and Hurley 2008); 0 between two items without attributes.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from diffusers_rec.core.entrances import explained
from diffusers_rec.core.errors import check_bool, check_int
from diffusers_rec.core.progress import progress_bar
from diffusers_rec.data.batching import pad
from diffusers_rec.data.sequences import Holdout, Sequences
from diffusers_rec.evaluation.full_ranking import SCORES_AT_ONCE, user_chunks
from diffusers_rec.guidance import Guidance
from diffusers_rec.items.features import AttributeBags
from diffusers_rec.recommenders.base import Recommender, options_of
from diffusers_rec.recommenders.ranking import top_k
from diffusers_rec.recommenders.scoring import SamplerChoice, Seeds

MARKS_AT_ONCE = 2**24
"""The most marks (listed items x attributes) held at once, 64 MiB; one list at the least."""


@explained
def evaluate_lists(
    model: Recommender,
    train: Sequences,
    holdout: Holdout,
    *,
    k: int = 10,
    attributes: AttributeBags | None = None,
    exclude_seen: bool = True,
    seeds: Seeds | None = None,
    sampler: SamplerChoice | None = None,
    guidance: Guidance = None,
    batch_size: int = 256,
    progress: bool = False,
) -> dict[str, float]:
    """Coverage, Gini index, novelty and diversity of the lists that a model recommends.

    Args:
        model: A trained model.
        train: The training sequences, whose users define novelty; items are matched with the model's by id.
        holdout: Histories to recommend for; their targets are not used.
        k: Number of items in a list.
        attributes: Attributes of the model's items, ``attribute_bags(model.vocabulary, ...)``, for the diversity.
        exclude_seen: Whether the items of the user's history are left out.
        seeds: Noise draws to average; the model's own when None.
        sampler: Component, name, or config; the model's own when None.
        guidance: Scale of the model's guide, or a mapping of its settings; the guide's own when None.
        batch_size: Users at once, fewer where the catalogue is large.
        progress: Whether to show a bar (needs the ``train`` extra).

    Returns:
        ``"coverage@k"``, ``"gini@k"``, ``"novelty@k"``, and ``"diversity@k"`` if there are attributes.

    Raises:
        ValueError: items that the model does not know, k outside 1..V, or attributes of another number of items.
    """
    holdout, train = holdout.reindexed(model.vocabulary), train.reindexed(model.vocabulary)
    num_items = len(model.vocabulary)
    check_bool("exclude_seen", exclude_seen)
    check_bool("progress", progress)
    if attributes is not None:
        _check_attributes(attributes, num_items)
    options = options_of(seeds, sampler, guidance)
    size = min(check_int("batch_size", batch_size, minimum=1), max(1, SCORES_AT_ONCE // num_items))
    chunks, found = user_chunks(holdout, size), []
    with model.serving() as served:
        for rows in progress_bar(chunks, show=progress, total=len(chunks), text="recommend"):
            histories = holdout.histories.take(rows)
            excluded = pad(histories, fill=-1).items.to(served.device) if exclude_seen else None
            history = pad(histories, served.history_length).to(served.device)
            found.append(top_k(served.score(history, **options), k, excluded=excluded).items.cpu())
    items = torch.cat(found)
    metrics = {
        f"coverage@{k}": coverage(items, num_items),
        f"gini@{k}": gini(items, num_items),
        f"novelty@{k}": novelty(items, train),
    }
    return metrics if attributes is None else {**metrics, f"diversity@{k}": diversity(items, attributes)}


@explained
def coverage(items: Tensor, num_items: int) -> float:
    """Share of the catalogue that is in any list.

    Args:
        items: Item indices of the lists, int64 ``(U, k)``, padded with -1.
        num_items: Size of the catalogue V.

    Raises:
        ValueError: no list with an item, or items that do not exist.
        TypeError: items that are not integers.
    """
    return float((_counts(items, num_items) > 0).double().mean())


@explained
def gini(items: Tensor, num_items: int) -> float:
    """Gini index of how often each item of the catalogue is listed. Arguments and errors as :func:`coverage`."""
    counts = _counts(items, num_items).double().sort().values
    place = torch.arange(1, num_items + 1, dtype=counts.dtype)
    return float(((2 * place - num_items - 1) * counts).sum() / (num_items * counts.sum()))


@explained
def novelty(items: Tensor, train: Sequences) -> float:
    """Mean self-information of the listed items in bits, a mean over lists of the mean over their items.

    Args:
        items: Item indices of the lists in the vocabulary of ``train``, int64 ``(U, k)``, padded with -1.
        train: The training sequences.

    Raises:
        ValueError: no list with an item, or items that do not exist.
        TypeError: items that are not integers.
    """
    _counts(items, len(train.vocabulary))
    owners = np.bincount(train.without_repeats().items, minlength=len(train.vocabulary))
    bits = -(torch.from_numpy(owners).double().clamp(min=1) / len(train)).log2()
    return float(_list_means(bits[items.clamp(min=0)], items >= 0).mean())


@explained
def diversity(items: Tensor, attributes: AttributeBags) -> float:
    """Mean Jaccard distance between the attributes of the items of a list, a mean over lists of the mean over pairs.

    Args:
        items: Item indices of the lists, int64 ``(U, k)``, padded with -1; lists of one item do not count.
        attributes: Attributes of the V items, see :func:`~diffusers_rec.attribute_bags`.

    Raises:
        ValueError: no list with two items, or items that do not exist.
        TypeError: items that are not integers.
    """
    _counts(items, len(attributes))
    at_once = max(1, MARKS_AT_ONCE // (items.shape[1] * (len(attributes.attributes) + 1)))
    means = torch.cat([_list_diversities(some, attributes) for some in torch.split(items, at_once)])
    if not means.numel():
        raise ValueError("There is nothing to measure: no list has two items.")
    return float(means.mean())


def jaccard_distances(items: Tensor, attributes: AttributeBags) -> Tensor:
    """Jaccard distances between the attributes of the items of each list.

    Args:
        items: Item indices of the lists, int64 ``(U, k)``; padding counts as the first item.
        attributes: Attributes of the V items.

    Returns:
        float64 ``(U, k, k)``.
    """
    width = len(attributes.attributes)
    bags = attributes.indices[items.clamp(min=0)]
    marks = torch.zeros(*items.shape, width + 1)  # the last column is for padding
    marks = marks.scatter(2, bags.where(bags >= 0, width), 1.0)[..., :width]
    shared = marks @ marks.transpose(1, 2)
    sizes = marks.sum(2)
    union = sizes[:, :, None] + sizes[:, None, :] - shared
    return (union - shared).double() / union.clamp(min=1)


def _list_diversities(items: Tensor, attributes: AttributeBags) -> Tensor:
    """Mean distance of the pairs of each list that has any."""
    distances = jaccard_distances(items, attributes)
    listed = items >= 0
    pairs = (listed[:, :, None] & listed[:, None, :]).triu(1)
    return _list_means(distances.flatten(1), pairs.flatten(1))


def _list_means(values: Tensor, counted: Tensor) -> Tensor:
    """Mean of the counted values, both ``(U, m)``, of each list that has any."""
    counts = counted.sum(1)
    return (values.where(counted, 0.0).sum(1) / counts)[counts > 0]


def _counts(items: Tensor, num_items: int) -> Tensor:
    """How often each item is listed, int64 ``(V,)``."""
    check_int("num_items", num_items, minimum=1)
    if items.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"items must be int64, got {items.dtype}.")
    if items.ndim != 2 or not items.numel() or int(items.max()) < 0:
        raise ValueError(f"items must be (U, k) with one item at least, got shape {tuple(items.shape)}.")
    if int(items.min()) < -1 or int(items.max()) >= num_items:
        raise ValueError(f"items must lie in -1..{num_items - 1}, got {int(items.min())}..{int(items.max())}.")
    return torch.bincount(items[items >= 0], minlength=num_items)


def _check_attributes(attributes: AttributeBags, num_items: int) -> None:
    if len(attributes) != num_items:
        raise ValueError(
            f"attributes must be those of the model's {num_items} items, got {len(attributes)}. Use "
            "attribute_bags(model.vocabulary, ...)."
        )
