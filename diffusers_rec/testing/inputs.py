"""Fixed inputs of the suites, and functions for the global random states."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Generator, Tensor, nn

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]

M = TypeVar("M", bound=nn.Module)


def seeded(seed: int) -> Generator:
    """A CPU generator with a seed."""
    return Generator().manual_seed(seed)


def gaussian(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Standard Gaussian numbers, drawn in float64 and rounded to ``dtype``."""
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64).to(dtype)


def strided(x: Tensor) -> Tensor:
    """Copy of a tensor that is not contiguous in memory."""
    return torch.stack([x, torch.zeros_like(x)], dim=-1)[..., 0]


def perturbed(module: M, seed: int = 0) -> M:
    """Add Gaussian noise to the weights of a module, so that none stays at an initial zero."""
    generator = seeded(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=generator).to(parameter.dtype))
    return module


@contextmanager
def global_state_from(seed: int) -> Iterator[None]:
    """Seed the global random states of Python, NumPy and torch, and restore them on exit."""
    before = global_states()
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - the legacy state is the one that must not change
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        random.setstate(before["random"])
        np.random.set_state(before["numpy.random"])  # noqa: NPY002
        torch.set_rng_state(before["torch"])


def global_states() -> dict[str, Any]:
    """Global random states by the name of their module."""
    numpy_state = np.random.get_state()  # noqa: NPY002
    return {"random": random.getstate(), "numpy.random": numpy_state, "torch": torch.get_rng_state()}


def moved_states(before: dict[str, Any]) -> list[str]:
    """Names of the global random states that differ from ``before``."""
    now = global_states()
    return [
        name
        for name, same in (
            ("random", now["random"] == before["random"]),
            ("numpy.random", all(map(np.array_equal, now["numpy.random"], before["numpy.random"]))),
            ("torch", torch.equal(now["torch"], before["torch"])),
        )
        if not same
    ]
