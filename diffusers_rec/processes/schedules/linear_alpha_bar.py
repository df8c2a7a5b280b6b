"""The schedule of masked diffusion, whose level is linear in the step."""

from __future__ import annotations

from torch import Tensor

from diffusers_rec.processes.schedules.base import NoiseSchedule


class LinearAlphaBarSchedule(NoiseSchedule, name="linear-alpha-bar"):
    r"""A level that is linear in the step: :math:`\bar\alpha_n = 1 - n / N`.

    In the absorbing process, the share of blanks is uniform on (0, 1] if n is. No signal is left at n = N.

    Austin et al. 2021, *D3PM*; Shi et al. 2024, *MD4*.
    """

    def _alpha_bar(self, fraction: Tensor) -> Tensor:
        return 1 - fraction
