"""Indexes: ways to find the likeliest items without the exact score of every item, for ``recommend(index=)``.

An index is never used unless a call asks for it. What it finds is scored exactly, and what the memory of a model
predicts is added to it; only the normalisers of the probabilities are estimates.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import partial
from typing import Any, ClassVar
from weakref import ref

import torch
from torch import Tensor
from torch.nn import functional as F

from diffusers_rec.core.entrances import guarded
from diffusers_rec.core.errors import check_int
from diffusers_rec.items.choice import Choice
from diffusers_rec.items.heads import ItemHead
from diffusers_rec.recommenders.head_scores import Chunks, item_chunks, logits_of
from diffusers_rec.recommenders.memory import MemoryPrediction
from diffusers_rec.recommenders.shortlist import Shortlist, scan


@guarded
class Index(ABC):
    """Finds items of a head that are likely the best ones.

    Attributes:
        head: Head whose keys are indexed.
    """

    made_by: ClassVar[str] = "BFloat16Index(model.head) or ItemIndex(model.head)"
    head: ItemHead
    _probe: Tensor
    _checked: ref[ItemHead] | None = None

    @abstractmethod
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
        """Items among which most of the k best are, with their exact logits.

        Args:
            head: The head, with its keys laid out.
            latents: S noise draws for each user, ``(b, S, D)``.
            k: Number of items.
            choice: Items that are allowed.
            memory: Prediction of a memory, whose items are added; None without one.
            temperature: One at which the normaliser will be asked for.

        Returns:
            None where an exact scan is to be made instead.
        """

    def check(self, head: ItemHead) -> None:
        """Check that the index is one of this head as it is now, which reads all its keys once.

        Raises:
            ValueError: the keys differ.
        """
        if not same_probe(self._probe, probe(head)):
            name = type(self).__name__
            raise ValueError(f"The head has changed since this index was built. Build a new one: {name}(head, ...).")

    def check_once(self, head: ItemHead) -> None:
        """:meth:`check`, unless the last call had the same object: a model lays its keys out anew after training."""
        if self._checked is None or self._checked() is not head:
            self.check(head)
            self._checked = ref(head)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_checked": None}  # a weak reference cannot be saved


@guarded
class BFloat16Index(Index):
    """The keys in bfloat16, half the bytes of float32; the best of such a scan are scored again exactly.

    It pays where reading the keys takes most of the time: large catalogues, one draw, few users at once.
    ``benchmarks/serving.py`` measures its recall.

    Args:
        head: Item head. Build the index again after further training.
        extra: Number of items that are scored exactly in addition to the k best.
    """

    @torch.no_grad()
    def __init__(self, head: ItemHead, *, extra: int = 256) -> None:
        self.extra = check_int("extra", extra, minimum=0)
        self.head, self._probe = head, probe(head)
        keys, self._bias = head.scoring_keys()
        self._keys = keys.bfloat16()

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
        """See :meth:`Index.shortlist`."""
        number = min(k + self.extra, len(self._keys))
        rounded = partial(scan, chunks_of=self._chunks, some_of=self._some)
        found = rounded(head, latents, number, choice, memory, temperature=temperature)
        if found is None:
            return None
        exact = partial(logits_of, head, latents)
        logits, real = exact(found.items.clamp(min=0)), (found.items >= 0)[:, None]

        def normaliser(temperature: float) -> Tensor:
            """That of the rounded keys, put right by what is known exactly."""
            rough = found.normaliser(temperature)
            shares = ((scores / temperature - rough).exp() for scores in (logits, found.logits))
            return rough + ((next(shares) - next(shares)) * real).sum(-1, keepdim=True).log1p()

        return Shortlist(found.items, logits, exact, normaliser)

    def _chunks(self, head: ItemHead, latents: Tensor, chunk_scores: int) -> Chunks:
        """As :func:`~diffusers_rec.recommenders.head_scores.head_logits`, in bfloat16."""
        users, draws, _ = latents.shape
        queries = head.queries(latents.to(self._probe.dtype)).bfloat16()

        def logits(items: slice) -> Tensor:
            scores = F.linear(queries, self._keys[items]).to(self._probe.dtype)
            return scores if self._bias is None else scores.add_(self._bias[items])

        return item_chunks(len(self._keys), users * draws, chunk_scores), logits

    def _some(self, head: ItemHead, latents: Tensor, items: Tensor) -> Tensor:
        """As :func:`~diffusers_rec.recommenders.head_scores.logits_of`, in bfloat16."""
        queries = head.queries(latents.to(self._probe.dtype)).bfloat16()
        scores = (queries @ self._keys[items].mT).to(self._probe.dtype)
        return scores if self._bias is None else scores + self._bias[items][:, None]


@torch.no_grad()
def probe(head: ItemHead) -> Tensor:
    """Logits of a fixed query, ``(V,)``, which reveal a change of the key or bias of any item."""
    keys, bias = head.scoring_keys()
    query = torch.arange(1, keys.shape[1] + 1, device=keys.device, dtype=keys.dtype).sin()
    return F.linear(query, keys, bias).detach().cpu()


def same_probe(one: Tensor, other: Tensor) -> bool:
    """Whether two probes are equal up to rounding on another device; NaN is never equal."""
    same = one.shape == other.shape and one.dtype == other.dtype
    return same and torch.allclose(one, other, rtol=1e-5, atol=1e-5 * float(one.abs().mean()))
