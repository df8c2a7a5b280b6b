"""``diffrec info``."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from diffusers_rec.cli.inputs import LogFile
from diffusers_rec.cli.models import count_parameters
from diffusers_rec.cli.options import (
    CoreOption,
    FormatOption,
    ItemOption,
    JsonOption,
    MissingOption,
    QuoteOption,
    SeparatorOption,
    TimeOption,
    UserOption,
)
from diffusers_rec.cli.terminal import print_json, stdout
from diffusers_rec.core.registry import Component
from diffusers_rec.encoders import HistoryEncoder
from diffusers_rec.objectives import LossTerm
from diffusers_rec.recommenders.diffrec import PARTS
from diffusers_rec.recommenders.loading import load_pretrained
from diffusers_rec.recommenders.pretrained import Pretrained
from diffusers_rec.version import __version__


def info_command(
    path: Annotated[
        Path | None,
        typer.Argument(help="Folder of a trained model, or a data file; without either, the components are listed."),
    ] = None,
    format: FormatOption = "auto",
    user: UserOption = "user",
    item: ItemOption = "item",
    time: TimeOption = "time",
    separator: SeparatorOption = None,
    quote: QuoteOption = None,
    missing: MissingOption = None,
    k_core: CoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Describe a trained model or a data set (the paper's Table 1), or list the registered components."""
    if path is None:
        _print_components(as_json)
    elif path.is_dir():
        _print_model(path, as_json)
    else:
        statistics = LogFile(path, format, user, item, time, separator, quote, missing, k_core).read().statistics()
        if as_json:
            print_json(asdict(statistics))
        else:
            stdout.print(str(statistics), soft_wrap=True)


def _print_components(as_json: bool) -> None:
    families: dict[str, type[Component]] = {**PARTS, "encoder": HistoryEncoder, "term": LossTerm}
    components = {part: family.names() for part, family in families.items()}
    if as_json:
        print_json({"version": __version__, "components": components})
        return
    stdout.print(f"diffusers_rec {__version__}")
    for part, names in components.items():
        stdout.print(f"  {part:<10} {', '.join(names)}", soft_wrap=True)


def _print_model(folder: Path, as_json: bool) -> None:
    model = load_pretrained(folder)
    config = model.config() if isinstance(model, Pretrained) else {}
    facts = {"items": len(model.vocabulary), "parameters": count_parameters(model), **config}
    if as_json:
        print_json(facts)
        return
    for name, value in facts.items():
        stdout.print(f"{name:<11} {_format_fact(value)}", soft_wrap=True)


def _format_fact(value: Any) -> str:
    if not isinstance(value, dict):
        return f"{value:,}" if isinstance(value, int) else str(value)
    settings = ", ".join(f"{name}={setting}" for name, setting in value.items() if name != "name")
    return f"{value['name']}({settings})" if "name" in value else settings
