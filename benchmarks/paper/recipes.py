"""The effect of each choice of a preset, on validation: ablations of `best`, and changes to `paper`.

The test split is not used, because presets are chosen by these tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any

from benchmarks import plots
from benchmarks.harness import argument_parser, command
from benchmarks.paper.comparison import add_comparison_options, place_of, refuse_unequal_training
from benchmarks.paper.options import add_trial_options, parse_trials, results_of, seeds_of, sequences_of
from benchmarks.paper.running import train_or_resume
from benchmarks.paper.settings import (
    BEST_NETWORK,
    BEST_RECIPE,
    FIXED_SNR,
    FROM_LAST_ITEM,
    base,
    best_with,
    from_last_item,
    on_another_network,
    with_fixed_snr,
)
from benchmarks.paper.trial import Trial, control_of, converted, with_epochs, with_parts, with_training


def of_best(dataset: str) -> dict[str, Trial]:
    """Trials by label: ``best``, and ``best`` with one choice changed."""
    best = base("best", dataset)
    causal = converted(best, "denoiser", "causal-transformer")
    contrastive = converted(best, "objective", "contrastive")
    found = {
        "best": best,
        "noise off (the control)": control_of(best),
        "no memory": base(BEST_NETWORK, dataset),
        "weights not averaged": with_training(best, "not-averaged", average_decay=0.0),
        "ranking learned at the sampled step": with_parts(best, "at-sampled", objective={"recommend_from": "sampled"}),
        "ten times less noise": with_parts(best, "less-noise", schedule={"log_snr_shift": 0.0}),
        "latents as long as learned": with_parts(best, "learned-scale", embedding={"scale": "learned"}),
        "cosine head": with_parts(best, "cosine-head", head="cosine"),
        "contrastive term": with_parts(best, "contrastive", objective=contrastive),
        "causal-transformer": with_parts(best, "causal", denoiser=causal),
    }
    width = best.model["embedding"]["dim"]
    found |= {f"width {dim}": best_with(dataset, f"width-{dim}", dim=dim) for dim in (64, 128) if dim != width}
    if best.model["denoiser"]["encoder"]["low_pass"]:
        found["no low-pass filter"] = with_parts(best, "no-filter", denoiser={"encoder": {"low_pass": 0.0}})
    if best.training.examples == "every-prefix":
        at_once = replace(best, name="best-all-positions", training=BEST_RECIPE)
        found["all positions of a window at once"] = at_once
    return found


CUMULATIVE: dict[str, tuple[str, dict[str, Any]]] = {  # label: what the trial's name appends, and the changed parts
    "latents kept at unit variance": ("unit-variance", {"embedding": FIXED_SNR["embedding"]}),
    "and a fiftieth of the signal": ("less-signal", {"schedule": FIXED_SNR["schedule"]}),
    "and half of the draws at n = N": ("start-share", {"timesteps": {"start_share": 0.5}}),
    "and the noise let in by a projection": ("projected", {"denoiser": {"target_token": "projected"}}),
    "and directions alone in the head": ("cosine", {"head": "cosine"}),
}
"""Changes to ``paper``, each on top of those before it."""

SEPARATE: dict[str, tuple[str, dict[str, Any]]] = {
    "ranking at n = N": ("from-start", {"objective": {"recommend_from": "final"}}),
    "cosine head": ("cosine", {"head": "cosine"}),
    "norms first": ("norm-first", {"denoiser": {"norm_first": True}}),
    "answer out of the last item": ("last-item", {"denoiser": FROM_LAST_ITEM}),
}
"""Changes to ``paper`` without the step embedding and with a fixed SNR, each by itself."""


def of_paper(dataset: str) -> dict[str, Trial]:
    """Trials by label: ``paper``, one or several changes to it, and other networks."""
    paper = trial = base("paper", dataset)
    no_step = with_parts(paper, "no-step", denoiser={"step_embedding": False})
    last_item = from_last_item(dataset)
    found = {
        "paper": paper,
        "noise off (the control)": control_of(paper),
        "steps drawn uniformly": with_parts(paper, "uniform", timesteps="uniform"),
        "items that start at unit variance": with_parts(paper, "wide-start", embedding={"init_std": 1.0}),
        "items that start at a deviation of .3": with_parts(paper, "mid-start", embedding={"init_std": 0.3}),
        "no step embedding": no_step,
        "no step embedding, noise off": control_of(no_step),
        "answer out of the last item": with_parts(paper, "last-item", denoiser=FROM_LAST_ITEM),
        "no step embedding, answer out of the last item": with_parts(no_step, "last-item", denoiser=FROM_LAST_ITEM),
        "signal fixed, answer out of the last item": last_item,
        "signal fixed, answer out of the last item, noise off": control_of(last_item),
    }
    for label, (name, parts) in CUMULATIVE.items():
        found[label] = trial = with_parts(trial, name, **parts)
    found["all of these, noise off"] = control_of(trial)
    fixed = with_parts(no_step, "fixed-signal", **FIXED_SNR)
    found["no step embedding, signal fixed"] = fixed
    for label, (name, parts) in SEPARATE.items():
        found[f"no step embedding, signal fixed, {label}"] = with_parts(fixed, name, **parts)
    perceptron, fixed_perceptron = on_another_network(dataset), with_fixed_snr(dataset)
    return found | {
        "causal-transformer": on_another_network(dataset, "causal-transformer"),
        "conditional-mlp": perceptron,
        "conditional-mlp, noise off": control_of(perceptron),
        "conditional-mlp, signal fixed": fixed_perceptron,
        "conditional-mlp, signal fixed, noise off": control_of(fixed_perceptron),
    }


RECIPES_OF = {"best": of_best, "paper": of_paper}

draw = partial(plots.recipes, metric="validation_ndcg@10", label="validation NDCG@10")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argument_parser(__doc__)
    add_trial_options(parser)
    add_comparison_options(parser, epochs=0)
    parser.add_argument("--preset", default="best", choices=RECIPES_OF, help="preset whose choices are changed")
    parser.add_argument("--recipes", nargs="+", help="labels of the recipes, all by default; a wrong one prints them")
    options = parse_trials(parser, argv)
    known = list(dict.fromkeys(chain.from_iterable(map(RECIPES_OF[options.preset], options.datasets))))
    wanted = options.recipes or known
    if unknown := sorted(set(wanted).difference(known)):
        parser.error(
            f"--recipes: --preset {options.preset} has no {', '.join(map(repr, unknown))}; "
            f"there are {', '.join(map(repr, known))}"
        )
    results = results_of("recipes", options, "best", place_of("recipe", known))
    refuse_unequal_training(results, "recipe", RECIPES_OF[options.preset], options)
    for dataset in options.datasets:
        split = sequences_of(dataset, options).leave_one_out()
        for label, trial in RECIPES_OF[options.preset](dataset).items():
            if label not in wanted:
                continue
            for seed in seeds_of(options):
                record = train_or_resume(with_epochs(trial, options.epochs), split, seed, options)[2]
                results.add({"dataset": dataset, "recipe": label, **record})
            results.write(draw)  # after each recipe, so that finished ones are recorded


if __name__ == "__main__":
    command(main)
