"""What the figures share that compare trainings: variants of one model, each a trial, as CSV and picture.

A figure says which variants there are; everything else is here. The paper prints no numbers in these figures, but its
default is DiffRec's row of Table 2, which stands beside the variant that has the same setting.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from benchmarks.harness import Results, Row, argument_parser, read_csv
from benchmarks.paper.trials import (
    ALONE,
    DATASETS,
    Trial,
    add_comparison_options,
    add_trial_options,
    mean_score,
    parse_trials,
    place_of,
    published,
    refuse_unlike,
    results_of,
    run,
    seeds_of,
    sequences_of,
)
from diffusers_rec.presets import PRESETS

Variants = Callable[[str, str], dict[str, Trial]]
"""A preset and a data set to trials by label."""

EPOCHS = 10
"""Of a training whose rate decays over so few: enough to tell settings apart, in a tenth to half of the time."""

Draw = Callable[[Path, list[dict[str, str]]], None]


def add_figure_options(parser: argparse.ArgumentParser, default: str) -> None:
    """``--preset`` and ``--plot``."""
    presets = [*PRESETS, ALONE]
    parser.add_argument("--preset", default=default, choices=presets, help="whose choices stay but for one")
    parser.add_argument("--plot", action="store_true", help="only draw the CSV again")


def redraw(results: Results, draw: Draw) -> None:
    """Draw what an earlier run has written.

    Raises:
        SystemExit: there is no CSV.
    """
    table, picture = results.file(".csv"), results.file(".png")
    if not table.is_file():
        raise SystemExit(f"{table} is not there: run once without --plot, with the same --preset, --budget and --out.")
    draw(picture, read_csv(table))
    print(f"drawn: {picture}")


def ratio_name(words: str) -> str:
    """Words as one of a program's last lines is called."""
    return words.replace("-", "_").replace(" ", "_")


def compare_variants(
    name: str, description: str, variants: Variants, default: str, draw: Draw, argv: Sequence[str] | None
) -> None:
    """Train and evaluate every variant on every data set, and write the figure after each.

    Args:
        name: of the figure's files.
        description: the program's docstring.
        variants: in the order of the picture.
        default: label of the paper's own setting.
        draw: the figure, from the rows of its CSV.
        argv: options; those of the command line when None.
    """
    parser = argument_parser(description)
    add_trial_options(parser)
    add_comparison_options(parser, EPOCHS)
    add_figure_options(parser, ALONE)
    labels = list(variants("best", "beauty"))
    parser.add_argument("--variants", nargs="+", default=labels, choices=labels)
    options = parse_trials(parser, argv)
    results = results_of(name, options, ALONE, place_of("setting", labels))
    if options.plot:
        return redraw(results, draw)
    refuse_unlike(results, "setting", partial(variants, options.preset), options)
    for dataset in options.datasets:
        split = sequences_of(dataset, options).leave_one_out()
        for row in published(dataset, "DiffRec"):
            results.add({"setting": default, **row})
        for label, trial in variants(options.preset, dataset).items():
            if label in options.variants:
                for seed in seeds_of(options):
                    for row in run(trial.lasting(options.epochs), dataset, split, seed, options):
                        if row["model"] == trial.model:  # and not its network alone, which would pass for another seed
                            results.add({"setting": label, **row})
                results.write(draw)  # after each variant: what is done is kept
    for ratio, value in ratios(results.table(), default).items():
        results.ratio(ratio, value)
    return results.write(draw)


def ratios(rows: Sequence[Row], default: str) -> dict[str, float]:
    """NDCG@10 of each setting over that of the default, on each data set that has it."""
    found = {}
    for dataset in DATASETS:
        trained = [row for row in rows if row["dataset"] == dataset and row.get("trained_seed", "") != ""]
        labels = dict.fromkeys(row["setting"] for row in trained)
        reference = mean_score(trained, setting=default) if default in labels else 0
        if reference:  # a model that hits nothing is no reference
            for label in labels:
                if label != default:
                    score = mean_score(trained, setting=label)
                    found[ratio_name(f"{dataset} {label} vs {default} ndcg10")] = score / reference
    return found
