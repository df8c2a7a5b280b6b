"""Schedules with linearly increasing betas: DDPM, and the truncated schedule of Diffusion-LM."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from diffusers_rec.core.errors import check_bool, check_float
from diffusers_rec.processes.schedules.base import NoiseSchedule


class LinearSchedule(NoiseSchedule, name="linear"):
    r""":math:`\beta_n` increases linearly from ``beta_start`` to ``beta_end``.

    The defaults are chosen for N = 1000. For another N, ``rescale`` multiplies them by 1000 / N, which approximately
    keeps :math:`\bar\alpha_N`. With N = 1, the only step has the first beta, so it adds little noise.

    Ho et al. 2020, *DDPM*; Du et al. 2023, Sec. 5.3.1.

    Args:
        num_timesteps: Number of steps N.
        beta_start: First beta, in (0, 1).
        beta_end: Last beta, in (0, 1).
        rescale: Whether both are multiplied by 1000 / N.
        log_snr_shift: See :class:`NoiseSchedule`.
    """

    offset: float = 0.0

    def __init__(
        self,
        num_timesteps: int = 1000,
        *,
        beta_start: float = 1e-4,
        beta_end: float = 0.02,
        rescale: bool = True,
        log_snr_shift: float = 0.0,
    ) -> None:
        self.beta_start = check_float("beta_start", beta_start, above=0)
        self.beta_end = check_float("beta_end", beta_end, above=0)
        self.rescale = check_bool("rescale", rescale)
        super().__init__(num_timesteps, log_snr_shift=log_snr_shift)

    def _alpha_bar(self, fraction: Tensor) -> Tensor:
        steps = len(fraction)
        scale = 1000 / steps if self.rescale else 1.0
        first, last = (beta * scale + self.offset for beta in (self.beta_start, self.beta_end))
        beta = torch.linspace(first, last, steps, dtype=torch.float64)
        if beta.max() >= 1:
            self._refuse(float(beta.max()))
        return (1 - beta).cumprod(0)

    def _refuse(self, beta: float) -> None:
        name, largest = type(self).__name__, max(self.beta_start, self.beta_end)
        if not self.rescale or largest + self.offset >= 1:
            raise ValueError(f"{name}: beta must stay below 1, got {beta:g}. Lower beta_start and beta_end.")
        raise ValueError(
            f"{name}: beta must stay below 1, but rescaling {largest:g} to num_timesteps={self.num_timesteps} gives "
            f"beta={beta:g}. Use num_timesteps >= {math.floor(1000 * largest / (1 - self.offset)) + 1}, "
            "or rescale=False."
        )


class TruncatedLinearSchedule(LinearSchedule, name="truncated-linear"):
    r"""The linear schedule with ``offset`` added to every beta, so that the first steps already add noise.

    .. math:: \beta_1 = \tfrac{1000}{N} 10^{-4} + 0.01, \quad \dots, \quad \beta_N = \tfrac{1000}{N} 0.02 + 0.01.

    Li et al. 2022, *Diffusion-LM* (``trunc_lin`` of its code); Li et al. 2023, *DiffuRec*, with N = 32.

    Args:
        num_timesteps: Number of steps N, at least 21 with the other defaults.
        beta_start: First beta before rescaling and offset.
        beta_end: Last beta before rescaling and offset.
        offset: Constant that is added to every beta, in [0, 1).
        rescale: Whether both betas are multiplied by 1000 / N, before the offset is added.
        log_snr_shift: See :class:`NoiseSchedule`.
    """

    def __init__(
        self,
        num_timesteps: int = 1000,
        *,
        beta_start: float = 1e-4,
        beta_end: float = 0.02,
        offset: float = 0.01,
        rescale: bool = True,
        log_snr_shift: float = 0.0,
    ) -> None:
        self.offset = check_float("offset", offset, minimum=0, below=1)
        super().__init__(
            num_timesteps, beta_start=beta_start, beta_end=beta_end, rescale=rescale, log_snr_shift=log_snr_shift
        )
