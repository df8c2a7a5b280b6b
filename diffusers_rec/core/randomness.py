"""Random numbers from explicit generators; the global random state does not change."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import islice
from threading import RLock

import numpy as np
import torch
from torch import Generator, Tensor

from diffusers_rec.core.errors import check_int

Generators = Generator | Sequence[Generator]
"""One generator, or one per noise draw (axis Q of ``(B, Q, ...)``)."""

MAX_DRAWS = 10_000
"""Largest number of noise draws; a hundredth of it estimates the mean to the second digit."""

MAX_SEED = 2**62
"""Largest seed of weights; a pipeline derives a seed below 2^64, torch's limit, for each of its parts."""

_FIRST_PARTS = ("embedding", "denoiser", "head")
"""Parts whose seeds are consecutive integers; a change would alter the initial weights of every model."""

_GLOBAL_STATE = RLock()


def generators_from(seeds: int | Sequence[int]) -> list[Generator]:
    """One CPU generator for each seed; an integer S stands for the seeds 0..S-1.

    Raises:
        ValueError: There is no seed, a seed is negative, a seed is repeated (its draw would count twice), or there are
            more than :data:`MAX_DRAWS`.
    """
    if not isinstance(seeds, Iterable):
        seeds = range(check_int("seeds (their number)", seeds, minimum=1, maximum=MAX_DRAWS))
    values = [check_int("each seed", seed, minimum=0) for seed in islice(seeds, MAX_DRAWS + 1)]
    if not 1 <= len(values) <= MAX_DRAWS:
        count = "more" if values else "none"
        raise ValueError(f"seeds must hold at least one seed and at most {MAX_DRAWS}, got {count}.")
    repeated = sorted(seed for seed, count in Counter(values).items() if count > 1)
    if repeated:
        raise ValueError(f"seeds must differ, but {repeated} occur more than once. Drop the repeats.")
    # The seed itself would reproduce the random numbers of an embedding's initial weights.
    return [Generator().manual_seed(stream_seed(seed, 1)) for seed in values]


@lru_cache(MAX_DRAWS)
def stream_seed(*integers: int) -> int:
    """Seed, in 0..2^63-1, of the stream of these integers; other integers, or another order, yield another stream."""
    return int(np.random.SeedSequence(integers).generate_state(1, np.uint64)[0]) >> 1


def weight_seed(seed: int, part: str) -> int:
    """Seed of the initial weights of one part of a model.

    Args:
        seed: Seed of the model, 0 or above.
        part: Name of the part, such as ``"embedding"``.

    Returns:
        ``3 * seed``, ``3 * seed + 1`` and ``3 * seed + 2`` for the embedding, the denoiser and the head; the
        :func:`stream_seed` of the model's seed and the name for any other part.
    """
    if part in _FIRST_PARTS:
        return 3 * seed + _FIRST_PARTS.index(part)
    return stream_seed(seed, int.from_bytes(hashlib.sha256(part.encode()).digest()[:8]))


def randn(shape: Sequence[int], generator: Generators | None, *, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Standard Gaussian noise of ``shape`` (B, Q, ...).

    With a list of Q generators, only generator q produces draw q, which all B histories share (Algorithm 3 fixes the
    seed again for each user). The result for a history then depends neither on its batch nor on the other draws.
    """
    if isinstance(generator, Generator):
        return torch.randn(*shape, generator=generator, device=generator.device, dtype=dtype).to(device)
    # The bits of torch.randn, in two thirds of its time.
    return _each_draw(shape, generator, lambda draw, own: draw.normal_(generator=own), dtype).to(device)


def uniform(shape: Sequence[int], generator: Generators | None, *, device: torch.device) -> Tensor:
    """Numbers in [0, 1) of ``shape`` (B, Q, ...), float64; for a list of Q generators as :func:`randn`."""
    dtype = torch.float64
    if isinstance(generator, Generator):
        return torch.rand(*shape, generator=generator, device=generator.device, dtype=dtype).to(device)
    return _each_draw(shape, generator, lambda draw, own: draw.uniform_(generator=own), dtype).to(device)


def _each_draw(
    shape: Sequence[int],
    generators: Sequence[Generator] | None,
    fill: Callable[[Tensor, Generator], object],
    dtype: torch.dtype,
) -> Tensor:
    """Random numbers of ``shape`` (B, Q, ...): draw q is filled from generator q and shared by all B."""
    if generators is None:
        raise TypeError("Noise is drawn from a generator, got None. Give torch.Generator().manual_seed(0).")
    batch, num_draws, *rest = shape
    if len(generators) != num_draws:
        raise ValueError(f"Expected one generator for each of the {num_draws} noise draws, got {len(generators)}.")
    draws = torch.empty(num_draws, *rest, device=generators[0].device, dtype=dtype)
    for draw, own in zip(draws.unbind(), generators, strict=True):
        fill(draw, own)
    return draws.expand(batch, num_draws, *rest)


@contextmanager
def isolated_rng(source: int | Generator, device: torch.device | None = None) -> Iterator[None]:
    """Make code that draws from torch's global state (initialisers, dropout) draw from ``source`` instead.

    The global state of the CPU, and of ``device`` if it is a GPU, is restored on exit. All threads share this state, so
    only one thread at a time can enter.
    """
    if isinstance(source, Generator):
        source = int(torch.randint(2**62, (), generator=source, device=source.device))
    cuda = device is not None and device.type == "cuda"
    with _GLOBAL_STATE, torch.random.fork_rng(devices=[device] if cuda else []):
        torch.default_generator.manual_seed(source)
        if cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(source)
        yield
