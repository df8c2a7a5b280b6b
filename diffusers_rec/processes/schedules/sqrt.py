"""The square-root schedule of Diffusion-LM."""

from __future__ import annotations

from torch import Tensor

from diffusers_rec.processes.schedules.base import NoiseSchedule


class SqrtSchedule(NoiseSchedule, name="sqrt"):
    r"""Adds noise fast at first, then more slowly: :math:`\bar\alpha_n = 1 - \sqrt{n / N} + 10^{-4}` for n >= 1.

    Li et al. 2022, *Diffusion-LM*; the default of Du et al. 2023, Sec. 5.3.1.
    """

    def _alpha_bar(self, fraction: Tensor) -> Tensor:
        return 1 - fraction.sqrt() + 1e-4
