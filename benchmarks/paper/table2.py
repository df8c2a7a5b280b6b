"""Table 2: HR and NDCG at 5, 10 and 20, beside the paper's row, the strongest published plain models, and the control.

Each model is trained beside its noise-free control. Popularity and item-to-item rank without a model, from everything
before the held-out item; the memory of `best` ranks from the training items. With several seeds, the mean of the
trainings' predictions has a row of its own. ``--systems`` trains the plain systems of the table instead, with the
options of ``benchmarks.paper.systems``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from benchmarks.harness import Results, Row, argument_parser, command
from benchmarks.paper import systems
from benchmarks.paper.model_dots import draw
from benchmarks.paper.options import add_trial_options, parse_trials, seeds_of, sequences_of
from benchmarks.paper.rows import mean_score, published, rows_of
from benchmarks.paper.running import ensemble_file, is_finished, run, run_ensemble
from benchmarks.paper.settings import (
    FROM_LAST_ITEM_EPOCHS,
    PAPER_PRESETS,
    base,
    from_last_item,
    on_another_network,
    one_target_per_user,
    with_fixed_snr,
)
from benchmarks.paper.trial import Trial, control_of, with_epochs
from diffusers_rec import TransitionMemory
from diffusers_rec.evaluation import evaluate_item_to_item, evaluate_memory, evaluate_popularity


def trials(dataset: str) -> dict[str, Trial]:
    """Trials by name: each preset, four changes to ``paper``, and the control of each."""
    wanted = [
        *(base(preset, dataset) for preset in PAPER_PRESETS),
        one_target_per_user(dataset),
        with_epochs(from_last_item(dataset), FROM_LAST_ITEM_EPOCHS[dataset]),
        on_another_network(dataset),
        with_fixed_snr(dataset),
    ]
    return {trial.name: trial for each in wanted for trial in (each, control_of(each))}


def main(argv: Sequence[str] | None = None) -> None:
    given = sys.argv[1:] if argv is None else argv
    if "--systems" in given:
        systems.main([option for option in given if option != "--systems"])
        return
    parser = argument_parser(__doc__)
    add_trial_options(parser)
    names = list(trials("beauty"))
    explained = (
        "paper-last-target is paper with one target per user for 50 epochs, "
        "paper-from-last-item is paper with a fixed signal-to-noise ratio and a prediction that starts from the last "
        f"item, for {FROM_LAST_ITEM_EPOCHS['ml-1m']} epochs on ML-1M, "
        "paper-conditional-mlp is paper on another network, paper-mended is that with a fixed signal-to-noise ratio"
    )
    parser.add_argument(
        "--models", nargs="+", default=names, choices=names, metavar="MODEL", help=f"{', '.join(names)}: {explained}"
    )
    parser.add_argument("--systems", action="store_true", help="train the plain systems instead; --systems --help")
    parser.add_argument("--finished", action="store_true", help="show what is finished; train nothing")
    options = parse_trials(parser, given)
    results = Results("table2", options)
    if options.finished:
        print_missing(options)
    for dataset in options.datasets:
        for row in measure(dataset, options):
            results.add(row)
        results.write(draw)  # after each data set, so that finished ones are recorded
    for name in options.models:
        for dataset in options.datasets:
            if any(row["dataset"] == dataset and row["model"] == name for row in results.rows):
                results.ratio(
                    f"{dataset.replace('-', '')}_{name.replace('-', '_')}_ndcg10",
                    mean_score(results.rows, dataset=dataset, model=name),
                )
    results.write(draw)


def measure(dataset: str, options: argparse.Namespace) -> list[Row]:
    """The rows of a data set: published ones, those of baselines that count, and those of the models."""
    split = sequences_of(dataset, options).leave_one_out()
    known = split.test.histories
    memory = TransitionMemory(len(known.vocabulary))
    memory.fit(split.train)
    rows = [
        *published(dataset),
        *rows_of(evaluate_popularity(known, split.test), dataset, "popularity"),
        *rows_of(evaluate_item_to_item(known, split.test), dataset, "item-to-item"),
        *rows_of(evaluate_memory(memory, split.test), dataset, "memory alone"),
    ]
    by_name = trials(dataset)
    for trial in (by_name[name] for name in options.models):
        seeds = [seed for seed in seeds_of(options) if not options.finished or is_finished(trial, seed, options)]
        for seed in seeds:
            rows += run(trial, split, seed, options)
        if len(seeds) > 1 and (not options.finished or ensemble_file(trial, seeds, options).is_file()):
            rows += run_ensemble(trial, split, seeds, options)
    return rows


def print_missing(options: argparse.Namespace) -> None:
    """Print the trainings that a table of finished ones will lack.

    Raises:
        ValueError: none is finished, so the table is better left as it is.
    """
    finished = {
        (dataset, name, seed): is_finished(trial, seed, options)
        for dataset in options.datasets
        for name, trial in trials(dataset).items()
        if name in options.models
        for seed in seeds_of(options)
    }
    if not any(finished.values()):
        raise ValueError(
            f"--finished: no training of these models is finished in {options.runs}. Nothing is written. "
            "--runs names another folder."
        )
    for (dataset, name, seed), done in finished.items():
        if not done:
            print(f"== not finished: {dataset}, {name}, seed {seed}", flush=True)


if __name__ == "__main__":
    command(main)
