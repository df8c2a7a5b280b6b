r"""The part of a chain in which a guide acts.

With Gaussian noise, :math:`1 - n / N` of a chain is done at step n. A blank has step N and an item step 0, so the mean
of :math:`1 - n / N` over the K positions of a query is the share of positions that are filled. For predictions of items
this mean counts for all K; positions that are known from the start count as done.
"""

from __future__ import annotations

from torch import Tensor

from diffusers_rec.core.errors import check_float


def check_interval(start: float, stop: float) -> tuple[float, float]:
    """Check the two ends, in [0, 1]; a guide may not stop before it starts."""
    start = check_float("start", start, minimum=0, maximum=1)
    return start, check_float("stop", stop, minimum=start, maximum=1)


def acting(start: float, stop: float, timesteps: Tensor, num_timesteps: int, *, together: bool) -> Tensor:
    """Where the share of the chain that is done lies in [start, stop).

    Args:
        start: Share of the chain after which a guide starts.
        stop: Share of the chain after which a guide stops.
        timesteps: Steps n, ``(...)`` or ``(..., K)``.
        num_timesteps: Number of steps N.
        together: Whether the last axis is that of the K positions, which have one share, their mean.

    Returns:
        bool, like ``timesteps``; the last axis is 1 if ``together``.
    """
    done = 1 - timesteps.double() / num_timesteps
    if together:
        done = done.mean(-1, keepdim=True)
    return (done >= start) & (done < stop)
