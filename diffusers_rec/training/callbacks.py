"""Callbacks: code of the user that :func:`~diffusers_rec.training.train` runs between its steps.

A callback is any object with one or more of the four methods of :class:`Callback`:

.. code-block:: python

    class TimeLimit(Callback):
        def __init__(self, seconds: float) -> None:
            self.end = time.monotonic() + seconds

        def on_epoch(self, run: TrainingRun, record: dict[str, float]) -> None:
            if time.monotonic() > self.end:
                run.stop()

    train(model, sequences, validation, callbacks=[TimeLimit(3600)])
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import torch

from diffusers_rec.recommenders.base import Recommender
from diffusers_rec.training.config import TrainingConfig

Record = dict[str, float]
"""Name to value: the terms of a loss, or a line of the training history."""


@dataclass
class TrainingRun:
    """A training run as its callbacks see it.

    Args:
        model: The model that is trained. Its weights may be changed in place.
        average: The moving average of its weights, which is what validation scores; None without ``average_decay``.
        optimizer: The optimizer, its learning rates those of the last step.
        config: The settings.
        is_main: Whether this process is the one that writes and prints.
        epoch: Number of epochs that have ended, those before a restart included.
        batch: Number of batches of the current epoch that have ended in this process.
        history: One record for each epoch that has ended. Not to be changed.
        stopped: Whether :meth:`stop` was called.
    """

    model: Recommender
    average: Recommender | None
    optimizer: torch.optim.Optimizer
    config: TrainingConfig
    is_main: bool = True
    epoch: int = 0
    batch: int = 0
    history: list[Record] = field(default_factory=list)
    stopped: bool = False

    def stop(self) -> None:
        """End the run after the current epoch, which is validated and saved; before the first epoch, after that one.

        With several processes it is enough that one of them calls it. A run in a directory continues when it is started
        again, until a callback stops it again.
        """
        self.stopped = True


class Callback:
    """A base class whose methods do nothing.

    Every process of a run calls them; ``run.is_main`` is true in one. An exception ends the run, which resumes from the
    last epoch that was saved. Callbacks are no part of what identifies a run in a directory.
    """

    def on_start(self, run: TrainingRun) -> None:
        """Called once, when the saved state of the run, if any, has been restored.

        Args:
            run: The run.
        """

    def on_batch(self, run: TrainingRun, losses: Record) -> None:
        """Called after each step of the optimizer.

        Args:
            run: The run.
            losses: Mean of each term of the loss over the batch of this process.
        """

    def on_epoch(self, run: TrainingRun, record: Record) -> None:
        """Called after each epoch, when it has been validated and saved.

        Args:
            run: The run.
            record: The new record of the history.
        """

    def on_end(self, run: TrainingRun) -> None:
        """Called once, when the model has the weights of its best epoch.

        Args:
            run: The run.
        """


HOOKS = [name for name in vars(Callback) if name.startswith("on_")]


class EpochFunction(Callback):
    """Calls a function with each epoch's record, in the main process.

    Args:
        function: Function of the record.
    """

    def __init__(self, function: Callable[[Record], None]) -> None:
        self.function = function

    def on_epoch(self, run: TrainingRun, record: Record) -> None:
        if run.is_main:
            self.function(record)


class CallbackList(Callback):
    """Several callbacks as one, called in their order.

    Args:
        callbacks: Objects with one or more of the methods of :class:`Callback`.

    Raises:
        TypeError: An object has none of the methods, or the callbacks are not in a list.
    """

    def __init__(self, callbacks: Iterable[object]) -> None:
        if not isinstance(callbacks, Iterable):
            raise TypeError(f"callbacks must be a list, got {type(callbacks).__name__}. Write callbacks=[...].")
        self.callbacks = list(callbacks)
        for callback in self.callbacks:
            if inspect.isclass(callback):
                raise TypeError(
                    f"callbacks must hold objects, got the class {callback.__name__}. Write {callback.__name__}(...)."
                )
            if not any(callable(getattr(callback, hook, None)) for hook in HOOKS):
                raise TypeError(
                    f"A callback must have one of the methods {', '.join(HOOKS)}; {type(callback).__name__} has none. "
                    "A plain function of the record goes to on_epoch=."
                )

    def on_start(self, run: TrainingRun) -> None:
        self._call("on_start", run)

    def on_batch(self, run: TrainingRun, losses: Record) -> None:
        self._call("on_batch", run, losses)

    def on_epoch(self, run: TrainingRun, record: Record) -> None:
        self._call("on_epoch", run, record)

    def on_end(self, run: TrainingRun) -> None:
        self._call("on_end", run)

    def _call(self, hook: str, *args: object) -> None:
        for callback in self.callbacks:
            method = getattr(callback, hook, None)
            if method is not None:
                method(*args)
