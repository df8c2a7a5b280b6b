"""Callbacks: your own code that :func:`~diffusers_rec.training.train` calls between steps.

A callback is any object with one or more of the four methods of :class:`Callback`:

.. code-block:: python

    class TimeLimit(Callback):
        def __init__(self, seconds: float) -> None:
            self.end = time.monotonic() + seconds

        def on_batch(self, run: TrainingRun, losses: dict[str, float]) -> None:
            if time.monotonic() > self.end:
                run.stop(at_once=True)

    train(model, sequences, validation, callbacks=[TimeLimit(3600)])

A run in a directory that is started again has the limit anew, unless ``on_start`` looks at ``run.history``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch

from diffusers_rec.recommenders.base import Recommender
from diffusers_rec.training.config import TrainingConfig

Record = dict[str, float]
"""Values by name: the terms of a loss, or a line of the training history."""


@dataclass
class TrainingRun:
    """State of a training run, the argument of callbacks.

    Args:
        model: Model that is trained. Its weights may be changed in place.
        average: Moving average of the weights, which validation scores; None without ``average_decay``.
        optimizer: Optimizer, with the learning rates of the last step.
        config: Settings of the training.
        is_main: Whether this process writes and prints.
        epoch: Number of completed epochs, including those before a restart.
        batch: Number of completed batches of the current epoch in this process.
        history: One record for each completed epoch; must not be changed.
        stopped: Whether :meth:`stop` was called.
        interrupted: Whether it was called with ``at_once``.
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
    interrupted: bool = False

    def stop(self, *, at_once: bool = False) -> None:
        """End the run after the current epoch, which is validated and saved. At least one step is trained.

        Called in ``on_start``, it ends the run before another epoch if ``history`` has one, otherwise after the first.
        An epoch that ``validate_every`` leaves out is validated all the same: before ``on_epoch`` if the call was in
        ``on_start`` or ``on_batch``, and after it if the call was in ``on_epoch``.

        With several processes, one call is enough. A run in a directory continues when it is started again, until a
        callback stops it again. The additional validation remains in its history.

        Args:
            at_once: Whether the epoch ends after the current batch; called in ``on_start``, after the first one. The
                rest of the epoch is lost: a resumed run starts with the next epoch, at its learning rate. The epoch
                counts for ``epochs``, but not for ``patience``. ``"targets"`` of its record are those of its batches.
        """
        self.stopped = True
        self.interrupted |= at_once


class Callback:
    """A base class whose methods do nothing.

    Every process of a run calls them; ``run.is_main`` is true in one process. An exception ends the run. It can resume
    from the last saved epoch. Callbacks do not affect the identity of a run in a directory.

    Raises:
        TypeError: A subclass defines another method whose name starts with ``on_``, which would never be called.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name, value in vars(cls).items():
            if name.startswith("on_") and name not in HOOKS and callable(value):
                raise TypeError(
                    f"{cls.__name__}.{name} is never called. Expected {', '.join(HOOKS[:-1])} or {HOOKS[-1]}, or a "
                    "name without on_ for a method of your own."
                )

    def on_start(self, run: TrainingRun) -> None:
        """Called once at the start, after the saved state of the run, if any, has been restored.

        A limit that must hold for a resumed run is checked here too; see :meth:`TrainingRun.stop`.

        Args:
            run: State of the run.
        """

    def on_batch(self, run: TrainingRun, losses: Record) -> None:
        """Called after each step of the optimizer.

        Args:
            run: State of the run.
            losses: Mean of each term of the loss over the batch of this process.
        """

    def on_epoch(self, run: TrainingRun, record: Record) -> None:
        """Called after each epoch, after it has been saved, and validated if ``validate_every`` selects it.

        Args:
            run: State of the run.
            record: New record of the history.
        """

    def on_end(self, run: TrainingRun) -> None:
        """Called once at the end, when the model has the weights of its best epoch.

        Args:
            run: State of the run.
        """


HOOKS = [name for name in vars(Callback) if name.startswith("on_")]


class EpochFunction(Callback):
    """Calls a function with the record of each epoch, in the main process.

    Args:
        function: Function of the record.
    """

    def __init__(self, function: Callable[[Record], None]) -> None:
        self.function = function

    def on_epoch(self, run: TrainingRun, record: Record) -> None:
        if run.is_main:
            self.function(record)


class CallbackList(Callback):
    """Combines several callbacks, which are called in order.

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

    @property
    def watches_batches(self) -> bool:
        """Whether any has an ``on_batch`` of its own."""
        methods = [getattr(each, "on_batch", None) for each in self.callbacks]
        return any(each is not None and getattr(each, "__func__", None) is not Callback.on_batch for each in methods)

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
