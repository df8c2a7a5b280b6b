r"""Gaussian algebra between two noise levels, for numbers and tensors.

With signal :math:`a` and sigma :math:`s`, the transition between two steps m < n is

.. math:: q(x_n \mid x_m) = \mathcal N(r x_m, \beta I), \qquad r = a_n / a_m, \qquad \beta = s_n^2 - r^2 s_m^2,

and Bayes' rule gives

.. math:: q(x_m \mid x_n, x_0) = \mathcal N\Big(\frac{a_m \beta}{s_n^2} x_0 + \frac{r s_m^2}{s_n^2} x_n,\;
          \frac{s_m^2}{s_n^2} \beta I\Big).

With :math:`a^2 + s^2 = 1` (variance preserving) this is Eq. 3, and :math:`\beta = 1 - r^2`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from diffusers_rec.processes.schedules.lookup import readable


class Level(NamedTuple):
    """One noise level, in Python floats or in float64 tensors that broadcast over latents.

    Attributes:
        signal: Factor of the clean latent.
        sigma: Factor of the standard Gaussian noise.
        square: Square of ``signal``.
        variance: Square of ``sigma``.
        alpha_bar: Share of the signal, ``square / (square + variance)``.
        preserving: Whether ``square + variance`` is 1 at every step of the schedule.
    """

    signal: Any
    sigma: Any
    square: Any
    variance: Any
    alpha_bar: Any
    preserving: bool

    @classmethod
    def of(cls, tables: Iterable[Any], preserving: bool) -> Level:
        """Build a level from the values that :data:`LEVEL` names, in this order."""
        return cls._make([*tables, preserving])


LEVEL = Level._fields[:-1]


def transition(now: Level, then: Level) -> tuple[Any, Any]:
    """Square of r, and beta, of the transition from ``then`` (m) to ``now`` (n)."""
    ratio = now.square / then.square
    return ratio, 1 - ratio if now.preserving else now.variance - ratio * then.variance


def posterior(now: Level, then: Level) -> tuple[Any, Any, Any]:
    """Factors of x0 and of xn in the mean of the posterior, and its variance."""
    ratio, beta = transition(now, then)
    left = then.variance / now.variance
    return then.signal * beta / now.variance, ratio**0.5 * then.variance / now.variance, left * beta


def reverse_variance(now: Level, then: Level) -> Any:
    """Variance of x_m given only x_n, for clean latents of unit variance; beta if variance is preserved."""
    _, beta = transition(now, then)
    if now.preserving:
        return beta
    return beta * (then.square + then.variance) / (now.square + now.variance)


def implicit(now: Level, then: Level, eta: float) -> tuple[Any, Any]:
    r"""Factors of x0 and of xn in the mean of a DDIM step with eta² times the variance of the posterior.

    .. math:: a_m x_0 + \sqrt{s_m^2 - \eta^2 \tfrac{s_m^2}{s_n^2}\beta}\; \frac{x_n - a_n x_0}{s_n}
    """
    _, beta = transition(now, then)
    noised = then.sigma * (1 - eta**2 * (beta / now.variance)) ** 0.5 / now.sigma
    return then.signal - now.signal * noised, noised


def resting(now: Level, then: Level, *factors: Tensor) -> tuple[Tensor, ...]:
    """Replace the factors of x0, of xn and of noise by 0, 1 and 0 where m = n.

    Raises:
        ValueError: A step m is above its n (checked only on the CPU).
    """
    if readable(then.alpha_bar) and bool((then.alpha_bar < now.alpha_bar).any()):
        raise ValueError("previous must not lie above timesteps: a reverse step goes to less noise.")
    same = then.alpha_bar == now.alpha_bar
    return tuple(torch.where(same, rest, factor) for rest, factor in zip((0.0, 1.0, 0.0), factors, strict=True))


def derived(level: Level, velocity: Tensor) -> dict[str, Tensor]:
    """All tables of a schedule, from the tables of its levels and of the factor p of its velocity."""
    then = Level.of((torch.cat([table[:1], table[:-1]]) for table in level[:-1]), level.preserving)
    ratio, beta = transition(level, then)
    clean, noised, left = posterior(level, then)
    start = torch.arange(len(ratio)) == 0
    return {
        **dict(zip(LEVEL, level[:-1], strict=True)),
        "alpha": ratio,
        "beta": beta,
        "velocity": velocity,
        "reverse_variance": reverse_variance(level, then),
        "posterior_x0": torch.where(start, 0.0, clean),
        "posterior_xn": torch.where(start, 1.0, noised),
        "posterior_variance": torch.where(start, 0.0, left),
    }
