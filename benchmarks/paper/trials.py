"""A trial: one model trained on one data set and evaluated once on its test split.

Every trial has a folder of its own, in which a run that was killed goes on and a finished one is neither trained nor
evaluated again: programs that need the same trial share it. Its report alone says all that a table wants, so that
trainings of several machines can be gathered. What is chosen, the epoch, is chosen on validation.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch

import diffusers_rec
from benchmarks.data import add_data_option, interactions_of
from benchmarks.harness import Place, Results, Row, at_least, cpu_name, parse, read_csv
from diffusers_rec import (
    DiffRec,
    Ensemble,
    NoMemory,
    Recommender,
    Sequences,
    Split,
    TrainingBatches,
    Vocabulary,
)
from diffusers_rec.core.files import write_atomically
from diffusers_rec.evaluation import Report, evaluate
from diffusers_rec.presets import best, paper
from diffusers_rec.recommenders.diffrec import PARTS
from diffusers_rec.training import RECIPES, TrainingConfig, train
from diffusers_rec.training.state import STATE_FILE, fingerprint

DATASETS = ("beauty", "toys", "ml-1m")
PUBLISHED = Path(__file__).with_name("published.csv")
REPORT_FILE = "report.json"
MACHINES_FILE = "machines.json"
NETWORK_ALONE = ", network alone"
ALONE = "best-without-memory"
"""The network of ``best`` alone: what its memory adds to every ranking hides part of what the network's parts do."""

# Sec. 5.1.4 tunes dropout by data set. Under `best`, prefixes of short sequences are examples of their own, which costs
# little there and mixes the batches better; long sequences want batches of more targets, and longer windows.
DROPOUT = {"beauty": 0.3, "toys": 0.3, "ml-1m": 0.2}
SHORT_SEQUENCES = {"examples": "every-prefix", "batch_targets": 256, "epochs": 25}
BEST: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "beauty": ({"dim": 64}, SHORT_SEQUENCES),
    "toys": ({"dim": 64}, SHORT_SEQUENCES),
    "ml-1m": ({"dim": 128, "dropout": 0.2, "max_length": 200, "low_pass": 0.0}, {"batch_targets": 2000, "epochs": 24}),
}
# Sec. 5.1.4 trains for 50 epochs. ML-1M has seven times the targets: twelve, after which its training was stopped for
# want of time, are 46,000 steps to the 25,700 of fifty on Beauty.
PAPER_EPOCHS = {"beauty": 50, "toys": 50, "ml-1m": 12}

# Of `out_of_last_item` in Table 2; on ML-1M, for want of time, four, which are 15,300 steps.
FROM_LAST_ITEM_EPOCHS = {**PAPER_EPOCHS, "ml-1m": 4}

# Latents of unit variance, of whose signal a fiftieth is left: longer vectors cannot raise it in training.
FIXED_SIGNAL: dict[str, dict[str, Any]] = {"embedding": {"scale": "unit"}, "schedule": {"log_snr_shift": -math.log(50)}}
# Noise does not stand alone at the noised places: the last item of the history is added to it.
FROM_LAST_ITEM: dict[str, Any] = {"target_token": "last-item"}


@dataclass(frozen=True)
class Trial:
    """What is trained, and how.

    Attributes:
        model: its name in the tables, and that of its folder.
        build: from the items and a seed.
        training: settings.
    """

    model: str
    build: Callable[[Vocabulary, int], DiffRec]
    training: TrainingConfig

    def varied(self, label: str, **parts: Mapping[str, Any]) -> Trial:
        """The same training of a model whose ``parts`` are changed, see :func:`with_parts`."""
        return Trial(
            f"{self.model}-{label}", lambda items, seed: with_parts(self.build(items, seed), parts), self.training
        )

    def lasting(self, epochs: int) -> Trial:
        """The same trained for so many epochs; for as many as ever when 0."""
        return replace(self, training=replace(self.training, epochs=epochs or self.training.epochs))


def base(preset: str, dataset: str) -> Trial:
    """A preset, or :data:`ALONE`, as it is trained on a data set."""
    if preset == ALONE:
        return base("best", dataset).varied("without-memory", memory={"name": "none"})
    if preset == "paper":
        # The paper's precision is not said; bf16 matrix products make its size affordable. Its epochs are cut short
        # when the validation score, by which the epoch is chosen, has not risen for ten.
        recipe = replace(RECIPES["paper"], epochs=PAPER_EPOCHS[dataset], precision="bf16", patience=10)
        return Trial("paper", lambda items, seed: paper(items, dropout=DROPOUT[dataset], seed=seed), recipe)
    settings, training = BEST[dataset]
    return Trial("best", lambda items, seed: best(items, seed=seed, **settings), replace(RECIPES["best"], **training))


def one_target_a_user(dataset: str) -> Trial:
    """``paper`` to the letter of its Algorithm 1: a user's last training item alone is a target, for fifty epochs."""
    every_prefix = base("paper", dataset)
    # An epoch is a few steps: fifty are affordable on every data set, and ten without a rise say nothing.
    training = replace(every_prefix.training, examples="last-target", epochs=RECIPES["paper"].epochs, patience=0)
    return replace(every_prefix, model="paper-last-target", training=training)


def on_another_network(dataset: str, network: str = "conditional-mlp") -> Trial:
    """``paper`` with another denoiser, of the kind of ``best``'s unless said, and nothing else changed but on ML-1M.

    What both kinds of network have, their width among it, stays as the paper's.
    ML-1M, with its many targets, takes all positions of a window at once, which a causal history allows.
    """
    trial = base("paper", dataset).varied(network, denoiser={"name": network})
    if dataset != "ml-1m":
        return trial
    return replace(trial, training=replace(trial.training, examples="all-positions"))


def mended(dataset: str) -> Trial:
    """As :func:`on_another_network`, and with :data:`FIXED_SIGNAL`."""
    return replace(on_another_network(dataset), model="paper").varied("mended", **FIXED_SIGNAL)


def out_of_last_item(dataset: str) -> Trial:
    """``paper`` on its own network, whose answer grows out of the last item, and with :data:`FIXED_SIGNAL`.

    For as many epochs as ``paper``, which it is compared with; Table 2 gives it :data:`FROM_LAST_ITEM_EPOCHS`.
    """
    return base("paper", dataset).varied("from-last-item", denoiser=FROM_LAST_ITEM, **FIXED_SIGNAL)


def short_windows(preset: str, dataset: str) -> Trial:
    """As :func:`base`, in the paper's windows of 50: for variants whose cost grows with the square of the window."""
    trial = base(preset, dataset)
    if preset != "paper" and BEST[dataset][0].get("max_length", 50) > 50:
        return trial.varied("length-50", denoiser={"max_length": 50})
    return trial


def with_parts(model: DiffRec, parts: Mapping[str, Mapping[str, Any]]) -> DiffRec:
    """A model like ``model``, untrained, with parts changed.

    Args:
        model: whose config is the start.
        parts: kind to settings. With a ``"name"`` among them another component takes the place, and keeps of the old
            one's settings those that it has too.
    """
    config = model.config()
    for part, change in parts.items():
        name = change.get("name", config[part]["name"])
        known = PARTS[part].named(name).settings()
        kept = {key: value for key, value in config[part].items() if key in known}
        config[part] = {"name": name, **kept, **change}
    return DiffRec.from_config(model.vocabulary, config)


def add_run_options(parser: argparse.ArgumentParser) -> None:
    """``--data-dir``, ``--runs`` and ``--budget``."""
    add_data_option(parser)
    parser.add_argument("--runs", type=Path, default=Path("runs/paper"), help="folder of the trials, to go on from")
    parser.add_argument("--budget", type=at_least(1), help="epochs at most; --quick alone is --budget 1")


def add_trial_options(parser: argparse.ArgumentParser) -> None:
    """Those of :func:`add_run_options`, ``--datasets`` and ``--seeds``."""
    add_run_options(parser)
    parser.add_argument("--datasets", "--dataset", nargs="+", default=DATASETS, choices=DATASETS)
    parser.add_argument("--seeds", type=at_least(1), default=1, help="trainings of each model, seeded from --seed on")


def add_comparison_options(parser: argparse.ArgumentParser, epochs: int) -> None:
    """Those of programs that compare many trainings: ``--add``, and ``--epochs`` with its default."""
    parser.add_argument("--add", action="store_true", help="keep the rows that the results hold of other trials")
    each = "of each training; 0 for as many as the preset's"
    parser.add_argument("--epochs", type=at_least(0), default=epochs, help=each)


def parse_trials(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """As the harness parses; a run with a budget is a quick one, whose results have names of their own."""
    options = parse(parser, argv)
    if options.quick and options.budget is None:
        options.budget = 1
    options.quick = options.budget is not None
    return options


def seeds_of(options: argparse.Namespace) -> range:
    """Those of the trainings of each model."""
    return range(options.seed, options.seed + options.seeds)


def results_of(program: str, options: argparse.Namespace, default: str, place: Place | None = None) -> Results:
    """Called as the program where it looks at its ``default`` preset; another preset's, or ``--model``'s, say so.

    ``place`` tells rows apart where ``--add`` keeps those that are there.
    """
    if getattr(options, "model", None) is not None:
        return Results(f"{program}-of-a-model", options)
    name = program if options.preset == default else f"{program}-{options.preset}"
    return Results(name, options, place if getattr(options, "add", False) else None)


def refuse_unlike(
    results: Results, column: str, trials: Callable[[str], Mapping[str, Trial]], options: argparse.Namespace
) -> None:
    """Of trainings of one data set that ``--add`` brings together, none may be longer or otherwise unlike the others.

    Args:
        results: whose kept rows are looked at.
        column: that holds the labels.
        trials: a data set to its trials by label.
        options: with ``epochs``.

    Raises:
        ValueError: a row is of a training that this run would do with other settings.
    """
    for row in results.kept():
        trial = trials(row["dataset"]).get(row[column]) if row["dataset"] in options.datasets else None
        if trial is None or not row.get("settings"):
            continue
        # A setting that came after the row was written had its default then.
        theirs = TrainingConfig(**json.loads(row["settings"])["training"]).config()
        ours = training_of(trial.lasting(options.epochs), 0, options).config()
        unlike = [f"{key} {theirs[key]} and not {ours[key]}" for key in ours if key != "seed"
                  and theirs[key] != ours[key]]  # fmt: skip
        if unlike:
            raise ValueError(
                f"--add: {results.file('.csv')} holds a training on {row['dataset']}, {row[column]}, with "
                f"{', '.join(unlike)}. Give the same settings, or another --out."
            )


def place_of(column: str, labels: Sequence[str]) -> Place:
    """The order of a table: by data set; what was published, then the labels in a column as they stand; by seed."""
    ranks = {label: rank for rank, label in enumerate(labels)}

    def place(row: Row) -> tuple[Any, ...]:
        label, seed = row[column], str(row.get("trained_seed", ""))
        order = DATASETS.index(row["dataset"]), bool(seed), ranks.get(label, len(ranks)), label, seed.zfill(9)
        return *order, row.get("model", ""), row.get("history", "")

    return place


def sequences_of(dataset: str, options: argparse.Namespace) -> Sequences:
    """The data set's sequences, from the data folder."""
    return interactions_of(dataset, options.data_dir).sequences()


def training_of(trial: Trial, seed: int, options: argparse.Namespace) -> TrainingConfig:
    """The settings of a trial's run: with its seed, within the budget."""
    return replace(trial.training, seed=seed, epochs=min(options.budget or math.inf, trial.training.epochs))


def folder_of(trial: Trial, dataset: str, seed: int, options: argparse.Namespace) -> Path:
    """Where a trial is, or will be."""
    folder: Path = options.runs / dataset / f"{trial.model}-{seed}-{training_of(trial, seed, options).epochs}"
    return folder


def finished(trial: Trial, dataset: str, seed: int, options: argparse.Namespace) -> bool:
    """Whether a trial is trained and evaluated."""
    return (folder_of(trial, dataset, seed, options) / REPORT_FILE).is_file()


def trained(
    trial: Trial, dataset: str, split: Split, seed: int, options: argparse.Namespace
) -> tuple[DiffRec, Path, Row]:
    """Train, go on, or read what is finished: the model with its best weights, its folder, and how it was trained.

    Raises:
        ValueError: its report has come without the training, which another one would contradict.
        SystemExit: it was interrupted.
    """
    training = training_of(trial, seed, options)
    model = trial.build(split.train.vocabulary, seed)
    folder = folder_of(trial, dataset, seed, options)
    if (folder / REPORT_FILE).is_file() and not (folder / STATE_FILE).is_file():
        raise ValueError(f"{folder} holds the report of a training and not the training. Choose another --runs.")
    print(f"== {dataset}, {trial.model}, seed {seed}: {folder}", flush=True)

    def on_epoch(record: dict[str, float]) -> None:
        note_machine(folder)
        score = record.get("validation_ndcg@10")
        print(f"epoch {record['epoch']}" + ("" if score is None else f": validation NDCG@10 {score:.4f}"), flush=True)

    try:
        result = train(
            model, split.train, split.validation, training, directory=folder, progress=True, on_epoch=on_epoch
        )
    except KeyboardInterrupt:
        raise SystemExit(f"Stopped. The same command goes on in {folder}.") from None
    # Of the training alone: the log knows how fast each epoch went.
    targets = TrainingBatches(split.train, examples=training.examples).num_targets
    return model, folder, {
        "trained_seed": seed,
        "best_epoch": result.best_epoch,
        "epochs": len(result.history),  # patience may have cut it short
        "validation_ndcg@10": result.best_score,
        "training_seconds": sum(targets / record["targets_per_second"] for record in result.history),
        "trained_on": "; ".join(machines_of(folder)),
        "settings": json.dumps({"model": model.config(), "training": training.config()}, sort_keys=True),
    }  # fmt: skip


def machines_of(folder: Path) -> list[str]:
    """Where a trial has been trained, in the order in which the machines came to it."""
    file = folder / MACHINES_FILE
    return [str(name) for name in json.loads(file.read_bytes())] if file.is_file() else []


def note_machine(folder: Path) -> None:
    """Add the one at hand to :func:`machines_of`."""
    machines = dict.fromkeys([*machines_of(folder), machine_name()])
    write_atomically(folder / MACHINES_FILE, json.dumps(list(machines)).encode())


def machine_name() -> str:
    """The GPU, where there is one, for it trains there; or the processor and the threads on it."""
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}"
    threads = torch.get_num_threads()
    return f"{cpu_name()}, {threads} thread{'s' if threads > 1 else ''}, PyTorch {torch.__version__}"


def run(trial: Trial, dataset: str, split: Split, seed: int, options: argparse.Namespace) -> list[Row]:
    """Train and evaluate, or read what is finished: one row with the history masked and one without.

    A model with a memory has the network's own rows besides.
    """

    def report() -> list[Row]:
        model, _, about = trained(trial, dataset, split, seed, options)
        return report_of(model, trial.model, dataset, split, about)

    file = folder_of(trial, dataset, seed, options) / REPORT_FILE
    return kept(file, report, run_name(trial, split, [seed], options))


def together_file(trial: Trial, dataset: str, seeds: Sequence[int], options: argparse.Namespace) -> Path:
    """Where :func:`run_together` keeps its report."""
    return folder_of(trial, dataset, seeds[-1], options) / f"together-{'-'.join(map(str, seeds))}.json"


def run_together(
    trial: Trial, dataset: str, split: Split, seeds: Sequence[int], options: argparse.Namespace
) -> list[Row]:
    """As :func:`run`, of the mean of a trial's seeds."""

    def report() -> list[Row]:
        members, folders, about = zip(*(trained(trial, dataset, split, seed, options) for seed in seeds), strict=True)
        together = {
            "trained_seed": ", ".join(map(str, seeds)),
            "epochs": ", ".join(dict.fromkeys(str(each["epochs"]) for each in about)),
            "training_seconds": math.fsum(each["training_seconds"] for each in about),
            "trained_on": "; ".join(dict.fromkeys(chain.from_iterable(map(machines_of, folders)))),
            "settings": about[0]["settings"],
        }
        name = f"{trial.model}, {len(seeds)} trainings together"
        return report_of(Ensemble(members), name, dataset, split, together)

    return kept(together_file(trial, dataset, seeds, options), report, run_name(trial, split, seeds, options))


def run_name(trial: Trial, split: Split, seeds: Sequence[int], options: argparse.Namespace) -> str:
    """What tells a trial's trainings from those of other settings or data, without training them."""
    names = []
    for seed in seeds:
        model, training = trial.build(split.train.vocabulary, seed), training_of(trial, seed, options)
        names.append(fingerprint(model.config(), training.config(), split.train, split.validation, 1))
    return "-".join(names)


def kept(file: Path, report: Callable[[], list[Row]], run: str) -> list[Row]:
    """The rows in ``file``, which is written first where it is not there.

    Raises:
        ValueError: it is there, and of another ``run``.
    """
    if file.is_file():
        print(f"== finished: {file}", flush=True)
    else:
        write_atomically(file, json.dumps({"run": run, "rows": report()}, indent=1).encode())
    found: dict[str, Any] = json.loads(file.read_bytes())
    if found["run"] != run:
        raise ValueError(
            f"{file} reports a training with other settings or data. Choose another --runs, or delete its folder."
        )
    rows: list[Row] = found["rows"]
    return rows


def report_of(model: Recommender, name: str, dataset: str, split: Split, about: Row) -> list[Row]:
    """The model's rows of the test split."""
    rows = rows_of(evaluate(model, split.test), dataset, name)
    if model.without_memory() is not model:
        rows += rows_of(evaluate(model, split.test, memory=False), dataset, f"{name}{NETWORK_ALONE}")
    return [row | {"evaluated_with": diffusers_rec.__version__} | about for row in rows]


def rows_of(report: Report, dataset: str, model: str) -> list[Row]:
    """A report as rows."""
    return [
        {"dataset": dataset, "model": model, "history": history, **metrics}
        for history, metrics in (("masked", report.metrics()), ("unmasked", report.metrics(exclude_seen=False)))
    ]


def published(dataset: str, model: str | None = None) -> list[Row]:
    """The published rows of a data set, or those of one model."""
    rows = (row for row in read_csv(PUBLISHED) if row["dataset"] == dataset and model in (None, row["model"]))
    return [{key: value for key, value in row.items() if value != ""} for row in rows]


def mean_score(rows: Sequence[Row], metric: str = "ndcg@10", **where: str) -> float:
    """A metric with the history masked, averaged over the rows whose columns have the values of ``where``."""
    wanted = where | {"history": "masked"}
    found = [float(row[metric]) for row in rows if all(row.get(key) == value for key, value in wanted.items())]
    return math.fsum(found) / len(found)
