"""The rival of joint sampling: a next-item model that is rolled out, one item after another.

:func:`roll_out` draws with the model's own probabilities and encodes every longer history anew.
:class:`CachedEncoder` is what a fast implementation would do: the keys of the history are computed once and shared by
all draws, and an item costs one token a draw. It is timed as a lower bound, for the head takes its state directly.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from diffusers_rec import DiffRec, History
from diffusers_rec.data import pad
from diffusers_rec.encoders import CausalTransformerEncoder
from diffusers_rec.items.choice import Choice
from diffusers_rec.recommenders.ranking import distributions

ROWS_AT_ONCE = 1024


def roll_out(
    model: DiffRec,
    histories: Iterable[NDArray[np.int64]],
    k: int,
    draws: int,
    generator: Generator,
    tilt: Tensor | None = None,
    temperature: float = 1.0,
) -> Tensor:
    """Items drawn one after another, none that was seen or drawn before, ``(B, S, K)``.

    Args:
        model: Next-item model.
        histories: B histories.
        k: Number of items K.
        draws: Number S of samples a history.
        generator: Generator of the draws.
        tilt: Numbers that are added to the log-probabilities of the items, ``(V,)``.
        temperature: Divisor of the log-probabilities; 0 takes the likeliest item.
    """
    rows = [history for history in histories for _ in range(draws)]
    chosen: list[Tensor] = []
    for _ in range(k):
        lengthened = rows if not chosen else [
            np.concatenate([row, drawn]) for row, drawn in zip(rows, torch.stack(chosen, 1).numpy(), strict=True)
        ]  # fmt: skip
        scores = next_item(model, lengthened)
        scores = scores if tilt is None else scores + tilt
        if temperature:
            chosen.append(torch.multinomial((scores / temperature).softmax(-1), 1, generator=generator)[:, 0])
        else:
            chosen.append(scores.argmax(-1))
    return torch.stack(chosen, 1).view(len(histories), draws, k)


def next_item(model: DiffRec, histories: Sequence[NDArray[np.int64]], *, exclude_seen: bool = True) -> Tensor:
    """Log-probabilities of the next item of B histories, ``(B, V)``; seen items have none, unless they are kept."""
    found = []
    for start in range(0, len(histories), ROWS_AT_ONCE):
        part = histories[start : start + ROWS_AT_ONCE]
        seen = Choice(pad(part, fill=-1).items if exclude_seen else None, None)
        with model.serving() as served:
            found += [scores for _, scores in distributions(served.score(pad(part, served.history_length)), seen)]
    return torch.cat(found)


class CachedEncoder:
    """A causal encoder that takes one item more a draw, with the keys of the history computed once.

    Args:
        encoder: Encoder without a low-pass filter.
        history: B histories with latents.
    """

    def __init__(self, encoder: CausalTransformerEncoder, history: History) -> None:
        self.encoder, self.lengths = encoder, history.lengths
        self.keys: list[tuple[Tensor, Tensor]] = []
        self.own: list[list[tuple[Tensor, Tensor]]] = [[] for _ in encoder.layers]
        x = encoder.input_norm(history.latent())
        place = torch.arange(x.shape[1])
        for layer, block in enumerate(encoder.layers):
            source = block.attention_input(x)
            key, value = block.attention.project_key_value(source)
            self.keys.append((key, value))
            mask = encoder.bias(layer, place[:, None] - place)
            x = block.add_attention(x, block.attention(block.attention.project_query(source), key, value, mask))
        last = (self.lengths - 1)[:, None, None].expand(-1, 1, x.shape[-1])
        self.state = encoder.norm(x.gather(1, last))

    def step(self, latents: Tensor) -> Tensor:
        """States after one item more in every draw, ``(B, S, D)``."""
        encoder, x = self.encoder, self.encoder.input_norm(latents)
        taken = len(self.own[0])
        place = torch.arange(self.keys[0][0].shape[2])
        distance = (self.lengths[:, None] + taken - place).masked_fill(place >= self.lengths[:, None], -1)
        among = torch.arange(taken, -1, -1)
        for layer, block in enumerate(encoder.layers):
            source = block.attention_input(x)
            query = block.attention.project_query(source) * (x.shape[-1] // block.attention.num_heads) ** -0.5
            self.own[layer].append(block.attention.project_key_value(source))
            key, value = self.keys[layer]
            own_key, own_value = (torch.stack([pair[i] for pair in self.own[layer]], dim=3) for i in (0, 1))
            over = query @ key.mT + encoder.bias(layer, distance).transpose(0, 1)[:, :, None]
            own = (query[..., None, :] @ own_key.mT)[..., 0, :] + encoder.bias(layer, among)[None, :, None]
            weights = torch.cat([over, own], dim=-1).softmax(-1)
            attended = weights[..., : len(place)] @ value
            attended = attended + (weights[..., None, len(place) :] @ own_value)[..., 0, :]
            x = block.add_attention(x, block.attention.merge(attended))
        return encoder.norm(x)


@torch.no_grad()
def cached_roll_out(
    model: DiffRec, encoder: CausalTransformerEncoder, history: History, k: int, draws: int, seed: int
) -> Tensor:
    """Items drawn one after another from the head's scores of the encoder's states, ``(B, S, K)``."""
    generator = Generator().manual_seed(seed)
    history = history.with_latents(model.embedding(history.items))
    cached = CachedEncoder(encoder, history)
    barred = torch.zeros(len(history), len(model.vocabulary), dtype=torch.bool)
    barred.scatter_(1, history.items.where(history.mask, history.items[:, :1]), True)
    chosen: list[Tensor] = []
    state = cached.state
    for turn in range(k):
        scores = model.head.logits(state).masked_fill_(barred[:, None], -torch.inf)
        for earlier in chosen:
            scores.scatter_(2, earlier[..., None], -torch.inf)
        numbers = torch.rand(len(history), scores.shape[1], draws // scores.shape[1], generator=generator)
        cumulative = scores.softmax(-1).cumsum_(-1)
        drawn = torch.searchsorted(cumulative, numbers * cumulative[..., -1:], right=True)
        drawn = drawn.view(len(history), draws).clamp(max=scores.shape[-1] - 1)
        chosen.append(drawn)
        if turn < k - 1:
            state = cached.step(model.embedding(drawn))
    return torch.stack(chosen, -1)
