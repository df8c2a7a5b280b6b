r"""A decoder on the state of a causal history encoder and the step, which does not read the noised latent.

The state h is that of the last visible item, from a causal Transformer with layer norms after each layer, on the
normalised sum of item and position. Without history, h is a vector of its own. For a learned vector :math:`z_n` of each
step, with linear maps A, B and C and a feed-forward layer F of width D,

.. math:: y = \mathrm{LN}(h + A h), \qquad y' = \mathrm{LN}(y + C z_n), \qquad
          \hat x_0 = \mathrm{LN}\big( y' + F(y') \big)

where A and C are products of two maps each. This is a Transformer decoder whose queries are h and whose only key is
:math:`z_n`: attention over one key is a linear map. Wang et al. 2024, *CDDRec*, and its code for a single user.

The initial weights have the distribution of the public code: normal with standard deviation .02, and zero biases. The
first maps of A and C are uniform with variance 1 / 2D, as in the attention of PyTorch.

As :math:`x_n` is not read, the steps of a chain do not depend on one another: its sample is the prediction at its last
step.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from diffusers_rec.core.randomness import isolated_rng
from diffusers_rec.data.history import History
from diffusers_rec.denoisers.base import Denoiser, check_shapes
from diffusers_rec.nn.attention import TransformerBlock, check_architecture
from diffusers_rec.nn.dropout import Dropout
from diffusers_rec.processes.noising import Queries
from diffusers_rec.processes.schedules import NoiseSchedule

EPS = 1e-12


class StateDecoderDenoiser(Denoiser, name="state-decoder"):
    """A decoder on a state of the history and the step.

    All K positions of a query have the same prediction; the source has one.

    Args:
        dim: Latent width D.
        max_length: Largest number of positions in a sequence, including noised ones.
        schedule: Noise schedule, shared and not owned; there is one learned vector for each of its steps.
        num_layers: Number of Transformer blocks of the history encoder.
        num_heads: Number of attention heads of the history encoder.
        dropout: Dropout rate of encoder and decoder.
        seed: Seed of the initial weights.
    """

    requires = frozenset({"schedule"})
    reads_xn = False

    def __init__(
        self,
        dim: int = 128,
        max_length: int = 21,
        *,
        schedule: NoiseSchedule,
        num_layers: int = 1,
        num_heads: int = 4,
        dropout: float = 0.2,
        seed: int = 0,
    ) -> None:
        super().__init__(dim, max_length, seed)
        self.schedule = schedule
        self.num_layers, self.num_heads, self.dropout = check_architecture(dim, num_layers, num_heads, dropout)
        with isolated_rng(self.seed):
            self.place = nn.Embedding(max_length, dim)
            self.empty = nn.Parameter(torch.randn(dim))
            self.blocks = nn.ModuleList(
                TransformerBlock(dim, num_heads, self.dropout, norm_first=False, activation=nn.GELU(), eps=EPS)
                for _ in range(self.num_layers)
            )
            self.step = nn.Embedding(schedule.num_timesteps, dim)
            values = nn.Linear(dim, dim), nn.Linear(dim, dim)
            self.of_state, self.of_step = (nn.Sequential(value, nn.Linear(dim, dim)) for value in values)
            self.feed_forward = nn.Sequential(
                nn.Linear(dim, dim), nn.GELU(), Dropout(self.dropout), nn.Linear(dim, dim)
            )
            self._draw_weights(values)
        self.input_norm = nn.LayerNorm(dim, EPS)
        self.state_norm, self.step_norm, self.norm = (nn.LayerNorm(dim) for _ in range(3))
        self.residual = Dropout(self.dropout)

    def _draw_weights(self, values: Sequence[nn.Linear]) -> None:
        """Draw the initial weights of embeddings and linear maps, of which some are values of an attention."""
        for layer in self.modules():
            if isinstance(layer, nn.Embedding | nn.Linear):
                nn.init.normal_(layer.weight, std=0.02)
            if isinstance(layer, nn.Linear):
                nn.init.zeros_(layer.bias)
        for layer in values:
            nn.init.uniform_(layer.weight, -((1.5 / self.dim) ** 0.5), (1.5 / self.dim) ** 0.5)

    def encode(self, history: History) -> Tensor:
        """States, ``(B, L, D)``."""
        latents = history.latent()
        length = latents.shape[1]
        x = self.input_norm(latents + self.place.weight[:length])
        causal = torch.ones(length, length, dtype=torch.bool, device=x.device).tril()
        for block in self.blocks:
            x = block(x, causal)
        return x

    def condition(self, context: Tensor, queries: Queries, *, null: bool | Tensor = False) -> Tensor:
        queries = queries.blind(null)
        state = queries.last_visible(context)
        state = torch.where(queries.visible[..., None] == 0, self.empty.to(state.dtype), state)[:, :, None]
        return self.state_norm(state + self.residual(self.of_state(state)))

    def forward(self, xn: Tensor, timesteps: Tensor, condition: Tensor) -> Tensor:
        check_shapes(xn, timesteps)
        if timesteps.ndim == 2:
            timesteps = timesteps[..., None]
        step = self.of_step(self.step((timesteps - 1).clamp(min=0)))
        y = self.step_norm(condition + self.residual(step))
        return self.norm(y + self.residual(self.feed_forward(y))).expand_as(xn)
