r"""A causal history encoder, and a small bidirectional Transformer over the corrupted positions of a query.

The K positions of a query see one another in both directions, and the history through its last state alone. Nothing is
seen of a blank, which says nothing: a prediction does not depend on how many blanks there are, and the first of several
blanks is predicted as the next item is. The output of a position is added to the state, and starts at zero, so that the
initial prediction is that of a plain next-item model.

The denoiser predicts **items**: the head turns an output into logits, to which the exact evidence of the position's own
latent is added. A reverse step costs K tokens, whatever the length of the history.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn

from diffusers_rec.core.errors import check_float, check_int
from diffusers_rec.core.randomness import isolated_rng
from diffusers_rec.data.history import History
from diffusers_rec.denoisers.base import Denoiser, check_shapes
from diffusers_rec.nn.attention import MAX_LAYERS, CausalContext, CausalEncoder, TransformerBlock, check_architecture
from diffusers_rec.nn.step_embedding import StepEmbedding
from diffusers_rec.processes.mask import is_blank
from diffusers_rec.processes.noising import Queries


class _Condition(NamedTuple):
    """Condition of Q queries of K positions.

    Attributes:
        state: State of the visible history, ``(B, Q, 1, D)``.
        token: Its contribution to the token of each position, ``(B, Q, K, D)``.
        keys: Positions that the others may see, ``(B, Q, K)``.
    """

    state: Tensor
    token: Tensor
    keys: Tensor


class JointDenoiser(Denoiser, name="joint"):
    """Predicts several items together, in any order, with anything known between them.

    Args:
        dim: Latent width D.
        max_length: Largest number of positions in a sequence, including noised ones.
        num_layers: Number of Transformer blocks of the history encoder.
        num_heads: Number of attention heads.
        joint_layers: Number of Transformer blocks over the positions of a query.
        dropout: Dropout rate of the history encoder.
        joint_dropout: Dropout rate of the blocks over the positions of a query.
        low_pass: Share of a causal low-pass filter in the attention of the encoder; see
            :class:`~diffusers_rec.nn.low_pass.LowPass`.
        seed: Seed of the initial weights.
    """

    prediction = "items"

    def __init__(
        self,
        dim: int = 256,
        max_length: int = 50,
        *,
        num_layers: int = 2,
        num_heads: int = 2,
        joint_layers: int = 2,
        dropout: float = 0.3,
        joint_dropout: float = 0.1,
        low_pass: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__(dim, max_length, seed)
        self.num_layers, self.num_heads, self.dropout = check_architecture(dim, num_layers, num_heads, dropout)
        self.joint_layers = check_int("joint_layers", joint_layers, minimum=1, maximum=MAX_LAYERS)
        self.joint_dropout = check_float("joint_dropout", joint_dropout, minimum=0, below=1)
        self.low_pass = check_float("low_pass", low_pass, minimum=0, maximum=1)
        with isolated_rng(self.seed):
            self.encoder = CausalEncoder(dim, max_length, num_layers, num_heads, self.dropout, self.low_pass)
            self.empty = nn.Parameter(torch.randn(dim) * 0.02)
            self.step = StepEmbedding(dim)
            self.offset = nn.Parameter(torch.randn(max_length, dim) * 0.02)
            self.take = nn.Linear(dim, dim, bias=False)
            self.from_state = nn.Linear(dim, dim)
            self.blocks = nn.ModuleList(
                TransformerBlock(dim, num_heads, self.joint_dropout, norm_first=True) for _ in range(self.joint_layers)
            )
            self.norm = nn.LayerNorm(dim)
            self.of_offset = nn.Parameter(torch.zeros(max_length, dim))
            self.out = nn.Linear(dim, dim)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def encode(self, history: History) -> CausalContext:  # padding is after all visible items
        return self.encoder.cache(history.latent())

    def condition(self, context: CausalContext, queries: Queries, *, null: bool | Tensor = False) -> _Condition:
        queries = queries.blind(null)
        state = self.encoder.states_after(context, queries.visible, self.empty)[:, :, None]
        return _Condition(state, self.from_state(state) + self.offset[: queries.positions.shape[-1]], queries.keys)

    def forward(self, xn: Tensor, timesteps: Tensor, condition: _Condition) -> Tensor:
        check_shapes(xn, timesteps)
        if timesteps.ndim == 2:
            timesteps = timesteps[..., None]
        batch, draws, width, _ = xn.shape
        x = self.take(xn) + condition.token + self.step(timesteps)
        x = rearrange(x, "b q k d -> (b q) k d")
        seen = condition.keys & ~is_blank(xn)
        itself = torch.eye(width, dtype=torch.bool, device=xn.device)
        mask = (seen[..., None, :] | itself).expand(batch, draws, width, width).flatten(0, 1)[:, None]
        for block in self.blocks:
            x = block(x, mask)
        output = self.out(rearrange(self.norm(x), "(b q) k d -> b q k d", b=batch))
        return condition.state + self.of_offset[:width] + output
