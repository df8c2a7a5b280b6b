"""The full reverse process (Algorithm 2)."""

from __future__ import annotations

from torch import Tensor

from diffusers_rec.core.errors import check_choice
from diffusers_rec.core.randomness import Generators
from diffusers_rec.processes.process import GaussianProcess, Process
from diffusers_rec.samplers.chain import Advance, Ask, ChainSampler


class DDPMSampler(ChainSampler, name="ddpm"):
    r"""N denoisings: :math:`x_{n-1} \sim \mathcal N(\mu_n(x_n, f_\theta(x_n, n)), \sigma_n^2 I)` for n = N..2, then
    :math:`\hat x_0 = f_\theta(x_1, 1)`. A process that is not Gaussian uses its own steps, down to 0.

    Ho et al. 2020; Du et al. 2023, Algorithm 2. With fewer than N steps, the chain skips steps of the schedule that the
    denoiser was trained with, from N to 1 (Nichol & Dhariwal 2021, Sec. 4).

    Args:
        variance: Variance of a reverse step of a Gaussian process. ``"beta"``: :math:`\beta_n` (the paper's
            :math:`\Sigma_\theta`). ``"posterior"``: :math:`\tilde\beta_n` of Eq. 3.
        num_steps: Number of denoisings, from 1 to N; N if None. With 1, it is the one-step sampler.
        stagger: See :class:`~diffusers_rec.samplers.ChainSampler`.
    """

    def __init__(self, variance: str = "beta", *, num_steps: int | None = None, stagger: int = 0) -> None:
        self.variance = check_choice("variance", variance, ("beta", "posterior"))
        super().__init__(num_steps=num_steps, stagger=stagger)

    def solver(self, ask: Ask, process: Process, generator: Generators | None) -> Advance:
        def advance(x0: Tensor, xn: Tensor, n: int | Tensor, m: int | Tensor) -> Tensor:
            if isinstance(process, GaussianProcess):
                return process.step(x0, xn, n, m, generator, variance=self.variance)
            return process.step(x0, xn, n, m, generator)

        return advance
