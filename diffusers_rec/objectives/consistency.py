r"""A consistency term: predictions from adjacent steps of one noising agree.

.. math:: \mathcal L = \| \hat x_0(x_n, n) - \mathrm{sg}[\hat x_0(x_{n-1}, n - 1)] \|^2

Both latents have the same clean latent and the same noise. The earlier prediction, from less noise, is a target without
gradient (sg), as in consistency training (Song et al. 2023). At n = 1 the term is zero.

Mao et al. 2025, *TA-Rec*, Sec. 4.2. We could not read its Eq. 4. Its text makes predictions at adjacent steps
consistent. The distance, the shared noise and the stopped gradient are our reading.
"""

from __future__ import annotations

import torch
from torch import Tensor

from diffusers_rec.objectives.base import TrainingStep
from diffusers_rec.objectives.terms import LossTerm


class ConsistencyTerm(LossTerm, name="consistency"):
    """Mean squared difference of the predictions at the sampled step and at the one before. See the module.

    Args:
        weight: Weight of the term.
    """

    passes = ("sampled", "adjacent")

    def __call__(self, step: TrainingStep) -> Tensor:
        with torch.autocast(step.x0.device.type, enabled=False):
            later, earlier = (step.at(name).prediction.to(step.x0.dtype) for name in self.passes)
            return (later - earlier.detach()).square().mean(-1)
