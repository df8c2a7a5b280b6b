"""The sigmoid schedule of RIN."""

from __future__ import annotations

import torch
from torch import Tensor

from diffusers_rec.core.errors import check_float
from diffusers_rec.processes.schedules.base import NoiseSchedule


class SigmoidSchedule(NoiseSchedule, name="sigmoid"):
    r"""A segment of the logistic function, scaled to decrease from 1 to 0:

    .. math:: \bar\alpha_n = \frac{\varsigma(e / \tau) - \varsigma((s + (e - s)\, n / N) / \tau)}
                                  {\varsigma(e / \tau) - \varsigma(s / \tau)},
              \qquad \varsigma(z) = \frac1{1 + e^{-z}},

    but at least ``clip_min``. Jabri et al. 2022, *Scalable Adaptive Computation for Iterative Generation*.

    Args:
        num_timesteps: Number of steps N.
        start: Start s of the segment, below ``end``.
        end: End e of the segment.
        tau: Temperature, positive.
        clip_min: Smallest alpha_bar, in [0, 1); with 0, no signal is left at n = N.
        log_snr_shift: See :class:`NoiseSchedule`.
    """

    def __init__(
        self,
        num_timesteps: int = 1000,
        *,
        start: float = -3.0,
        end: float = 3.0,
        tau: float = 1.0,
        clip_min: float = 1e-9,
        log_snr_shift: float = 0.0,
    ) -> None:
        self.start = check_float("start", start)
        self.end = check_float("end", end, above=self.start)
        self.tau = check_float("tau", tau, above=0)
        self.clip_min = check_float("clip_min", clip_min, minimum=0, below=1)
        super().__init__(num_timesteps, log_snr_shift=log_snr_shift)

    def _alpha_bar(self, fraction: Tensor) -> Tensor:
        place = torch.cat([fraction.new_tensor([0.0]), fraction, fraction.new_tensor([1.0])])
        value = (-torch.lerp(place.new_tensor(self.start), place.new_tensor(self.end), place) / self.tau).sigmoid()
        return ((value[1:-1] - value[-1]) / (value[0] - value[-1])).clamp(min=self.clip_min)
