"""The strategy ``gaps``."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Generator, Tensor

from diffusers_rec.core.errors import check_int
from diffusers_rec.core.randomness import uniform
from diffusers_rec.processes.noising.base import NoisingStrategy
from diffusers_rec.processes.noising.queries import Queries


class Gaps(NoisingStrategy, name="gaps"):
    """Gaps among known items: any number of the k positions up to the target are corrupted, the others are clean.

    In training, each row of a batch gives some queries that end at targets drawn from its own. A query has g of 1..k
    gaps with a probability in proportion to 1/g, at random positions; k gaps are k next items. Among queries of k
    positions, each g therefore gives as many gaps as any other, and a model learns what every order of filling in asks
    for, the first item as often as the last (Hoogeboom et al. 2022, *ARDM*). A query sees one item of the history at
    least, so that it is shorter at the beginning of a row.

    When serving, a query asks for the next item alone, ``recommend``, or has the gaps of a call, ``complete`` and
    ``slate``.

    Args:
        k: Largest number of positions of a query.
        per_row: Largest number of queries that a row of a training batch gives.
        independent_steps: See :class:`NoisingStrategy`.
    """

    draws_gaps = True

    def __init__(self, k: int = 5, *, per_row: int = 12, independent_steps: bool = False) -> None:
        super().__init__(independent_steps=independent_steps)
        self.k = check_int("k", k, minimum=1)
        self.per_row = check_int("per_row", per_row, minimum=1)

    def check_fit(self, model: Any) -> None:
        """See :meth:`Component.check_fit <diffusers_rec.Component>`."""
        if self.k >= model.max_length:
            raise ValueError(
                f"The parts do not fit: gaps of k={self.k} positions leave no room for a history in max_length="
                f"{model.max_length}. Lower k, or raise max_length."
            )

    def max_noised(self, max_length: int) -> int:
        return min(self.k, check_int("max_length", max_length, minimum=1))

    def queries(self, targets: Tensor, width: int) -> Queries:
        return Queries.ending_at(targets, self.k, width)

    def serving(self, lengths: Tensor, width: int) -> Queries:
        return Queries.next_item(lengths)

    def training(self, targets: Tensor, width: int, generator: Generator) -> Queries:
        device, shape = targets.device, (len(targets), min(self.per_row, targets.shape[1]))
        number = uniform(shape, generator, device=device)
        found = (targets >= 0).sum(1, keepdim=True)
        # The targets of a row may be anywhere in it: sorted, they are its last ones.
        place = targets.shape[1] - found + (number * found).long()
        chosen = targets.sort(1).values.gather(1, place.clamp(max=targets.shape[1] - 1))
        chosen = chosen.masked_fill(torch.arange(shape[1], device=device) >= found, -1)  # no more than it has targets
        queries = self.queries(chosen, width)
        skipped = ((queries.visible == 0) & (queries.count > 1)).long()
        count = queries.count - skipped
        queries = replace(
            queries,
            visible=queries.visible + skipped,
            positions=queries.positions + skipped[..., None],
            count=count,
            answer=(count - 1).clamp(min=0),
        )
        harmonic = (1 / torch.arange(1, self.k + 1, device=device)).cumsum(0)
        drawn = uniform(shape, generator, device=device) * harmonic[(count - 1).clamp(min=0)]
        gaps = 1 + (drawn[..., None] >= harmonic).sum(-1)
        order = uniform(queries.positions.shape, generator, device=device).masked_fill(~queries.mask, 2.0)
        return replace(queries, known=(order.argsort(-1).argsort(-1) >= gaps[..., None]) & queries.mask)
