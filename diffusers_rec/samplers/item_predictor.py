"""The denoiser of a chain, where it predicts items: a function of latents and steps that also gives distributions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from diffusers_rec.core.randomness import Generators, uniform
from diffusers_rec.denoisers import Denoiser
from diffusers_rec.items.choice import barred, inverse_cdf
from diffusers_rec.items.embeddings import ItemEmbedding
from diffusers_rec.items.evidence import EvidenceHead, with_evidence
from diffusers_rec.items.heads import ItemHead
from diffusers_rec.processes.mask import is_blank
from diffusers_rec.processes.process import Process
from diffusers_rec.samplers.base import Denoise

CHUNK_SCORES = 2**20
"""How many scores (positions x items) are held at once, 4 MiB in float32: what a cache holds."""


class ItemPredictor:
    r"""What a sampler calls as ``denoise``, for a denoiser that predicts items.

    A call gives :math:`\hat x_0`: for Gaussian noise the mean of the items' latents under the predicted distribution,
    for a process that draws items the latent of a drawn item. :meth:`distributions` gives the distribution itself.

    Args:
        denoiser: Denoiser that predicts items.
        condition: Its condition, for one query a history that all S draws share.
        process: Process of the chain.
        embedding: Item embedding.
        head: Item head.
        generator: Generator of drawn items, or one for each of the S draws; None if the process draws none.
        known: Item indices at the K positions, -1 at the gaps, ``(B, 1, K)``; all are gaps if None.
        allowed: Items that may be predicted, ``(B, V)``; all if None.
        noised: Function of latents and steps that puts items of the history where the corrupted positions hold some.

    Raises:
        ValueError: The denoiser does not predict items.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        condition: Any,
        *,
        process: Process,
        embedding: ItemEmbedding,
        head: ItemHead,
        generator: Generators | None = None,
        known: Tensor | None = None,
        allowed: Tensor | None = None,
        noised: Denoise | None = None,
    ) -> None:
        if denoiser.prediction != "items":
            raise ValueError(
                f"The denoiser {denoiser.registered_name!r} predicts {denoiser.prediction}, expected a prediction of "
                "items. Use the preset 'joint', or a denoiser with prediction='items'."
            )
        self.denoiser, self.condition, self.process = denoiser, condition, process
        self.generator, self.known, self.allowed, self.noised = generator, known, allowed, noised
        self.table = embedding.table()
        self._plain, self._joined = head, EvidenceHead(head, embedding)
        self._keys: dict[ItemHead, tuple[Tensor, Tensor | None]] = {}

    def latents(self, items: Tensor) -> Tensor:
        """Clean latents of items ``(...)``; zero, the latent of a blank, where the index is -1."""
        return torch.where((items >= 0)[..., None], self.table[items.clamp(min=0)], 0.0)

    def output(self, xn: Tensor, timesteps: Tensor) -> Tensor:
        """What the denoiser itself gives and the head turns into logits, ``(B, S, K, D)``."""
        xn, steps = self._seen(xn, timesteps)
        output: Tensor = self.denoiser(xn, steps, self.condition)
        return output

    def distributions(
        self, xn: Tensor, timesteps: Tensor, *, items: Tensor | None = None, places: Tensor | None = None
    ) -> Iterator[tuple[slice, Tensor]]:
        """Log-probabilities of all items at each position, in chunks of draws.

        Args:
            xn: Latents at step n, ``(B, S, K, D)``.
            timesteps: Steps n, ``(B, S)`` or ``(B, S, K)``.
            items: Items that are decided, -1 elsewhere, ``(B, S, K)``, for guides; those that are known if None.
            places: Positions to look at, ``(B, S, P)``; all K if None.

        Yields:
            Rows r of the B S draws, and log-probabilities ``(r, P, V)``, minus infinity where an item is not allowed.
        """
        xn, steps = self._seen(xn, timesteps)
        output = self.denoiser(xn, steps, self.condition)
        joined = with_evidence(self.process, output, xn, steps)
        head, latents = (self._plain, output) if joined is None else (self._joined, joined)
        keys, bias = self._keys_of(head)
        steers = self.denoiser.steers
        decided = (self._filled(xn) if items is None else items).flatten(0, 1) if steers else None
        if places is not None and not steers:
            latents = latents.gather(2, places[..., None].expand(*places.shape, latents.shape[-1]))
        with torch.autocast(latents.device.type, enabled=False):
            queries = head.queries(latents.to(keys.dtype)).flatten(0, 1)
            size = max(1, CHUNK_SCORES // (queries.shape[1] * len(keys)))
            for start in range(0, len(queries), size):
                rows = slice(start, min(start + size, len(queries)))
                scores = F.linear(queries[rows], keys, bias)
                self._bar(scores, rows, xn.shape[1])
                scores = scores.log_softmax(-1)
                if decided is not None:
                    scores = self.denoiser.steer(scores, steps.flatten(0, 1)[rows], decided[rows])
                    if places is not None:
                        at = places.flatten(0, 1)[rows, :, None]
                        scores = scores.gather(1, at.expand(-1, -1, scores.shape[-1]))
                yield rows, scores

    def __call__(self, xn: Tensor, timesteps: Tensor) -> Tensor:
        parts = (part for _, part in self.distributions(xn, timesteps))
        if self.process.draws_items:
            number = uniform(xn.shape[:-1], self.generator, device=xn.device).flatten(0, 1)
            chosen = (inverse_cdf(part, each[..., None])[..., 0] for part, each in _side_by_side(parts, number))
            found = self.table[torch.cat(list(chosen))]
        else:
            found = torch.cat([part.exp_() @ self.table.to(part.dtype) for part in parts])
        return self._with_known(found.view(xn.shape).to(xn.dtype))

    def _filled(self, xn: Tensor) -> Tensor:
        """Items that are decided, -1 elsewhere: those that are known, or that a chain of blanks has filled in."""
        decided = self.decided(xn)
        if not self.process.draws_items:
            return decided
        parts = torch.split(xn.flatten(0, 2), max(1, CHUNK_SCORES // len(self.table)))
        nearest = torch.cat([self._nearness(part).argmax(-1) for part in parts]).view(decided.shape)
        return torch.where((decided < 0) & ~is_blank(xn), nearest, decided)

    def _nearness(self, latents: Tensor) -> Tensor:
        """How near each item is to latents ``(R, D)``, ``(R, V)``: half the squared distance less, up to a constant."""
        table = self.table.to(latents.dtype)
        return latents @ table.T - 0.5 * table.square().sum(-1)

    def _bar(self, scores: Tensor, rows: slice, draws: int) -> None:
        """Set the scores of what is not allowed to minus infinity, in place.

        Args:
            scores: Scores of the items for some rows of the B S draws, ``(r, ..., V)``.
            rows: These rows.
            draws: Number S of draws of a history.
        """
        if self.allowed is not None:
            user = torch.arange(rows.start, rows.stop, device=scores.device) // draws
            refused = ~self.allowed[user]
            scores.masked_fill_(refused.view(len(scores), *(1,) * (scores.ndim - 2), -1), -torch.inf)

    def nearest(self, latents: Tensor, *, distinct: bool = True) -> Tensor:
        """The allowed items whose latents are nearest.

        Args:
            latents: Latents at the end of a chain, ``(B, S, K, D)``.
            distinct: Whether no item may stand twice in a draw; the first positions then choose first.

        Returns:
            Item indices, ``(B, S, K)``; those that are known stay.
        """
        draws, width = latents.shape[1:3]
        items = self.decided(latents).clone().flatten(0, 1)
        flat, size = latents.flatten(0, 1), max(1, CHUNK_SCORES // len(self.table))
        for start in range(0, len(flat), size):
            rows = slice(start, min(start + size, len(flat)))
            own = items[rows]
            for place in range(width):
                near = self._nearness(flat[rows, place])
                self._bar(near, rows, draws)
                found = (barred(near, own) if distinct else near).argmax(-1)
                own[:, place] = torch.where(own[:, place] >= 0, own[:, place], found)
        return items.view(latents.shape[:3])

    def _seen(self, xn: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """Latents and steps ``(B, S, K)`` as the denoiser gets them: known positions are clean."""
        if self.noised is not None:
            xn = self.noised(xn, timesteps)
        steps = (timesteps[..., None] if timesteps.ndim == 2 else timesteps).expand(xn.shape[:3])
        xn = self._with_known(xn)
        steps = self.process.seen_steps(xn, steps)
        return xn, steps if self.known is None else steps.masked_fill(self.known >= 0, 0)

    def _with_known(self, latents: Tensor) -> Tensor:
        if self.known is None:
            return latents
        return torch.where((self.known >= 0)[..., None], self.latents(self.known).to(latents.dtype), latents)

    def decided(self, latents: Tensor) -> Tensor:
        """Items that are known from the start, -1 at the gaps, ``(B, S, K)``, for latents ``(B, S, K, D)``."""
        known = torch.full_like(latents[..., 0], -1, dtype=torch.int64) if self.known is None else self.known
        return known.expand(latents.shape[:3])

    def shown(self, xn: Tensor) -> Tensor:
        """What a callback is shown as the prediction, where items are filled in: the latents that now stand there."""
        return xn

    def _keys_of(self, head: ItemHead) -> tuple[Tensor, Tensor | None]:
        if head not in self._keys:
            self._keys[head] = head.scoring_keys()
        return self._keys[head]


def _side_by_side(parts: Iterator[Tensor], numbers: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    start = 0
    for part in parts:
        yield part, numbers[start : start + len(part)]
        start += len(part)
