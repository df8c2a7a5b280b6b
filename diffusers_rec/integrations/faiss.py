r"""Approximate search for the best items with faiss, for catalogues that are too large to score completely.

The logits of a head are inner products, :math:`\ell_{s,v} = q_s \cdot k_v + b_v`, so the likeliest items of a noise
draw have the largest inner products of :math:`(q_s, 1)` with :math:`(k_v, b_v)`. The mean over items is subtracted from
keys and biases. This does not change the softmax, but with the large common mean of learned keys, most of a graph would
be unreachable.

The head then scores the candidates C, the neighbours of all S draws. Only the normalisers are estimated (Rastogi and
Van Durme 2015), from C and a fixed uniform sample T of the V items:

.. math:: Z_s = \sum_{v \in C} e^{\ell_{s,v}} + \frac{V-|C|}{|T\setminus C|} \sum_{v \in T\setminus C} e^{\ell_{s,v}}.
"""

from __future__ import annotations

from os import PathLike
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from diffusers_rec.core.entrances import guarded
from diffusers_rec.core.errors import check_bool, check_int, check_path, require_extra
from diffusers_rec.core.files import naming
from diffusers_rec.core.verified import read_verified, write_verified
from diffusers_rec.items.heads import ItemHead
from diffusers_rec.recommenders.head_scores import head_scores, mean_over_draws
from diffusers_rec.recommenders.ranking import TopK, top_k


@guarded
class ItemIndex:
    """Finds the likeliest items of a head without scoring all items. It ignores the memory of a model.

    :meth:`recall` compares it with the exact ranking. From a model to raw item ids::

        index = ItemIndex(model.head)
        latents = model.next_item_latents(model.encode_histories(histories))
        items = [model.vocabulary.decode(row[row >= 0].tolist()) for row in index.top_k(latents, k=10).items.cpu()]

    A graph that several threads build depends on their timing; ``faiss.omp_set_num_threads(1)`` makes it reproducible.

    Args:
        head: Item head. Build the index again after further training.
        factory: Description of the index for ``faiss.index_factory``. ``"HNSW32"`` is a graph, the fastest at high
            recall; ``"IVF4096,Flat"`` has 4096 lists and is faster to build; ``"Flat"`` searches exhaustively.
        num_tail: Size of the sample T; normalisers are exact from V. With a small sample, items of similar probability
            may be swapped.
        **parameters: Parameters of the index, named as in faiss: ``efConstruction`` (default 100) and ``efSearch``
            (default 128) of a graph, ``nprobe`` (default 1) of lists.
    """

    @torch.no_grad()
    def __init__(self, head: ItemHead, *, factory: str = "HNSW32", num_tail: int = 4096, **parameters: int) -> None:
        faiss = require_extra("faiss", "faiss")
        keys, bias = head.scoring_keys()
        vectors = nn.functional.pad(keys, (0, 1)) if bias is None else torch.cat([keys, bias[:, None]], dim=1)
        vectors = (vectors - vectors.mean(0)).float().cpu()
        if not bool(vectors.isfinite().all()):
            raise ValueError("The head's keys or bias are not all finite; its training has diverged.")
        index = faiss.index_factory(vectors.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
        defaults = {"efConstruction": 100, "efSearch": 128} if factory.startswith("HNSW") else {}
        for name, value in {**defaults, **parameters}.items():
            faiss.ParameterSpace().set_index_parameter(index, name, check_int(name, value, minimum=1, maximum=10**6))
        index.train(vectors.numpy())
        index.add(vectors.numpy())
        self._adopt(index, head, num_tail)

    def _adopt(self, index: Any, head: ItemHead, num_tail: int) -> None:
        self._index, self.head, self._probe = index, head, _probe(head)
        self.num_items = len(self._probe)
        self.num_tail = min(check_int("num_tail", num_tail, minimum=1), self.num_items)
        self._tail = torch.randperm(self.num_items, generator=torch.Generator().manual_seed(0))[: self.num_tail]

    def save(self, path: str | PathLike[str]) -> None:
        """Write the index to one file, which is replaced atomically. The head is saved with its model."""
        index = torch.from_numpy(require_extra("faiss", "faiss").serialize_index(self._index))
        metadata = {"num_tail": str(self.num_tail)}
        write_verified(check_path("path", path), metadata, {"index": index, "probe": self._probe})

    @classmethod
    def load(cls, path: str | PathLike[str], head: ItemHead) -> ItemIndex:
        """Read a file that :meth:`save` wrote, for an equal head; results are equal bit for bit.

        A digest detects damage, but not attacks. faiss is not safe against malicious files, so load only trusted files.
        """
        loaded, file, faiss = cls.__new__(cls), check_path("path", path), require_extra("faiss", "faiss")
        with naming(file, "is no saved index, or is damaged"):
            metadata, tensors = read_verified(file)
            loaded._adopt(faiss.deserialize_index(tensors["index"].numpy()), head, int(metadata["num_tail"]))
            same = loaded._index.ntotal == loaded.num_items and _equal(tensors["probe"], loaded._probe)
        if not same:
            raise ValueError(f"{path} is the index of a head with other keys. Build a new one: ItemIndex(head, ...).")
        return loaded

    @torch.no_grad()
    def top_k(
        self, latents: Tensor, k: int, *, excluded: Tensor | None = None, oversample: int = 4, verify: bool = True
    ) -> TopK:
        """Find the k candidates of highest mean probability; index -1 where fewer than k are found.

        Args:
            latents: S noise draws for each user, ``(B, S, D)``.
            k: Number of items, from 1 to V.
            excluded: Item indices to exclude, ``(B, E)``, padded with -1.
            oversample: Number of neighbours per item; each draw finds ``oversample * k``, plus one per excluded item.
            verify: Whether to check that the head is unchanged, which reads all its keys once.
        """
        check_int("k", k, minimum=1, maximum=self.num_items)
        check_int("oversample", oversample, minimum=1)
        if latents.ndim != 3 or not bool(latents.isfinite().all()):
            raise ValueError(f"latents must be finite and of shape (users, draws, width), got {tuple(latents.shape)}.")
        if check_bool("verify", verify) and not _equal(self._probe, _probe(self.head)):
            raise ValueError("The head has changed since this index was built. Build a new one: ItemIndex(head, ...).")
        with torch.autocast(latents.device.type, enabled=False):
            tail = self.head.scoring_keys(self._tail.to(latents.device))
            queries = self.head.queries(latents.to(tail[0].dtype))
            items = torch.full((len(queries), k), -1, device=latents.device)
            scores, std = queries.new_zeros(2, len(queries), k)
            for row, draws in enumerate(queries):  # one by one, so that users do not affect each other
                barred = items[row, :0] if excluded is None else excluded[row][excluded[row] >= 0].to(items.device)
                found, log_probabilities = self._candidates(draws, oversample * k + len(barred), tail)
                if not bool((allowed := ~torch.isin(found, barred)).any()):
                    continue
                found, log_probabilities = found[allowed], log_probabilities[:, allowed]
                best, order = mean_over_draws(log_probabilities[None])[0].topk(min(k, len(found)))
                items[row, : len(order)], scores[row, : len(order)] = found[order], best.exp()
                std[row, : len(order)] = log_probabilities[:, order].exp().std(0, correction=0)
        return TopK(items, scores, std)

    @torch.no_grad()
    def recall(self, latents: Tensor, k: int, *, excluded: Tensor | None = None, oversample: int = 4) -> float:
        """Share of the exact k best items of all users that :meth:`top_k` finds with these arguments."""
        excluded = None if excluded is None else excluded.to(latents.device)
        exact = top_k(head_scores(self.head, latents), k, excluded=excluded).items
        found = self.top_k(latents, k, excluded=excluded, oversample=oversample).items
        return float((exact[:, :, None] == found[:, None]).any(2)[exact >= 0].float().mean())

    def _candidates(self, queries: Tensor, number: int, tail: tuple[Tensor, Tensor | None]) -> tuple[Tensor, Tensor]:
        """Items near any query ``(S, D)`` of one user: indices ``(C,)`` and log-probabilities ``(S, C)``."""
        extended = nn.functional.pad(queries, (0, 1), value=1).float().cpu().numpy()
        neighbours = self._index.search(extended, min(number, self.num_items))[1]
        found = torch.from_numpy(np.unique(neighbours[neighbours >= 0]))  # faiss pads with -1
        unseen = ~torch.isin(self._tail, found)
        weight = (self.num_items - len(found)) / max(1, int(unseen.sum()))
        logits = nn.functional.linear(queries, *self.head.scoring_keys(found.to(queries.device)))
        rest = nn.functional.linear(queries, *tail).masked_fill(~unseen.to(queries.device), -torch.inf).logsumexp(1)
        normalisers = torch.logaddexp(logits.logsumexp(1), rest + logits.new_tensor(weight).log())
        return found.to(queries.device), logits - normalisers[:, None]


def _probe(head: ItemHead) -> Tensor:
    """Logits of a fixed query, ``(V,)``, which reveal a change of the key or bias of any item."""
    keys, bias = head.scoring_keys()
    query = torch.arange(1, keys.shape[1] + 1, device=keys.device, dtype=keys.dtype).sin()
    return nn.functional.linear(query, keys, bias).detach().cpu()


def _equal(one: Tensor, other: Tensor) -> bool:
    """Whether two probes are equal up to rounding on another device; NaN is never equal."""
    same = one.shape == other.shape and one.dtype == other.dtype
    return same and torch.allclose(one, other, rtol=1e-5, atol=1e-5 * float(one.abs().mean()))
