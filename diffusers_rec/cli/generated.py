"""How the commands show items that were filled in together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rich.box import SIMPLE
from rich.table import Table

from diffusers_rec.cli.terminal import stdout
from diffusers_rec.recommenders.generating import Completions

FIXES = {"needs a denoiser": "diffrec train --preset joint", "larger k": "--set noising.k=N of diffrec train"}
"""Options that avoid errors of both commands, by words of the message."""


def generated_table(title: str, headings: Iterable[str], found: Completions, row: int, places: Sequence[int]) -> Table:
    """One sample a line: its items at some places, and its log-likelihood. Wide tables have all items in one column.

    Args:
        title: Title of the table.
        headings: Heading of each place.
        found: What was filled in.
        row: Number of the sequence.
        places: Places whose items are shown.
    """
    table = Table(title=title, title_justify="left", box=SIMPLE)
    samples, columns = plain_samples(found, row), list(headings)
    cells = [[str(sample["items"][place]) for place in places] for sample in samples]
    widths = [max(map(len, column)) + 2 for column in zip(columns, *cells, strict=True)]
    if sum(widths) + len("log-likelihood") + 4 > stdout.width:
        columns, cells = ["items"], [[", ".join(line)] for line in cells]
    for heading in (*columns, *([] if found.log_likelihood is None else ["log-likelihood"])):
        table.add_column(heading, overflow="fold")  # ids are never truncated
    for sample, line in zip(samples, cells, strict=True):
        known = [] if "log_likelihood" not in sample else [f"{sample['log_likelihood']:.2f}"]
        table.add_row(*line, *known)
    return table


def plain_samples(found: Completions, row: int) -> list[dict[str, Any]]:
    """The samples of a sequence for JSON, with their log-likelihood if the sampler knows it."""
    if found.log_likelihood is None:
        return [{"items": items} for items in found[row]]
    known = found.log_likelihood[row].tolist()
    return [{"items": items, "log_likelihood": each} for items, each in zip(found[row], known, strict=True)]


def plain_gaps(found: Completions, row: int) -> list[list[dict[str, Any]]]:
    """The likeliest items of each gap for JSON."""
    return [[{"item": item, "probability": chance} for item, chance in gap] for gap in found.marginals[row]]
