r"""An affine map of the latent, the state of a history encoder, and the noise level.

.. math:: \hat x_0 = W\, [\, x_n;\; s;\; z(\sigma_n) \,] + b, \qquad \sigma_n = -\log \bar\alpha_n

The state s is that of a history encoder, by default :mod:`~diffusers_rec.encoders.single_layer` with two heads and
items that are rotated by their places. z is a perceptron of the cosines and then the sines of
:math:`\sigma\, 10^{-4j/128}` for :math:`0 \le j < 128`, with a SiLU at the end.

Hu et al. 2025, *PreferGrow*, and its public code, which calls the network a DiT. Nothing in it is modulated: as with
one layer of ``state-mlp``, the effect of the history is the same at every step and for every x_n.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from diffusers_rec.core.randomness import isolated_rng
from diffusers_rec.denoisers.base import check_shapes
from diffusers_rec.denoisers.state_mlp import Condition, StateDenoiser
from diffusers_rec.encoders import EncoderSpec, encoder_of
from diffusers_rec.processes.schedules import NoiseSchedule
from diffusers_rec.processes.schedules.lookup import unexpanded

FREQUENCIES = 128

_ENCODER = {"name": "single-layer", "num_heads": 2, "rotary": True}


class RotaryStateDenoiser(StateDenoiser, name="rotary-state"):
    """An affine map of latent, state and noise level.

    The source defines one corrupted position. Of K positions, each reads half of its own latent and half of their
    mean, which for K = 1 is the latent.

    Args:
        schedule: Noise schedule, shared and not owned.
        dim: Latent width D.
        max_length: Largest number of positions in a sequence, including noised ones.
        encoder: History encoder.
        seed: Seed of the initial weights.
    """

    requires = frozenset({"schedule"})

    def __init__(
        self,
        schedule: NoiseSchedule,
        dim: int = 256,
        max_length: int = 50,
        *,
        encoder: EncoderSpec = _ENCODER,
        seed: int = 0,
    ) -> None:
        super().__init__(dim, max_length, seed)
        self.schedule = schedule
        with isolated_rng(self.seed):
            self.encoder = encoder_of(encoder, dim, max_length)
            self.empty = nn.Parameter(torch.randn(dim))
            self.level = nn.Sequential(nn.Linear(2 * FREQUENCIES, dim), nn.GELU(), nn.Linear(dim, dim), nn.SiLU())
            self.join = nn.Linear(3 * dim, dim)

    def forward(self, xn: Tensor, timesteps: Tensor, condition: Condition) -> Tensor:
        check_shapes(xn, timesteps)
        if timesteps.ndim == 2:
            timesteps = timesteps[..., None]
        return self._joined(xn, self.level(self._waves(unexpanded(timesteps))), condition)

    def _waves(self, timesteps: Tensor) -> Tensor:
        """Cosines and sines of the noise levels at steps of any shape, of that shape followed by 256."""
        wide = torch.promote_types(self.empty.dtype, torch.float32)
        kept = self.schedule.alpha_bar.to(timesteps.device)[timesteps]
        level = -kept.clamp(min=torch.finfo(kept.dtype).tiny).log().to(wide)
        place = torch.arange(FREQUENCIES, device=timesteps.device, dtype=wide)
        angle = level[..., None] * torch.exp(-math.log(10000) / FREQUENCIES * place)
        return torch.cat([angle.cos(), angle.sin()], dim=-1).to(self.empty.dtype)
