r"""No denoising: the prediction is the state of the history encoder.

.. math:: \hat x_0 = s

With an encoder and a cross-entropy, this is a plain next-item model, such as SASRec or GRU4Rec. It is the control of
every denoiser that reads the same encoder.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from diffusers_rec.core.randomness import isolated_rng
from diffusers_rec.data.history import History
from diffusers_rec.denoisers.base import Denoiser, check_shapes
from diffusers_rec.encoders import EncoderSpec, encoder_of
from diffusers_rec.processes.noising import Queries


class PlainDenoiser(Denoiser, name="plain"):
    """Predicts the state of the history at every position, whatever the noise and the step.

    Args:
        dim: Latent width D.
        max_length: Largest number of positions in a sequence, including noised ones.
        encoder: History encoder.
        seed: Seed of the initial weights.
    """

    reads_xn = False

    def __init__(
        self,
        dim: int = 256,
        max_length: int = 50,
        *,
        encoder: EncoderSpec = "causal-transformer",
        seed: int = 0,
    ) -> None:
        super().__init__(dim, max_length, seed)
        with isolated_rng(self.seed):
            self.encoder = encoder_of(encoder, dim, max_length)
            self.empty = nn.Parameter(torch.randn(dim) * 0.02)

    def encode(self, history: History) -> Any:
        return self.encoder(history)

    def condition(self, context: Any, queries: Queries, *, null: bool | Tensor = False) -> Tensor:
        return self.encoder.after(context, queries.blind(null).visible, self.empty)[:, :, None]

    def forward(self, xn: Tensor, timesteps: Tensor, condition: Tensor) -> Tensor:
        check_shapes(xn, timesteps)
        return condition.expand_as(xn)
