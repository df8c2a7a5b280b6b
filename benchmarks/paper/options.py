"""Command-line options of the programs, and the data and result files that they select."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from benchmarks.data import add_data_option, interactions_of
from benchmarks.harness import Place, Results, at_least, parse
from benchmarks.paper.settings import DATASETS
from diffusers_rec import Sequences


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """``--data-dir``, ``--runs`` and ``--budget``."""
    add_data_option(parser)
    parser.add_argument("--runs", type=Path, default=Path("runs/paper"), help="folder of the trials, to resume from")
    parser.add_argument("--budget", type=at_least(1), help="maximum number of epochs; --quick alone is --budget 1")


def add_trial_options(parser: argparse.ArgumentParser) -> None:
    """The options of :func:`add_run_options`, ``--datasets`` and ``--seeds``."""
    add_run_options(parser)
    parser.add_argument("--datasets", "--dataset", nargs="+", default=DATASETS, choices=DATASETS)
    parser.add_argument("--seeds", type=at_least(1), default=1, help="trainings of each model, seeded from --seed on")


def parse_trials(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the options; a run with a budget is a quick one, whose result files have names of their own."""
    options = parse(parser, argv)
    if options.quick and options.budget is None:
        options.budget = 1
    options.quick = options.budget is not None
    return options


def seeds_of(options: argparse.Namespace) -> range:
    """Seeds of the trainings of each model."""
    return range(options.seed, options.seed + options.seeds)


def sequences_of(dataset: str, options: argparse.Namespace) -> Sequences:
    """A data set's sequences, from the data folder."""
    return interactions_of(dataset, options.data_dir).sequences()


def results_of(program: str, options: argparse.Namespace, default: str, place: Place | None = None) -> Results:
    """The result files of a program, named after it and, if it is not the default, after the preset or ``--model``.

    Args:
        program: Name of the program.
        options: Parsed options.
        default: Preset whose results have the program's name alone.
        place: Key of a row, by which ``--add`` keeps the rows of earlier runs.
    """
    if getattr(options, "model", None) is not None:
        return Results(f"{program}-of-a-model", options)
    name = program if options.preset == default else f"{program}-{options.preset}"
    return Results(name, options, place if getattr(options, "add", False) else None)
