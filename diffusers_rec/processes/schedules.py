r"""Noise schedules.

A schedule fixes how much of the clean latent :math:`x_0` survives at timestep :math:`n \in \{0, \dots, N\}` (Eq. 2):

.. math:: x_n = \sqrt{\bar\alpha_n}\, x_0 + \sqrt{1 - \bar\alpha_n}\, \epsilon, \qquad \epsilon \sim \mathcal N(0, I).

Every schedule is one strictly decreasing table :math:`\bar\alpha` with :math:`\bar\alpha_0 = 1` and
:math:`\bar\alpha_N \approx 0`; all else follows from it:

.. math:: \alpha_n = \bar\alpha_n / \bar\alpha_{n-1}, \qquad \beta_n = 1 - \alpha_n, \qquad
          \tilde\beta_n = \frac{1 - \bar\alpha_{n-1}}{1 - \bar\alpha_n}\, \beta_n.

What a step costs the denoiser depends on the signal-to-noise ratio :math:`\bar\alpha_n / (1 - \bar\alpha_n)` beside the
width of the latent and the number of items. ``log_snr_shift`` adds a constant to its logarithm at every step, on any
schedule: negative values make every step noisier.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from diffusers_rec.core.errors import check_bool, check_float, check_int
from diffusers_rec.core.registry import Component

MAX_TIMESTEPS = 1_000_000
"""N at most: a schedule holds some ten tables of N numbers."""


class NoiseSchedule(Component, ABC, kind="schedule"):
    """A frozen table of noise levels and the Gaussian algebra that follows from it.

    A subclass writes ``_alpha_bar``; a subclass with parameters of its own keeps them in attributes, then calls this
    constructor. The tables are float64 on the CPU and are cast to the latents' dtype and device where they are used.

    Args:
        num_timesteps: N.
        log_snr_shift: added to the log signal-to-noise ratio of every step, in nats.

    Attributes:
        alpha_bar: ``(N+1,)``; ``alpha_bar[0] == 1`` exactly. This table and the next ones are copies.
        alpha: ``(N+1,)``; ``alpha[0] == 1``.
        beta: ``(N+1,)``; ``beta[0] == 0``.
        posterior_variance: ``(N+1,)``; zero at n = 0 and n = 1.

    Raises:
        ValueError: N below 1, or the table is not strictly decreasing inside (0, 1), or a beta reaches 1.
    """

    entrances = (
        "add_noise", "posterior", "levels", "reverse_variance",
        "noise_from_x0", "x0_from_noise", "velocity_from_x0", "x0_from_velocity",
    )  # fmt: skip

    def __init__(self, num_timesteps: int = 1000, *, log_snr_shift: float = 0.0) -> None:
        self.num_timesteps = check_int("num_timesteps", num_timesteps, minimum=1, maximum=MAX_TIMESTEPS)
        self.log_snr_shift = check_float("log_snr_shift", log_snr_shift)
        with torch.device("cpu"):
            self._tables = self._build()
        self._cast: dict[tuple[torch.device, torch.dtype], dict[str, Tensor]] = {}
        self._frozen = True

    def _build(self) -> dict[str, Tensor]:
        """Every table that the algebra needs, from alpha_bar."""
        steps = torch.arange(1, self.num_timesteps + 1, dtype=torch.float64)
        signal = self._alpha_bar(steps / self.num_timesteps).to(torch.float64)
        if self.log_snr_shift:
            signal = torch.sigmoid(torch.logit(signal) + self.log_snr_shift)
        alpha_bar = torch.cat([torch.ones(1, dtype=torch.float64), signal])
        self._check_table(alpha_bar)
        alpha = torch.cat([torch.ones(1, dtype=torch.float64), alpha_bar[1:] / alpha_bar[:-1]])
        beta = 1 - alpha
        previous = torch.cat([alpha_bar[:1], alpha_bar[:-1]])
        left, noise = 1 - previous, 1 - alpha_bar
        return {
            "alpha_bar": alpha_bar,
            "alpha": alpha,
            "beta": beta,
            "signal": alpha_bar.sqrt(),
            "noise": noise.sqrt(),
            "posterior_x0": torch.where(noise > 0, previous.sqrt() * beta / noise, 1.0),
            "posterior_xn": torch.where(noise > 0, alpha.sqrt() * left / noise, 0.0),
            "posterior_variance": torch.where(noise > 0, left / noise, 0.0) * beta,
        }

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

    @abstractmethod
    def _alpha_bar(self, fraction: Tensor) -> Tensor:
        """The table without its first entry: alpha_bar at ``fraction`` = n / N for n = 1..N, float64 ``(N,)``."""

    def add_noise(self, x0: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        r"""Draw :math:`q(x_n \mid x_0)` (Eq. 2).

        Args:
            x0: clean latents, ``(B, ..., D)``.
            noise: standard Gaussian, like ``x0``.
            timesteps: n in 0..N, integers whose axes are the leading axes of ``x0``: ``(B,)``, ``(B, Q)``, ...

        Returns:
            The noised latents, like ``x0``.

        Raises:
            ValueError: a timestep outside 0..N (looked for on the CPU alone, where the look costs nothing), or axes
                that do not lead those of ``x0``.
            TypeError: latents that are not floating point, or timesteps that are not integers.
        """
        _expect_alike(x0, noise)
        signal, sigma = self._at(x0, timesteps, "signal", "noise")
        return (signal * x0).addcmul_(sigma, noise)

    def posterior(
        self, x0: Tensor, xn: Tensor, timesteps: Tensor, previous: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        r"""Mean and variance of :math:`q(x_m \mid x_n, x_0)`, m < n; m = n - 1 is Eq. 3.

        .. math:: \mu = \frac{\sqrt{\bar\alpha_m}\,\beta_{n|m}}{1-\bar\alpha_n} x_0
                      + \frac{\sqrt{\alpha_{n|m}}\,(1-\bar\alpha_m)}{1-\bar\alpha_n} x_n, \qquad
                  \sigma^2 = \frac{1-\bar\alpha_m}{1-\bar\alpha_n}\,\beta_{n|m}, \qquad
                  \alpha_{n|m} = 1 - \beta_{n|m} = \frac{\bar\alpha_n}{\bar\alpha_m}

        Args:
            x0: clean latents, ``(B, ..., D)``.
            xn: noised latents, like ``x0``.
            timesteps: n in 1..N, as in :meth:`add_noise`.
            previous: m in 0..n-1, like ``timesteps``; n - 1 when None.

        Returns:
            The mean, like ``x0``, and the variance, ``(B, ..., 1)``; zero at m = 0.

        Raises:
            ValueError: as in :meth:`add_noise`, or m is not below n.
        """
        _expect_alike(x0, xn)
        if previous is None:
            names = "posterior_x0", "posterior_xn", "posterior_variance"
            clean, noised, variance = self._at(x0, timesteps, *names, first=1)
            return (clean * x0).addcmul_(noised, xn), variance
        now, then = self._alpha_bars(x0, timesteps, previous)
        left = (1 - then) / (1 - now)
        beta = 1 - now / then
        clean, noised = then.sqrt() * beta / (1 - now), (now / then).sqrt() * left
        return clean.to(x0.dtype) * x0 + noised.to(xn.dtype) * xn, (left * beta).to(x0.dtype)

    def levels(self, like: Tensor, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        r""":math:`\sqrt{\bar\alpha_n}` and :math:`\sqrt{1 - \bar\alpha_n}`, ``(B, ..., 1)``, like ``like``."""
        signal, sigma = self._at(like, timesteps, "signal", "noise")
        return signal, sigma

    def reverse_variance(self, like: Tensor, timesteps: Tensor, previous: Tensor | None = None) -> Tensor:
        r""":math:`\beta_n`, the paper's untrained :math:`\Sigma_\theta`, ``(B, ..., 1)``, beside latents ``like``.

        With ``previous`` = m it is :math:`\beta_{n|m}`, see :meth:`posterior`.
        """
        if previous is None:
            (beta,) = self._at(like, timesteps, "beta")
            return beta
        now, then = self._alpha_bars(like, timesteps, previous)
        return (1 - now / then).to(like.dtype)

    def noise_from_x0(self, x0: Tensor, xn: Tensor, timesteps: Tensor) -> Tensor:
        r""":math:`\epsilon = (x_n - \sqrt{\bar\alpha_n} x_0) / \sqrt{1 - \bar\alpha_n}`, for n >= 1."""
        _expect_alike(x0, xn)
        signal, sigma = self._at(x0, timesteps, "signal", "noise", first=1)
        return (xn - signal * x0) / sigma

    def x0_from_noise(self, noise: Tensor, xn: Tensor, timesteps: Tensor) -> Tensor:
        r""":math:`x_0 = (x_n - \sqrt{1 - \bar\alpha_n}\,\epsilon) / \sqrt{\bar\alpha_n}`."""
        _expect_alike(noise, xn)
        signal, sigma = self._at(xn, timesteps, "signal", "noise")
        return (xn - sigma * noise) / signal

    def velocity_from_x0(self, x0: Tensor, xn: Tensor, timesteps: Tensor) -> Tensor:
        r""":math:`v = \sqrt{\bar\alpha_n}\,\epsilon - \sqrt{1 - \bar\alpha_n}\,x_0`, n >= 1 (Salimans & Ho 2022)."""
        _expect_alike(x0, xn)
        signal, sigma = self._at(x0, timesteps, "signal", "noise", first=1)
        return (signal * xn - x0) / sigma

    def x0_from_velocity(self, velocity: Tensor, xn: Tensor, timesteps: Tensor) -> Tensor:
        r""":math:`x_0 = \sqrt{\bar\alpha_n}\,x_n - \sqrt{1 - \bar\alpha_n}\,v`."""
        _expect_alike(velocity, xn)
        signal, sigma = self._at(xn, timesteps, "signal", "noise")
        return signal * xn - sigma * velocity

    def _alpha_bars(self, like: Tensor, timesteps: Tensor, previous: Tensor) -> tuple[Tensor, Tensor]:
        """alpha_bar at n and at m < n, float64, with axes that multiply ``like``."""
        exact = torch.empty((), dtype=torch.float64, device=like.device).expand(like.shape)
        (now,), (then,) = self._at(exact, timesteps, "alpha_bar"), self._at(exact, previous, "alpha_bar")
        if _readable(then) and bool((then <= now).any()):
            raise ValueError("previous must lie below timesteps everywhere: a reverse step goes to less noise.")
        return now, then

    def _at(self, like: Tensor, timesteps: Tensor, *names: str, first: int = 0) -> list[Tensor]:
        """The named tables at ``timesteps`` from ``first`` on, with axes and dtype that multiply ``like``."""
        timesteps = torch.as_tensor(timesteps)
        shape, dtype = timesteps.shape, timesteps.dtype
        if not like.is_floating_point():
            raise TypeError(f"The latents must be floating point, got {like.dtype}. Embed the items first.")
        if dtype.is_floating_point or dtype.is_complex or dtype == torch.bool:
            raise TypeError(f"timesteps must be integers, got {dtype}.")
        if not _leads(shape, like.shape):
            raise ValueError(
                f"timesteps must have the leading axes of the latents {tuple(like.shape)} without the last, "
                f"got {tuple(shape)}."
            )
        timesteps = unexpanded(timesteps)
        axes = (*timesteps.shape, *(1,) * (like.ndim - len(shape)))
        index = timesteps.to(like.device, torch.int64).reshape(-1)
        tables = self._cast_to(like.device, like.dtype)
        try:  # the look-up finds steps that are out of range; on a GPU a look at them beforehand would wait for it
            if first and _readable(index) and _least(index) < first:
                raise IndexError
            return [tables[name].index_select(0, index).view(axes) for name in names]
        except (IndexError, RuntimeError) as error:
            bounds = f"{int(timesteps.min())}..{int(timesteps.max())}"
            raise ValueError(f"timesteps must lie in {first}..{self.num_timesteps}, got {bounds}.") from error

    def _cast_to(self, device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
        """The tables, cast once; what a tracer or inference mode makes of them is not kept for others."""
        tables = self._cast.get((device, dtype))
        if tables is None:
            tables = {name: table.to(device, dtype) for name, table in self._tables.items()}
            if all(_ordinary(table) for table in tables.values()):
                self._cast[device, dtype] = tables
        return tables

    def _check_table(self, table: Tensor) -> None:
        name = type(self).__name__
        if table.shape != (self.num_timesteps + 1,) or not bool(torch.isfinite(table).all()):
            raise ValueError(f"{name}: alpha_bar must hold {self.num_timesteps} finite values, got {table[1:]}.")
        falls = table[1:] < table[:-1]
        if not bool(falls.all()):
            n = int((~falls).nonzero()[0]) + 1
            raise ValueError(
                f"{name}: alpha_bar must decrease strictly, but alpha_bar[{n}] = {table[n]:.6g} follows "
                f"alpha_bar[{n - 1}] = {table[n - 1]:.6g}."
            )
        if table[-1] <= 0 or not bool((1 - table[1:] / table[:-1] < 1).all()):
            raise ValueError(
                f"{name}: every beta must stay below 1, so alpha_bar must stay above 0; "
                f"its last value is {table[-1]:.6g}."
            )

    def __setattr__(self, key: str, value: Any) -> None:
        if getattr(self, "_frozen", False):
            raise AttributeError(f"{type(self).__name__} is immutable; build a new one instead of setting {key!r}.")
        super().__setattr__(key, value)


class SqrtSchedule(NoiseSchedule, name="sqrt"):
    r"""Rises fast at first, then slows: :math:`\bar\alpha_n = 1 - \sqrt{n / N} + 10^{-4}` for n >= 1.

    Li et al. 2022, *Diffusion-LM*; the default of Du et al. 2023, Sec. 5.3.1.
    """

    def _alpha_bar(self, fraction: Tensor) -> Tensor:
        return 1 - fraction.sqrt() + 1e-4


class CosineSchedule(NoiseSchedule, name="cosine"):
    r"""Smooth at both ends: :math:`\bar\alpha_n = g(n) / g(0)`, :math:`g(n) = \cos^2\frac{n/N + s}{1 + s}\frac\pi2`.

    As in the source, betas are held at ``max_beta``: the formula reaches beta = 1 at the last step.

    Nichol & Dhariwal 2021, *Improved DDPM*, Eq. 17; Du et al. 2023, Sec. 5.3.1.

    Args:
        num_timesteps: N.
        offset: s, which keeps the first betas from vanishing.
        max_beta: in (0, 1).
        log_snr_shift: see :class:`NoiseSchedule`.
    """

    def __init__(
        self, num_timesteps: int = 1000, *, offset: float = 0.008, max_beta: float = 0.999, log_snr_shift: float = 0.0
    ) -> None:
        self.offset = check_float("offset", offset, minimum=0)
        self.max_beta = check_float("max_beta", max_beta, above=0, below=1)
        super().__init__(num_timesteps, log_snr_shift=log_snr_shift)

    def _alpha_bar(self, fraction: Tensor) -> Tensor:
        from_zero = torch.cat([torch.zeros(1, dtype=torch.float64), fraction])
        g = torch.cos((from_zero + self.offset) / (1 + self.offset) * math.pi / 2) ** 2
        beta = (1 - g[1:] / g[:-1]).clamp(max=self.max_beta)
        return (1 - beta).cumprod(0)


class LinearSchedule(NoiseSchedule, name="linear"):
    r""":math:`\beta_n` rises evenly from ``beta_start`` to ``beta_end``.

    The end points are made for N = 1000. For another N ``rescale`` multiplies them by 1000 / N, which keeps
    :math:`\bar\alpha_N` about where it was. (With N = 1 the one step has the first beta, and is mild.)

    Ho et al. 2020, *DDPM*; Du et al. 2023, Sec. 5.3.1.

    Args:
        num_timesteps: N.
        beta_start: in (0, 1).
        beta_end: in (0, 1).
        rescale: multiply both by 1000 / N.
        log_snr_shift: see :class:`NoiseSchedule`.
    """

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
        beta = torch.linspace(self.beta_start * scale, self.beta_end * scale, steps, dtype=torch.float64)
        if beta.max() >= 1:
            self._refuse(float(beta.max()))
        return (1 - beta).cumprod(0)

    def _refuse(self, beta: float) -> None:
        largest = max(self.beta_start, self.beta_end)
        if not self.rescale or largest >= 1:
            raise ValueError(f"LinearSchedule: beta must stay below 1, got {beta:g}. Lower beta_start and beta_end.")
        raise ValueError(
            f"LinearSchedule: beta must stay below 1, but rescaling {largest:g} to num_timesteps={self.num_timesteps} "
            f"gives beta={beta:g}. Use num_timesteps >= {math.floor(1000 * largest) + 1}, or rescale=False."
        )


def unexpanded(timesteps: Tensor) -> Tensor:
    """The same steps with every expanded axis at size 1, so that what depends on the step alone is computed once."""
    for axis, stride in enumerate(timesteps.stride()):
        if stride == 0:
            timesteps = timesteps.narrow(axis, 0, min(1, timesteps.shape[axis]))
    return timesteps


def _expect_alike(one: Tensor, other: Tensor) -> None:
    if one.shape != other.shape:
        raise ValueError(f"The latents must have one shape, got {tuple(one.shape)} and {tuple(other.shape)}.")


def _ordinary(tensor: Tensor) -> bool:
    """Whether it holds numbers that anybody may use later."""
    return not torch.compiler.is_compiling() and type(tensor) is Tensor and not tensor.is_inference()


def _readable(tensor: Tensor) -> bool:
    """Whether its numbers can be looked at without waiting: on the CPU, and not while a tracer follows."""
    return not torch.compiler.is_compiling() and type(tensor) is Tensor and tensor.device.type == "cpu"


def _least(index: Tensor) -> int:
    """The smallest number, one alone three times faster; one that is never too small where none can be read."""
    try:
        return int(index if index.numel() == 1 else index.min()) if index.numel() else MAX_TIMESTEPS
    except RuntimeError:  # under torch.func.vmap
        return MAX_TIMESTEPS


def _leads(shape: torch.Size, latents: torch.Size) -> bool:
    axes = len(shape)
    return axes < len(latents) and (
        shape == latents[:axes] or all(a in (1, b) for a, b in zip(shape, latents, strict=False))
    )
