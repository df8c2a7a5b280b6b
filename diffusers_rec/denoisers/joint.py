r"""A history encoder, and a small bidirectional Transformer over the corrupted positions of a query.

The K positions of a query see one another in both directions, and the history through its last state alone. Nothing is
seen of a blank, which says nothing: a prediction does not depend on how many blanks there are, and the first of several
blanks is predicted as the next item is. The output of a position is added to the state, and starts at zero, so that the
initial prediction is that of a plain next-item model.

The denoiser predicts **items**: the head turns an output into logits, to which the exact evidence of the position's own
latent is added. A reverse step costs K tokens, whatever the length of the history.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn

from diffusers_rec.core.randomness import isolated_rng
from diffusers_rec.data.history import History
from diffusers_rec.denoisers.base import Denoiser, check_shapes
from diffusers_rec.encoders import EncoderSpec, encoder_of
from diffusers_rec.nn.attention import TransformerBlock, check_architecture
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
        encoder: History encoder.
        joint_layers: Number of Transformer blocks over the positions of a query.
        joint_heads: Number of attention heads of these blocks.
        joint_dropout: Dropout rate of these blocks.
        seed: Seed of the initial weights.
    """

    prediction = "items"

    def __init__(
        self,
        dim: int = 256,
        max_length: int = 50,
        *,
        encoder: EncoderSpec = "causal-transformer",
        joint_layers: int = 2,
        joint_heads: int = 2,
        joint_dropout: float = 0.1,
        seed: int = 0,
    ) -> None:
        super().__init__(dim, max_length, seed)
        architecture = check_architecture(dim, joint_layers, joint_heads, joint_dropout)
        self.joint_layers, self.joint_heads, self.joint_dropout = architecture
        with isolated_rng(self.seed):
            self.encoder = encoder_of(encoder, dim, max_length)
            self.empty = nn.Parameter(torch.randn(dim) * 0.02)
            self.step = StepEmbedding(dim)
            self.offset = nn.Parameter(torch.randn(max_length, dim) * 0.02)
            self.take = nn.Linear(dim, dim, bias=False)
            self.from_state = nn.Linear(dim, dim)
            self.blocks = nn.ModuleList(
                TransformerBlock(dim, joint_heads, self.joint_dropout, norm_first=True) for _ in range(joint_layers)
            )
            self.norm = nn.LayerNorm(dim)
            self.of_offset = nn.Parameter(torch.zeros(max_length, dim))
            self.out = nn.Linear(dim, dim)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def encode(self, history: History) -> Any:
        return self.encoder(history)

    def condition(self, context: Any, queries: Queries, *, null: bool | Tensor = False) -> _Condition:
        queries = queries.blind(null)
        state = self.encoder.after(context, queries.visible, self.empty)[:, :, None]
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
