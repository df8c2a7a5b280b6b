r"""The paper's Denoise Sequential Recommender (DSR, Sec. 4.4): a bidirectional Transformer encoder.

.. math:: \hat H^n = [h_1 + y_1 + z_n, \dots, h_T^n + y_T + z_n], \qquad
          \hat x_0 = \mathrm{TransformerEncoder}(\hat H^n)[-1] \qquad \text{(Eq. 14, 16)}

The history attends to the noised target, so nothing of it can be kept between steps: each question is a sequence of its
own. Sequences end at the noised positions, as the paper's left-padded ones do; position embeddings count from there.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from diffusers_rec.core.errors import check_bool, check_choice
from diffusers_rec.core.randomness import isolated_rng
from diffusers_rec.denoisers.base import Denoiser, check_shapes
from diffusers_rec.nn.attention import TransformerBlock, check_architecture, last_visible, step_embedding
from diffusers_rec.nn.dropout import Dropout


class _Context(NamedTuple):
    history: Tensor
    mask: Tensor


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
            ``"last-item"``: each noised latent plus the last item that the question sees, none where it sees none, so
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

    def encode(self, history: Tensor, mask: Tensor) -> _Context:
        return _Context(history, mask)

    def forward(
        self, xn: Tensor, timesteps: Tensor, visible: Tensor, context: _Context, count: Tensor | None = None
    ) -> Tensor:
        check_shapes(xn, timesteps, visible, count)
        batch, questions, noised, _ = xn.shape
        if count is None:
            count = torch.full_like(visible, noised)
        longest = min(int(visible.max()), context.history.shape[1])
        history = context.history[:, :longest]
        tokens = torch.cat(
            [
                repeat(history, "b l d -> (b q) l d", q=questions),
                rearrange(self._target_tokens(xn, visible, history), "b q k d -> (b q) k d"),
            ],
            dim=1,
        )
        if self.position_embedding:
            tokens = tokens + self.place(self._distance_from_end(longest, noised, visible, count))
        if self.step_embedding:
            tokens = tokens + self._steps(timesteps, longest, count).to(tokens.dtype)
        mask = self._mask(context.mask[:, :longest], noised, visible, count)
        x = self.input_dropout(tokens)
        for block in self.blocks[:-1]:
            x = block(x, mask)
        x = self.blocks[-1](x, mask, last=noised)
        return rearrange(self.norm(x), "(b q) k d -> b q k d", b=batch)

    def _target_tokens(self, xn: Tensor, visible: Tensor, history: Tensor) -> Tensor:
        if self.target_token == "projected":
            return self.unknown + self.take(xn)
        if self.target_token == "last-item":
            return xn + last_visible(history, visible)[:, :, None]
        return xn

    def _distance_from_end(self, longest: int, noised: int, visible: Tensor, count: Tensor) -> Tensor:
        """0 at the last noised position, 1 before it, ...: ``(B Q, L + K)``."""
        place = torch.arange(longest, device=visible.device)
        offset = torch.arange(noised, device=visible.device)
        end = count[..., None] - 1
        distance = torch.cat([visible[..., None] + end - place, end - offset], dim=-1)
        return distance.clamp(0, self.max_length - 1).flatten(0, 1)

    def _steps(self, timesteps: Tensor, longest: int, count: Tensor) -> Tensor:
        """z_n at every position, ``(B Q, L + K, D)``; the history has that of the last noised position."""
        if timesteps.ndim == 2:
            return rearrange(step_embedding(timesteps, self.dim), "b q d -> (b q) 1 d")
        last = timesteps.gather(-1, (count - 1).clamp(min=0)[..., None])
        steps = torch.cat([last.expand(*timesteps.shape[:2], longest), timesteps], dim=-1)
        return rearrange(step_embedding(steps, self.dim), "b q l d -> (b q) l d")

    def _mask(self, real: Tensor, noised: int, visible: Tensor, count: Tensor) -> Tensor:
        """Which keys each sequence sees, ``(B Q, 1, L + K, L + K)`` by expansion; a padded question sees itself."""
        place = torch.arange(real.shape[1], device=visible.device)
        offset = torch.arange(noised, device=visible.device)
        history = (place < visible[..., None]) & real[:, None]
        seen = torch.cat([history, offset < count.clamp(min=1)[..., None]], dim=-1)
        return repeat(seen, "b q s -> (b q) 1 l s", l=seen.shape[-1])
