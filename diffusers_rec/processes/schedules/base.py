r"""Noise schedules.

A schedule fixes how much of the clean latent :math:`x_0` survives at timestep :math:`n \in \{0, \dots, N\}`:

.. math:: x_n = a_n x_0 + s_n \epsilon, \qquad \epsilon \sim \mathcal N(0, I), \qquad a_0 = 1, \quad s_0 = 0.

Every schedule is two tables, signal :math:`a` and sigma :math:`s`, whose ratio falls strictly. Most **preserve
variance**: :math:`a_n^2 = \bar\alpha_n` and :math:`s_n^2 = 1 - \bar\alpha_n` (Eq. 2), and one strictly decreasing table
:math:`\bar\alpha` is all of them. Of the others :math:`\bar\alpha_n = a_n^2 / (a_n^2 + s_n^2)`. From the levels follow

.. math:: \alpha_n = a_n^2 / a_{n-1}^2, \qquad \beta_n = s_n^2 - \alpha_n s_{n-1}^2, \qquad
          \tilde\beta_n = \frac{s_{n-1}^2}{s_n^2}\, \beta_n.

How hard a step is depends on the signal-to-noise ratio :math:`a_n^2 / s_n^2`, the width of the latent and the number of
items. ``log_snr_shift`` adds a constant to the logarithm of the ratio at every step: negative values make every step
noisier. It keeps :math:`a_n^2 + s_n^2` where variance is preserved, else :math:`a_n + s_n`.
"""

from __future__ import annotations

import math
from abc import ABC
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from diffusers_rec.core.entrances import explained
from diffusers_rec.core.errors import check_float, check_int
from diffusers_rec.core.registry import Component
from diffusers_rec.processes.schedules.algebra import LEVEL, Level, derived, posterior, resting, reverse_variance
from diffusers_rec.processes.schedules.lookup import MAX_TIMESTEPS, Tables, readable


class NoiseSchedule(Component, ABC, kind="schedule"):
    """Frozen tables of noise levels and the Gaussian algebra that follows from them.

    A subclass writes ``_alpha_bar``, or ``_levels`` where variance is not preserved; a subclass with parameters of its
    own keeps them in attributes, then calls this constructor. The tables are float64 on the CPU and are cast to the
    latents' dtype and device where they are used.

    Args:
        num_timesteps: N.
        log_snr_shift: Added to the log signal-to-noise ratio of every step, in nats.

    Attributes:
        signal: ``(N+1,)``; ``signal[0] == 1``. This table and the next ones are copies.
        sigma: ``(N+1,)``; ``sigma[0] == 0``.
        alpha_bar: ``(N+1,)``; ``alpha_bar[0] == 1`` exactly.
        alpha: ``(N+1,)``; ``alpha[0] == 1``.
        beta: ``(N+1,)``; ``beta[0] == 0``.
        posterior_variance: ``(N+1,)``; zero at n = 0 and n = 1.
        variance_preserving: Whether ``signal ** 2 + sigma ** 2`` is 1.

    Raises:
        ValueError: N below 1, or levels that are not finite, or a signal-to-noise ratio that does not fall strictly.
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
        """The variance-preserving schedule of a table.

        Args:
            values: alpha_bar for n = 1..N, strictly decreasing in [0, 1); a 1 before it, for n = 0, may stand there.
        """
        numbers = torch.as_tensor(values, dtype=torch.float64, device="cpu").tolist()
        return NoiseSchedule.build("table", values=numbers[1:] if numbers[:1] == [1.0] else numbers)

    @staticmethod
    @explained
    def from_betas(values: Sequence[float] | Tensor) -> NoiseSchedule:
        """The variance-preserving schedule of a table of betas.

        Args:
            values: beta for n = 1..N, in (0, 1).
        """
        return NoiseSchedule.from_alpha_bar((1 - torch.as_tensor(values, dtype=torch.float64)).cumprod(0))

    def _alpha_bar(self, fraction: Tensor) -> Tensor:
        """The table without its first entry: alpha_bar at ``fraction`` = n / N for n = 1..N, float64 ``(N,)``."""
        raise TypeError(f"{type(self).__name__} must define _alpha_bar(fraction), or _levels(fraction).")

    def _levels(self, fraction: Tensor) -> tuple[Tensor, Tensor]:
        """Signal and sigma at ``fraction`` = n / N for n = 1..N, each float64 ``(N,)``."""
        square = self._alpha_bar(fraction)
        return square.sqrt(), (1 - square).sqrt()

    def _velocity_signal(self, signal: Tensor, sigma: Tensor) -> Tensor:
        r"""The factor p of the velocity :math:`v = p\,\epsilon - q\,x_0`, whose q is :math:`(1 - p a) / s`."""
        return signal / (signal.square() + sigma.square())

    def _build(self) -> dict[str, Tensor]:
        """Every table that the algebra needs, from the levels."""
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
        """Signal, sigma and their squares at one step, as numbers; with ``like``, as float64 tensors beside latents.

        Args:
            timesteps: n in 0..N; with ``like``, as in :meth:`add_noise`.
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
            noise: Standard Gaussian, like ``x0``.
            timesteps: n in 0..N, integers whose axes are the leading axes of ``x0``: ``(B,)``, ``(B, Q)``, ...

        Returns:
            The noised latents, like ``x0``.

        Raises:
            ValueError: a timestep outside 0..N (looked for on the CPU alone, where the look costs nothing), or axes
                that do not lead those of ``x0``.
            TypeError: latents that are not floating point, or timesteps that are not integers.
        """
        _expect_alike(x0, noise)
        signal, sigma = self._tables.at(x0, timesteps, "signal", "sigma")
        return (signal * x0).addcmul_(sigma, noise)

    def posterior(
        self, x0: Tensor, xn: Tensor, timesteps: Tensor, previous: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        r"""Mean and variance of :math:`q(x_m \mid x_n, x_0)`, m <= n; m = n - 1 is Eq. 3.

        .. math:: \mu = \frac{a_m \beta}{s_n^2} x_0 + \frac{a_n s_m^2}{a_m s_n^2} x_n, \qquad
                  \sigma^2 = \frac{s_m^2}{s_n^2} \beta, \qquad \beta = s_n^2 - \frac{a_n^2}{a_m^2} s_m^2

        Args:
            x0: Clean latents, ``(B, ..., D)``.
            xn: Noised latents, like ``x0``.
            timesteps: n, as in :meth:`add_noise`; from 1 where ``previous`` is None.
            previous: m in 0..n, like ``timesteps``; n - 1 when None. Where m = n the latent stays ``xn``.

        Returns:
            The mean, like ``x0``, and the variance, ``(B, ..., 1)``; zero at m = 0.

        Raises:
            ValueError: as in :meth:`add_noise`, or m above n.
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
        r"""Signal and sigma at n, ``(B, ..., 1)``, like ``like``."""
        signal, sigma = self._tables.at(like, timesteps, "signal", "sigma")
        return signal, sigma

    def reverse_variance(self, like: Tensor, timesteps: Tensor, previous: Tensor | None = None) -> Tensor:
        r"""The variance of :math:`x_m` given :math:`x_n` alone, for x0 of unit variance, ``(B, ..., 1)``; m = n - 1
        when ``previous`` is None.

        .. math:: \beta \, \frac{a_m^2 + s_m^2}{a_n^2 + s_n^2}

        Where variance is preserved it is :math:`\beta_n`, the paper's untrained :math:`\Sigma_\theta`.
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
            ValueError: as in :meth:`add_noise`, or n = N of a schedule that leaves no signal there.
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
        r""":math:`v = p_n \epsilon - q_n x_0` with :math:`p a + q s = 1`, n >= 1.

        Where variance is preserved, p = a and q = s (Salimans & Ho 2022); of a rectified flow p = q = 1.
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
