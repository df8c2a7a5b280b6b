"""SASRec in three libraries: training targets and users served a second, in this one, RecBole and RecTools.

Each library runs in an environment of its own (`make bench-peers` builds them), as a process that waits while the
others work. They take turns, and seconds are those of the processor, so that a busy machine matters little. An epoch is
extrapolated from some of its batches.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import plots
from benchmarks.data import add_data_option
from benchmarks.harness import Results, Timing, argument_parser, parse

ROOT = Path(__file__).parents[1]
BATCHES = {"diffusers_rec": 8, "diffusers_rec, large batches": 1, "recbole": 1, "rectools": 4}
"""Batches a turn: some seconds' work in each library."""

OURS = [name for name in BATCHES if name.startswith("diffusers_rec")]
COUNTED = 1000
"""Targets whose seconds a row holds."""

draw = partial(
    plots.dots,
    names=["dataset", "library"],
    panels={"targets_per_second": "targets per second, log scale", "users_per_second": "users per second, log scale"},
    log=True,
)


class Peer:
    """A library at work in its environment."""

    def __init__(self, name: str, data: Path, threads: int) -> None:
        python = sys.executable if name in OURS else str(ROOT / f".venv-{name}" / "bin" / "python")
        if not Path(python).is_file():
            raise FileNotFoundError(f"{python} is missing. Build the environment with: make .venv-{name}/.installed")
        self.name = name
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - open as long as the process
        self.process = subprocess.Popen(
            [python, "-c", "from benchmarks.peer_workers import work; work()", name, str(data), str(threads)],
            cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(threads)}, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors,
        )  # fmt: skip
        self.about: dict[str, Any] = self._answer()

    def ask(self, request: str, amount: int) -> tuple[float, int]:
        """Processor seconds and targets of some work."""
        assert self.process.stdin is not None
        print(json.dumps([request, amount]), file=self.process.stdin, flush=True)
        seconds, targets = self._answer()
        return seconds, targets

    def close(self) -> None:
        self.process.communicate()

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.errors.seek(0)
            raise ValueError(f"{self.name} stopped: {self.errors.read()[-2000:]}")
        return json.loads(line)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argument_parser(__doc__)
    add_data_option(parser)
    parser.add_argument("--datasets", nargs="+", default=["beauty", "ml-1m"])
    parser.add_argument("--rounds", type=int, default=5)
    options = parse(parser, argv)
    results = Results("peers", options)
    rounds, users = (1, 64) if options.quick else (options.rounds, 1024)
    for dataset in options.datasets:
        measure(results, dataset, (options.data_dir / f"{dataset}.txt").resolve(), rounds, users)
    results.write(draw)


def measure(results: Results, dataset: str, data: Path, rounds: int, users: int) -> None:
    """Training and serving of each library in turn; the first round is not counted."""
    load = os.getloadavg()[0]
    peers = [Peer(name, data, results.surroundings["threads"]) for name in BATCHES]
    trained: dict[str, list[float]] = {peer.name: [] for peer in peers}
    served: dict[str, list[float]] = {peer.name: [] for peer in peers}
    for _ in range(rounds + 1):
        for peer in peers:
            seconds, targets = peer.ask("train", BATCHES[peer.name])
            trained[peer.name].append(COUNTED * seconds / targets)
            served[peer.name].append(peer.ask("serve", users)[0])
    for peer in peers:
        peer.close()
        training, serving = (Timing(tuple(times[peer.name][1:])) for times in (trained, served))
        epoch = peer.about["epoch_targets"] / COUNTED * training.median
        results.add({
            "dataset": dataset, "library": peer.name, **peer.about, "epoch_seconds": epoch,
            "extrapolated": f"from {BATCHES[peer.name]} batches a round", "users": users,
            "users_per_second": users / serving.median, "load": round(load, 1),
            "targets": COUNTED, "targets_per_second": COUNTED / training.median,
        }, training)  # fmt: skip
        if peer.name not in OURS:
            for what, theirs, times in (("training", training, trained), ("serving", serving, served)):
                ours = Timing(tuple(times["diffusers_rec"][1:]))
                results.ratio(f"{dataset}_{what}_vs_{peer.name}".replace("-", ""), theirs.over(ours))


if __name__ == "__main__":
    main()
