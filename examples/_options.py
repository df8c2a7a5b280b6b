"""The two options that every example has."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch


def parse(doc: str) -> argparse.Namespace:
    """Read ``--out`` and ``--quick``; the help text is the first line of the example's docstring."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("example-output"), help="folder for what the example writes")
    parser.add_argument("--quick", action="store_true", help="a few seconds: too little data to learn from")
    torch.set_num_threads(1)  # tensors as small as the examples' lose more to threads than they gain
    return parser.parse_args()
