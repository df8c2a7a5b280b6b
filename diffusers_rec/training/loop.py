"""The training loop (Algorithm 1) for CPU, GPU, bf16 and several processes.

All random numbers of step i of epoch e come from a generator with the seed (seed, e, i, process). The order of the
examples has the seed (seed, e). The rest of a run therefore depends only on its saved state. A run that was killed and
resumed ends bit for bit like an uninterrupted run, on the same device with the same number of threads.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass
from os import PathLike

import torch
from torch import Generator

from diffusers_rec.core.entrances import checked, explained
from diffusers_rec.core.errors import check_bool, check_choice
from diffusers_rec.core.progress import progress_bar
from diffusers_rec.core.randomness import stream_seed
from diffusers_rec.data.batching import TrainingBatches
from diffusers_rec.data.sequences import Holdout, Sequences
from diffusers_rec.recommenders.base import Recommender
from diffusers_rec.recommenders.pretrained import Pretrained
from diffusers_rec.training.callbacks import CallbackList, EpochFunction, Record, TrainingRun
from diffusers_rec.training.config import TrainingConfig
from diffusers_rec.training.learner import Learner
from diffusers_rec.training.optimizers import OptimizerFactory, build_optimizer, optimizer_settings
from diffusers_rec.training.processes import Processes
from diffusers_rec.training.run_store import FolderStore, MemoryStore, RunStore, run_folder
from diffusers_rec.training.state import digests, fingerprint
from diffusers_rec.training.trackers import Tracking
from diffusers_rec.training.validation import Metric, Validation, metric_name


@dataclass(frozen=True)
class TrainingResult:
    """Result of a run.

    Attributes:
        best_epoch: Epoch whose weights the model now has, counted from 1: the best on validation, or the last one.
        best_score: Validation score of this epoch, by ``config.select_by`` or ``metric``; NaN without validation.
        history: One record for each epoch: number of targets, mean loss terms, learning rate of the first parameter
            group, targets per second and validation metrics. The metrics are ``config.select_by`` and HR and NDCG at 5,
            10 and 20, with seen items as in ``config.exclude_seen``; or ``validation_`` followed by the name of
            ``metric``.
    """

    best_epoch: int
    best_score: float
    history: list[dict[str, float]]


@checked
def train(
    model: Recommender,
    sequences: Sequences,
    validation: Holdout | None = None,
    config: TrainingConfig | None = None,
    *,
    directory: str | PathLike[str] | None = None,
    device: str | None = None,
    progress: bool = False,
    optimizer: OptimizerFactory | None = None,
    metric: Metric | None = None,
    callbacks: Iterable[object] = (),
    on_epoch: Callable[[dict[str, float]], None] | None = None,
    trackers: Iterable[object] = (),
) -> TrainingResult:
    """Train a model in place; it ends with the weights of its best epoch on validation, or of its last epoch.

    Args:
        model: Model to train: a :class:`~diffusers_rec.DiffRec`, or another recommender that defines
            ``forward(batch, generator) -> Loss``.
        sequences: Training sequences; items are matched with those of the model by id.
        validation: Histories and next items that select the epoch; items are matched by id. If None, training runs for
            all ``config.epochs`` and keeps the last epoch, for a final model on all data.
        config: Settings of the training; the paper's if None.
        directory: Folder for the best model (as written by ``save_pretrained``), the log and the state. A killed run
            resumes when it is started again with the same arguments; it uses the saved weights, not those of ``model``.
            Nothing is written if None. The model must derive from ``Pretrained``, as DiffRec does.
        device: Device of the training, ``"cpu"``; the device that accelerate selects if None.
        progress: Whether to show progress bars.
        optimizer: Function from the model's parameters to a torch optimizer, such as ``torch.optim.Adagrad``; AdamW
            with ``config.learning_rate`` and ``config.weight_decay`` if None. The learning-rate schedule of ``config``
            multiplies the initial rate of each parameter group.
        metric: Function from a model and ``validation`` to a number that selects the epoch, larger is better; the
            ranking metric ``config.select_by`` if None. The model is in evaluation mode, without gradients.
        callbacks: Objects that are called at the start, after each batch, after each epoch and at the end; see
            :class:`~diffusers_rec.training.Callback`.
        on_epoch: Function that is called with the record of each epoch, in the main process; a short form of a
            callback.
        trackers: Names such as ``"tensorboard"``, ``"wandb"`` and ``"mlflow"``, or trackers of accelerate as objects.
            They get the settings of the run and the record of each epoch; those of ``"tensorboard"`` are in
            ``directory``.

    Raises:
        ImportError: The library accelerate (extra ``train``) or that of a tracker is missing.
        ValueError: The data have items that the model does not know, parts of the model do not fit, no parameter
            requires a gradient, the model has no loss or cannot be saved, ``patience`` or ``metric`` is given without
            validation, the optimizer does not fit, a tracker is unknown or needs a directory, or the directory contains
            another run. These are found before anything is written. Also if training diverges.
        TypeError: An argument has a wrong class.
        OSError: The directory cannot be written; raised before training.
    """
    config = config or TrainingConfig()
    check_choice("device", device, (None, "cpu"))
    check_bool("progress", progress)
    _check_model(model, saved=directory is not None)
    if validation is None and config.patience:
        raise ValueError(f"patience={config.patience} counts validations, but validation is None. Use patience=0.")
    if validation is None and metric is not None:
        raise ValueError("metric scores the model on validation, which is None. Give validation=, or leave metric out.")
    tracking = Tracking(trackers, directory)
    listed = CallbackList(callbacks if on_epoch is None else [EpochFunction(on_epoch), *callbacks])
    listed.callbacks.append(tracking)
    sequences = sequences.reindexed(model.vocabulary)
    processes = Processes(device)
    holdout = None if validation is None else validation.reindexed(model.vocabulary)
    validate = None if holdout is None else Validation(holdout, config, metric, processes)
    if validate is not None and processes.is_main:
        validate.warn_of_repeats()
    built = build_optimizer(optimizer, model.to(processes.device), config)
    with run_folder(directory, writes=processes.is_main) as folder:
        store: RunStore = MemoryStore()
        if folder is not None and isinstance(model, Pretrained):
            composed = {**model.config(), "calibration": None}  # it does not change the training
            settings = [composed, config.config(), optimizer_settings(built, model), metric_name(metric)]
            name = fingerprint([*settings, digests(model.given())], sequences, holdout, processes.count)
            store = FolderStore(folder, name, writes=processes.is_main)
        model.prepare(sequences, examples=config.examples)
        learner = Learner(model.to(processes.device), built, config, processes)
        loop = _Loop(learner, training_batches(model, sequences, config), validate, store, listed)
        with closing(tracking):
            loop.run(progress)
    state = loop.progress
    if validate is not None and processes.is_main:
        validate.warn_of_zeros(state.best_score)
    return TrainingResult(state.best_epoch, math.nan if validate is None else state.best_score, state.history)


class _Loop:
    """Trains, validates, saves and calls back, epoch by epoch."""

    def __init__(
        self,
        learner: Learner,
        batches: TrainingBatches,
        validate: Validation | None,
        store: RunStore,
        callbacks: CallbackList,
    ) -> None:
        self.learner, self.batches, self.validate = learner, batches, validate
        self.store, self.callbacks = store, callbacks
        self.config, self.processes = learner.config, learner.processes
        self.progress = store.restore(learner)
        self.view = TrainingRun(
            learner.model, learner.average, learner.optimizer, self.config, self.processes.is_main,
            epoch=self.progress.epoch, history=self.progress.history,
        )  # fmt: skip

    def run(self, progress: bool) -> None:
        """Train to the end and restore the best weights."""
        show = progress and self.processes.is_main
        self.callbacks.on_start(self.view)
        self.watched = self.processes.any_of(self.callbacks.watches_batches or self.view.interrupted)
        stopped = self.progress.epoch > 0 and self._stopped
        while not (stopped or self._finished):
            record = self._epoch(show)
            self.callbacks.on_epoch(self.view, record)
            stopped = self._stopped
        if stopped:
            self._validate_last(show)
        self.processes.wait()
        self.learner.model.load_state_dict(self.store.best_weights())
        self.learner.model.eval()
        if self.validate is not None and self.config.calibrate:
            self.learner.model.calibrate(self.validate.holdout)
            self.store.save_calibrated(self.learner.model)
            self.processes.wait()
        self.callbacks.on_end(self.view)

    @property
    def _stopped(self) -> bool:
        return self.processes.any_of(self.view.stopped)

    @property
    def _finished(self) -> bool:
        patience = self.config.patience
        return self.progress.epoch >= self.config.epochs or bool(patience and self.progress.stale >= patience)

    def _epoch(self, show: bool) -> Record:
        number = self.progress.epoch
        started = time.perf_counter()
        record: Record = {"epoch": number + 1, **self._train(number, show)}
        seconds = time.perf_counter() - started
        record["targets_per_second"] = record["targets"] / seconds
        self.progress.epoch = self.view.epoch = number + 1
        regular = self.progress.epoch % self.config.validate_every == 0 or self.progress.epoch == self.config.epochs
        if self.validate is None:
            self.progress.best_epoch = self.progress.epoch
        elif regular or self._stopped:
            self._validate(self.validate, record, show)
        self.progress.history.append(record)
        self.store.save(self.learner, self.progress)
        return record

    def _validate(self, validate: Validation, record: Record, show: bool) -> None:
        score, metrics = validate(self.learner.evaluated, progress=show)
        self.progress.enter(score, whole=not self.view.interrupted)
        record |= metrics

    def _validate_last(self, show: bool) -> None:
        """Validate and save the last epoch of a stopped run, unless this was done."""
        record = self.progress.history[-1]
        if self.validate is not None and self.validate.recorded not in record:
            self._validate(self.validate, record, show)
            self.store.save(self.learner, self.progress)

    def _train(self, epoch: int, show: bool) -> Record:
        """Train for one epoch; the mean loss terms, the number of targets, and the learning rate at the end."""
        self.learner.start_epoch()
        rounds = self.processes.rounds(self.batches, epoch)
        shared = self.processes.share(self.batches, epoch)
        bar = progress_bar(shared, show=show, total=rounds, text=f"epoch {epoch + 1}/{self.config.epochs}")
        sums: Record = {}
        targets, before = 0, self._steps_before(rounds)
        for step, batch in enumerate(bar):
            losses = self.learner.step(
                batch,
                step_generator(self.config.seed, epoch, step, self.processes.rank),
                number=before + step,
                epochs_done=epoch + step / rounds,
            )
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + value * batch.num_targets
            targets += batch.num_targets
            self.view.batch = step + 1
            self.callbacks.on_batch(self.view, losses)
            if self.watched and self.processes.any_of(self.view.interrupted):
                self.view.interrupted = True  # in every process
                break
        self.learner.end_epoch(epoch + 1)
        if self.processes.count > 1:
            mine = torch.tensor([targets, *sums.values()], dtype=torch.float64, device=self.processes.device)
            targets, *of_all = self.processes.summed(mine).tolist()
            sums = dict(zip(sums, of_all, strict=True))
        means = {name: value / targets for name, value in sums.items()}
        return means | {"targets": int(targets), "learning_rate": self.learner.rates(epoch + (step + 1) / rounds)[0]}

    def _steps_before(self, rounds: int) -> int:
        """Steps of the earlier epochs, of which an interrupted one had a part of the ``rounds``."""
        every = self.batches.num_targets
        shares = (min(1, record.get("targets", every) / every) for record in self.progress.history)
        return sum(round(rounds * share) for share in shares)


@explained
def step_generator(seed: int, epoch: int, step: int, process: int = 0) -> Generator:
    """Generator of all random numbers of a step of :func:`train`, for a loop of your own that repeats it.

    Args:
        seed: Seed of the run, ``config.seed``.
        epoch: Number of the epoch, from 0.
        step: Number of the batch in the epoch, from 0.
        process: Number of the process, from 0.

    Raises:
        ValueError: A negative number.
    """
    return Generator().manual_seed(stream_seed(seed, epoch, step, process))


def training_batches(model: Recommender, sequences: Sequences, config: TrainingConfig) -> TrainingBatches:
    """Batches that ``train`` builds from sequences with the vocabulary of the model."""
    return TrainingBatches(
        sequences,
        examples=config.examples,
        max_length=model.max_length,
        batch_targets=config.batch_targets,
        seed=config.seed,
    )


def _check_model(model: Recommender, *, saved: bool) -> None:
    """Reject models that cannot be trained or saved."""
    if type(model).forward is Recommender.forward and "forward" not in vars(model):
        raise ValueError(
            f"{type(model).__name__} cannot be trained: it has no loss. Define forward(batch, generator) -> Loss."
        )
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError("No parameter of the model requires a gradient. Call model.requires_grad_() to train it.")
    model.check_fit()  # a part may have been replaced since the model was built
    if saved:
        if not isinstance(model, Pretrained):
            raise ValueError(
                f"directory= saves the model, but {type(model).__name__} cannot be saved. Derive it from Pretrained "
                "(diffusers_rec.recommenders.pretrained) and define config() and from_config(), or use directory=None."
            )
        model.vocabulary.to_json()  # raises now, not after an epoch, if ids cannot be saved
        model.config()  # raises if a part has no registered name
