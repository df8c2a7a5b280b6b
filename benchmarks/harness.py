"""What all programs share: their options, timing in turn, and results as CSV, picture and last lines.

Functions that are to be compared are timed in turn, A B A B ..., and a ratio is the median of the quotients of
neighbours: a machine whose speed drifts slows both alike.
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

import diffusers_rec

RESULTS = Path(__file__).parent / "results"

Row = dict[str, Any]
Place = Callable[[Row], tuple[Any, ...]]
"""Where a row stands in a table, and what tells it apart."""


def argument_parser(description: str) -> argparse.ArgumentParser:
    """The options that every program takes; ``description`` is its docstring."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--quick", action="store_true", help="smaller settings, a minute's look, files of their own")
    parser.add_argument("--threads", type=at_least(1), default=torch.get_num_threads(), help="of torch")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for the results")
    parser.add_argument("--seed", type=at_least(0), default=0)
    return parser


def at_least(minimum: int) -> Callable[[str], int]:
    """The type of an option that takes whole numbers from ``minimum`` on."""

    def number(text: str) -> int:
        if not text.removeprefix("-").isdecimal() or int(text) < minimum:
            raise argparse.ArgumentTypeError(f"expected a whole number from {minimum} on, got {text!r}")
        return int(text)

    return number


def parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the options, make the folder for the results and set the number of threads."""
    options = parser.parse_args(argv)
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        if not os.access(options.out, os.W_OK):
            raise PermissionError(f"{options.out} cannot be written to")
    except OSError as error:
        parser.error(f"--out: {error}")  # now, rather than after hours
    torch.set_num_threads(options.threads)
    return options


def command(main: Callable[[], Any]) -> None:
    """Run a program that takes long: an interrupt and wrong input end it in one line."""
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit("Stopped. What is finished is kept, and the same command goes on.") from None
    except (OSError, ValueError) as error:
        raise SystemExit(str(error)) from error


@dataclass(frozen=True)
class Timing:
    """Seconds of the counted calls of one function, in the order of the rounds."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return float(np.median(self.seconds))

    def over(self, other: Timing) -> float:
        """How many times longer than ``other``: the median of the quotients within a round."""
        return float(np.median([a / b for a, b in zip(self.seconds, other.seconds, strict=True)]))

    def plus(self, other: Timing) -> Timing:
        """One after the other, round by round."""
        return Timing(tuple(a + b for a, b in zip(self.seconds, other.seconds, strict=True)))

    def columns(self) -> Row:
        """As columns of a CSV."""
        low, high = np.percentile(self.seconds, [10, 90])
        return {
            "median_seconds": self.median,
            "p10_seconds": float(low),
            "p90_seconds": float(high),
            "min_seconds": min(self.seconds),
            "repeats": len(self.seconds),
        }


def compare(
    functions: Mapping[str, Callable[[], Any]],
    *,
    repeats: int,
    warmup: int = 1,
    budget: float = float("inf"),
    calls: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, Timing]:
    """Time functions in turn.

    Args:
        functions: by name; without gradient, or with, is theirs to say.
        repeats: rounds counted, at most.
        warmup: rounds before, not counted.
        budget: seconds after which no round begins; one is counted in any case.
        calls: of a function at each turn; the seconds are those of one call.
        clock: that of the calls; ``time.process_time`` leaves out other programs, where one thread works.
    """
    for _ in range(warmup):
        for function in functions.values():
            function()
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    started = time.perf_counter()
    for done in range(repeats):
        if done and time.perf_counter() - started >= budget:
            break
        for name, function in functions.items():
            before = clock()
            for _ in range(calls):
                function()
            seconds[name].append((clock() - before) / calls)
    return {name: Timing(tuple(each)) for name, each in seconds.items()}


def extrapolated(one: Timing, several: Timing, count: int, wanted: int) -> Timing:
    """What ``wanted`` of a thing cost, round by round, from what one and ``count`` do; the cost is linear in it."""
    rounds = zip(one.seconds, several.seconds, strict=True)
    return Timing(tuple(first + (wanted - 1) * (more - first) / (count - 1) for first, more in rounds))


class Results:
    """Gathers a program's measurements and ratios, and writes them.

    Args:
        name: of the files.
        options: from :func:`parse`.
        place: of a row in the table. With it the file's rows are kept, but for those in whose places new ones stand.
    """

    def __init__(self, name: str, options: argparse.Namespace, place: Place | None = None) -> None:
        self.stem: Path = options.out / (f"{name}-quick" if options.quick else name)
        self.place = place
        self.rows: list[Row] = []
        self.ratios: list[Row] = []
        self.surroundings = {
            "threads": torch.get_num_threads(),
            "cpu": cpu_name(),
            "torch": torch.__version__,
            "python": platform.python_version(),
            "diffusers_rec": diffusers_rec.__version__,
            "date": datetime.now(UTC).date().isoformat(),
            "seed": options.seed,
        }

    def add(self, measured: Row, timing: Timing | None = None) -> None:
        """One measurement: what was measured, and how long it took."""
        row = measured | (timing.columns() if timing else {})
        brief = {key: value for key, value in row.items() if key != "settings"}  # a screenful: for the CSV alone
        print("  ".join(f"{key} {shown(value)}" for key, value in brief.items()), flush=True)
        self.rows.append(row)

    def ratio(self, name: str, value: float, target: str = "") -> None:
        """One of the program's last lines; ``target`` in words."""
        self.ratios.append({"name": name, "value": value, "target": target})

    def file(self, ending: str) -> Path:
        """One of the program's files."""
        return self.stem.with_name(f"{self.stem.name}{ending}")

    def table(self) -> list[Row]:
        """What :meth:`write` writes; rows that were kept are text."""
        rows = [row | self.surroundings for row in self.rows]
        if self.place is None:
            return rows
        return sorted({self.place(row): row for row in [*self.kept(), *rows]}.values(), key=self.place)

    def kept(self) -> list[Row]:
        """The rows that the file holds, to be kept; none without a place."""
        table = self.file(".csv")
        return [*read_csv(table)] if self.place is not None and table.is_file() else []

    def write(self, draw: Callable[[Path, list[dict[str, str]]], None] | None = None) -> None:
        """Write the CSV and what ``draw`` makes of its rows, then the ratios, which are also printed."""
        table, ratios = self.file(".csv"), self.file("-ratios.csv")
        write_csv(table, self.table())
        if draw is not None:
            draw(self.file(".png"), read_csv(table))
        ratios.unlink(missing_ok=True)  # an earlier run's would stand beside rows that they are not of
        if self.ratios:
            write_csv(ratios, self.ratios)
        print(f"written: {table}", flush=True)
        for ratio in self.ratios:
            print(f"{ratio['name']}: {shown(ratio['value'])}", flush=True)


def shown(value: Any) -> str:
    """A value as it is printed."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def write_csv(path: Path, rows: Sequence[Row]) -> None:
    """Rows under the columns that any of them has, in the order of their first appearance."""
    columns = dict.fromkeys(key for row in rows for key in row)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV, as text."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def cpu_name() -> str:
    """The processor, as Linux names it, or as Python does elsewhere."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
