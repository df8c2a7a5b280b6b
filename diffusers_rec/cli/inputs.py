"""Data files and folders of the commands."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from diffusers_rec.cli.errors import naming_options
from diffusers_rec.cli.options import Format, HeldOut, ShortUsers
from diffusers_rec.cli.values import drop_none
from diffusers_rec.core.errors import check_path
from diffusers_rec.data import Holdout, Interactions, Sequences, Split, read_interactions


@dataclass(frozen=True)
class LogFile:
    """A file of interactions and the options that describe how to read it; the defaults are those of the options."""

    path: Path
    format: Format = "auto"
    user: str = "user"
    item: str = "item"
    time: str = "time"
    separator: str | None = None
    quote: str | None = None
    missing: list[str] | None = None
    k_core: int | None = None

    def read(self) -> Interactions:
        """Read the interactions and reduce them to the k-core, if given."""
        separator = self.separator and self.separator.replace(r"\t", "\t")
        with naming_options("--user, --item, --time, --format, --separator, --quote, --missing"):
            interactions = read_interactions(
                self.path, format=self.format, user=self.user, item=self.item, time=self.time or None,
                **drop_none(separator=separator, quote=self.quote, missing=self.missing),
            )  # fmt: skip
        with naming_options("--k-core"):
            return interactions if self.k_core is None else interactions.k_core(self.k_core)

    def arguments(self) -> list[str]:
        """Command line arguments that read the file in the same way."""
        arguments = [str(self.path)]
        for field in fields(self)[1:]:
            value = getattr(self, field.name)
            if value != field.default:
                option = f"--{field.name.replace('_', '-')}"
                arguments += [f"{option}={each}" for each in (value if isinstance(value, list) else [value])]
        return arguments


def split_sequences(sequences: Sequences, short: ShortUsers) -> Split:
    """Split sequences by leave-one-out."""
    with naming_options("--k-core 3, --short drop, --short train"):
        return sequences.leave_one_out(short)


def held_out(log: LogFile, split: HeldOut, short: ShortUsers) -> Holdout:
    """Held-out items of the users of a log."""
    parts = split_sequences(log.read().sequences(), short)
    return parts.test if split == "test" else parts.validation


def output_folder(text: str) -> Path:
    """Folder of a run, which may not exist yet.

    Raises:
        ValueError: The text is empty.
        NotADirectoryError: The path or a parent is a file.
    """
    path = check_path("--out", text)
    nearest = next((place for place in (path, *path.parents) if place.exists()), None)
    if nearest is not None and not nearest.is_dir():
        raise NotADirectoryError(f"--out {path}: {nearest} is a file; a run needs a folder.")
    return path
