r"""Straight lines: Euler's method along the velocity that starts at the noise of the chain."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from diffusers_rec.core.randomness import Generators
from diffusers_rec.processes.process import Process
from diffusers_rec.samplers.chain import Advance, Ask, ChainSampler, gaussian, reverse_steps


class StraightSampler(ChainSampler, name="straight"):
    r"""Keeps the noise that the first prediction leaves, :math:`\epsilon = (x_N - a_N \hat x_0^{(N)}) / s_N`:

    .. math:: x_m = x_n + (a_m - a_n)\, \hat x_0^{(n)} + (s_m - s_n)\, \epsilon.

    On ``rectified`` levels :math:`\epsilon = x_N`, and this is a step :math:`(m - n)/N` along the velocity
    :math:`x_N - \hat x_0`, whereas ``euler`` follows :math:`\hat\epsilon - \hat x_0` with the noise of the present
    latent. The sample is a weighted mean of all predictions. The weights are :math:`a_m` for the first, at n = N, and
    :math:`a_m - a_n` for the others; on ``rectified`` levels with even steps, all are equal. The sample lies inside the
    hull of the predictions, and its variance is below that of the data.

    Liu et al. 2025, *Flow Matching based Sequential Recommender Model* (FMRec).

    Args:
        num_steps: Number S of denoisings, from 1 to N, at n = N, N - N/S, ..., N/S; N if None.
    """

    ends_on_prediction = False

    def __init__(self, *, num_steps: int | None = None) -> None:
        super().__init__(num_steps=num_steps)

    def course(self, num_timesteps: int, start: Tensor) -> Sequence[int | Tensor]:
        count = len(reverse_steps(num_timesteps, self.num_steps))
        return [num_timesteps - num_timesteps * step // count for step in range(count)]

    def solver(self, ask: Ask, process: Process, generator: Generators | None) -> Advance:
        schedule = gaussian(self, process).schedule
        kept: list[Tensor] = []

        def advance(x0: Tensor, xn: Tensor, n: int | Tensor, m: int | Tensor) -> Tensor:
            now, then = schedule.level(n), schedule.level(m)
            if not kept:
                kept.append((xn - now.signal * x0) / now.sigma)
            return xn + (then.signal - now.signal) * x0 + (then.sigma - now.sigma) * kept[0]

        return advance
