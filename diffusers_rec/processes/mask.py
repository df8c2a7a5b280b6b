r"""The absorbing process: a position holds its item, or nothing.

At step n a position holds its item with probability :math:`\bar\alpha_n`, else it is **blank**: the latent of a blank
is zero. The reverse step from n to m fills a blank with probability :math:`(\bar\alpha_m - \bar\alpha_n) / (1 -
\bar\alpha_n)`. A denoiser is given step N at blanks and step 0 elsewhere, so that a network that was trained with
Gaussian noise knows both. Austin et al. 2021, *D3PM*; Shi et al. 2024, *MD4*. BERT4Rec is this process in one step.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from diffusers_rec.core.errors import check_float
from diffusers_rec.core.randomness import Generators, uniform
from diffusers_rec.processes.process import Corrupted, GaussianProcess, Process, check_steps
from diffusers_rec.processes.schedules import NoiseSchedule


def is_blank(xn: Tensor) -> Tensor:
    """Positions of latents ``(..., D)`` that hold nothing, ``(...)``."""
    return (xn == 0).all(-1)


def share_kept(schedule: NoiseSchedule, timesteps: Tensor | int, like: Tensor) -> Tensor:
    """Probability that a position of a discrete process keeps its item, float64, with the axes of ``like``."""
    level = schedule.level(torch.as_tensor(timesteps), like)
    return level.square / (level.square + level.variance)


class MaskProcess(Process, name="mask"):
    """The absorbing process; see the docstring of the module.

    Args:
        schedule: Noise schedule, shared and not owned; it sets the probability ``alpha_bar`` that an item is kept.
    """

    entrances = (*Process.entrances, "bound_weight")
    draws_items = True
    knows_blanks = True

    def start(
        self,
        shape: Sequence[int],
        generator: Generators,
        *,
        device: torch.device | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Blanks; nothing is drawn."""
        return torch.zeros(*shape, device=device, dtype=dtype)

    def corrupt(
        self, x0: Tensor, timesteps: Tensor, generator: Generators | None, *, noise: Tensor | None = None
    ) -> Corrupted:
        """Blank each position with probability ``1 - alpha_bar``.

        Args:
            x0: See :meth:`Process.corrupt`.
            timesteps: See :meth:`Process.corrupt`.
            generator: See :meth:`Process.corrupt`.
            noise: Numbers in [0, 1), the same along D; a position is kept where its number is below ``alpha_bar``.
        """
        if noise is None:
            noise = uniform((*x0.shape[:-1], 1), generator, device=x0.device).expand_as(x0)
        return Corrupted(x0.where(noise < share_kept(self.schedule, timesteps, x0), 0.0), noise)

    def step(
        self,
        x0: Tensor,
        xn: Tensor,
        timesteps: Tensor | int,
        previous: Tensor | int,
        generator: Generators | None,
        *,
        eta: float = 1.0,
    ) -> Tensor:
        """Fill some blanks with the predicted latents; positions that hold an item keep it.

        Args:
            x0: Latents of items that were drawn from the prediction, like ``xn``.
            xn: See :meth:`Process.step`.
            timesteps: See :meth:`Process.step`.
            previous: See :meth:`Process.step`.
            generator: See :meth:`Process.step`.
            eta: Randomness of the step, in [0, 1]. With 1, blanks are filled independently of one another; with 0, all
                of them, as soon as more than half are due.
        """
        check_float("eta", eta, minimum=0, maximum=1)
        if x0.shape != xn.shape:
            raise ValueError(f"x0 must be like xn, {tuple(xn.shape)}, got {tuple(x0.shape)}.")
        now, then = (share_kept(self.schedule, n, xn) for n in (timesteps, previous))
        chance = ((then - now) / (1 - now).clamp(min=torch.finfo(now.dtype).tiny)).expand(*xn.shape[:-1], 1)
        number = torch.full_like(chance, 0.5)
        if eta:
            drawn = uniform((*xn.shape[:-1], 1), generator, device=xn.device).to(chance)
            number = number + eta * (drawn - 0.5)
        return torch.where(is_blank(xn)[..., None] & (number < chance), x0, xn)

    def seen_steps(self, xn: Tensor, timesteps: Tensor) -> Tensor:
        """N at blanks, 0 elsewhere, ``(B, Q, K)``."""
        return is_blank(xn) * self.schedule.num_timesteps

    def bound_weight(self, timesteps: Tensor) -> Tensor:
        r"""Weight of the cross-entropy at blanks in the bound of the log-likelihood, for the steps n.

        .. math:: -\log p(x_0) \le \sum_{n=1}^N \mathbb E\, \frac{\bar\alpha_{n-1} - \bar\alpha_n}{1 - \bar\alpha_n}
                  \sum_{k \text{ blank in } x_n} -\log p_\theta(x_{0,k} \mid x_n)

        for the chain that takes all N steps, where :math:`\bar\alpha_N = 0`. The right side is the mean of the negative
        log-likelihood over the ways to fill the positions in, step by step. Ways that fill one position a step have
        the likelihood of the chain rule. If the conditionals are those of one joint distribution, the two sides
        therefore meet as N grows.

        Args:
            timesteps: Steps n in 1..N, of any shape.

        Returns:
            float64, like ``timesteps``.

        Raises:
            ValueError: A step is outside 1..N.
            TypeError: The steps are not integers.
        """
        check_steps(timesteps, self.schedule.num_timesteps)
        kept = self.schedule.alpha_bar.to(timesteps.device)
        return (kept[timesteps - 1] - kept[timesteps]) / (1 - kept[timesteps])


class MixedProcess(Process, name="mixed"):
    """Trains one denoiser for two processes: each query is corrupted by the Gaussian process, or blanked.

    A blanked query is blank at every position whose step is above 0; which positions those are is up to the noising
    strategy. Chains start from Gaussian noise and take Gaussian steps. The sampler ``unmask`` starts from blanks.

    Args:
        schedule: Noise schedule, shared and not owned.
        blank: Share of the queries that are blanked, in [0, 1].
    """

    knows_blanks = True

    def __init__(self, schedule: NoiseSchedule, *, blank: float = 0.5) -> None:
        super().__init__(schedule)
        self.blank = check_float("blank", blank, minimum=0, maximum=1)
        self._gaussian, self._mask = GaussianProcess(schedule), MaskProcess(schedule)

    def start(
        self,
        shape: Sequence[int],
        generator: Generators,
        *,
        device: torch.device | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        return self._gaussian.start(shape, generator, device=device, dtype=dtype)

    def corrupt(
        self, x0: Tensor, timesteps: Tensor, generator: Generators | None, *, noise: Tensor | None = None
    ) -> Corrupted:
        """Draw latents at step n, or blanks.

        Args:
            x0: See :meth:`Process.corrupt`.
            timesteps: See :meth:`Process.corrupt`.
            generator: See :meth:`Process.corrupt`.
            noise: Gaussian noise to use, like ``x0``; NaN where a position is blank.
        """
        if noise is None:
            noise = self._gaussian.corrupt(x0, timesteps, generator).noise
            blank = uniform((*x0.shape[:2], *(1,) * (x0.ndim - 2)), generator, device=x0.device) < self.blank
            noise = noise.masked_fill(blank, torch.nan)
        steps = timesteps.reshape(*timesteps.shape, *(1,) * (x0.ndim - timesteps.ndim))
        corrupted = self._gaussian.corrupt(x0, timesteps, None, noise=noise.nan_to_num(nan=0.0)).xn
        return Corrupted(corrupted.masked_fill(noise.isnan() & (steps > 0), 0.0), noise)

    def step(
        self,
        x0: Tensor,
        xn: Tensor,
        timesteps: Tensor | int,
        previous: Tensor | int,
        generator: Generators | None,
        *,
        eta: float = 1.0,
    ) -> Tensor:
        return self._gaussian.step(x0, xn, timesteps, previous, generator, eta=eta)

    def seen_steps(self, xn: Tensor, timesteps: Tensor) -> Tensor:
        """N at blanks, else the steps of the Gaussian process, ``(B, Q, K)``."""
        steps = timesteps[..., None] if timesteps.ndim < xn.ndim - 1 else timesteps
        return torch.where(is_blank(xn), self.schedule.num_timesteps, steps)

    def evidence(self, xn: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """The evidence of the Gaussian process; none at blanks."""
        linear, quadratic = self._gaussian.evidence(xn, timesteps)
        return linear, quadratic.masked_fill(is_blank(xn)[..., None], 0.0)
