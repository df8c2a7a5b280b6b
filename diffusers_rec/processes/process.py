r"""Processes: how clean latents are corrupted, and the reverse step of every chain.

A process defines three things: what a chain **starts** from, how a clean latent is **corrupted** at step n, and how a
reverse **step** goes from n to m <= n, given a prediction of the clean latent. Samplers and the pipeline use nothing
else, so another process (a flow, an absorbing state) is one class.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from diffusers_rec.core.errors import check_choice, check_float
from diffusers_rec.core.randomness import Generators, randn
from diffusers_rec.core.registry import Component
from diffusers_rec.processes.schedules import NoiseSchedule, algebra
from diffusers_rec.processes.source import ZeroSource


@dataclass(frozen=True, eq=False)
class Corrupted:
    """Corrupted latents.

    Attributes:
        xn: Latents at step n, like the clean ones.
        noise: Drawn noise, like ``xn``.
    """

    xn: Tensor
    noise: Tensor


class Process(Component, ABC, kind="process"):
    """Corrupts latents and computes reverse steps. See the docstring of the module.

    Args:
        schedule: Noise levels; shared, not owned.
    """

    requires = frozenset({"schedule"})
    entrances: ClassVar[tuple[str, ...]] = "start", "corrupt", "step", "seen_steps", "evidence"
    draws_items: ClassVar[bool] = False
    """Whether a reverse step of an item prediction takes the latent of a drawn item, instead of the mean."""

    knows_blanks: ClassVar[bool] = False
    """Whether a denoiser learns what a blank is, a latent of zeros that says nothing, at step N."""

    adds_noise: ClassVar[bool] = False
    """Whether a corrupted latent is the clean one, scaled, plus noise. Only such a chain may have a centre."""

    def __init__(self, schedule: NoiseSchedule) -> None:
        self.schedule = schedule

    @abstractmethod
    def start(
        self,
        shape: Sequence[int],
        generator: Generators,
        *,
        device: torch.device | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Draw the start of a chain, at n = N.

        Args:
            shape: Shape of the latents, ``(B, Q, ..., D)``.
            generator: Generator of the random numbers, or one generator for each of the Q draws.
            device: Device of the latents; the CPU if None.
            dtype: Dtype of the latents.
        """

    @abstractmethod
    def corrupt(
        self, x0: Tensor, timesteps: Tensor, generator: Generators | None, *, noise: Tensor | None = None
    ) -> Corrupted:
        """Draw latents at step n given the clean latents.

        Args:
            x0: Clean latents, ``(B, Q, ..., D)``.
            timesteps: Steps n in 0..N, integers whose axes are the leading axes of ``x0``: ``(B, Q)`` or ``(B, Q, K)``.
            generator: Generator of the random numbers, or one for each of the Q draws; None if ``noise`` is given.
            noise: Noise to use, like ``x0``; it is drawn if None.
        """

    @abstractmethod
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
        """Compute one reverse step, from n to m <= n.

        Args:
            x0: Predicted clean latents, ``(B, Q, ..., D)``.
            xn: Latents at step n, like ``x0``.
            timesteps: Step n, one number for all latents or integers as in :meth:`corrupt`.
            previous: Step m, like ``timesteps``. Where m = n, the latent does not change.
            generator: Generator of new noise; None if the step draws none.
            eta: Randomness of the step. 1 draws x_m from its distribution given x_n and x0; 0 draws nothing.

        Returns:
            Latents at step m, like ``xn``. The arguments are not changed.
        """

    def check_fit(self, model: Any) -> None:
        """See :meth:`Component.check_fit <diffusers_rec.Component>`."""
        if not self.adds_noise and not isinstance(model.source, ZeroSource):
            raise ValueError(
                f"The parts do not fit: the source {model.source.registered_name!r} is the centre of added noise, but "
                f"the process {self.registered_name!r} adds none. Use source='zero', or process='gaussian'."
            )
        if self.knows_blanks and model.denoiser.prediction in ("noise", "velocity"):
            raise ValueError(
                f"The parts do not fit: the process {self.registered_name!r} has blanks, which hold no noise, but the "
                f"denoiser predicts {model.denoiser.prediction}. Use a denoiser that predicts items or x0."
            )

    def seen_steps(self, xn: Tensor, timesteps: Tensor) -> Tensor:
        """Steps that the denoiser is told; by default, the steps of the process.

        Args:
            xn: Latents at step n, ``(B, Q, K, D)``.
            timesteps: Step n of each query, ``(B, Q)``, or of each position, ``(B, Q, K)``.

        Returns:
            Integers like ``timesteps``, or ``(B, Q, K)``; 0 where the latent is clean.
        """
        return timesteps

    def evidence(self, xn: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor] | None:
        r"""What a corrupted latent says about its own item: :math:`\log p(x_n \mid x_0) = l \cdot x_0 - q\,\|x_0\|^2`.

        Args:
            xn: Latents at step n, ``(..., D)``.
            timesteps: Steps n, integers whose axes are the leading axes of ``xn``.

        Returns:
            Up to a constant, l like ``xn`` and q ``(..., 1)``; None if a corrupted latent says nothing about its item.
        """
        return None


class GaussianProcess(Process, name="gaussian"):
    r""":math:`x_n = a_n x_0 + s_n \epsilon` with the signal a and the sigma s of the schedule. The default.

    It covers diffusion and flows: with ``rectified`` levels, :meth:`step` with ``eta=0`` is an Euler step of the flow.
    """

    entrances = (*Process.entrances, "bound_weight")
    adds_noise = True

    def start(
        self,
        shape: Sequence[int],
        generator: Generators,
        *,
        device: torch.device | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        r"""Draw Gaussian noise of variance :math:`a_N^2 + s_N^2`, as :math:`x_N` for clean latents of unit variance."""
        noise = randn(shape, generator, device=device or torch.device("cpu"), dtype=dtype)
        if self.schedule.variance_preserving:
            return noise
        last = self.schedule.level(self.schedule.num_timesteps)
        return noise * (last.square + last.variance) ** 0.5

    def corrupt(
        self, x0: Tensor, timesteps: Tensor, generator: Generators | None, *, noise: Tensor | None = None
    ) -> Corrupted:
        """Draw latents at step n with standard Gaussian noise (Eq. 2)."""
        if noise is None:
            noise = _noise(x0, generator)
        return Corrupted(self.schedule.add_noise(x0, noise, timesteps), noise)

    def step(
        self,
        x0: Tensor,
        xn: Tensor,
        timesteps: Tensor | int,
        previous: Tensor | int,
        generator: Generators | None,
        *,
        eta: float = 1.0,
        variance: str = "posterior",
    ) -> Tensor:
        r"""Compute one reverse step along the predicted noise :math:`\hat\epsilon = (x_n - a_n x_0) / s_n`.

        .. math:: x_m = a_m x_0 + \sqrt{s_m^2 - \sigma^2}\, \hat\epsilon + \sigma z, \qquad
                  \sigma = \eta\, \tilde\sigma_{n|m}, \quad z \sim \mathcal N(0, I),

        where :math:`\tilde\sigma^2_{n|m}` is the variance of the posterior. ``eta=1`` draws from the posterior (Eq. 3);
        ``eta=0`` is the deterministic step of DDIM.

        Args:
            x0: See :meth:`Process.step`.
            xn: See :meth:`Process.step`.
            timesteps: See :meth:`Process.step`.
            previous: See :meth:`Process.step`.
            generator: See :meth:`Process.step`.
            eta: Randomness of the step, in [0, 1].
            variance: Variance of the added noise: ``"posterior"``, or ``"beta"`` for
                :meth:`~diffusers_rec.NoiseSchedule.reverse_variance`.
        """
        if eta not in (0.0, 1.0):  # skip the check in the usual cases: it takes as long as the arithmetic
            check_float("eta", eta, minimum=0, maximum=1)
        if variance not in ("posterior", "beta"):
            check_choice("variance", variance, ("posterior", "beta"))
        if isinstance(timesteps, int) and isinstance(previous, int):
            if previous > timesteps:
                raise ValueError(f"previous must not lie above timesteps, got {previous} above {timesteps}.")
            if previous == timesteps:
                return xn
            now, then = self.schedule.level(timesteps), self.schedule.level(previous)
            clean, noised, deviation = _factors(now, then, eta, variance)
            xm = (x0 * clean).add_(xn, alpha=noised)
            return xm.add_(_noise(xn, generator), alpha=deviation) if eta else xm
        now, then = self.schedule.level(timesteps, xn), self.schedule.level(previous, xn)
        factors = algebra.resting(now, then, *_factors(now, then, eta, variance))
        clean, noised, deviation = (factor.to(xn.dtype) for factor in factors)
        xm = (x0 * clean).addcmul_(xn, noised)
        return xm.addcmul_(_noise(xn, generator), deviation) if eta else xm

    def bound_weight(self, timesteps: Tensor) -> Tensor:
        r"""Weight of :math:`\|x_0 - \hat x_0\|^2` in the bound of the log-likelihood: with :math:`r_n = a_n^2 / s_n^2`,

        .. math:: w_1 = 1, \qquad w_n = r_{n-1} - r_n \quad \text{for } n > 1,

        twice the weight of the bound's Kullback-Leibler divergences (Kingma et al. 2021, *VDM*, Eq. 15). The first
        step has the weight of Wang et al. 2023, *Diffusion Recommender Model*.

        Args:
            timesteps: Steps n in 1..N, of any shape.

        Returns:
            float64, like ``timesteps``.

        Raises:
            ValueError: A step is outside 1..N.
            TypeError: The steps are not integers.
        """
        check_steps(timesteps, self.schedule.num_timesteps)
        ratio = (self.schedule.signal / self.schedule.sigma).square().to(timesteps.device)
        return torch.where(timesteps > 1, ratio[timesteps - 1] - ratio[timesteps], 1.0)

    def evidence(self, xn: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        r"""Logarithm of :math:`\mathcal N(x_n; a_n x_0, s_n^2)`; nothing at n = 0, where the item is known."""
        signal, sigma = self.schedule.levels(xn, timesteps)
        precision = torch.where(sigma > 0, sigma, torch.inf).square().reciprocal()
        return signal * precision * xn, 0.5 * signal.square() * precision


def check_steps(timesteps: Tensor, num_timesteps: int) -> None:
    """Check that steps are integers in 1..N.

    Raises:
        ValueError: A step is outside 1..N.
        TypeError: The steps are not integers.
    """
    if timesteps.is_floating_point() or timesteps.dtype == torch.bool:
        raise TypeError(f"timesteps must be integers, got {timesteps.dtype}.")
    if timesteps.numel() and not 1 <= int(timesteps.min()) <= int(timesteps.max()) <= num_timesteps:
        bounds = f"{int(timesteps.min())}..{int(timesteps.max())}"
        raise ValueError(f"timesteps must lie in 1..{num_timesteps}, got {bounds}.")


def _factors(now: algebra.Level, then: algebra.Level, eta: float, variance: str) -> tuple[Any, Any, Any]:
    """Factors of x0, of xn and of the new noise in a reverse step."""
    clean, noised, spread = algebra.posterior(now, then)
    if eta != 1:
        clean, noised = algebra.implicit(now, then, eta)
    if variance == "beta":
        spread = algebra.reverse_variance(now, then)
    return clean, noised, eta * spread**0.5


def _noise(like: Tensor, generator: Generators | None) -> Tensor:
    return randn(like.shape, generator, device=like.device, dtype=like.dtype)
