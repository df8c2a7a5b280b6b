"""The schedule of DiffRec (Wang et al. 2023): a variance that increases linearly."""

from __future__ import annotations

import torch
from torch import Tensor

from diffusers_rec.core.errors import check_float
from diffusers_rec.processes.schedules.base import NoiseSchedule


class LinearVarianceSchedule(NoiseSchedule, name="linear-variance"):
    r"""The variance increases linearly: :math:`1 - \bar\alpha_n = v_n` with

    .. math:: v_n = s\,\Big(v_{min} + \frac{n - 1}{N - 1}\,(v_{max} - v_{min})\Big).

    If ``first_beta`` is above 0, it replaces :math:`\beta_1 = v_1` and the other betas stay, so that
    :math:`\bar\alpha_n = (1 - \beta_1)\,(1 - v_n) / (1 - v_1)`.

    Wang et al. 2023, *Diffusion Recommender Model*, Eq. 4. Their code (``linear-var``) fixes :math:`\beta_1 = 10^{-5}`
    and chooses very small variances; the defaults here end near pure noise.

    Args:
        num_timesteps: Number of steps N; with N = 1, the only variance is the first.
        scale: Factor s of all variances.
        minimum: Variance at n = 1, before scaling.
        maximum: Variance at n = N, before scaling.
        first_beta: First beta, in (0, 1), in place of the first variance; 0 keeps the variance.
        log_snr_shift: See :class:`NoiseSchedule`.
    """

    def __init__(
        self,
        num_timesteps: int = 1000,
        *,
        scale: float = 1.0,
        minimum: float = 1e-4,
        maximum: float = 0.999,
        first_beta: float = 0.0,
        log_snr_shift: float = 0.0,
    ) -> None:
        self.scale = check_float("scale", scale, above=0)
        self.minimum = check_float("minimum", minimum, above=0)
        self.maximum = check_float("maximum", maximum, above=self.minimum)
        self.first_beta = check_float("first_beta", first_beta, minimum=0, below=1)
        if self.scale * self.maximum > 1:
            raise ValueError(
                f"LinearVarianceSchedule: variances must not exceed 1, but scale * maximum is "
                f"{self.scale * self.maximum:g}. Use maximum <= {1 / self.scale:g}."
            )
        super().__init__(num_timesteps, log_snr_shift=log_snr_shift)

    def _alpha_bar(self, fraction: Tensor) -> Tensor:
        variance = self.scale * torch.linspace(self.minimum, self.maximum, len(fraction), dtype=torch.float64)
        first = self.first_beta or variance[0]
        return (1 - first) * (1 - variance) / (1 - variance[0])
