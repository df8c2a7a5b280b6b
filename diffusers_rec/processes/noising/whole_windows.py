"""Noising of whole windows, for a network that sees both sides of a gap."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Generator, Tensor

from diffusers_rec.core.errors import check_choice, check_float
from diffusers_rec.core.randomness import uniform
from diffusers_rec.processes.noising.gaps import Gaps
from diffusers_rec.processes.noising.queries import Queries


class WholeWindows(Gaps, name="whole-windows"):
    """One query per row of a training batch: all positions up to its last target, except the first one.

    The first item of a row stays clean, because nothing would precede it. When serving, queries are those of
    :class:`Gaps`. Combine it with the examples ``"all-positions"``, whose rows share no target.

    Args:
        k: Largest number of positions of a query. With ``max_length - 1``, it covers the window.
        gaps: Corrupted positions. ``"drawn"``: g of them, with a probability in proportion to 1/g, as in :class:`Gaps`;
            ``"share"``: each with the probability ``share``, the last one if there is none; ``"all"``: every position,
            so that the process alone determines which items are lost.
        share: Probability that a position is corrupted, for ``gaps="share"``.
        last_share: Share of the queries where the last position alone is corrupted, as when serving, for
            ``gaps="share"``.
        independent_steps: See :class:`NoisingStrategy`.

    Raises:
        ValueError: A share is given for other gaps.
    """

    def __init__(
        self,
        k: int = 5,
        *,
        gaps: str = "drawn",
        share: float | None = None,
        last_share: float = 0.0,
        independent_steps: bool = False,
    ) -> None:
        super().__init__(k, per_row=1, independent_steps=independent_steps)
        self.gaps = check_choice("gaps", gaps, ("drawn", "share", "all"))
        self.share = None if share is None else check_float("share", share, above=0, maximum=1)
        self.last_share = check_float("last_share", last_share, minimum=0, maximum=1)
        self.draws_gaps = self.gaps != "all"
        if (self.share is None) != (self.gaps != "share") or (self.last_share and self.share is None):
            raise ValueError(
                f"WholeWindows: share and last_share belong to gaps='share', got gaps={gaps!r}, share={share} and "
                f"last_share={last_share}. Use gaps='share' with a share, or neither."
            )

    def training(self, targets: Tensor, width: int, generator: Generator) -> Queries:
        last = targets.amax(1, keepdim=True)
        queries = super().training(last, width, generator)
        if self.share is None:
            return replace(queries, known=None) if self.gaps == "all" else queries
        number = uniform(queries.positions.shape, generator, device=last.device)
        lone = uniform(last.shape, generator, device=last.device) < self.last_share
        gaps = (number < self.share) & queries.mask & ~lone[..., None]
        own = torch.arange(width, device=last.device) == queries.answer[..., None]
        return replace(queries, known=queries.mask & ~torch.where(gaps.any(-1, keepdim=True), gaps, own))
