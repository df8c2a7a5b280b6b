r"""The paper's Denoise Sequential Recommender (DSR, Sec. 4.4): a bidirectional Transformer encoder.

.. math:: \hat H^n = [h_1 + y_1 + z_n, \dots, h_T^n + y_T + z_n], \qquad
          \hat x_0 = \mathrm{TransformerEncoder}(\hat H^n)[-1] \qquad \text{(Eq. 14, 16)}

The history attends to the noised target, so nothing of it can be kept between steps: each query is a sequence of its
own. Sequences end at the noised positions, as the paper's left-padded ones do; position embeddings count from there.
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
    """What Q queries see, and what is added to their sequences of L + K tokens.

    Attributes:
        history: ``(B, L, D)``, as far as any query sees it.
        last_item: the last visible item's latent, ``(B, Q, 1, D)``, where tokens start from it.
        place: position embeddings, ``(B, Q, L + K, D)``, where there are any.
        keys: which tokens are seen, ``(B, Q, L + K)``.
        last: index of each query's last real position, ``(B, Q, 1)``.
    """

    history: Tensor
    last_item: Tensor | None
    place: Tensor | None
    keys: Tensor
    last: Tensor


class TransformerDenoiser(Denoiser, name="transformer"):
    """The bidirectional DSR. The defaults are the paper's.

    Args:
        dim: D.
        max_length: T, positions in a sequence, the noised ones included.
        num_layers: Transformer blocks.
        num_heads: attention heads.
        dropout: on the input, the attention, and every residual. The paper: .3 on Beauty and Toys, .2 on ML-1M.
        position_embedding: add y_t (Eq. 14); off for the ablation of Sec. 5.3.3.
        step_embedding: add z_n (Eq. 14, 15); off for the ablation of Sec. 5.3.3.
        target_token: ``"raw"``: the noised latent itself (the paper). ``"projected"``: a learned [unk] vector plus a
            small linear map of the noised latent, so that the network chooses how much of the noise to take in.
            ``"last-item"``: each noised latent plus the last item that the query sees, none where it sees none, so
            that the answer need not grow out of noise alone.
        norm_first: layer norms before instead of behind.
        seed: of the initial weights.
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
        history = context.first(int(queries.visible.max()))
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
        """0 at the last corrupted position, 1 before it, ...: ``(B, Q, L + K)``."""
        visible = queries.visible[..., None]
        place = torch.arange(longest, device=visible.device)
        offset = torch.arange(queries.positions.shape[-1], device=visible.device)
        end = queries.count[..., None] - 1
        return torch.cat([visible + end - place, end - offset], dim=-1).clamp(0, self.max_length - 1)

    def _steps(self, timesteps: Tensor, longest: int, last: Tensor) -> Tensor:
        """z_n at every position, ``(B, Q, L + K, D)``; the history has that of the last corrupted position."""
        if timesteps.ndim == 2:
            return step_embedding(timesteps, self.dim)[:, :, None]
        of_history = timesteps.gather(-1, last.expand(*timesteps.shape[:2], 1))
        steps = torch.cat([of_history.expand(*timesteps.shape[:2], longest), timesteps], dim=-1)
        return step_embedding(steps, self.dim)
