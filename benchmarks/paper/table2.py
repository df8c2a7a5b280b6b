"""Table 2: HR and NDCG at 5, 10 and 20, beside the paper's row, the strongest published plain models, and the control.

Each model is trained beside its control, the same parts with the noise switched off. Popularity and item-to-item rank
without a model, from all that comes before the held-out item, the memory of `best` from the training items. With
several seeds, the mean of the trainings' predictions has a row besides.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from benchmarks.harness import Results, Row, argument_parser, command
from benchmarks.paper.trials import (
    FROM_LAST_ITEM_EPOCHS,
    Trial,
    add_trial_options,
    base,
    finished,
    mean_score,
    mended,
    on_another_network,
    one_target_a_user,
    out_of_last_item,
    parse_trials,
    published,
    rows_of,
    run,
    run_together,
    seeds_of,
    sequences_of,
    together_file,
)
from diffusers_rec import TransitionMemory
from diffusers_rec.evaluation import evaluate_item_to_item, evaluate_memory, evaluate_popularity
from diffusers_rec.presets import PRESETS, control


def trials(dataset: str) -> dict[str, Trial]:
    """By name: each preset, ``paper`` changed in four ways; and the control of each."""
    wanted = [
        *(base(preset, dataset) for preset in PRESETS),
        one_target_a_user(dataset),
        out_of_last_item(dataset).lasting(FROM_LAST_ITEM_EPOCHS[dataset]),
        on_another_network(dataset),
        mended(dataset),
    ]
    return {trial.model: trial for each in wanted for trial in (each, control_of(each))}


def control_of(trial: Trial) -> Trial:
    """The same training of the model's plain twin."""
    return Trial(f"{trial.model}-control", lambda items, seed: control(trial.build(items, seed)), trial.training)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argument_parser(__doc__)
    add_trial_options(parser)
    names = list(trials("beauty"))
    explained = (
        "paper-last-target is paper with one target a user and all fifty epochs, "
        "paper-from-last-item is paper with its signal-to-noise ratio fixed and its answer out of the last item, "
        f"for {FROM_LAST_ITEM_EPOCHS['ml-1m']} epochs on ML-1M, "
        "paper-conditional-mlp paper on another network, paper-mended that with its signal-to-noise ratio fixed"
    )
    parser.add_argument(
        "--models", nargs="+", default=names, choices=names, metavar="MODEL", help=f"{', '.join(names)}: {explained}"
    )
    parser.add_argument("--finished", action="store_true", help="show what is finished; train nothing")
    options = parse_trials(parser, argv)
    results = Results("table2", options)
    if options.finished:
        tell_missing(options)
    for dataset in options.datasets:
        split = sequences_of(dataset, options).leave_one_out()
        known = split.test.histories
        memory = TransitionMemory(len(known.vocabulary))
        memory.fit(split.train)
        rows: list[Row] = [
            *published(dataset),
            *rows_of(evaluate_popularity(known, split.test), dataset, "popularity"),
            *rows_of(evaluate_item_to_item(known, split.test), dataset, "item-to-item"),
            *rows_of(evaluate_memory(memory, split.test), dataset, "memory alone"),
        ]
        for name in options.models:
            trial = trials(dataset)[name]
            seeds = [
                seed for seed in seeds_of(options) if not options.finished or finished(trial, dataset, seed, options)
            ]
            for seed in seeds:
                rows += run(trial, dataset, split, seed, options)
            if len(seeds) > 1 and (not options.finished or together_file(trial, dataset, seeds, options).is_file()):
                rows += run_together(trial, dataset, split, seeds, options)
        for row in rows:
            results.add(row)
        results.write()  # after each data set: what is done is kept
    for name in options.models:
        for dataset in options.datasets:
            if any(row["dataset"] == dataset and row["model"] == name for row in results.rows):
                results.ratio(
                    f"{dataset.replace('-', '')}_{name.replace('-', '_')}_ndcg10",
                    mean_score(results.rows, dataset=dataset, model=name),
                )
    results.write()


def tell_missing(options: argparse.Namespace) -> None:
    """The trainings that a table of finished ones will lack.

    Raises:
        ValueError: all of them; the table is better left as it is.
    """
    wanted = {
        (dataset, name, seed): finished(trials(dataset)[name], dataset, seed, options)
        for dataset in options.datasets
        for name in options.models
        for seed in seeds_of(options)
    }
    if not any(wanted.values()):
        raise ValueError(
            f"--finished: nothing that was asked for is finished in {options.runs}. Nothing is written. "
            "--runs names another folder."
        )
    for (dataset, name, seed), there in wanted.items():
        if not there:
            print(f"== not finished: {dataset}, {name}, seed {seed}", flush=True)


if __name__ == "__main__":
    command(main)
