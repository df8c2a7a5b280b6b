"""The noise-free control: a denoiser that never sees noise, and is therefore a plain next-item model.

It has the same parts, loss and data as the diffusion model, but no xn. The difference between the two is the effect of
the diffusion.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from diffusers_rec.denoisers.base import check_shapes
from diffusers_rec.guidance.base import Guide


class NoiselessDenoiser(Guide, name="noiseless"):
    """The prediction of ``base`` from zero at step N, for any xn and step. Arguments as in :class:`Guide`."""

    base_predicts = ("x0",)

    def forward(self, xn: Tensor, timesteps: Tensor, condition: Any) -> Tensor:
        check_shapes(xn, timesteps)
        last = torch.full_like(timesteps, self.schedule.num_timesteps)
        prediction: Tensor = self.base(torch.zeros_like(xn), last, condition)
        return prediction
