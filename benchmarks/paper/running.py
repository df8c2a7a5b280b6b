"""Run a trial: train one model on one data set and evaluate it once on its test split.

Every trial has a folder, in which a stopped training resumes and a finished one is neither trained nor evaluated again;
programs that need the same trial share it. Its report contains every value that a table needs, so trainings of several
machines can be collected. The epoch is chosen on validation.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch

import diffusers_rec
from benchmarks.harness import Row, cpu_name
from benchmarks.paper.rows import rows_of
from benchmarks.paper.trial import Trial
from diffusers_rec import DiffRec, Ensemble, Recommender, Split, TrainingBatches
from diffusers_rec.core.files import write_atomically
from diffusers_rec.evaluation import evaluate
from diffusers_rec.training import Callback, TrainingConfig, train
from diffusers_rec.training.precision import resolved
from diffusers_rec.training.state import STATE_FILE, fingerprint

REPORT_FILE = "report.json"
MACHINES_FILE = "machines.json"
NETWORK_ALONE = ", network alone"


def training_of(trial: Trial, seed: int, options: argparse.Namespace) -> TrainingConfig:
    """The training settings of a run: with its seed, within the budget."""
    epochs = trial.training.epochs
    return replace(trial.training, seed=seed, epochs=min(options.budget or epochs, epochs))


def folder_of(trial: Trial, seed: int, options: argparse.Namespace) -> Path:
    """The folder of a trial's run."""
    folder: Path = options.runs / trial.dataset / f"{trial.name}-{seed}-{training_of(trial, seed, options).epochs}"
    return folder


def is_finished(trial: Trial, seed: int, options: argparse.Namespace) -> bool:
    """Whether a trial is trained and evaluated."""
    return (folder_of(trial, seed, options) / REPORT_FILE).is_file()


def run(
    trial: Trial, split: Split, seed: int, options: argparse.Namespace, *, callbacks: Sequence[Callback] = ()
) -> list[Row]:
    """Train and evaluate a trial, or read its report: one row with the history masked and one without.

    A model with a memory has two more rows, of its network alone.
    """

    def report() -> list[Row]:
        model, _, record = train_or_resume(trial, split, seed, options, callbacks=callbacks)
        return _test_rows(model, trial.name, trial.dataset, split, record)

    file = folder_of(trial, seed, options) / REPORT_FILE
    return _read_or_write(file, report, _fingerprint(trial, split, [seed], options))


def ensemble_file(trial: Trial, seeds: Sequence[int], options: argparse.Namespace) -> Path:
    """The report of :func:`run_ensemble`."""
    return folder_of(trial, seeds[-1], options) / f"together-{'-'.join(map(str, seeds))}.json"


def run_ensemble(trial: Trial, split: Split, seeds: Sequence[int], options: argparse.Namespace) -> list[Row]:
    """As :func:`run`, for the mean prediction of a trial's seeds."""

    def report() -> list[Row]:
        members, folders, records = zip(*(train_or_resume(trial, split, seed, options) for seed in seeds), strict=True)
        record = {
            "trained_seed": ", ".join(map(str, seeds)),
            "epochs": ", ".join(dict.fromkeys(str(each["epochs"]) for each in records)),
            "training_seconds": math.fsum(each["training_seconds"] for each in records),
            "trained_on": "; ".join(dict.fromkeys(chain.from_iterable(map(machines_of, folders)))),
            "settings": records[0]["settings"],
        }
        name = f"{trial.name}, {len(seeds)} trainings together"
        return _test_rows(Ensemble(members), name, trial.dataset, split, record)

    return _read_or_write(ensemble_file(trial, seeds, options), report, _fingerprint(trial, split, seeds, options))


def train_or_resume(
    trial: Trial, split: Split, seed: int, options: argparse.Namespace, *, callbacks: Sequence[Callback] = ()
) -> tuple[DiffRec, Path, Row]:
    """Train a trial, resume its training, or read the finished one.

    Returns:
        The model with its best weights, the folder of the run, and a record of the training.

    Raises:
        ValueError: the folder contains a report without its training, which another training would contradict.
        SystemExit: the training was interrupted.
    """
    training = training_of(trial, seed, options)
    model = trial.build(split.train.vocabulary, seed)
    folder = folder_of(trial, seed, options)
    if (folder / REPORT_FILE).is_file() and not (folder / STATE_FILE).is_file():
        raise ValueError(f"{folder} holds the report of a training and not the training. Choose another --runs.")
    print(f"== {trial.dataset}, {trial.name}, seed {seed}: {folder}", flush=True)

    def on_epoch(record: dict[str, float]) -> None:
        record_machine(folder)
        score = record.get("validation_ndcg@10")
        print(f"epoch {record['epoch']}" + ("" if score is None else f": validation NDCG@10 {score:.4f}"), flush=True)

    try:
        result = train(
            model, split.train, split.validation, training,
            directory=folder, progress=True, on_epoch=on_epoch, callbacks=callbacks,
        )  # fmt: skip
    except KeyboardInterrupt:
        raise SystemExit(f"Stopped. The same command resumes in {folder}.") from None
    targets = TrainingBatches(split.train, examples=training.examples).num_targets
    return model, folder, {
        "trained_seed": seed,
        "best_epoch": result.best_epoch,
        "epochs": epochs_of(result.history, targets),
        "validation_ndcg@10": result.history[result.best_epoch - 1].get("validation_ndcg@10"),
        "training_seconds": seconds_of(result.history),
        "trained_on": "; ".join(machines_of(folder)),
        "precision": resolved(training.precision, model.device),
        "settings": json.dumps(
            {"model": model.config(), "training": training.config(), **trial.further_settings()}, sort_keys=True
        ),
    }  # fmt: skip


def epochs_of(history: Sequence[Mapping[str, float]], targets: int) -> float:
    """Epochs of a training; a time limit may have ended some in part.

    Args:
        history: History of the training.
        targets: Targets of a whole epoch.
    """
    epochs = sum(record["targets"] for record in history) / targets
    return round(epochs) if epochs == round(epochs) else float(f"{epochs:.4g}")


def seconds_of(history: Sequence[Mapping[str, float]]) -> float:
    """Seconds of the training steps, without validations."""
    return sum(record["targets"] / record["targets_per_second"] for record in history)


def machines_of(folder: Path) -> list[str]:
    """The machines on which a trial was trained, in order."""
    file = folder / MACHINES_FILE
    return [str(name) for name in json.loads(file.read_bytes())] if file.is_file() else []


def record_machine(folder: Path) -> None:
    """Add this machine to :func:`machines_of`."""
    machines = dict.fromkeys([*machines_of(folder), machine_name()])
    write_atomically(folder / MACHINES_FILE, json.dumps(list(machines)).encode())


def machine_name() -> str:
    """The GPU if there is one, because training uses it; otherwise the processor and the number of threads."""
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}"
    threads = torch.get_num_threads()
    return f"{cpu_name()}, {threads} thread{'s' if threads > 1 else ''}, PyTorch {torch.__version__}"


def _fingerprint(trial: Trial, split: Split, seeds: Sequence[int], options: argparse.Namespace) -> str:
    """A digest of the settings and the data of a trial's trainings, found without training."""
    names = []
    for seed in seeds:
        model, training = trial.build(split.train.vocabulary, seed), training_of(trial, seed, options)
        settings = [model.config(), {**training.config(), **trial.further_settings()}]
        names.append(fingerprint(settings, split.train, split.validation, 1))
    return "-".join(names)


def _read_or_write(file: Path, report: Callable[[], list[Row]], run: str) -> list[Row]:
    """The rows in a report file, which is written first if it does not exist.

    Raises:
        ValueError: the file exists and belongs to another ``run``.
    """
    if file.is_file():
        print(f"== finished: {file}", flush=True)
    else:
        write_atomically(file, json.dumps({"run": run, "rows": report()}, indent=1).encode())
    found: dict[str, Any] = json.loads(file.read_bytes())
    if found["run"] != run:
        raise ValueError(
            f"{file} reports a training with other settings or data, or by a version of the library that describes "
            "them differently. Choose another --runs, or delete its folder."
        )
    rows: list[Row] = found["rows"]
    return rows


def _test_rows(model: Recommender, name: str, dataset: str, split: Split, record: Row) -> list[Row]:
    """The model's rows of the test split."""
    rows = rows_of(evaluate(model, split.test), dataset, name)
    if model.without_memory() is not model:
        rows += rows_of(evaluate(model, split.test, memory=False), dataset, f"{name}{NETWORK_ALONE}")
    return [row | {"evaluated_with": diffusers_rec.__version__} | record for row in rows]
