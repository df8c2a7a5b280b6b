"""The sequences that programs run on: the real files where they lie, made ones elsewhere."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import torch

from diffusers_rec import History, Interactions, Split, SyntheticWorld, read_interactions

DEFAULT = Path(__file__).parents[1] / ".." / "shared" / "data"

BEAUTY_ITEMS = 12_101
"""Items of the Beauty data set (Du et al. 2023, Table 1): the catalogue wherever only its size matters."""


def add_data_option(parser: argparse.ArgumentParser) -> None:
    """``--data-dir``."""
    parser.add_argument(
        "--data-dir",
        type=Path,
        default=Path(os.environ.get("DIFFUSERS_REC_DATA", DEFAULT)),
        help="folder of beauty.txt, toys.txt and ml-1m.txt; $DIFFUSERS_REC_DATA",
    )


def interactions_of(name: str, directory: Path) -> Interactions:
    """Those of a data set's file.

    Raises:
        SystemExit: it is not there.
    """
    try:
        return read_interactions(directory / f"{name}.txt")
    except FileNotFoundError as error:
        raise SystemExit(f"{error} Say where the data lies with --data-dir, or in $DIFFUSERS_REC_DATA.") from None


def split_of(name: str, directory: Path, seed: int) -> tuple[str, Split]:
    """A data set's name and its leave-one-out split; where the file is absent, those of a synthetic world."""
    path = directory / f"{name}.txt"
    if path.is_file():
        return name, read_interactions(path).sequences().leave_one_out()
    print(f"{name}.txt is not in the data folder: a synthetic world stands in for it")
    length = {"min_length": 20, "max_length": 200} if name == "ml-1m" else {"min_length": 5, "max_length": 20}
    log = SyntheticWorld(1000, seed=seed).sample(2000, **length, seed=seed)
    return f"synthetic-for-{name}", log.sequences().leave_one_out()


def full_histories(rows: int, length: int, num_items: int, seed: int) -> History:
    """Histories of random items without padding, ``(B, L)``."""
    generator = torch.Generator().manual_seed(seed)
    return History(torch.randint(num_items, (rows, length), generator=generator), torch.full((rows,), length))
