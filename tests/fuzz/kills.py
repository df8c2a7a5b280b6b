"""Signals at random moments of saving and of training: old or new afterwards, and the run ends as it would have."""

from __future__ import annotations

import io
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from diffusers_rec import DiffRec
from diffusers_rec.cli.main import run

from . import world
from .harness import CLEAR, CRASH, EQUAL, OVER, SILENT, Campaign, Note, Outcome

SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
SAVING = 0.1  # seconds, some savings of a small model
FORK = multiprocessing.get_context("fork")


@dataclass(frozen=True)
class Uninterrupted:
    """Two models to save, and a run that nobody killed."""

    folder: Path
    models: tuple[DiffRec, DiffRec]
    weights: dict[str, Tensor]
    seconds: float


def prepare(folder: Path) -> Uninterrupted:
    log = world.sequences()
    rows = [" ".join([f"u{user}", *(f"i{item}" for item in items)]) for user, items in enumerate(log)]
    (folder / "log.txt").write_text("\n".join(rows) + "\n")
    with redirect_stdout(io.StringIO()):
        command(folder, folder / "whole")  # in this process, so that its children need not import
        begun = time.monotonic()
        started(lambda: command(folder, folder / "again")).join()
    seconds = time.monotonic() - begun
    weights = DiffRec.from_pretrained(folder / "whole").state_dict()
    return Uninterrupted(folder, (world.model(seed=1), world.model(world.vocabulary(5), seed=2)), weights, seconds)


def command(folder: Path, out: Path) -> int:
    """``python -m diffusers_rec train`` in a process that has imported it."""
    settings = ["--dim", "4", "--max-length", "6", "--epochs", "3", "--threads", "1"]
    settings += ["--set", "denoiser.encoder.num_layers=1"]
    sys.argv = ["diffrec", "train", str(folder / "log.txt"), "--out", str(out), "--cpu", "--quiet", *settings]
    return run()


def started(function: Callable[[], Any]) -> Any:
    """A process that has begun to run a function and ends with its exit code."""
    begun = FORK.Event()  # while a process forks, the interpreter drops an interrupt

    def begin() -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background has it ignored
        begun.set()
        sys.exit(function())

    process = FORK.Process(target=begin)
    process.start()
    begun.wait()
    return process


def trial(whole: Uninterrupted, generator: random.Random, note: Note) -> Outcome:
    with tempfile.TemporaryDirectory(dir=whole.folder) as folder:
        kind = generator.choice([_saving, _training])
        return kind(whole, Path(folder) / "out", generator, note)


def _killed(function: Callable[[], Any], longest: float, generator: random.Random) -> tuple[str, bool]:
    """When and by what a process was ended, in words, and whether it did end."""
    process = started(function)
    seconds, number = generator.uniform(0, longest), generator.choice(SIGNALS)
    time.sleep(seconds)
    os.kill(process.pid, number)
    process.join(30)
    ended = process.exitcode is not None
    process.kill()
    process.join()
    return f"{number.name} after {1000 * seconds:.0f} ms", ended


def _saving(whole: Uninterrupted, folder: Path, generator: random.Random, note: Note) -> Outcome:
    def save() -> None:
        while True:
            for model in whole.models:
                model.save_pretrained(folder)

    old = generator.random() < 0.7
    if old:
        whole.models[0].save_pretrained(folder)
    words, ended = _killed(save, SAVING, generator)
    note(f"save_pretrained, {'over an old checkpoint' if old else 'into no folder'}: {words}")
    if not ended:
        return OVER, "the process outlived the signal"
    try:
        loaded = DiffRec.from_pretrained(folder)
    except FileNotFoundError as error:
        return (SILENT if old else CLEAR), f"FileNotFoundError: {error}"
    except Exception as error:
        return CRASH, f"{type(error).__name__}: {error}"
    if not any(same(loaded, model) for model in whole.models):
        return SILENT, "neither the old model nor the new one"
    whole.models[1].save_pretrained(folder)
    return (EQUAL, "old or new") if same(DiffRec.from_pretrained(folder), whole.models[1]) else (SILENT, "not saved")


def _training(whole: Uninterrupted, folder: Path, generator: random.Random, note: Note) -> Outcome:
    words = []
    for _ in range(generator.choice([1, 2, 3])):
        how, ended = _killed(lambda: command(whole.folder, folder), 1.1 * whole.seconds, generator)
        words.append(how)
        note(f"diffrec train: {', '.join(words)}")
        if not ended:
            return OVER, "the process outlived the signal"
    last = started(lambda: command(whole.folder, folder))
    last.join()
    if last.exitcode:
        return CRASH, f"started again, the run ended with {last.exitcode}"
    weights = DiffRec.from_pretrained(folder).state_dict()
    if all(torch.equal(tensor, whole.weights[name]) for name, tensor in weights.items()):
        return EQUAL, "the weights of the uninterrupted run"
    return SILENT, "other weights than those of the uninterrupted run"


def same(model: DiffRec, other: DiffRec) -> bool:
    """Whether two models have the same items and weights."""
    if model.vocabulary != other.vocabulary:
        return False
    return all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in model.state_dict().items())


CAMPAIGN = Campaign("kills", prepare, trial, cpu_seconds=60, memory=None)
