"""Progress to TensorBoard, W&B, MLflow and others, through the trackers of accelerate."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import partial
from os import PathLike
from typing import Any

from diffusers_rec.core.errors import require_extra, shown
from diffusers_rec.recommenders.pretrained import Pretrained
from diffusers_rec.training.callbacks import Callback, Record, TrainingRun

PROJECT = "diffusers_rec"
"""Name of the project or experiment, and of TensorBoard's folder within the run's."""


class Tracking(Callback):
    """Sends the settings of a run, and the record of each epoch, to trackers in the main process.

    Names are as in the record, with ``_at_`` for ``@``, which MLflow refuses.

    Args:
        chosen: Names that accelerate knows, or its trackers as objects.
        directory: Folder of the run.

    Raises:
        ImportError: A library is missing.
        ValueError: An unknown name, or a tracker that needs the folder of a run that has none.
        TypeError: An object that is no tracker, or the trackers are not in a list.
    """

    def __init__(self, chosen: Iterable[object], directory: str | PathLike[str] | None) -> None:
        if isinstance(chosen, str) or not isinstance(chosen, Iterable):
            raise TypeError(f"trackers must be a list, got {shown(chosen)}. Write trackers=['tensorboard'].")
        chosen = list(chosen)
        library = require_extra("accelerate.tracking", "train") if chosen else None
        self.makers = [_maker(library, each, directory) for each in chosen]
        self.trackers: list[Any] = []
        self.logged: Record = {}

    def on_start(self, run: TrainingRun) -> None:
        if run.is_main and self.makers:
            self.trackers = [make() for make in self.makers]
            model = run.model.config() if isinstance(run.model, Pretrained) else {}
            settings = dict(_flat({"model": model, "training": run.config.config()}))
            for tracker in self.trackers:
                if hasattr(tracker, "start"):  # older versions of accelerate start what they build
                    tracker.start()
                tracker.store_init_configuration(settings)

    def on_epoch(self, run: TrainingRun, record: Record) -> None:
        self._log(record, record)

    def on_end(self, run: TrainingRun) -> None:
        if self.logged:  # a stopped run may have validated its last epoch after on_epoch
            record = run.history[-1]
            self._log(record, {name: value for name, value in record.items() if name not in self.logged})

    def close(self) -> None:
        """End the trackers' runs."""
        for tracker in self.trackers:
            tracker.finish()

    def _log(self, record: Record, values: Record) -> None:
        named = {name.replace("@", "_at_"): value for name, value in values.items() if name != "epoch"}
        for tracker in self.trackers if named else ():
            tracker.log(named, step=int(record["epoch"]))
        self.logged = dict(record)


def _maker(library: Any, chosen: object, directory: str | PathLike[str] | None) -> Any:
    """Function that builds a tracker, once everything is checked."""
    if isinstance(chosen, library.GeneralTracker):
        return lambda: chosen
    if not isinstance(chosen, str):
        raise TypeError(f"A tracker must be a name or a tracker of accelerate's, got {type(chosen).__name__}.")
    known = {str(name): cls for name, cls in library.LOGGER_TYPE_TO_CLASS.items()}
    if chosen not in known:
        raise ValueError(f"trackers must hold names among {', '.join(sorted(known))}, got {chosen!r}.")
    if chosen not in map(str, library.get_available_trackers()):
        raise ImportError(f"trackers=[{chosen!r}] needs its library. Install it with: pip install {chosen}")
    if not known[chosen].requires_logging_directory:
        return partial(known[chosen], PROJECT)
    if directory is None:
        raise ValueError(f"trackers=[{chosen!r}] writes files to the run's folder, but directory is None. Give one.")
    return partial(known[chosen], PROJECT, logging_dir=directory)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, bool | int | float | str]]:
    """Settings under dotted names; what is no number and no text is written as JSON."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value if isinstance(value, bool | int | float | str) else json.dumps(value)
