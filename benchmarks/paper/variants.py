"""The common part of the figures that compare trainings: variants of one model, each a trial, as CSV and picture.

A figure defines its variants; everything else is here. The paper prints no numbers in these figures, but its default is
DiffRec's row of Table 2, which is shown beside the variant with the same setting.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from benchmarks.harness import Row, argument_parser
from benchmarks.paper.comparison import add_comparison_options, place_of, refuse_unequal_training
from benchmarks.paper.options import add_trial_options, parse_trials, results_of, seeds_of, sequences_of
from benchmarks.paper.rows import mean_score
from benchmarks.paper.running import run
from benchmarks.paper.settings import BEST_NETWORK, DATASETS, PAPER_PRESETS
from benchmarks.paper.trial import Trial, with_epochs

Variants = Callable[[str, str], dict[str, Trial]]
"""Function from a preset and a data set to trials by label."""

EPOCHS = 10
"""Epochs of a training, over which its learning rate decays: enough to rank settings in 10 to 50 % of the time."""

Draw = Callable[[Path, list[dict[str, str]]], None]


def add_figure_options(parser: argparse.ArgumentParser, default: str) -> None:
    """``--preset`` with its default."""
    presets = [*PAPER_PRESETS, BEST_NETWORK]
    parser.add_argument("--preset", default=default, choices=presets, help="preset that the variants change")


def ratio_name(words: str) -> str:
    """Words as the name of one of a program's ratios."""
    return words.replace("-", "_").replace(" ", "_")


def compare_variants(
    name: str, description: str, variants: Variants, default: str, draw: Draw, argv: Sequence[str] | None
) -> None:
    """Train and evaluate every variant on every data set, and write the figure after each.

    Args:
        name: Name of the figure's files.
        description: Docstring of the program.
        variants: Variants in the order of the picture.
        default: Label of the paper's own setting.
        draw: Function that draws the figure from the rows of its CSV.
        argv: Options; those of the command line if None.
    """
    parser = argument_parser(description)
    add_trial_options(parser)
    add_comparison_options(parser, EPOCHS)
    add_figure_options(parser, BEST_NETWORK)
    labels = list(variants("best", "beauty"))
    parser.add_argument("--variants", nargs="+", default=labels, choices=labels)
    options = parse_trials(parser, argv)
    results = results_of(name, options, BEST_NETWORK, place_of("setting", labels))
    refuse_unequal_training(results, "setting", partial(variants, options.preset), options)
    for dataset in options.datasets:
        split = sequences_of(dataset, options).leave_one_out()
        trials = variants(options.preset, dataset)
        results.add({"setting": default, **trials[default].published})
        for label, trial in trials.items():
            if label in options.variants:
                for seed in seeds_of(options):
                    for row in run(with_epochs(trial, options.epochs), split, seed, options):
                        if row["model"] == trial.name:  # without its network alone, which would count as another seed
                            results.add({"setting": label, **row})
                results.write(draw)  # after each variant, so that finished ones are recorded
    for ratio, value in ratios(results.table(), default).items():
        results.ratio(ratio, value)
    results.write(draw)


def ratios(rows: Sequence[Row], default: str) -> dict[str, float]:
    """NDCG@10 of each setting over that of the default, on each data set that has it."""
    found = {}
    for dataset in DATASETS:
        trained = [row for row in rows if row["dataset"] == dataset and row.get("trained_seed", "") != ""]
        labels = dict.fromkeys(row["setting"] for row in trained)
        reference = mean_score(trained, setting=default) if default in labels else 0
        if reference:  # a model without a hit is no reference
            for label in labels:
                if label != default:
                    score = mean_score(trained, setting=label)
                    found[ratio_name(f"{dataset} {label} vs {default} ndcg10")] = score / reference
    return found
