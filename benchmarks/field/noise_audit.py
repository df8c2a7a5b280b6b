"""The audit of the field's trained models, a row each: noise, chains, calibration, and what training and serving cost.

It reads the trainings of ``benchmarks.field.accuracy``, trains nothing and leaves out what is not trained. The audit is
on validation users. Its chains are those of ``ddpm`` with all steps, or the model's own where the process is not
Gaussian. The test score and the seconds are those of the model as it is served, with its own sampler. The seconds of a
user are compared with one step of ``best``, in turn.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from string import ascii_uppercase

import numpy as np
import torch

from benchmarks import plots
from benchmarks.field.settings import CONTROL, FIELD, add_options, limited, longest, minutes_of, split_of, trials
from benchmarks.harness import Results, Row, argument_parser, at_least, command, compare
from benchmarks.paper.options import parse_trials
from benchmarks.paper.running import folder_of, is_finished, run
from benchmarks.paper.settings import DATASETS
from benchmarks.paper.trial import Trial
from benchmarks.words import words
from diffusers_rec import Recommender, Split, TrainingBatches, load_pretrained
from diffusers_rec.evaluation import audit
from diffusers_rec.evaluation.audit import has_chains
from diffusers_rec.presets import best

SERVED_AT_ONCE = 256


def main(argv: Sequence[str] | None = None) -> None:
    parser = argument_parser(__doc__)
    add_options(parser)
    parser.add_argument("--users", type=at_least(1), default=1024, help="maximum number of users of the audit")
    parser.add_argument("--repeats", type=at_least(1), default=3, help="rounds of the timing")
    options = parse_trials(parser, argv)
    results = Results("noise_audit", options, place=place)
    for dataset in options.datasets:
        split, by_name, timed = split_of(dataset, options), trials(dataset), limited(dataset, options)
        plain = best(split.train.vocabulary).prepare(split.train).eval()
        for name in options.models:
            if is_finished(by_name[name], options.seed, timed):
                which = {"dataset": dataset, "model": name, "minutes": minutes_of(dataset, options)}
                results.add({**which, **measure(by_name[name], plain, split, timed)})
                results.write(draw)  # after each model, so that finished ones are recorded
            else:
                print(f"== not trained: {dataset}, {name}, seed {options.seed}", flush=True)
    if not results.rows:
        raise ValueError(
            f"No training of these models with this limit and seed is finished in {options.runs}. Nothing is written. "
            "Run benchmarks.field.accuracy first, or give its --minutes, --budget and --seed."
        )


def measure(trial: Trial, plain: Recommender, split: Split, options: argparse.Namespace) -> Row:
    """The audit of a trained model, its test accuracy, and what a target and a user cost."""
    model = load_pretrained(folder_of(trial, options.seed, options))
    test = run(trial, split, options.seed, options)[0]  # of its report; seen items left out
    audited = audit(model, split.validation, users=options.users, steps=chain_of(model), seed=options.seed)
    targets = TrainingBatches(split.train, examples=trial.training.examples).num_targets * test["epochs"]
    return {
        "test_ndcg@10": test["ndcg@10"],
        **audited.summary,
        "users": audited.num_users,
        "epochs": test["epochs"],
        "training_milliseconds_per_target": 1000 * test["training_seconds"] / targets,
        **serving(model, plain, split, options),
    }


def place(row: Row) -> tuple[int, ...]:
    """The order of the table: by data set, the models as they are entered."""
    model = list(trials(DATASETS[0])).index(row["model"])
    return DATASETS.index(row["dataset"]), model, int(row["minutes"]), int(row["seed"])


def chain_of(model: Recommender) -> list[int] | None:
    """All reverse steps of a model whose chains can be audited."""
    return [model.schedule.num_timesteps] if has_chains(model) else None


def serving(model: Recommender, plain: Recommender, split: Split, options: argparse.Namespace) -> Row:
    """Seconds to rank for a user, with the model's own sampler, and how many times those of one step of ``plain``."""
    rows = np.arange(min(SERVED_AT_ONCE, len(split.test)))
    histories = split.test.histories.take(rows)
    with torch.no_grad():
        times = compare(
            {
                "model": lambda: model.recommend(histories, k=10),
                "one step": lambda: plain.recommend(histories, k=10, seeds=1, sampler="one-step"),
            },
            repeats=options.repeats,
        )
    return {
        "milliseconds_per_user": 1000 * times["model"].median / len(rows),
        "serving_over_one_step_of_best": times["model"].over(times["one step"]),
    }


def draw(path: Path, rows: plots.Rows) -> None:
    """Accuracy over the cost of serving, a panel per data set; a model and its control have the same letter."""
    from matplotlib.ticker import LogLocator  # noqa: PLC0415 - only drawing needs it

    rows = longest(rows)
    present = {row["model"].removesuffix(CONTROL) for row in rows}
    names = [name for name in FIELD if name in present]
    letters = {name: rf"$\mathbf{{{letter}}}$" for name, letter in zip(names, ascii_uppercase, strict=False)}
    datasets = list(dict.fromkeys(row["dataset"] for row in rows))
    figure = plots.canvas(0.6 + 3.8 * len(datasets), 4.4)
    axes = figure.subplots(1, len(datasets), squeeze=False)[0]
    for axis, dataset in zip(axes, datasets, strict=True):
        for row in (row for row in rows if row["dataset"] == dataset):
            point = float(row["milliseconds_per_user"]), float(row["test_ndcg@10"])
            name = row["model"].removesuffix(CONTROL)
            axis.plot(*point, ls="", marker=letters[name], ms=6, mew=0, color="C0" if name == row["model"] else "C1")
        axis.set(xscale="log", title=words(dataset), xlabel="milliseconds per user", ylabel="NDCG@10")
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_formatter("")
        axis.margins(0.06)
    for color, label in ("C0", "model"), ("C1", "noise-free control"):
        axes[0].plot([], [], ls="", marker="s", color=color, label=label)
    for name, letter in letters.items():
        axes[0].plot([], [], ls="", marker=letter, ms=6, mew=0, color="C7", label=name)
    plots.legend(figure, axes, columns=2 * len(datasets))
    figure.savefig(path)


if __name__ == "__main__":
    command(main)
