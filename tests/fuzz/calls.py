"""Every public name called with bad values in the place of one or two arguments of a valid call."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from pathlib import Path

from .annotations import forbidden
from .harness import EQUAL, SILENT, Campaign, Note, Outcome, of_call_error
from .table import CALLS
from .values import bad_value
from .world import write_files

NAN = "nan from nan"


def prepare(folder: Path) -> Path:
    write_files(folder / "files")
    return folder / "files"


def trial(files: Path, generator: random.Random, note: Note) -> Outcome:
    name = generator.choice(list(CALLS))
    call = CALLS[name]
    with tempfile.TemporaryDirectory(dir=files.parent) as folder:
        shutil.copytree(files, folder, dirs_exist_ok=True)
        os.chdir(folder)
        try:
            function, given = call.function(), call.arguments()
            changes = {}
            places = [argument for argument in given if argument not in call.opaque]
            for argument in generator.sample(places, min(len(places), generator.choice([1, 1, 1, 2]))):
                try:
                    changes[argument], given[argument] = bad_value(given[argument], generator)
                except (RuntimeError, IndexError, ValueError, StopIteration):  # one axis less than none
                    changes[argument], given[argument] = "None", None
            note(f"{name}: {', '.join(f'{argument} = {words}' for argument, words in changes.items())}")
            try:
                result = function(**given)
            except Exception as error:
                return of_call_error(error, call.errors)
            taken = [argument for argument in changes if forbidden(function, argument, given[argument])]
            if taken:
                return SILENT, f"takes for {taken[0]} what its annotation forbids"
            try:
                sound = call.check(result, given)
            except Exception as error:  # where it is used, what was accepted may still be refused
                return of_call_error(error, call.errors)
            if sound:
                return EQUAL, "a sound answer"
            if call.arithmetic and any("nan" in words or "inf" in words for words in changes.values()):
                return NAN, "numbers that are not finite came in"
            return SILENT, f"an unsound answer: {' '.join(repr(result).split())[:160]}"
        finally:
            os.chdir(files.parent)


CAMPAIGN = Campaign("calls", prepare, trial, allowed=(NAN,))
