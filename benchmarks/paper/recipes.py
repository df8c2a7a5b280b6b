"""What each choice of the `best` preset is worth: the preset, and the preset with one choice changed, on validation.

The test split is not looked at: presets are chosen by this table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from benchmarks import plots
from benchmarks.harness import Results, argument_parser
from benchmarks.paper.table2 import control_of
from benchmarks.paper.trials import BEST, Trial, add_trial_options, base, parse_trials, sequences_of, trained
from diffusers_rec.presets import best
from diffusers_rec.training import RECIPES


def recipes(dataset: str) -> dict[str, Trial]:
    """By what is changed."""
    whole = base("best", dataset)
    settings = BEST[dataset][0]
    found = {
        "best": whole,
        "noise off (the control)": control_of(whole),
        "no memory": whole.varied("no-memory", memory={"name": "none"}),
        "no low-pass filter": whole.varied("no-filter", denoiser={"low_pass": 0.0}),
        "weights not averaged": Trial(
            "best-not-averaged", whole.build, replace(whole.training, average_decay=0.0)
        ),
        "ranking learned at the sampled step": whole.varied("at-sampled", objective={"recommend_from": "sampled"}),
        "ten times less noise": whole.varied("less-noise", schedule={"log_snr_shift": 0.0}),
        "latents as long as learned": whole.varied("learned-scale", embedding={"scale": "learned"}),
        "cosine head": whole.varied("cosine", head={"name": "cosine"}),
        "contrastive term": whole.varied("contrastive", objective={"name": "contrastive"}),
        "causal-transformer": whole.varied("causal", denoiser={"name": "causal-transformer"}),
        "twice the width": Trial(
            "best-wide", lambda items, seed: best(items, seed=seed, **{**settings, "dim": 128}), whole.training
        ),
    }  # fmt: skip
    if whole.training.examples == "every-prefix":
        found["all positions of a window at once"] = Trial("best-all-positions", whole.build, RECIPES["best"])
    return found


def main(argv: Sequence[str] | None = None) -> None:
    parser = argument_parser(__doc__)
    add_trial_options(parser)
    labels = list(recipes("beauty"))
    parser.add_argument("--recipes", nargs="+", default=labels, choices=labels)
    options = parse_trials(parser, argv)
    results = Results("recipes", options)
    draw = partial(plots.bars, names=["dataset", "recipe"], panels={"validation_ndcg@10": "validation NDCG@10"})
    for dataset in options.datasets:
        split = sequences_of(dataset, options).leave_one_out()
        for label, trial in recipes(dataset).items():
            if label not in options.recipes:
                continue
            for seed in range(options.seed, options.seed + options.seeds):
                about = trained(trial, dataset, split, seed, options)[2]
                results.add({"dataset": dataset, "recipe": label, **about})
            results.write(draw)  # after each recipe: what is done is kept


if __name__ == "__main__":
    main()
