r"""Approximate nearest items with faiss, for catalogues too large to score whole.

A head's logits are inner products, :math:`\ell_{s,v} = q_s \cdot k_v + b_v`, so the likeliest items of a noise draw are
the largest inner products of :math:`(q_s, 1)` with :math:`(k_v, b_v)`. The softmax does not see a shift common to all
items, so the mean over items is taken off both. This is more than tidiness: learned keys share a large mean, nearly all
of them have then the same few neighbours, and most of an HNSW graph cannot be reached. (The reduction to Euclidean
distance by one more dimension, Bachrach et al. 2014, lets a few long keys set the scale of the added coordinate, which
drowns the others.)

The neighbours of all S draws together, the candidates C, are then scored by the head itself as in
:mod:`diffusers_rec.recommenders.ranking`, but for the normalisers, which are estimated (Rastogi and Van Durme 2015):
the candidates exactly, the other items from a fixed uniform sample T of the catalogue,

.. math:: Z_s = \sum_{v \in C} e^{\ell_{s,v}}
    + \frac{V - |C|}{|T \setminus C|} \sum_{v \in T \setminus C} e^{\ell_{s,v}}.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diffusers_rec.core.entrances import guarded
from diffusers_rec.core.errors import check_bool, check_choice, check_int, check_path, require_extra
from diffusers_rec.core.files import naming
from diffusers_rec.core.verified import read_verified, write_verified
from diffusers_rec.items.heads import ItemHead
from diffusers_rec.recommenders import ranking
from diffusers_rec.recommenders.ranking import TopK, mean_over_draws

SETTINGS: dict[str, dict[str, int]] = {
    "hnsw": {"num_links": 32, "ef_construction": 100, "ef_search": 128},
    "ivf": {"num_lists": 0, "num_probes": 64},
    "flat": {},
}
"""The kinds of index, their settings and the defaults."""


@guarded
class ItemIndex:
    """Finds the likeliest items of a head without scoring them all. It lives on the CPU, whatever the model does.

    From a model to raw item ids::

        index = ItemIndex(model.head)
        latents = model.next_item_latents(model.encode_histories(histories))
        items = [model.vocabulary.decode(row[row >= 0].tolist()) for row in index.top_k(latents, k=10).items.cpu()]

    It searches by the network alone: what a model's memory recalls is not mixed in.

    Which kind and which settings a catalogue needs, :meth:`recall` tells.

    Args:
        head: scores items. Its keys are read now: an index of a head that is trained further must be built anew, which
            :meth:`top_k` tells.
        kind: ``"hnsw"`` is a graph, the fastest at high recall; ``"ivf"`` is inverted lists, built several times
            faster; ``"flat"`` searches exhaustively, for comparison.
        num_tail: the size of the sample T behind the normalisers; they are exact from V on.
        seed: of that sample and of the lists.
        num_threads: threads to build with; with more than one, an hnsw graph also depends on their timing.
        **settings: for ``hnsw`` num_links, neighbours of an item in the graph, from 2; ef_construction and ef_search,
            how many items are kept in view while building and searching. For ``ivf`` num_lists, about four times the
            root of V by default, and num_probes, how many lists a search reads.

    Raises:
        ImportError: faiss is not installed.
        ValueError: a setting that the kind does not have or cannot take, or keys that are not finite.
    """

    def __init__(
        self,
        head: ItemHead,
        *,
        kind: str = "hnsw",
        num_tail: int = 4096,
        seed: int = 0,
        num_threads: int = 1,
        **settings: int,
    ) -> None:
        faiss = require_extra("faiss", "faiss")
        if unknown := sorted(set(settings) - set(SETTINGS[check_choice("kind", kind, SETTINGS)])):
            raise ValueError(f"kind={kind!r} has no setting {unknown}. It has: {sorted(SETTINGS[kind])}.")
        self._read(head, kind, num_tail, seed)
        vectors = torch.cat([self._keys, self._bias[:, None]], dim=1)
        vectors = (vectors - vectors.mean(0)).float()
        if not bool(vectors.isfinite().all()):
            raise ValueError("The head's keys or bias are not all finite; its training has diverged.")
        with _threads(faiss, check_int("num_threads", num_threads, minimum=1)):
            self._index = _build(faiss, vectors.numpy(), kind, {**SETTINGS[kind], **settings}, seed)

    def _read(self, head: ItemHead, kind: str, num_tail: int, seed: int) -> None:
        """Everything but the search itself."""
        self.head, self.kind = head, check_choice("kind", kind, SETTINGS)
        self.seed = check_int("seed", seed, minimum=0)
        self._keys, self._bias = _on_cpu(head)
        self.num_items = len(self._keys)
        self.num_tail = min(check_int("num_tail", num_tail, minimum=1), self.num_items)
        tail = torch.from_numpy(np.random.default_rng(self.seed).permutation(self.num_items)[: self.num_tail])
        self._tail_keys, self._tail_bias = self._keys[tail], self._bias[tail]
        self._place_in_tail = torch.full((self.num_items,), -1).index_copy_(0, tail, torch.arange(self.num_tail))
        self._marks = _marks(head)

    def save(self, path: str | PathLike[str]) -> None:
        """Write the index to one file; what was there before stays whole until all is written.

        The head is not in it: it is saved with its model.

        Raises:
            OSError: the file cannot be written.
        """
        data = require_extra("faiss", "faiss").serialize_index(self._index)
        tensors = {"index": torch.from_numpy(data), "marks": self._marks}
        metadata = {"kind": self.kind, "num_tail": str(self.num_tail), "seed": str(self.seed)}
        write_verified(check_path("path", path), metadata, tensors)

    @classmethod
    def load(cls, path: str | PathLike[str], head: ItemHead) -> ItemIndex:
        """Read what :meth:`save` wrote. It answers as the saved one did, bit for bit.

        Damage is told by a digest, but whoever made the file made the digest: faiss is not written to withstand
        files of bad intent, so read only those that you trust.

        Args:
            path: of the file.
            head: that the index was built from, or an equal one.

        Raises:
            ImportError: faiss is not installed.
            FileNotFoundError: there is no such file.
            ValueError: it is damaged, no saved index, or of a head with other keys.
        """
        faiss = require_extra("faiss", "faiss")
        index = cls.__new__(cls)
        file = check_path("path", path)
        with naming(file, "is no saved index, or is damaged"):
            metadata, tensors = read_verified(file)
            index._read(head, metadata["kind"], int(metadata["num_tail"]), int(metadata["seed"]))
            index._index = faiss.deserialize_index(tensors["index"].numpy())
            marks, shape = tensors["marks"], (index._index.ntotal, index._index.d - 1)
        shapes = shape, tuple(index._keys.shape)
        if shapes[0] != shapes[1] or not _alike(marks, index._marks):
            raise ValueError(
                f"{path} is the index of another head: it has keys {shapes[0]}, this one {shapes[1]}"
                f"{', but other ones' if shapes[0] == shapes[1] else ''}. Build a new one: ItemIndex(head, ...)."
            )
        return index

    def top_k(
        self, latents: Tensor, k: int, *, excluded: Tensor | None = None, oversample: int = 4, verify: bool = True
    ) -> TopK:
        """The k items of highest mean probability among those found.

        With one draw the order of what is found is exact. With several, each counts by the reciprocal of its estimated
        normaliser, so that items of nearly equal mean may change places: a larger ``num_tail`` mends this. An item that
        no draw has among its neighbours is missed, even if it is fair in all: a larger ``oversample`` mends that.

        A head that has changed is refused. To notice it, one fixed linear combination of every item's key and bias is
        compared with what it was: a change beyond the fifth digit in that of any item is noticed, whichever item it
        is; one that leaves all the combinations as they were is not. This reads the head's table once, a small share of
        the search for some hundred users, but the larger part of that for one.

        Args:
            latents: ``(B, S, D)``, S noise draws a user.
            k: how many, from 1 to V.
            excluded: item indices never to return, ``(B, E)``, padded with -1.
            oversample: each draw looks for ``oversample * k`` neighbours, and for one more per excluded item.
            verify: whether to look if the head has changed; False where users come one by one and it is known not to.

        Returns:
            Items, scores and spread, on the device of the latents; index -1 where fewer than k items were found.

        Raises:
            ValueError: k outside 1..V, or a head that has changed since the index was built.
        """
        if not 1 <= check_int("k", k) <= self.num_items:
            raise ValueError(f"k must lie in 1..{self.num_items}, the number of items, got {k}.")
        check_int("oversample", oversample, minimum=1)
        if latents.ndim != 3:
            raise ValueError(
                f"latents must be (users, noise draws, width), got {tuple(latents.shape)}. One draw alone is "
                "latents[:, None]."
            )
        if not bool(latents.isfinite().all()):
            raise ValueError("latents must be finite.")
        check_bool("verify", verify)
        with torch.no_grad(), torch.autocast(latents.device.type, enabled=False):
            if verify and not _alike(self._marks, _marks(self.head)):
                raise ValueError(
                    "The head has changed since this index was built. Build a new one: ItemIndex(head, ...)."
                )
            queries = self.head.queries(latents.to(self._keys.dtype)).cpu()
        items = torch.full((len(queries), k), -1)
        scores, spread = self._keys.new_zeros(2, len(queries), k)
        excluded = items[:, :0] if excluded is None else excluded.cpu()
        # Users one by one: what is found for one cannot then depend on how many items another has excluded.
        for row, draws in enumerate(queries):
            barred = excluded[row][excluded[row] >= 0]
            found, log_probabilities = self._candidates(draws, min(oversample * k + len(barred), self.num_items))
            allowed = ~torch.isin(found, barred)
            if not bool(allowed.any()):
                continue
            found, log_probabilities = found[allowed], log_probabilities[:, allowed]
            best, order = mean_over_draws(log_probabilities[None])[0].topk(min(k, len(found)))
            items[row, : len(order)], scores[row, : len(order)] = found[order], best.exp()
            spread[row, : len(order)] = log_probabilities[:, order].exp().std(0, correction=0)
        return TopK(*(part.to(latents.device) for part in (items, scores, spread)))

    def recall(self, latents: Tensor, k: int, *, excluded: Tensor | None = None, oversample: int = 4) -> float:
        """The share of the exact k best items that :meth:`top_k` finds, averaged over users; the same arguments."""
        excluded = None if excluded is None else excluded.to(latents.device)
        with torch.no_grad():
            exact = ranking.top_k(self.head, latents, k, excluded=excluded).items
        found = self.top_k(latents, k, excluded=excluded, oversample=oversample).items
        real = exact >= 0
        hits = ((exact[:, :, None] == found[:, None]).any(2) & real).sum(1)
        return float((hits / real.sum(1))[real.any(1)].mean())

    def _candidates(self, queries: Tensor, num_neighbours: int) -> tuple[Tensor, Tensor]:
        """Queries of one user ``(S, D)`` to the items near any of them, ``(C,)``, and log-probabilities ``(S, C)``."""
        extended = torch.cat([queries, queries.new_ones(len(queries), 1)], dim=1).float()
        found = torch.from_numpy(np.unique(self._index.search(extended.numpy(), num_neighbours)[1]))
        found = found[found >= 0]  # faiss fills up with -1 where it finds too few
        logits = queries @ self._keys[found].T + self._bias[found]
        rest = queries @ self._tail_keys.T + self._tail_bias
        again = self._place_in_tail[found]
        again = again[again >= 0]
        rest[:, again] = -math.inf
        sampled = max(1, len(self._tail_keys) - len(again))
        weight = torch.tensor((self.num_items - len(found)) / sampled, dtype=rest.dtype).log()
        return found, logits - torch.logaddexp(logits.logsumexp(1), rest.logsumexp(1) + weight)[:, None]


def _build(faiss: Any, vectors: np.ndarray[Any, Any], kind: str, settings: dict[str, int], seed: int) -> Any:
    """The faiss index of ``(V, D + 1)`` vectors."""
    num_items, dim = vectors.shape
    if kind == "hnsw":
        index = faiss.IndexHNSWFlat(
            dim, check_int("num_links", settings["num_links"], minimum=2), faiss.METRIC_INNER_PRODUCT
        )
        index.hnsw.efConstruction = check_int("ef_construction", settings["ef_construction"], minimum=1)
        index.hnsw.efSearch = check_int("ef_search", settings["ef_search"], minimum=1)
    elif kind == "ivf":
        # k-means asks for 39 vectors a list at the least.
        default = max(1, min(int(4 * math.sqrt(num_items)), num_items // 39))
        num_lists = check_int("num_lists", settings["num_lists"], minimum=0) or default
        if num_lists > num_items:
            raise ValueError(f"num_lists must be at most {num_items}, the number of items, got {num_lists}.")
        index = faiss.IndexIVFFlat(faiss.IndexFlatIP(dim), dim, num_lists, faiss.METRIC_INNER_PRODUCT)
        index.nprobe = check_int("num_probes", settings["num_probes"], minimum=1)
        index.cp.seed, index.cp.min_points_per_centroid = seed, 1
        index.train(vectors)
    else:
        index = faiss.IndexFlatIP(dim)
    index.add(vectors)
    return index


def _on_cpu(head: ItemHead) -> tuple[Tensor, Tensor]:
    """Keys and bias of all items; a head without a bias has zeros."""
    with torch.no_grad():
        keys, bias = head.scoring_keys()
    return keys.detach().cpu(), keys.new_zeros(len(keys), device="cpu") if bias is None else bias.detach().cpu()


def _marks(head: ItemHead) -> Tensor:
    """What tells one head from another: a fixed combination of each item's key and bias, ``(V,)``."""
    with torch.no_grad():
        keys, bias = head.scoring_keys()
        *along, last = torch.arange(1, keys.shape[1] + 2, dtype=torch.float64).sin().tolist()
        marks = torch.mv(keys, keys.new_tensor(along))
        return (marks if bias is None else marks.add_(bias, alpha=last)).cpu()


def _alike(one: Tensor, other: Tensor) -> bool:
    """Whether marks are those of equal heads; another device may round otherwise."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    size = other.abs()
    tolerance = size.add_(size.mean()).mul_(1e-5)
    return bool(((one - other).abs_() <= tolerance).all())


@contextmanager
def _threads(faiss: Any, number: int) -> Iterator[None]:
    """Faiss with so many threads, then as before."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(number)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
