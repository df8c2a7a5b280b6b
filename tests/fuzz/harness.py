"""Runs trials in child processes under limits of CPU time and memory, and survives whatever a trial does.

A child runs trial after trial and reports each on a pipe. When it dies or stalls, the trial that it was in is judged by
how it ended, and a fresh child takes over at the next number.
"""

from __future__ import annotations

import contextlib
import dis
import multiprocessing
import os
import random
import resource
import signal
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from diffusers_rec.version import __file__ as inside

CLEAR, EQUAL, SILENT, CRASH, OVER = "clear error", "equal", "silent", "crash", "over limits"
FAILURES = (SILENT, CRASH, OVER)

LIBRARY = str(Path(inside).parent)
SHORTEST = 20  # letters of a message that can say what was expected

Note = Callable[[str], None]
Outcome = tuple[str, str]
"""What came of a trial, and the exception or the difference in words."""


@dataclass(frozen=True)
class Campaign:
    """What is tried, and how far a trial may go.

    Attributes:
        name: of the campaign.
        prepare: makes what all trials share, in a folder of its own.
        trial: given that, a generator of its own and a function that notes the mutation in words.
        allowed: outcomes that pass besides a clear error and an equal answer.
        cpu_seconds: of one trial.
        wall_seconds: of one trial; a trial that waits longer hangs.
        memory: bytes of address space beyond those at the start; None for trials that start programs.
    """

    name: str
    prepare: Callable[[Path], Any]
    trial: Callable[[Any, random.Random, Note], Outcome]
    allowed: tuple[str, ...] = ()
    cpu_seconds: float = 5.0
    wall_seconds: float = 120.0
    memory: int | None = 2**31


@dataclass
class Trial:
    """One trial's record."""

    number: int
    mutation: str = ""
    outcome: str = ""
    detail: str = ""

    @property
    def failed(self) -> bool:
        return self.outcome in FAILURES


def run(campaign: Campaign, seed: int, seconds: float, first: int = 0, count: int = 10**9) -> list[Trial]:
    """Run trials ``first``, ``first + 1``, ... until their number or the time is up; one at least."""
    torch.set_num_threads(1)  # a fork does not take a pool of threads along
    trials: list[Trial] = []
    with tempfile.TemporaryDirectory(prefix=f"fuzz-{campaign.name}-") as folder:
        state = campaign.prepare(Path(folder))
        deadline = time.monotonic() + seconds
        while len(trials) < count and (not trials or time.monotonic() < deadline):
            numbers = range(first + len(trials), first + count)
            trials += _batch(campaign, state, seed, numbers, deadline, Path(folder))
    return trials


def _batch(campaign: Campaign, state: Any, seed: int, numbers: range, deadline: float, folder: Path) -> list[Trial]:
    """The trials of one child."""
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_run_child, args=(campaign, state, seed, numbers, deadline, folder, sender))
    child.start()
    sender.close()
    trials: list[Trial] = []
    stalled = False
    try:
        while not stalled:
            stalled = not receiver.poll(campaign.wall_seconds)
            if not stalled:
                field, value = receiver.recv()
                if field == "number":
                    trials.append(Trial(value))
                else:
                    setattr(trials[-1], field, value)
    except EOFError:
        child.join()
    finally:
        with contextlib.suppress(ProcessLookupError):  # nothing that a trial started outlives it
            os.killpg(child.pid, signal.SIGKILL)
    child.join()
    if trials and not trials[-1].outcome:
        trials[-1].outcome, trials[-1].detail = _of_death(campaign, stalled, child.exitcode or 0)
    return trials


def _of_death(campaign: Campaign, stalled: bool, exit_code: int) -> Outcome:
    if stalled:
        return OVER, f"no answer within {campaign.wall_seconds:g} s"
    if exit_code == -signal.SIGPROF:
        return OVER, f"more than {campaign.cpu_seconds:g} s of CPU time"
    return CRASH, f"the process ended with {exit_code}"


def _run_child(
    campaign: Campaign, state: Any, seed: int, numbers: range, deadline: float, folder: Path, pipe: Connection
) -> None:
    os.setpgrp()
    os.chdir(folder)  # a relative path in a bad argument ends here
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    if campaign.memory is not None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + campaign.memory
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    for number in numbers:
        pipe.send(("number", number))
        signal.setitimer(signal.ITIMER_PROF, campaign.cpu_seconds)  # at zero SIGPROF ends the process, in C code too
        outcome, detail = _judged(campaign, state, random.Random(f"{campaign.name} {seed} {number}"), pipe)
        signal.setitimer(signal.ITIMER_PROF, 0)
        pipe.send(("detail", detail))
        pipe.send(("outcome", outcome))
        if time.monotonic() > deadline:
            return


def _judged(campaign: Campaign, state: Any, generator: random.Random, pipe: Connection) -> Outcome:
    try:
        return campaign.trial(state, generator, lambda words: pipe.send(("mutation", words)))
    except Exception as error:
        return unclear(error)


def unclear(error: BaseException) -> Outcome:
    """The outcome of an error that is not clear: a crash, or the end of the memory."""
    if isinstance(error, MemoryError) or "can't allocate memory" in str(error) or "bad_alloc" in str(error):
        return OVER, f"memory: {_words(error)}"
    where = traceback.extract_tb(error.__traceback__)[-1]
    return CRASH, f"{_words(error)} [{Path(where.filename).name}:{where.lineno}]"


def of_file_error(error: BaseException, path: Path) -> Outcome:
    """A clear error about a file is a ValueError or an OSError that names the file or its folder."""
    if isinstance(error, ValueError | OSError) and str(path) in str(error):
        return CLEAR, _words(error)
    return unclear(error)


def of_call_error(error: Exception, errors: tuple[type[Exception], ...] = ()) -> Outcome:
    """A clear error is raised by a ``raise`` of the library, of a class that callers expect, with words."""
    expected = isinstance(error, (ValueError, TypeError, ImportError, OSError, *errors))
    if expected and len(str(error)) >= SHORTEST and _raised_inside(error.__traceback__):
        return CLEAR, _words(error)
    return unclear(error)


def _raised_inside(trace: TracebackType | None) -> bool:
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None or not trace.tb_frame.f_code.co_filename.startswith(LIBRARY):
        return False
    return dis.opname[trace.tb_frame.f_code.co_code[trace.tb_lasti]] == "RAISE_VARARGS"


def _words(error: BaseException) -> str:
    text = " ".join(str(error).split())[:200]
    return f"{type(error).__name__}: {''.join(letter if letter.isprintable() else '?' for letter in text)}"
