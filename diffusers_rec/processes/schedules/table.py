"""A schedule given by its values."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from diffusers_rec.core.errors import check_float
from diffusers_rec.processes.schedules.base import NoiseSchedule
from diffusers_rec.processes.schedules.lookup import MAX_TIMESTEPS


class TableSchedule(NoiseSchedule, name="table"):
    r"""Any table of :math:`\bar\alpha_n`; the config contains all values.

    Built by :meth:`NoiseSchedule.from_alpha_bar` and :meth:`NoiseSchedule.from_betas`.

    Args:
        values: Values of alpha_bar for n = 1..N, strictly decreasing in [0, 1).
        log_snr_shift: See :class:`NoiseSchedule`.
    """

    def __init__(self, values: Sequence[float], *, log_snr_shift: float = 0.0) -> None:
        if not 1 <= len(values) <= MAX_TIMESTEPS:
            raise ValueError(f"values must hold between 1 and {MAX_TIMESTEPS} numbers, got {len(values)}.")
        self.values = [check_float("each of values", value, minimum=0, below=1) for value in values]
        super().__init__(len(self.values), log_snr_shift=log_snr_shift)

    def _alpha_bar(self, fraction: Tensor) -> Tensor:
        return torch.tensor(self.values, dtype=torch.float64)
