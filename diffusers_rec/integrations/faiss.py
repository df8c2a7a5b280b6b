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

from functools import partial
from os import PathLike
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from diffusers_rec.core.entrances import guarded
from diffusers_rec.core.errors import check_bool, check_int, check_path, require_extra, warn_caller
from diffusers_rec.core.files import naming
from diffusers_rec.core.verified import read_verified, write_verified
from diffusers_rec.items.choice import Choice
from diffusers_rec.items.heads import ItemHead
from diffusers_rec.recommenders.head_scores import head_scores, logits_of
from diffusers_rec.recommenders.index import Index, probe, same_probe
from diffusers_rec.recommenders.memory import MemoryPrediction
from diffusers_rec.recommenders.ranking import TopK, top_k
from diffusers_rec.recommenders.shortlist import Shortlist, best_items, with_memory

_OVERSAMPLE = 4
"""Neighbours of each draw for each item that is wanted."""

_GATHERED = 2**26
"""Most numbers in the keys of all users' candidates; with more, the catalogue is scored instead."""


@guarded
class ItemIndex(Index):
    """Finds the likeliest items of a head without scoring all items.

    ``model.recommend(histories, index=ItemIndex(model.head))`` adds what the model's memory predicts. :meth:`top_k`
    ranks latents by the head alone, and :meth:`recall` compares that with the exact ranking.

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
        self._index, self.head, self._probe = index, head, probe(head)
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
            same = loaded._index.ntotal == loaded.num_items and same_probe(tensors["probe"], loaded._probe)
        if not same:
            raise ValueError(f"{path} is the index of a head with other keys. Build a new one: ItemIndex(head, ...).")
        return loaded

    @torch.no_grad()
    def top_k(
        self,
        latents: Tensor,
        k: int,
        *,
        excluded: Tensor | None = None,
        oversample: int = _OVERSAMPLE,
        verify: bool = True,
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
        if check_bool("verify", verify):
            self.check(self.head)
        choice = Choice(None if excluded is None else excluded.to(latents.device), None)
        return best_items(self.head, latents, k, choice, search=partial(self._shortlist, oversample=oversample))

    @torch.no_grad()
    def recall(
        self, latents: Tensor, k: int, *, excluded: Tensor | None = None, oversample: int = _OVERSAMPLE
    ) -> float:
        """Share of the exact k best items of all users that :meth:`top_k` finds with these arguments."""
        excluded = None if excluded is None else excluded.to(latents.device)
        exact = top_k(head_scores(self.head, latents), k, excluded=excluded).items
        found = self.top_k(latents, k, excluded=excluded, oversample=oversample).items
        return float((exact[:, :, None] == found[:, None]).any(2)[exact >= 0].float().mean())

    def shortlist(
        self,
        head: ItemHead,
        latents: Tensor,
        k: int,
        choice: Choice,
        memory: MemoryPrediction | None,
        *,
        temperature: float = 1,
    ) -> Shortlist | None:
        """See :meth:`Index.shortlist <diffusers_rec.recommenders.index.Index.shortlist>`.

        Warns:
            UserWarning: fewer than k allowed items were found for a user.
        """
        candidates = 0 if choice.candidates is None else choice.candidates.shape[-1]
        if len(latents) * candidates * self._index.d > _GATHERED:
            return None
        listed = self._shortlist(head, latents, k, choice, memory)
        found = int((listed.items >= 0).sum(1).min())
        if choice.candidates is None and found < min(k, self.num_items - _longest(choice.excluded)):
            warn_caller(
                f"The index found {found} of {k} items for a user, so that the list is shorter. Search more of it, "
                "such as ItemIndex(head, efSearch=1024) or nprobe=64, or leave index out."
            )
        return listed

    def _shortlist(
        self,
        head: ItemHead,
        latents: Tensor,
        k: int,
        choice: Choice,
        memory: MemoryPrediction | None,
        *,
        oversample: int = _OVERSAMPLE,
    ) -> Shortlist:
        with torch.autocast(latents.device.type, enabled=False):
            tail = head.scoring_keys(self._tail.to(latents.device))
            queries = head.queries(latents.to(tail[0].dtype))
        rows, parts = [], []
        for row, draws in enumerate(queries):  # one by one, so that users do not affect each other
            user = slice(row, row + 1)
            allowed = choice.take(user)
            barred = 0 if allowed.excluded is None else int((allowed.excluded >= 0).sum())
            found = self._neighbours(draws, oversample * k + barred)
            listed = found if allowed.candidates is None else allowed.candidates
            rows.append(with_memory(listed, allowed, None if memory is None else memory.take(user)))
            parts.append(self._parts(head, draws, found, tail))
        items = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=-1)

        def normaliser(temperature: float) -> Tensor:
            """From C and T, see the module."""
            return torch.stack(
                [_log_sum(logits / temperature, rest / temperature, weight) for logits, rest, weight in parts]
            )

        exact = partial(logits_of, head, latents)
        return Shortlist(items, exact(items.clamp(min=0)), exact, normaliser)

    def _neighbours(self, queries: Tensor, number: int) -> Tensor:
        """Items near any query ``(S, D)`` of one user, ``(C,)``."""
        extended = nn.functional.pad(queries, (0, 1), value=1).float().cpu().numpy()
        neighbours = self._index.search(extended, min(number, self.num_items))[1]
        return torch.from_numpy(np.unique(neighbours[neighbours >= 0])).to(queries.device)  # faiss pads with -1

    def _parts(
        self, head: ItemHead, queries: Tensor, found: Tensor, tail: tuple[Tensor, Tensor | None]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of C and of the other items of T, ``(S, C)`` and ``(S, T)``, and the logarithm of their weight."""
        unseen = ~torch.isin(self._tail.to(found), found)
        weight = (self.num_items - len(found)) / max(1, int(unseen.sum()))
        logits = nn.functional.linear(queries, *head.scoring_keys(found))
        rest = nn.functional.linear(queries, *tail).masked_fill(~unseen, -torch.inf)
        return logits, rest, logits.new_tensor(weight).log()


def _log_sum(logits: Tensor, rest: Tensor, weight: Tensor) -> Tensor:
    """Logarithm of the sum of exp over C and over T with its weight, ``(S, 1)``."""
    return torch.logaddexp(logits.logsumexp(1), rest.logsumexp(1) + weight)[:, None]


def _longest(excluded: Tensor | None) -> int:
    """Most items that are left out for a user, counted with repeats."""
    return 0 if excluded is None else int((excluded >= 0).sum(1).max())
