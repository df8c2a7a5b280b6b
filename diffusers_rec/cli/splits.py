"""How a log is split into training, validation and test: the options, and the split that they describe."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from diffusers_rec.cli.errors import naming_options
from diffusers_rec.cli.inputs import LogFile, split_sequences
from diffusers_rec.cli.options import ShortUsers
from diffusers_rec.data import Sequences, Split

SplitTimeOption = Annotated[
    str | None,
    typer.Option(
        help="Split by time instead of leave-one-out: start of the validation and of the test, the same for all users. "
        "Two times, dates or shares of the interactions: 2024-05-01,2024-06-01 or 80%,90%."
    ),
]
ValidationOption = Annotated[
    Path | None,
    typer.Option("--validation", help="File of the validation; DATA is the training file. Needs --test."),
]
TestOption = Annotated[Path | None, typer.Option("--test", help="File of the test. Needs --validation.")]


@dataclass(frozen=True)
class SplitChoice:
    """The options of a split; leave-one-out if neither points in time nor files are given.

    Raises:
        ValueError: Options that exclude one another, or one of two that belong together.
    """

    short: ShortUsers = "error"
    split_time: str | None = None
    validation: Path | None = None
    test: Path | None = None

    def __post_init__(self) -> None:
        if (self.validation is None) != (self.test is None):
            raise ValueError("--validation and --test belong together: give the files of both.")
        if self.split_time is not None and self.validation is not None:
            raise ValueError("--split-time cannot be combined with --validation and --test. Remove one or the other.")
        if self.short != "error" and not self.leaves_one_out:
            raise ValueError("--short only concerns leave-one-out. Remove it, or the options of the other split.")

    @property
    def leaves_one_out(self) -> bool:
        """Whether neither points in time nor files are given."""
        return self.split_time is None and self.validation is None

    def sequences(self, log: LogFile) -> Sequences:
        """The sequences of a log, with what the split needs."""
        return log.read().sequences(times=self.split_time is not None)

    def split(self, sequences: Sequences, log: LogFile) -> Split:
        """Split sequences, or join those of the training file with the other files.

        Args:
            sequences: The sequences of ``log``.
            log: The file, which describes how to read the others.
        """
        if self.split_time is not None:
            return _split_by_time(sequences, self.split_time)
        if self.validation is None or self.test is None:
            return split_sequences(sequences, self.short)
        if log.k_core is not None:
            raise ValueError("--k-core filters one log, not three files. Filter them before they are split.")
        others = (replace(log, path=path).read().sequences() for path in (self.validation, self.test))
        return Split.of(sequences, *others)

    def arguments(self) -> list[str]:
        """The command line arguments that split again in the same way."""
        given = {"split-time": self.split_time, "validation": self.validation, "test": self.test}
        arguments = [f"--{name}={value}" for name, value in given.items() if value is not None]
        return arguments if self.short == "error" else [*arguments, f"--short={self.short}"]


def _split_by_time(sequences: Sequences, points: str) -> Split:
    starts = [point.strip() for point in points.split(",")]
    if len(starts) != 2:
        raise ValueError(
            f"--split-time takes the start of the validation and of the test, such as 80%,90%, got {points!r}."
        )
    with naming_options("--split-time, --time"):
        return sequences.split_by_time(*starts)
