"""The strategy ``whole``."""

from __future__ import annotations

from torch import Tensor

from diffusers_rec.core.errors import check_int
from diffusers_rec.processes.noising.base import NoisingStrategy
from diffusers_rec.processes.noising.queries import Queries


class WholeSequence(NoisingStrategy, name="whole"):
    """Noises every item, so that no item of the history is clean (Sec. 5.3.4)."""

    def max_noised(self, max_length: int) -> int:
        return check_int("max_length", max_length, minimum=1)

    def queries(self, targets: Tensor, width: int) -> Queries:
        return Queries.ending_at(targets, width, width)
