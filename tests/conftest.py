"""Fixtures and settings shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from diffusers_rec.core import registry
from diffusers_rec.recommenders import pretrained

settings.register_profile("quick", deadline=None, derandomize=True, max_examples=8)
settings.register_profile("thorough", deadline=None, derandomize=True, max_examples=100)  # by `make test-slow`
settings.load_profile("quick")


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """The tests' tensors are so small that more threads would only wait for one another."""
    torch.set_num_threads(1)


@pytest.fixture
def fresh_registry(monkeypatch):
    """What a test signs in is forgotten when it ends."""
    monkeypatch.setattr(registry, "_FAMILIES", {kind: dict(family) for kind, family in registry._FAMILIES.items()})
    monkeypatch.setattr(pretrained, "_MODELS", dict(pretrained._MODELS))


@pytest.fixture(scope="session")
def real_data_dir() -> Path:
    """Where beauty.txt, toys.txt and ml-1m.txt lie; they may not be part of the repository."""
    default = Path(__file__).parents[1] / ".." / "shared" / "data"
    directory = Path(os.environ.get("DIFFUSERS_REC_DATA", default)).resolve()
    if not (directory / "beauty.txt").is_file():
        pytest.skip(f"no real data at {directory}; set DIFFUSERS_REC_DATA to the folder that holds beauty.txt")
    return directory
