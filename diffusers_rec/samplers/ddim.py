"""The implicit reverse process, with few steps and little or no new noise."""

from __future__ import annotations

from functools import partial

from diffusers_rec.core.errors import check_float
from diffusers_rec.core.randomness import Generators
from diffusers_rec.processes.process import Process
from diffusers_rec.samplers.chain import Advance, Ask, ChainSampler


class DDIMSampler(ChainSampler, name="ddim"):
    r"""Steps from n to m < n along the predicted noise :math:`\hat\epsilon = (x_n - a_n \hat x_0) / s_n`:

    .. math:: x_m = a_m\,\hat x_0 + \sqrt{s_m^2 - \sigma^2}\,\hat\epsilon + \sigma z,
              \qquad \sigma = \eta\,\tilde\sigma_{n|m}, \quad z \sim \mathcal N(0, I).

    Song et al. 2021, *Denoising Diffusion Implicit Models*, Eq. 12 and 16.

    Args:
        num_steps: Number of denoisings, from 1 to N; N if None.
        eta: Randomness of a step, in [0, 1]. 0: the chain is a function of its initial noise. 1: as ``ddpm`` with the
            variance of the posterior.
        stagger: See :class:`~diffusers_rec.samplers.ChainSampler`.
    """

    def __init__(self, *, num_steps: int | None = None, eta: float = 0.0, stagger: int = 0) -> None:
        self.eta = check_float("eta", eta, minimum=0, maximum=1)
        super().__init__(num_steps=num_steps, stagger=stagger)

    def solver(self, ask: Ask, process: Process, generator: Generators | None) -> Advance:
        return partial(process.step, generator=generator, eta=self.eta)
