"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

Format = Literal["auto", "csv", "tsv", "parquet", "movielens", "sequences"]
ShortUsers = Literal["error", "drop", "train"]
HeldOut = Literal["test", "validation"]

ModelArgument = Annotated[Path, typer.Argument(help="Folder of a trained model.")]
DataArgument = Annotated[
    Path,
    typer.Argument(
        help="Interactions: .csv, .tsv, .parquet, MovieLens .dat, or .txt with one user per line (user, items)."
    ),
]

FormatOption = Annotated[Format, typer.Option(help="Format of the data file; auto: by its extension.")]
UserOption = Annotated[str, typer.Option(help="Name of the user column.")]
ItemOption = Annotated[str, typer.Option(help="Name of the item column.")]
TimeOption = Annotated[str, typer.Option(help="Name of the time column; '' if the rows are sorted, oldest first.")]
SeparatorOption = Annotated[
    str | None,
    typer.Option(help=r"Column separator of a text file, \t for a tab; by default that of the format."),
]
QuoteOption = Annotated[
    str | None,
    typer.Option(help="Quote character of a csv or tsv file, '' for none; by default that of the format."),
]
MissingOption = Annotated[
    list[str] | None,
    typer.Option(
        help="Text that marks a missing id, instead of nan, null, NA and similar; '' if those are ids. May be repeated."
    ),
]
CoreOption = Annotated[int | None, typer.Option(help="Keep users and items with at least this many interactions.")]
ShortOption = Annotated[
    ShortUsers,
    typer.Option(help="Users with fewer than 3 items: report an error, drop them, or use them for training only."),
]

SeedsOption = Annotated[
    int | None, typer.Option(help="Number of noise draws to average; by default that of the model.")
]
SamplerOption = Annotated[
    str | None,
    typer.Option(
        help="Sampler: one-step, ddpm or another registered name, or a config as JSON, "
        """such as '{"name": "ddim", "eta": 0.5}'; by default that of the model."""
    ),
]
StepsOption = Annotated[
    int | None, typer.Option(help="Number of reverse steps of the sampler; by default that of the sampler.")
]
IncludeSeenOption = Annotated[bool, typer.Option(help="Also recommend items of the history.")]
CandidatesOption = Annotated[
    str | None, typer.Option(help="Recommend only these item ids, separated by commas, or a JSON list.")
]
ExcludeOption = Annotated[
    str | None, typer.Option(help="Recommend none of these item ids, separated by commas, or a JSON list.")
]
GeneratingSamplerOption = Annotated[
    str | None,
    typer.Option(
        "--sampler",
        help="Sampler: unmask, ddim or another chain, or a config as JSON, such as "
        """'{"name": "unmask", "order": "confidence", "temperature": 0.8}'; by default unmask.""",
    ),
]
WithOption = Annotated[
    list[Path] | None,
    typer.Option(
        "--with",
        help="Folder of another model, trained on the same data; items are ranked by the mean of the models. The "
        "first model sets the default number of seeds and, with --steps, the sampler. May be repeated.",
    ),
]

JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON, on one line.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="Print no progress.")]
