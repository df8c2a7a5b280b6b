"""What each choice of a preset is worth, on validation: `best` with one choice changed; `paper` changed and mended.

The test split is not looked at: presets are chosen by such tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any

from benchmarks import plots
from benchmarks.harness import argument_parser, command
from benchmarks.paper.table2 import control_of
from benchmarks.paper.trials import (
    ALONE,
    BEST,
    FIXED_SIGNAL,
    FROM_LAST_ITEM,
    Trial,
    add_comparison_options,
    add_trial_options,
    base,
    mended,
    on_another_network,
    out_of_last_item,
    parse_trials,
    place_of,
    refuse_unlike,
    results_of,
    seeds_of,
    sequences_of,
    trained,
)
from diffusers_rec.presets import best
from diffusers_rec.training import RECIPES


def of_best(dataset: str) -> dict[str, Trial]:
    """By what is changed."""
    whole = base("best", dataset)
    settings = BEST[dataset][0]

    def as_wide_as(dim: int) -> Trial:
        changed = settings | {"dim": dim}
        return Trial(f"best-width-{dim}", lambda items, seed: best(items, seed=seed, **changed), whole.training)

    found = {
        "best": whole,
        "noise off (the control)": control_of(whole),
        "no memory": base(ALONE, dataset),
        "weights not averaged": Trial(
            "best-not-averaged", whole.build, replace(whole.training, average_decay=0.0)
        ),
        "ranking learned at the sampled step": whole.varied("at-sampled", objective={"recommend_from": "sampled"}),
        "ten times less noise": whole.varied("less-noise", schedule={"log_snr_shift": 0.0}),
        "latents as long as learned": whole.varied("learned-scale", embedding={"scale": "learned"}),
        "cosine head": whole.varied("cosine-head", head={"name": "cosine"}),
        "contrastive term": whole.varied("contrastive", objective={"name": "contrastive"}),
        "causal-transformer": whole.varied("causal", denoiser={"name": "causal-transformer"}),
    }  # fmt: skip
    found |= {f"width {dim}": as_wide_as(dim) for dim in (64, 128) if dim != settings["dim"]}
    if settings.get("low_pass") != 0:
        found["no low-pass filter"] = whole.varied("no-filter", denoiser={"low_pass": 0.0})
    if whole.training.examples == "every-prefix":
        found["all positions of a window at once"] = Trial("best-all-positions", whole.build, RECIPES["best"])
    return found


MENDS: dict[str, tuple[str, dict[str, Any]]] = {  # what is mended: its name in the folder, and the parts it changes
    "latents kept at unit variance": ("unit-variance", {"embedding": FIXED_SIGNAL["embedding"]}),
    "and a fiftieth of the signal": ("less-signal", {"schedule": FIXED_SIGNAL["schedule"]}),
    "and half of the draws at n = N": ("start-share", {"timesteps": {"start_share": 0.5}}),
    "and the noise let in by a projection": ("projected", {"denoiser": {"target_token": "projected"}}),
    "and directions alone in the head": ("cosine", {"head": {"name": "cosine"}}),
}  # fmt: skip
WITHOUT_STEP: dict[str, tuple[str, dict[str, Any]]] = {  # beside no step embedding and a fixed signal, each by itself
    "ranking at n = N": ("from-start", {"objective": {"recommend_from": "start"}}),
    "cosine head": ("cosine", {"head": {"name": "cosine"}}),
    "norms first": ("norm-first", {"denoiser": {"norm_first": True}}),
    "answer out of the last item": ("last-item", {"denoiser": FROM_LAST_ITEM}),
}  # fmt: skip


def of_paper(dataset: str) -> dict[str, Trial]:
    """One thing changed, or some; mends, each on top of those before; without the step embedding; another network."""
    whole = trial = base("paper", dataset)
    no_step = whole.varied("no-step", denoiser={"step_embedding": False})
    grown = out_of_last_item(dataset)
    found = {
        "paper": whole,
        "noise off (the control)": control_of(whole),
        "steps drawn uniformly": whole.varied("uniform", timesteps={"name": "uniform"}),
        "items that start at unit variance": whole.varied("wide-start", embedding={"init_std": 1.0}),
        "items that start at a deviation of .3": whole.varied("mid-start", embedding={"init_std": 0.3}),
        "no step embedding": no_step,
        "no step embedding, noise off": control_of(no_step),
        "answer out of the last item": whole.varied("last-item", denoiser=FROM_LAST_ITEM),
        "no step embedding, answer out of the last item": no_step.varied("last-item", denoiser=FROM_LAST_ITEM),
        "signal fixed, answer out of the last item": grown,
        "signal fixed, answer out of the last item, noise off": control_of(grown),
    }
    for label, (name, parts) in MENDS.items():
        found[label] = trial = trial.varied(name, **parts)
    found["all of these, noise off"] = control_of(trial)
    fixed = no_step.varied("fixed-signal", **FIXED_SIGNAL)
    found["no step embedding, signal fixed"] = fixed
    for label, (name, parts) in WITHOUT_STEP.items():
        found[f"no step embedding, signal fixed, {label}"] = fixed.varied(name, **parts)
    other, both = on_another_network(dataset), mended(dataset)
    return found | {
        "causal-transformer": on_another_network(dataset, "causal-transformer"),
        "conditional-mlp": other,
        "conditional-mlp, noise off": control_of(other),
        "conditional-mlp, signal fixed": both,
        "conditional-mlp, signal fixed, noise off": control_of(both),
    }


RECIPES_OF = {"best": of_best, "paper": of_paper}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argument_parser(__doc__)
    add_trial_options(parser)
    add_comparison_options(parser, epochs=0)
    parser.add_argument("--preset", default="best", choices=RECIPES_OF, help="whose choices are looked at")
    parser.add_argument("--recipes", nargs="+", help="by their labels, all when absent; a wrong one prints them")
    options = parse_trials(parser, argv)
    there = list(dict.fromkeys(chain.from_iterable(map(RECIPES_OF[options.preset], options.datasets))))
    wanted = options.recipes or there
    if unknown := sorted(set(wanted).difference(there)):
        parser.error(
            f"--recipes: --preset {options.preset} has no {', '.join(map(repr, unknown))}; "
            f"there are {', '.join(map(repr, there))}"
        )
    results = results_of("recipes", options, "best", place_of("recipe", there))
    draw = partial(plots.bars, names=["dataset", "recipe"], panels={"validation_ndcg@10": "validation NDCG@10"})
    refuse_unlike(results, "recipe", RECIPES_OF[options.preset], options)
    for dataset in options.datasets:
        split = sequences_of(dataset, options).leave_one_out()
        for label, trial in RECIPES_OF[options.preset](dataset).items():
            if label not in wanted:
                continue
            for seed in seeds_of(options):
                about = trained(trial.lasting(options.epochs), dataset, split, seed, options)[2]
                results.add({"dataset": dataset, "recipe": label, **about})
            results.write(draw)  # after each recipe: what is done is kept


if __name__ == "__main__":
    command(main)
