r"""Gaussians with diagonal covariance as latents of width D: the mean, then what the covariance is computed from.

.. math:: x = (\mu;\, c), \qquad \Sigma = \mathrm{diag}\big( \mathrm{ELU}(c) + 1 \big)

With the standard deviations :math:`\sigma = \sqrt{\mathrm{ELU}(c) + 1}`, the squared 2-Wasserstein distance of two of
them is the squared distance of the points :math:`(\mu;\, \sigma)`:

.. math:: W_2^2(x, x') = \|\mu - \mu'\|^2 + \|\sigma - \sigma'\|^2
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def gaussian_points(latents: Tensor) -> Tensor:
    """Map Gaussians ``(..., D)`` to the points of which their distances are those, ``(..., D)``, float32 or wider."""
    mean, free = latents.to(torch.promote_types(latents.dtype, torch.float32)).chunk(2, dim=-1)
    # The root of exp(c), for c < 0, has a gradient even where exp(c) underflows. One of the factors is always 1.
    deviation = (free.clamp(max=0) / 2).exp() * (1 + F.relu(free)).sqrt()
    return torch.cat([mean, deviation], dim=-1)
