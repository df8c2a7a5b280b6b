r"""The paper's Denoise Sequential Recommender (DSR, Sec. 4.4): a bidirectional Transformer encoder.

.. math:: \hat H^n = [h_1 + y_1 + z_n, \dots, h_T^n + y_T + z_n], \qquad
          \hat x_0 = \mathrm{TransformerEncoder}(\hat H^n)[-1] \qquad \text{(Eq. 14, 16)}

The history attends to the noised target, so its states cannot be reused between steps, and each query is a separate
sequence. Sequences end at the noised positions, as the left-padded sequences of the paper do. Position embeddings count
from the end.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from diffusers_rec.core.errors import check_bool, check_choice
from diffusers_rec.core.randomness import isolated_rng
from diffusers_rec.data.history import History
from diffusers_rec.denoisers.base import Denoiser, check_shapes
from diffusers_rec.nn.attention import TransformerBlock, check_architecture
from diffusers_rec.nn.dropout import Dropout
from diffusers_rec.nn.step_embedding import step_embedding
from diffusers_rec.processes.noising import Queries


class _Condition(NamedTuple):
    """Condition of Q queries, and additions to their sequences of L + K tokens.

    Attributes:
        history: Latents of the history, as far as any query sees it, ``(B, L, D)``.
        last_item: Latent of the last visible item, ``(B, Q, 1, D)``; None unless it is added to the tokens.
        place: Position embeddings, ``(B, Q, L + K, D)``; None without them.
        keys: Mask of the visible tokens, ``(B, Q, L + K)``.
        last: Index of the last real position of each query, ``(B, Q, 1)``.
    """

    history: Tensor
    last_item: Tensor | None
    place: Tensor | None
    keys: Tensor
    last: Tensor


class TransformerDenoiser(Denoiser, name="transformer"):
    """The bidirectional Transformer of the paper (DSR), with the paper's defaults.

    Args:
        dim: Latent width D.
        max_length: Largest number T of positions in a sequence, including noised ones.
        num_layers: Number of Transformer blocks.
        num_heads: Number of attention heads.
        dropout: Dropout rate of the input, the attention and every residual. In the paper, .3 on Beauty and Toys, .2 on
            ML-1M.
        position_embedding: Whether to add y_t (Eq. 14); False for the ablation of Sec. 5.3.3.
        step_embedding: Whether to add z_n (Eq. 14, 15); False for the ablation of Sec. 5.3.3.
        target_token: Token of a noised position. ``"raw"``: the noised latent (the paper). ``"projected"``: a learned
            [unk] vector plus a small linear map of the noised latent, so the network learns how much noise to use.
            ``"last-item"``: the noised latent plus the latent of the last item that the query sees, so the prediction
            does not start from noise only.
        norm_first: Whether layer norms precede attention and feed-forward, instead of following them.
        seed: Seed of the initial weights.
    """

    def __init__(
        self,
        dim: int = 256,
        max_length: int = 50,
        *,
        num_layers: int = 2,
        num_heads: int = 2,
        dropout: float = 0.3,
        position_embedding: bool = True,
        step_embedding: bool = True,
        target_token: str = "raw",
        norm_first: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(dim, max_length, seed)
        self.num_layers, self.num_heads, self.dropout = check_architecture(dim, num_layers, num_heads, dropout)
        self.position_embedding = check_bool("position_embedding", position_embedding)
        self.step_embedding = check_bool("step_embedding", step_embedding)
        self.target_token = check_choice("target_token", target_token, ("raw", "projected", "last-item"))
        self.norm_first = check_bool("norm_first", norm_first)
        with isolated_rng(self.seed):
            if self.target_token == "projected":
                self.unknown = nn.Parameter(torch.randn(dim))
                self.take = nn.Linear(dim, dim, bias=False)
                nn.init.normal_(self.take.weight, std=0.1 / dim**0.5)
            if self.position_embedding:
                self.place = nn.Embedding(max_length, dim)
                nn.init.normal_(self.place.weight, std=0.02)
            self.blocks = nn.ModuleList(
                TransformerBlock(dim, num_heads, self.dropout, norm_first=self.norm_first) for _ in range(num_layers)
            )
        self.input_dropout = Dropout(self.dropout)
        self.norm = nn.LayerNorm(dim) if self.norm_first else nn.Identity()

    def encode(self, history: History) -> History:
        return history

    def condition(self, context: History, queries: Queries, *, null: bool | Tensor = False) -> _Condition:
        queries = queries.blind(null)
        history = context.first(queries.longest(context.items.shape[1]))
        latents, visible = history.latent(), queries.visible
        longest = latents.shape[1]
        of_history = (torch.arange(longest, device=visible.device) < visible[..., None]) & history.mask[:, None]
        return _Condition(
            latents,
            queries.last_visible(latents)[:, :, None] if self.target_token == "last-item" else None,
            self.place(self._distance_from_end(longest, queries)) if self.position_embedding else None,
            torch.cat([of_history, queries.keys], dim=-1),
            (queries.count - 1).clamp(min=0)[..., None],
        )

    def forward(self, xn: Tensor, timesteps: Tensor, condition: _Condition) -> Tensor:
        check_shapes(xn, timesteps)
        batch, queries, corrupted, _ = xn.shape
        longest = condition.history.shape[1]
        tokens = torch.cat(
            [repeat(condition.history, "b l d -> b q l d", q=queries), self._target_tokens(xn, condition)], dim=2
        )
        if condition.place is not None:
            tokens = tokens + condition.place
        if self.step_embedding:
            tokens = tokens + self._steps(timesteps, longest, condition.last).to(tokens.dtype)
        keys = condition.keys.expand(batch, queries, -1)
        mask = repeat(keys, "b q s -> (b q) 1 l s", l=longest + corrupted)
        x = self.input_dropout(rearrange(tokens, "b q l d -> (b q) l d"))
        for block in self.blocks[:-1]:
            x = block(x, mask)
        x = self.blocks[-1](x, mask, last=corrupted)
        return rearrange(self.norm(x), "(b q) k d -> b q k d", b=batch)

    def _target_tokens(self, xn: Tensor, condition: _Condition) -> Tensor:
        if self.target_token == "projected":
            return self.unknown + self.take(xn)
        return xn if condition.last_item is None else xn + condition.last_item

    def _distance_from_end(self, longest: int, queries: Queries) -> Tensor:
        """Distances from the last corrupted position, ``(B, Q, L + K)``: 0 there, 1 before it, ..."""
        visible = queries.visible[..., None]
        place = torch.arange(longest, device=visible.device)
        offset = torch.arange(queries.positions.shape[-1], device=visible.device)
        end = queries.count[..., None] - 1
        return torch.cat([visible + end - place, end - offset], dim=-1).clamp(0, self.max_length - 1)

    def _steps(self, timesteps: Tensor, longest: int, last: Tensor) -> Tensor:
        """Step embeddings z_n of all positions, ``(B, Q, L + K, D)``; the history has that of the last noised one."""
        if timesteps.ndim == 2:
            return step_embedding(timesteps, self.dim)[:, :, None]
        of_history = timesteps.gather(-1, last.expand(*timesteps.shape[:2], 1))
        steps = torch.cat([of_history.expand(*timesteps.shape[:2], longest), timesteps], dim=-1)
        return step_embedding(steps, self.dim)
