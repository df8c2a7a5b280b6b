r"""A causal encoder of the clean history, and a causal denoiser of the sequence that is shifted by one item.

.. math:: (c_1, \dots, c_L) = \mathrm{Encoder}\big(\mathrm{LN}(h_1), \dots, \mathrm{LN}(h_L)\big), \qquad
          u_l = c_l + \lambda \big(x^{l+1} + z_{n_{l+1}}\big),

.. math:: \hat x_0^{l+1} = \mathrm{Denoiser}(u_1, \dots, u_l)[l].

The token at place l holds the state of the first l items and the noised latent of the next one, whose step
:math:`n_{l+1}` is its own. Both stacks are causal and have layer norms after the residuals. There are no position
embeddings. For a next item, :math:`x^2, \dots, x^L` are items of the history: noised copies in training, with the
noising ``every-item``, and the clean latents when serving.

Only the last token changes during a chain. The others are encoded once, and a reverse step costs one token per query.

Chen, Xu & Jiang 2025, *ADRec*, with the settings of its public code.
"""

from __future__ import annotations

import math
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from diffusers_rec.core.errors import check_float, check_int
from diffusers_rec.core.randomness import isolated_rng
from diffusers_rec.data.history import History
from diffusers_rec.denoisers.added_latent import with_normal_weights
from diffusers_rec.denoisers.base import Denoiser, check_shapes
from diffusers_rec.nn.attention import MAX_LAYERS, TransformerBlock, check_architecture
from diffusers_rec.nn.dropout import Dropout
from diffusers_rec.nn.step_embedding import StepEmbedding
from diffusers_rec.processes.noising import Queries
from diffusers_rec.processes.schedules.lookup import unexpanded

EPS = 1e-12
"""Added to the variance in every layer norm."""


class _Context(NamedTuple):
    """States c of the history, ``(B, L, D)``, and keys and values of its tokens in each layer of the denoiser.

    A token needs its next item, so that L items give L - 1 tokens: keys and values are ``(B, H, L - 1, D/H)``. While
    torch traces, there are L, of which no query sees the last.
    """

    states: Tensor
    keys: list[tuple[Tensor, Tensor]]


class _Condition(NamedTuple):
    """Condition of Q queries of K positions.

    Attributes:
        state: State of the visible history, ``(B, Q, 1, D)``.
        keys: Keys and values of the tokens of the history in each layer, ``(B, H, L - 1, D/H)``.
        over_history: Scores added between tokens and history, ``(B, 1, Q, 1, L - 1)``.
        among: Scores added between the tokens of a query, ``(B, 1, Q, 1, K)``.
    """

    state: Tensor
    keys: list[tuple[Tensor, Tensor]]
    over_history: Tensor
    among: Tensor


class AutoregressiveDenoiser(Denoiser, name="autoregressive"):
    r"""A causal Transformer over states of the history, to each of which the noised latent of the next item is added.

    Each of K > 1 positions of a query adds its latent to the state of the visible history, and they see one another. A
    query that sees no item has one learned state. The paper has neither case.

    Args:
        dim: Latent width D.
        max_length: Largest number of positions in a sequence, including noised ones.
        num_layers: Number of Transformer blocks of the encoder.
        denoiser_layers: Number of Transformer blocks of the denoiser.
        num_heads: Number of attention heads.
        dropout: Dropout rate of the attention, the feed-forward and every residual.
        embedding_dropout: Dropout rate of the items, before their layer norm.
        uncertainty: Factor lambda. The larger it is, the more a prediction depends on the noised latents.
        step_scale: Factor of n - 1 in the step embedding; 1000 / N in the public code. A clean latent has the embedding
            of step 1.
        seed: Seed of the initial weights.
    """

    reads_copies = True

    def __init__(
        self,
        dim: int = 128,
        max_length: int = 50,
        *,
        num_layers: int = 2,
        denoiser_layers: int = 2,
        num_heads: int = 4,
        dropout: float = 0.1,
        embedding_dropout: float = 0.3,
        uncertainty: float = 0.001,
        step_scale: float = 31.25,
        seed: int = 0,
    ) -> None:
        super().__init__(dim, max_length, seed)
        self.num_layers, self.num_heads, self.dropout = check_architecture(dim, num_layers, num_heads, dropout)
        self.denoiser_layers = check_int("denoiser_layers", denoiser_layers, minimum=1, maximum=MAX_LAYERS)
        self.embedding_dropout = check_float("embedding_dropout", embedding_dropout, minimum=0, below=1)
        self.uncertainty = check_float("uncertainty", uncertainty, above=0)
        self.step_scale = check_float("step_scale", step_scale, above=0)
        with isolated_rng(self.seed):
            self.step = StepEmbedding(dim, hidden=4 * dim)
            self.empty = nn.Parameter(torch.randn(dim))
            self.encoder = nn.ModuleList(_block(dim, num_heads, self.dropout) for _ in range(num_layers))
            self.blocks = nn.ModuleList(_block(dim, num_heads, self.dropout) for _ in range(denoiser_layers))
        self.item_dropout = Dropout(self.embedding_dropout)
        self.item_norm = nn.LayerNorm(dim, EPS)

    def encode(self, history: History) -> _Context:  # causal, so the padding behind changes no visible token
        states = self.item_norm(self.item_dropout(history.latent()))
        length = states.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=states.device).tril()
        for block in _each(self.encoder):
            states = block(states, causal)
        copies, steps = history.noised()
        if torch.compiler.is_compiling():  # L tokens, so that no axis is empty; the last one is hidden from all queries
            following = (torch.arange(length, device=states.device) + 1).clamp(max=length - 1)
            tokens = self._tokens(states, copies[:, following], steps[:, following])
        else:
            tokens, causal = self._tokens(states[:, :-1], copies[:, 1:], steps[:, 1:]), causal[1:, 1:]
        keys = []
        for number, block in enumerate(_each(self.blocks), 1):
            key, value = block.attention.project_key_value(tokens)
            keys.append((key, value))
            if number < self.denoiser_layers:  # the output of the last block is not needed
                query = block.attention.project_query(tokens)
                tokens = block.add_attention(tokens, block.attention(query, key, value, causal))
        return _Context(states, keys)

    def condition(self, context: _Context, queries: Queries, *, null: bool | Tensor = False) -> _Condition:
        queries = queries.blind(null)
        states, visible = context.states, queries.visible[..., None]
        state = torch.where(visible == 0, self.empty.to(states.dtype), queries.last_visible(states))
        place = torch.arange(context.keys[0][0].shape[2], device=states.device)
        over_history = _hidden(place >= visible - 1, states)
        return _Condition(state[:, :, None], context.keys, over_history, _hidden(~queries.keys, states))

    def forward(self, xn: Tensor, timesteps: Tensor, condition: _Condition) -> Tensor:
        check_shapes(xn, timesteps)
        if timesteps.ndim == 2:
            timesteps = timesteps[..., None]
        x = self._tokens(condition.state, xn, timesteps)
        for block, (key, value) in zip(_each(self.blocks), condition.keys, strict=True):
            x = block.beside(x, key, value, condition.over_history, condition.among)
        return x

    @property
    def mean_scale(self) -> float:
        """Factor lambda, by which the noised latents are multiplied."""
        return self.uncertainty

    def _tokens(self, states: Tensor, latents: Tensor, timesteps: Tensor) -> Tensor:
        step = self.step((unexpanded(timesteps) - 1).clamp(min=0) * self.step_scale)
        return states + self.mean_scale * (latents + step)


def _each(blocks: nn.ModuleList) -> list[TransformerBlock]:
    return cast(list[TransformerBlock], list(blocks))


def _hidden(where: Tensor, like: Tensor) -> Tensor:
    """Scores ``(B, 1, Q, 1, S)`` that hide keys, from a mask ``(B, Q, S)``."""
    scores = torch.zeros(where.shape, device=where.device, dtype=like.dtype)
    return scores.masked_fill(where, -math.inf)[:, None, :, None]


def _block(dim: int, num_heads: int, dropout: float) -> TransformerBlock:
    """Build a block with the activation, the layer norms and the initial weights of the public code."""
    gelu = nn.GELU(approximate="tanh")
    block = TransformerBlock(dim, num_heads, dropout, norm_first=False, activation=gelu, eps=EPS)
    nn.init.xavier_normal_(block.attention.query.weight)
    with_normal_weights(block)
    with torch.no_grad():
        for weight in block.attention.key_value.weight.chunk(2):  # two layers of the public code
            nn.init.xavier_normal_(weight)
    return block
