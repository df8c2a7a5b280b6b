r"""The baseline: the same mathematics as the ``paper`` preset, written as the field's scripts are.

A bidirectional Transformer over sequences padded *in front* to L, so that the target stands last; every layer computes
every position; attention is spelled out, all is float32. Each prefix is an example of its own, logits are one
``(B, V)`` table, and the optimiser is plain Adam. At serving time every reverse step and every seed runs the whole
padded sequence again, and a ranking averages one ``(B, V)`` softmax a seed. The timesteps come from the library's
sampler, because the scripts' own are slower.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from diffusers_rec import DiffRec, ImportanceTimestepSampler, Sequences, TransformerDenoiser
from diffusers_rec.core.randomness import generators_from


class NaiveDSR(nn.Module):
    """The paper's model, with item embedding and head (Eq. 6, 8, 14-16).

    Args:
        num_items: V.
        dim: D.
        length: L, the target included.
        num_layers: Transformer layers.
        num_heads: attention heads.
        dropout: on the input, the attention, and every residual.
        num_timesteps: N of the sqrt schedule.
    """

    def __init__(
        self,
        num_items: int,
        dim: int = 256,
        length: int = 50,
        num_layers: int = 2,
        num_heads: int = 2,
        dropout: float = 0.3,
        num_timesteps: int = 1000,
    ) -> None:
        super().__init__()
        self.length, self.num_timesteps = length, num_timesteps
        self.embedding = nn.Embedding(num_items, dim)
        self.position = nn.Embedding(length, dim)
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(_Layer(dim, num_heads, dropout) for _ in range(num_layers))
        self.head = nn.Linear(dim, num_items)
        steps = torch.arange(1, num_timesteps + 1, dtype=torch.float64)
        self.alpha_bar = torch.cat([torch.ones(1).double(), 1 - (steps / num_timesteps).sqrt() + 1e-4])
        self.register_buffer("steps", _sinusoids(num_timesteps + 1, dim))

    def forward(self, items: Tensor, real: Tensor, xn: Tensor, timesteps: Tensor) -> Tensor:
        """Predict the clean latent.

        Args:
            items: padded in front, the last one the target's place, ``(B, L)``.
            real: True where an item is real, ``(B, L)``.
            xn: the noised latent that stands in the last place, ``(B, D)``.
            timesteps: n, ``(B,)``.

        Returns:
            ``(B, D)``.
        """
        x = torch.cat([self.embedding(items[:, :-1]), xn[:, None]], dim=1)
        x = self.dropout(x + self.position.weight + self.steps[timesteps][:, None])
        for layer in self.layers:
            x = layer(x, real)
        return x[:, -1]

    def loss(
        self, items: Tensor, real: Tensor, timesteps: Tensor, weights: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The loss (Eq. 13, 18) and each example's reconstruction loss; ``weights`` ``(B,)``, ``noise`` ``(B, D)``."""
        x0 = self.embedding(items[:, -1])
        alpha_bar = self.alpha_bar[timesteps].to(x0.dtype)[:, None]
        predicted = self(items, real, alpha_bar.sqrt() * x0 + (1 - alpha_bar).sqrt() * noise, timesteps)
        distance = (x0 - predicted).square().mean(-1)
        recommendation = F.cross_entropy(self.head(predicted), items[:, -1])
        return (weights * distance).mean() + recommendation, distance.detach()

    def sample(self, items: Tensor, real: Tensor, seed: int, num_steps: int) -> Tensor:
        """One reverse chain (Algorithm 2), or with ``num_steps=1`` the one step (Algorithm 3): ``(B, D)``.

        The seed is set anew for each user, so all share the noise.
        """
        (generator,) = generators_from([seed])
        x = self._noise(generator, len(items))
        if num_steps == 1:
            return self(items, real, x, torch.full((len(items),), self.num_timesteps))
        if num_steps != self.num_timesteps:
            raise ValueError(f"num_steps must be 1 or {self.num_timesteps}, got {num_steps}.")
        for n in range(self.num_timesteps, 1, -1):
            x0 = self(items, real, x, torch.full((len(items),), n))
            now, before = self.alpha_bar[n], self.alpha_bar[n - 1]
            beta = 1 - now / before
            mean = before.sqrt() * beta / (1 - now) * x0 + (now / before).sqrt() * (1 - before) / (1 - now) * x
            x = mean + beta.sqrt() * self._noise(generator, len(items))
        return self(items, real, x, torch.ones(len(items), dtype=torch.int64))

    def top_k(
        self, items: Tensor, real: Tensor, k: int, seeds: Sequence[int], num_steps: int = 1
    ) -> tuple[Tensor, Tensor]:
        """The k items of highest probability, averaged over the seeds: probabilities and items, ``(B, k)``."""
        tables = [self.head(self.sample(items, real, seed, num_steps)).softmax(-1) for seed in seeds]
        return torch.stack(tables).mean(0).topk(k)

    def copy_weights(self, model: DiffRec) -> None:
        """Take over the weights of a model with a :class:`~diffusers_rec.TransformerDenoiser` of the same size."""
        denoiser = model.denoiser
        if not isinstance(denoiser, TransformerDenoiser):
            raise TypeError(f"Expected a model with a TransformerDenoiser, got {type(denoiser).__name__}.")
        with torch.no_grad():
            self.embedding.weight.copy_(model.embedding.weight)
            self.position.weight.copy_(denoiser.place.weight.flip(0))  # ours count from the end
            self.head.weight.copy_(model.head.keys())
            self.head.bias.copy_(model.head.bias())
            for mine, block in zip(self.layers, denoiser.blocks, strict=True):
                mine.copy_weights(block)

    def _noise(self, generator: Generator, rows: int) -> Tensor:
        weight = self.embedding.weight
        return torch.randn(1, weight.shape[1], generator=generator, dtype=weight.dtype).expand(rows, -1)


class NaiveTraining:
    """Training steps on every prefix of every sequence, each padded to L.

    Args:
        model: trained in place.
        sequences: the training sequences.
        batch_size: examples a step.
        seed: of the order of examples, the timesteps, and the noise.
        learning_rate: of Adam.
    """

    def __init__(
        self, model: NaiveDSR, sequences: Sequences, batch_size: int = 256, seed: int = 0, learning_rate: float = 1e-3
    ) -> None:
        self.model, self.batch_size = model.train(), batch_size
        self.items, self.real = every_prefix(sequences, model.length)
        self.generator = torch.Generator().manual_seed(seed)
        self.timesteps = ImportanceTimestepSampler(model.num_timesteps)
        self.optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate, foreach=False, fused=False)

    def step(self) -> None:
        """One step on a random batch."""
        rows = torch.randint(len(self.items), (self.batch_size,), generator=self.generator)
        timesteps, weights = self.timesteps.sample((self.batch_size,), self.generator)
        noise = torch.randn(self.batch_size, self.model.embedding.embedding_dim, generator=self.generator)
        loss, distance = self.model.loss(self.items[rows], self.real[rows], timesteps, weights, noise)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.timesteps.update(timesteps, distance)


def every_prefix(sequences: Sequences, length: int) -> tuple[Tensor, Tensor]:
    """Each prefix of two items and more, padded in front to L, ``(M, L)``, and where an item is real."""
    prefixes = [history[:stop] for history in sequences for stop in range(2, len(history) + 1)]
    return pad_in_front(prefixes, length)


def pad_in_front(histories: Sequence[np.ndarray], length: int) -> tuple[Tensor, Tensor]:
    """The last L items of each history, padded in front, ``(M, L)``, and where an item is real."""
    items = np.zeros((len(histories), length), np.int64)
    real = np.zeros((len(histories), length), bool)
    for row, history in enumerate(histories):
        kept = history[-length:]
        items[row, length - len(kept) :] = kept
        real[row, length - len(kept) :] = True
    return torch.from_numpy(items), torch.from_numpy(real)


class _Layer(nn.Module):
    """Attention and feed-forward, a layer norm behind each (Vaswani et al. 2017)."""

    def __init__(self, dim: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query, self.key, self.value = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)
        self.wide, self.narrow = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        self.attention_norm, self.feed_forward_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        batch, length, dim = x.shape
        query, key, value = (
            project(x).view(batch, length, self.num_heads, -1).transpose(1, 2)
            for project in (self.query, self.key, self.value)
        )
        scores = query @ key.transpose(-2, -1) / math.sqrt(dim // self.num_heads)
        scores = scores.masked_fill(~real[:, None, None, :], -torch.inf)
        attended = self.dropout(scores.softmax(-1)) @ value
        x = self.attention_norm(x + self.dropout(self.out(attended.transpose(1, 2).reshape(batch, length, dim))))
        return self.feed_forward_norm(x + self.dropout(self.narrow(self.dropout(self.wide(x).relu()))))

    def copy_weights(self, block: nn.Module) -> None:
        """Take over the weights of one of the library's blocks."""
        key, value = block.attention.key_value.weight.chunk(2)
        key_bias, value_bias = block.attention.key_value.bias.chunk(2)
        self.query.load_state_dict(block.attention.query.state_dict())
        self.key.load_state_dict({"weight": key, "bias": key_bias})
        self.value.load_state_dict({"weight": value, "bias": value_bias})
        self.out.load_state_dict(block.attention.out.state_dict())
        self.wide.load_state_dict(block.feed_forward[0].state_dict())
        self.narrow.load_state_dict(block.feed_forward[3].state_dict())
        self.attention_norm.load_state_dict(block.attention_norm.state_dict())
        self.feed_forward_norm.load_state_dict(block.feed_forward_norm.state_dict())


def _sinusoids(count: int, dim: int) -> Tensor:
    """Eq. 15 for n = 0..count-1: ``(count, D)``."""
    rate = torch.exp(-math.log(10000) / dim * torch.arange(0, dim, 2, dtype=torch.float32))
    angle = torch.arange(count, dtype=torch.float32)[:, None] * rate
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(-2)
