"""Noising of whole windows, for a network that sees both sides of a gap."""

from __future__ import annotations

from dataclasses import replace

from torch import Generator, Tensor

from diffusers_rec.core.errors import check_choice
from diffusers_rec.processes.noising import Gaps, Queries


class WholeWindows(Gaps, name="whole-windows"):
    """One query per row of a training batch: all positions up to its last target, except the first one.

    The first item of a row stays clean, because nothing would precede it. When serving, queries are those of
    :class:`Gaps`. Combine it with the examples ``"all-positions"``, whose rows share no target.

    Args:
        k: Largest number of positions of a query. With ``max_length - 1``, it covers the window.
        gaps: Corrupted positions. ``"drawn"``: g of them, with a probability in proportion to 1/g, as in :class:`Gaps`;
            ``"all"``: every position, so that the process alone determines which items are lost.
        independent_steps: See :class:`NoisingStrategy`.
    """

    def __init__(self, k: int = 5, *, gaps: str = "drawn", independent_steps: bool = False) -> None:
        super().__init__(k, per_row=1, independent_steps=independent_steps)
        self.gaps = check_choice("gaps", gaps, ("drawn", "all"))
        self.draws_gaps = self.gaps == "drawn"

    def training(self, targets: Tensor, width: int, generator: Generator) -> Queries:
        queries = super().training(targets.amax(1, keepdim=True), width, generator)
        return replace(queries, known=None) if self.gaps == "all" else queries
