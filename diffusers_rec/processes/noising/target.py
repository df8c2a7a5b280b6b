"""The strategy ``target``."""

from __future__ import annotations

from torch import Tensor

from diffusers_rec.core.errors import check_int
from diffusers_rec.processes.noising.base import NoisingStrategy
from diffusers_rec.processes.noising.queries import Queries


class TargetOnly(NoisingStrategy, name="target"):
    """Noises only the target (Eq. 7); the history stays clean. The paper's default."""

    def __init__(self) -> None:
        super().__init__()

    def max_noised(self, max_length: int) -> int:
        check_int("max_length", max_length, minimum=1)
        return 1

    def queries(self, targets: Tensor, width: int) -> Queries:
        return Queries.ending_at(targets, 1, width)
