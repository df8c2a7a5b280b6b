r"""Noise schedules.

A schedule defines the amounts of signal and of noise at timestep :math:`n \in \{0, \dots, N\}`:

.. math:: x_n = a_n x_0 + s_n \epsilon, \qquad \epsilon \sim \mathcal N(0, I), \qquad a_0 = 1, \quad s_0 = 0.

A schedule consists of two tables, signal :math:`a` and sigma :math:`s`, whose ratio decreases strictly. Most schedules
**preserve variance**: :math:`a_n^2 = \bar\alpha_n` and :math:`s_n^2 = 1 - \bar\alpha_n` (Eq. 2), so a strictly
decreasing table :math:`\bar\alpha` defines them. For the others, :math:`\bar\alpha_n = a_n^2 / (a_n^2 + s_n^2)`. The
levels determine

.. math:: \alpha_n = a_n^2 / a_{n-1}^2, \qquad \beta_n = s_n^2 - \alpha_n s_{n-1}^2, \qquad
          \tilde\beta_n = \frac{s_{n-1}^2}{s_n^2}\, \beta_n.

The difficulty of a step depends on the signal-to-noise ratio :math:`a_n^2 / s_n^2`, the latent width and the number of
items. ``log_snr_shift`` adds a constant to the logarithm of this ratio at every step; negative values mean more noise.
The shift keeps :math:`a_n^2 + s_n^2` if variance is preserved, and :math:`a_n + s_n` otherwise.
"""

from __future__ import annotations

import math
from abc import ABC
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from diffusers_rec.core.entrances import explained
from diffusers_rec.core.errors import check_float, check_int, require_extra
from diffusers_rec.core.registry import Component
from diffusers_rec.processes.schedules.algebra import LEVEL, Level, derived, posterior, resting, reverse_variance
from diffusers_rec.processes.schedules.lookup import MAX_TIMESTEPS, Tables, readable


class NoiseSchedule(Component, ABC, kind="schedule"):
    """Immutable tables of noise levels, and Gaussian algebra on them.

    A subclass implements ``_alpha_bar``, or ``_levels`` if variance is not preserved. A subclass with parameters keeps
    them in attributes and then calls this constructor. The tables are float64 on the CPU, and are cast to the dtype and
    device of the latents when they are used.

    Args:
        num_timesteps: Number of steps N.
        log_snr_shift: Shift of the log signal-to-noise ratio of every step, in nats.

    Attributes:
        signal: Table of a, ``(N+1,)``, with ``signal[0] == 1``. All tables are copies.
        sigma: Table of s, ``(N+1,)``, with ``sigma[0] == 0``.
        alpha_bar: Table of alpha_bar, ``(N+1,)``, with ``alpha_bar[0] == 1`` exactly.
        alpha: Table of alpha, ``(N+1,)``, with ``alpha[0] == 1``.
        beta: Table of beta, ``(N+1,)``, with ``beta[0] == 0``.
        posterior_variance: Table of the variance of Eq. 3, ``(N+1,)``; zero at n = 0 and n = 1.
        variance_preserving: Whether ``signal ** 2 + sigma ** 2`` is 1.

    Raises:
        ValueError: N is below 1, a level is not finite, or the signal-to-noise ratio does not decrease strictly.
    """

    entrances = (
        "add_noise", "posterior", "level", "levels", "reverse_variance",
        "noise_from_x0", "x0_from_noise", "velocity_from_x0", "x0_from_velocity",
    )  # fmt: skip

    def __init__(self, num_timesteps: int = 1000, *, log_snr_shift: float = 0.0) -> None:
        self.num_timesteps = check_int("num_timesteps", num_timesteps, minimum=1, maximum=MAX_TIMESTEPS)
        self.log_snr_shift = check_float("log_snr_shift", log_snr_shift)
        self.variance_preserving = type(self)._levels is NoiseSchedule._levels
        with torch.device("cpu"):
            self._tables = Tables(self._build())
        self._frozen = True

    @staticmethod
    @explained
    def from_alpha_bar(values: Sequence[float] | Tensor) -> NoiseSchedule:
        """Build a variance-preserving schedule from a table.

        Args:
            values: Values of alpha_bar for n = 1..N, strictly decreasing in [0, 1), optionally with a leading 1 for
                n = 0.
        """
        numbers = torch.as_tensor(values, dtype=torch.float64, device="cpu").tolist()
        return NoiseSchedule.build("table", values=numbers[1:] if numbers[:1] == [1.0] else numbers)

    @staticmethod
    @explained
    def from_betas(values: Sequence[float] | Tensor) -> NoiseSchedule:
        """Build a variance-preserving schedule from a table of betas.

        Args:
            values: Values of beta for n = 1..N, in (0, 1).
        """
        return NoiseSchedule.from_alpha_bar((1 - torch.as_tensor(values, dtype=torch.float64)).cumprod(0))

    def to_diffusers(self) -> Any:
        """Build the scheduler of diffusers with these levels, which counts the steps n = 1..N from 0.

        It is a ``DDPMScheduler`` for predicted clean latents, with the posterior's variance. Other schedulers take its
        config: ``DDIMScheduler.from_config(schedule.to_diffusers().config)``. Their tables are float32. The opposite
        direction is ``NoiseSchedule.from_alpha_bar(scheduler.alphas_cumprod)``.

        Raises:
            ImportError: The library diffusers is missing (extra ``diffusers``).
            ValueError: The schedule does not preserve variance.
        """
        if not self.variance_preserving:
            raise ValueError(
                f"{type(self).__name__} does not preserve variance, as DDPMScheduler does. Use a schedule that is "
                "given by alpha_bar, such as 'sqrt'."
            )
        return require_extra("diffusers", "diffusers").DDPMScheduler(
            num_train_timesteps=self.num_timesteps,
            trained_betas=self.beta[1:].tolist(),
            prediction_type="sample",
            clip_sample=False,
            timestep_spacing="trailing",  # fewer steps than N begin at N, with pure noise
        )

    def _alpha_bar(self, fraction: Tensor) -> Tensor:
        """Return alpha_bar at ``fraction`` = n / N for n = 1..N, float64 ``(N,)``."""
        raise TypeError(f"{type(self).__name__} must define _alpha_bar(fraction), or _levels(fraction).")

    def _levels(self, fraction: Tensor) -> tuple[Tensor, Tensor]:
        """Return signal and sigma at ``fraction`` = n / N for n = 1..N, each float64 ``(N,)``."""
        square = self._alpha_bar(fraction)
        return square.sqrt(), (1 - square).sqrt()

    def _velocity_signal(self, signal: Tensor, sigma: Tensor) -> Tensor:
        r"""Factor p of the velocity :math:`v = p\,\epsilon - q\,x_0`, with :math:`q = (1 - p a) / s`."""
        return signal / (signal.square() + sigma.square())

    def _build(self) -> dict[str, Tensor]:
        """All tables that the algebra needs, from the levels."""
        fraction = torch.arange(1, self.num_timesteps + 1, dtype=torch.float64) / self.num_timesteps
        one = torch.ones(1, dtype=torch.float64)
        if self.variance_preserving:
            square = self._table("_alpha_bar", self._alpha_bar(fraction))
            if self.log_snr_shift:
                square = torch.sigmoid(torch.logit(square) + self.log_snr_shift)
            square = torch.cat([one, square])
            self._check_table(square)
            variance = 1 - square
            signal = square.sqrt()
            level = Level(signal, variance.sqrt(), square, variance, square, True)
            return derived(level, velocity=signal)
        signal, sigma = (self._table("_levels", each) for each in self._levels(fraction))
        if self.log_snr_shift:
            gained = signal * math.exp(self.log_snr_shift / 2)
            scale = (signal + sigma) / (gained + sigma)
            signal, sigma = gained * scale, sigma * scale
        signal, sigma = torch.cat([one, signal]), torch.cat([0 * one, sigma])
        square, variance = signal.square(), sigma.square()
        self._check_table(square / (square + variance))
        level = Level(signal, sigma, square, variance, square / (square + variance), False)
        return derived(level, velocity=self._velocity_signal(signal, sigma))

    def _table(self, method: str, values: Tensor) -> Tensor:
        if not isinstance(values, Tensor) or values.shape != (self.num_timesteps,):
            got = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise ValueError(
                f"{type(self).__name__}.{method}: expected tensors like fraction, ({self.num_timesteps},), got {got}."
            )
        return values.to(torch.float64)

    def _check_table(self, alpha_bar: Tensor) -> None:
        name = type(self).__name__
        if alpha_bar.shape != (self.num_timesteps + 1,) or not bool(torch.isfinite(alpha_bar).all()):
            raise ValueError(f"{name}: alpha_bar must hold {self.num_timesteps} finite values, got {alpha_bar[1:]}.")
        rises = (alpha_bar[1:] >= alpha_bar[:-1]).nonzero()
        if len(rises):
            n = int(rises[0]) + 1
            raise ValueError(
                f"{name}: alpha_bar must decrease strictly, but alpha_bar[{n}] = {alpha_bar[n]:.6g} follows "
                f"alpha_bar[{n - 1}] = {alpha_bar[n - 1]:.6g}."
            )
        if alpha_bar[-1] < 0:
            raise ValueError(f"{name}: alpha_bar must not fall below 0, but its last value is {alpha_bar[-1]:.6g}.")

    @property
    def signal(self) -> Tensor:
        """A copy of the table, ``(N+1,)``."""
        return self._tables["signal"].clone()

    @property
    def sigma(self) -> Tensor:
        """A copy of the table, ``(N+1,)``."""
        return self._tables["sigma"].clone()

    @property
    def alpha_bar(self) -> Tensor:
        """A copy of the table, ``(N+1,)``."""
        return self._tables["alpha_bar"].clone()

    @property
    def alpha(self) -> Tensor:
        """A copy of the table, ``(N+1,)``."""
        return self._tables["alpha"].clone()

    @property
    def beta(self) -> Tensor:
        """A copy of the table, ``(N+1,)``."""
        return self._tables["beta"].clone()

    @property
    def posterior_variance(self) -> Tensor:
        """A copy of the table, ``(N+1,)``."""
        return self._tables["posterior_variance"].clone()

    def level(self, timesteps: int | Tensor, like: Tensor | None = None) -> Level:
        """Signal, sigma and their squares at step n, as numbers, or as float64 tensors that broadcast over ``like``.

        Args:
            timesteps: Step n in 0..N, or steps as in :meth:`add_noise` if ``like`` is given.
            like: Latents, ``(B, ..., D)``.
        """
        if like is not None:
            exact = torch.empty((), dtype=torch.float64, device=like.device).expand(like.shape)
            return Level.of(self._tables.at(exact, torch.as_tensor(timesteps), *LEVEL), self.variance_preserving)
        return Level.of(self._tables.numbers(int(timesteps), LEVEL), self.variance_preserving)

    def add_noise(self, x0: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        r"""Draw :math:`q(x_n \mid x_0)` (Eq. 2).

        Args:
            x0: Clean latents, ``(B, ..., D)``.
            noise: Standard Gaussian noise, like ``x0``.
            timesteps: Steps n in 0..N, integers whose axes are the leading axes of ``x0``: ``(B,)``, ``(B, Q)``, ...

        Returns:
            Noised latents, like ``x0``.

        Raises:
            ValueError: A timestep is outside 0..N (checked only on the CPU), or the axes of ``timesteps`` are not the
                leading axes of ``x0``.
            TypeError: The latents are not floating-point, or the timesteps are not integers.
        """
        _expect_alike(x0, noise)
        signal, sigma = self._tables.at(x0, timesteps, "signal", "sigma")
        return (signal * x0).addcmul_(sigma, noise)

    def posterior(
        self, x0: Tensor, xn: Tensor, timesteps: Tensor, previous: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        r"""Mean and variance of :math:`q(x_m \mid x_n, x_0)` for m <= n; m = n - 1 is Eq. 3.

        .. math:: \mu = \frac{a_m \beta}{s_n^2} x_0 + \frac{a_n s_m^2}{a_m s_n^2} x_n, \qquad
                  \sigma^2 = \frac{s_m^2}{s_n^2} \beta, \qquad \beta = s_n^2 - \frac{a_n^2}{a_m^2} s_m^2

        Args:
            x0: Clean latents, ``(B, ..., D)``.
            xn: Noised latents, like ``x0``.
            timesteps: Steps n, as in :meth:`add_noise`; at least 1 if ``previous`` is None.
            previous: Steps m in 0..n, like ``timesteps``; n - 1 if None. Where m = n, the mean is ``xn``.

        Returns:
            Mean, like ``x0``, and variance, ``(B, ..., 1)``; the variance is zero at m = 0.

        Raises:
            ValueError: As in :meth:`add_noise`, or m is above n.
        """
        _expect_alike(x0, xn)
        if previous is None:
            names = "posterior_x0", "posterior_xn", "posterior_variance"
            clean, noised, variance = self._tables.at(x0, timesteps, *names, first=1)
            return (clean * x0).addcmul_(noised, xn), variance
        now, then = self.level(timesteps, x0), self.level(previous, x0)
        factors = resting(now, then, *posterior(now, then))
        clean, noised, variance = (factor.to(x0.dtype) for factor in factors)
        return clean * x0 + noised * xn, variance

    def levels(self, like: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        r"""Signal and sigma at step n, ``(B, ..., 1)``, with the dtype and device of ``like``."""
        signal, sigma = self._tables.at(like, timesteps, "signal", "sigma")
        return signal, sigma

    def reverse_variance(self, like: Tensor, timesteps: Tensor, previous: Tensor | None = None) -> Tensor:
        r"""Variance of :math:`x_m` given only :math:`x_n`, for x0 of unit variance, ``(B, ..., 1)``.

        .. math:: \beta \, \frac{a_m^2 + s_m^2}{a_n^2 + s_n^2}

        m is n - 1 if ``previous`` is None. If variance is preserved, this is :math:`\beta_n`, the paper's untrained
        :math:`\Sigma_\theta`.
        """
        if previous is None:
            (variance,) = self._tables.at(like, timesteps, "reverse_variance")
            return variance
        now, then = self.level(timesteps, like), self.level(previous, like)
        variance = reverse_variance(now, then)
        return resting(now, then, variance, variance, variance)[2].to(like.dtype)

    def noise_from_x0(self, x0: Tensor, xn: Tensor, timesteps: Tensor) -> Tensor:
        r""":math:`\epsilon = (x_n - a_n x_0) / s_n`, for n >= 1."""
        _expect_alike(x0, xn)
        signal, sigma = self._tables.at(x0, timesteps, "signal", "sigma", first=1)
        return (xn - signal * x0) / sigma

    def x0_from_noise(self, noise: Tensor, xn: Tensor, timesteps: Tensor) -> Tensor:
        r""":math:`x_0 = (x_n - s_n \epsilon) / a_n`.

        Raises:
            ValueError: As in :meth:`add_noise`, or no signal is left at n.
        """
        _expect_alike(noise, xn)
        signal, sigma = self._tables.at(xn, timesteps, "signal", "sigma")
        if self._tables["signal"][-1] == 0 and readable(signal) and not bool(signal.all()):
            raise ValueError(
                f"{type(self).__name__} leaves no signal at n = {self.num_timesteps}: there the noise does not "
                "determine x0. Predict x0 or the velocity instead, or use a schedule that ends above alpha_bar = 0."
            )
        return (xn - sigma * noise) / signal

    def velocity_from_x0(self, x0: Tensor, xn: Tensor, timesteps: Tensor) -> Tensor:
        r""":math:`v = p_n \epsilon - q_n x_0` with :math:`p a + q s = 1`, for n >= 1.

        If variance is preserved, p = a and q = s (Salimans & Ho 2022). In a rectified flow, p = q = 1.
        """
        _expect_alike(x0, xn)
        velocity, sigma = self._tables.at(x0, timesteps, "velocity", "sigma", first=1)
        return (velocity * xn - x0) / sigma

    def x0_from_velocity(self, velocity: Tensor, xn: Tensor, timesteps: Tensor) -> Tensor:
        r""":math:`x_0 = p_n x_n - s_n v`, see :meth:`velocity_from_x0`."""
        _expect_alike(velocity, xn)
        factor, sigma = self._tables.at(xn, timesteps, "velocity", "sigma")
        return factor * xn - sigma * velocity

    def __setattr__(self, key: str, value: Any) -> None:
        if getattr(self, "_frozen", False):
            raise AttributeError(
                f"{type(self).__name__} is immutable; build a new one instead of setting {key!r}. A constructor sets "
                "its parameters before it calls super().__init__."
            )
        super().__setattr__(key, value)


def _expect_alike(one: Tensor, other: Tensor) -> None:
    if one.shape != other.shape:
        raise ValueError(f"The latents must have one shape, got {tuple(one.shape)} and {tuple(other.shape)}.")
