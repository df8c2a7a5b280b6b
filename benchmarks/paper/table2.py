"""Table 2: HR and NDCG at 5, 10 and 20, beside the paper's row, the strongest published plain models, and the control.

Each model is trained beside its control, the same parts with the noise switched off. Popularity and item-to-item rank
without a model, from all that comes before the held-out item.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from benchmarks.harness import Results, Row, argument_parser, parse, read_csv
from benchmarks.paper.trials import Trial, add_trial_options, rows_of, run
from diffusers_rec import DiffRec, Vocabulary, read_interactions
from diffusers_rec.evaluation import evaluate_item_to_item, evaluate_popularity
from diffusers_rec.presets import best, control, paper
from diffusers_rec.training import RECIPES

PUBLISHED = Path(__file__).with_name("published.csv")

# Sec. 5.1.4 tunes dropout by data set; long sequences want batches of more targets and, under `best`, longer windows.
DROPOUT = {"beauty": 0.3, "toys": 0.3, "ml-1m": 0.2}
BEST = {
    "beauty": ({}, {}),
    "toys": ({}, {}),
    "ml-1m": ({"dropout": 0.2, "max_length": 200}, {"batch_targets": 2000, "epochs": 24}),
}


def trials(dataset: str) -> dict[str, Trial]:
    """By name."""
    settings, training = BEST[dataset]

    def build_paper(items: Vocabulary, seed: int) -> DiffRec:
        return paper(items, dropout=DROPOUT[dataset], seed=seed)

    def build_best(items: Vocabulary, seed: int) -> DiffRec:
        return best(items, seed=seed, **settings)

    recipe = replace(RECIPES["best"], **training)
    # The paper's precision is not said; bf16 matrix products make its size affordable.
    as_printed = replace(RECIPES["paper"], precision="bf16")
    return {
        "best": Trial("best", build_best, recipe),
        "best-control": Trial("best-control", lambda items, seed: control(build_best(items, seed)), recipe),
        "paper": Trial("paper", build_paper, as_printed),
        "paper-control": Trial("paper-control", lambda items, seed: control(build_paper(items, seed)), as_printed),
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argument_parser(__doc__)
    add_trial_options(parser)
    names = list(trials("beauty"))
    parser.add_argument("--models", nargs="+", default=names, choices=names)
    options = parse(parser, argv)
    results = Results("table2", options)
    for dataset in options.datasets:
        split = read_interactions(options.data_dir / f"{dataset}.txt").sequences().leave_one_out()
        known = split.test.histories
        rows: list[Row] = [
            *(row for row in read_csv(PUBLISHED) if row["dataset"] == dataset),
            *rows_of(evaluate_popularity(known, split.test), dataset, "popularity"),
            *rows_of(evaluate_item_to_item(known, split.test), dataset, "item-to-item"),
        ]
        for name in options.models:
            for seed in range(options.seed, options.seed + options.seeds):
                rows += run(trials(dataset)[name], dataset, split, seed, options)
        for row in rows:
            results.add({key: value for key, value in row.items() if value != ""})
        results.write()  # after each data set: what is done is kept
    for name in options.models:
        for dataset in options.datasets:
            results.ratio(
                f"{dataset.replace('-', '')}_{name.replace('-', '_')}_ndcg10", masked(results.rows, dataset, name)
            )
    results.write()


def masked(rows: Sequence[Row], dataset: str, model: str) -> float:
    """NDCG@10 with the history masked, averaged over the seeds."""
    found = [
        row["ndcg@10"] for row in rows if (row["dataset"], row["model"], row["history"]) == (dataset, model, "masked")
    ]
    return math.fsum(found) / len(found)


if __name__ == "__main__":
    main()
