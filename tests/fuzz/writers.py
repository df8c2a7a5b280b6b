"""Rival writers and a reader in one folder, foreign files beside them, and two trainings into one folder."""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from diffusers_rec import DiffRec
from diffusers_rec.training import TrainingConfig, train

from . import world
from .harness import CLEAR, CRASH, EQUAL, OVER, SILENT, Campaign, Note, Outcome, of_call_error
from .kills import FORK, same, started

READING = 0.5  # seconds
FOREIGN = (
    "README.md", "log.jsonl", "model-0123456789ab.safetensors", "items-0123456789ab.json", "model.safetensors",
    ".config.json.abcd1234", ".log.jsonl.abcd1234", ".items-0123456789ab.json.abcd1234", "config.json.bak",
    ".model-0123456789ab.safetensors.abcd1234", "training-state.safetensors.old", "pytorch_model.bin",
)  # fmt: skip


@dataclass(frozen=True)
class Rivals:
    """Two models to save, and what two runs come to."""

    folder: Path
    models: tuple[DiffRec, DiffRec]
    trained: tuple[DiffRec, DiffRec]


def prepare(folder: Path) -> Rivals:
    trained = []
    for seed in (0, 1):
        run_training(folder / str(seed), seed)
        trained.append(DiffRec.from_pretrained(folder / str(seed)))
    return Rivals(folder, (world.model(seed=1), world.model(world.vocabulary(5), seed=2)), (trained[0], trained[1]))


def run_training(folder: Path, seed: int) -> None:
    config = TrainingConfig(epochs=4, batch_targets=4, seed=seed)
    data = world.sequences().leave_one_out()
    train(world.model(), data.train, data.validation, config, directory=folder, device="cpu")


def trial(rivals: Rivals, generator: random.Random, note: Note) -> Outcome:
    with tempfile.TemporaryDirectory(dir=rivals.folder) as folder:
        kind = generator.choice([_two_writers, _foreign_files, _two_trainings])
        return kind(rivals, Path(folder) / "out", generator, note)


def _two_writers(rivals: Rivals, folder: Path, generator: random.Random, note: Note) -> Outcome:
    def save(model: DiffRec) -> None:
        deadline = time.monotonic() + READING
        while time.monotonic() < deadline:
            model.save_pretrained(folder)

    note("two processes save different models, one reads")
    rivals.models[0].save_pretrained(folder)
    writers = [_reporting(lambda model=model: save(model)) for model in rivals.models]
    reads, odd = 0, ""
    while any(process.is_alive() for process, _ in writers):
        try:
            loaded = DiffRec.from_pretrained(folder)
            odd = odd or ("" if any(same(loaded, model) for model in rivals.models) else "neither of the two models")
        except Exception as error:
            odd = odd or f"{type(error).__name__}: {error}"
        reads += 1
    outcomes = [_outcome_of(*writer) for writer in writers]
    failed = [detail for outcome, detail in outcomes if outcome != EQUAL]
    if odd or failed:
        return CRASH, f"read {reads} times: {odd}; writers: {failed}"
    if not any(same(DiffRec.from_pretrained(folder), model) for model in rivals.models):
        return SILENT, "in the end neither of the two models"
    return EQUAL, f"{reads} reads, each of one model"


def _foreign_files(rivals: Rivals, folder: Path, generator: random.Random, note: Note) -> Outcome:
    folder.mkdir()
    planted = generator.sample(FOREIGN, generator.randint(1, len(FOREIGN)))
    note(f"saved twice beside {', '.join(planted)}")
    for name in planted:
        (folder / name).write_text(f"foreign {name}")
    for model in rivals.models:
        try:
            model.save_pretrained(folder)
        except Exception as error:
            return of_call_error(error)
    lost = [name for name in planted if not (folder / name).is_file()]
    changed = [name for name in planted if name not in lost and (folder / name).read_text() != f"foreign {name}"]
    if lost or changed:
        return SILENT, f"deleted: {lost}, changed: {changed}"
    if not same(DiffRec.from_pretrained(folder), rivals.models[1]):
        return SILENT, "loads as another model"
    return EQUAL, "saved, and the foreign files are untouched"


def _two_trainings(rivals: Rivals, folder: Path, generator: random.Random, note: Note) -> Outcome:
    seeds = generator.choice([(0, 0), (0, 1)])
    pause = generator.uniform(0, 0.5)
    note(f"two trainings of seeds {seeds} into one folder, {1000 * pause:.0f} ms apart")
    runs = []
    for seed in seeds:
        runs.append(_reporting(lambda seed=seed: run_training(folder, seed)))
        time.sleep(pause)
    outcomes = [_outcome_of(*run) for run in runs]
    if any(outcome in (CRASH, OVER) for outcome, _ in outcomes) or all(outcome == CLEAR for outcome, _ in outcomes):
        return CRASH, f"{outcomes}"
    loaded = DiffRec.from_pretrained(folder)
    if not any(same(loaded, rivals.trained[seed]) for seed in seeds):
        return SILENT, f"neither run's weights, though they ended with {outcomes}"
    return EQUAL, f"{outcomes}"


def _reporting(function: Callable[[], Any]) -> tuple[Any, Connection]:
    """A process that runs a function, and the pipe on which it reports what came of it."""
    receiver, sender = FORK.Pipe(duplex=False)

    def judged() -> None:
        try:
            function()
            sender.send((EQUAL, ""))
        except Exception as error:
            sender.send(of_call_error(error))

    process = started(judged)
    sender.close()
    return process, receiver


def _outcome_of(process: Any, receiver: Connection) -> Outcome:
    process.join(60)
    if process.is_alive():
        process.kill()
        process.join()
        return OVER, "no end within 60 s"
    return receiver.recv() if receiver.poll() else (CRASH, f"ended with {process.exitcode}")


CAMPAIGN = Campaign("writers", prepare, trial, cpu_seconds=60, wall_seconds=300, memory=None)
