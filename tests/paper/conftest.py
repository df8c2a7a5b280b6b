"""A small world in the places of the real data sets, and the options that select it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.harness import write_csv
from benchmarks.paper.settings import DATASETS
from diffusers_rec import SyntheticWorld

NUM_ITEMS = 30


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory) -> Path:
    """Small files in the places of the real ones, with titles and genres of the movies."""
    folder = tmp_path_factory.mktemp("data")
    for name in DATASETS:
        log = SyntheticWorld(NUM_ITEMS, num_groups=2).sample(40, min_length=5, max_length=9).sequences()
        lines = ([user + 1, *(log.items[log.offsets[user] : log.offsets[user + 1]] + 1)] for user in range(len(log)))
        (folder / f"{name}.txt").write_text("".join(f"{' '.join(map(str, line))}\n" for line in lines))
    movies = [{"item": 1 + i, "title": f"Film {i}", "genres": ("War|Drama", "Comedy")[i % 2]} for i in range(NUM_ITEMS)]
    write_csv(folder / "ml-1m_items.csv", movies)
    return folder


@pytest.fixture
def options_of(data_dir, tmp_path) -> Callable[..., list[str]]:
    """Options of a program: the small world, results in ``tmp_path``, and more."""

    def options(*more: str) -> list[str]:
        return ["--data-dir", str(data_dir), "--runs", str(tmp_path / "runs"), "--out", str(tmp_path), *more]

    return options
