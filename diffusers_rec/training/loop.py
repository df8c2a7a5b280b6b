"""The training loop (Algorithm 1): CPU, GPU, bf16, several processes.

Everything random in step i of epoch e is drawn from a generator seeded by (seed, e, i, process), and the order of the
examples by (seed, e). A run's future therefore depends on its saved state alone: killed and started again, it ends bit
for bit where an uninterrupted one ends, on the same device with the same number of threads.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from os import PathLike

import torch
from torch import Generator, Tensor
from torch.nn.utils import clip_grad_norm_

from diffusers_rec.core.entrances import checked
from diffusers_rec.core.errors import check_bool, check_choice
from diffusers_rec.core.progress import progress_bar
from diffusers_rec.core.randomness import stream_seed
from diffusers_rec.data.batching import Batch, TrainingBatches
from diffusers_rec.data.sequences import Holdout, Sequences
from diffusers_rec.evaluation.full_ranking import evaluate
from diffusers_rec.recommenders.diffrec import DiffRec, Loss
from diffusers_rec.training.config import TrainingConfig
from diffusers_rec.training.keeping import InFolder, InMemory, Keeper, Trained, run_folder
from diffusers_rec.training.processes import Processes
from diffusers_rec.training.selection import warn_of_repeats, warn_of_zeros
from diffusers_rec.training.state import fingerprint


@dataclass(frozen=True)
class TrainingResult:
    """How a run ended.

    Attributes:
        best_epoch: Epoch whose weights the model now has, counted from 1: the best on validation, or the last.
        best_score: Its validation metric, ``config.select_by``; NaN without validation.
        history: One record an epoch: mean loss terms, learning rate, targets a second, validation metrics. These are
            those of ``config.select_by`` and at 5, 10 and 20, all with seen items as ``config.exclude_seen`` says.
    """

    best_epoch: int
    best_score: float
    history: list[dict[str, float]]


@checked
def train(
    model: DiffRec,
    sequences: Sequences,
    validation: Holdout | None = None,
    config: TrainingConfig | None = None,
    *,
    directory: str | PathLike[str] | None = None,
    device: str | None = None,
    progress: bool = False,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
) -> TrainingResult:
    """Train a model and leave it with the weights of its best epoch on validation, or of its last one without.

    Args:
        model: trained in place.
        sequences: The training sequences; items are matched with the model's by id.
        validation: Histories and next items to choose the epoch by (``config.select_by``), matched likewise. None
            trains for all ``config.epochs`` and keeps the last, for a model of all that is known.
        config: settings; the paper's when None.
        directory: keeps the best model (as ``save_pretrained`` does), the log and the state to go on from. A run that
            was killed goes on when started again with the same arguments, from its own saved weights whatever the
            model's. Nothing is written when None.
        device: ``"cpu"``, or None for what accelerate finds.
        progress: show bars.
        on_epoch: called with each epoch's record.

    Raises:
        ImportError: accelerate is missing (extra ``train``).
        ValueError: the data has items that the model does not know, parts of the model do not fit, no parameter
            requires a gradient, ``patience`` without validation, the directory holds another run, all told before
            anything is written; or training diverged.
        TypeError: an argument of another class.
        OSError: the directory cannot be written; told before training.
    """
    config = config or TrainingConfig()
    check_choice("device", device, (None, "cpu"))
    check_bool("progress", progress)
    if validation is None and config.patience:
        raise ValueError(f"patience={config.patience} counts validations, but validation is None. Use patience=0.")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError("No parameter of the model requires a gradient. Call model.requires_grad_() to train it.")
    sequences = sequences.reindexed(model.vocabulary)
    if validation is not None:
        validation = validation.reindexed(model.vocabulary)
    model.check_fit()  # a part may have been swapped since the model was composed
    processes = Processes(device)
    if validation is not None and processes.is_main:
        warn_of_repeats(validation, config)
    if directory is not None:
        model.vocabulary.to_json()  # refuses ids that cannot be saved, now rather than after an epoch
    with run_folder(directory, writes=processes.is_main) as folder:
        keeper: Keeper = InMemory()
        if folder is not None:
            name = fingerprint(model.config(), config.config(), sequences, validation, processes.count)
            keeper = InFolder(folder, name, writes=processes.is_main)
        run = _Run(model, sequences, validation, config, processes, keeper)
        while not run.finished:
            record = run.epoch(progress)
            if on_epoch is not None and processes.is_main:
                on_epoch(record)
        run.restore_best()
    state = run.state
    if processes.is_main:
        warn_of_zeros(state.best_score, config)
    return TrainingResult(state.best_epoch, math.nan if validation is None else state.best_score, state.history)


class _Run:
    """One run: a model, its optimiser, and how far it is."""

    def __init__(
        self,
        model: DiffRec,
        sequences: Sequences,
        validation: Holdout | None,
        config: TrainingConfig,
        processes: Processes,
        keeper: Keeper,
    ) -> None:
        self.model, self.validation, self.config = model, validation, config
        self.processes, self.keeper = processes, keeper
        self.batches = TrainingBatches(
            sequences,
            examples=config.examples,
            max_length=model.max_length,
            batch_targets=config.batch_targets,
            seed=config.seed,
        )
        model.prepare(sequences, examples=config.examples).to(processes.device)
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay, fused=True
        )
        self.average = copy.deepcopy(model).requires_grad_(False) if config.average_decay else None
        self.trained = Trained(model, self.optimizer, self.average)
        self.state = keeper.begin(self.trained)
        self.wrapped = processes.together(model)

    @property
    def finished(self) -> bool:
        patience = self.config.patience
        return self.state.epoch >= self.config.epochs or bool(patience and self.state.stale >= patience)

    def epoch(self, progress: bool) -> dict[str, float]:
        """Train one epoch, validate, save."""
        number = self.state.epoch
        started = time.perf_counter()
        record: dict[str, float] = {"epoch": number + 1, **self._train(number, progress)}
        seconds = time.perf_counter() - started
        record["learning_rate"] = self.config.rate(number + 1)
        record["targets_per_second"] = self.batches.num_targets / seconds
        self.state.epoch = number + 1
        if self.validation is None:
            self.state.best_epoch = self.state.epoch
        elif self.state.epoch % self.config.validate_every == 0 or self.state.epoch == self.config.epochs:
            record |= self._validate(self.validation, progress)
        self.state.history.append(record)
        self.keeper.keep(self.trained, self.state)
        return record

    def _train(self, epoch: int, progress: bool) -> dict[str, float]:
        self.wrapped.train()
        rounds = self.processes.rounds(self.batches, epoch)
        sums: dict[str, float] = {}
        targets = 0
        bar = progress_bar(
            self.processes.share(self.batches, epoch), show=progress and self.processes.is_main, total=rounds,
            text=f"epoch {epoch + 1}/{self.config.epochs}",
        )  # fmt: skip
        for step, batch in enumerate(bar):
            loss = self._step(batch, self._generator(epoch, step), self.config.rate(epoch + step / rounds))
            self._follow(epoch * rounds + step)
            for name, value in loss.items():
                sums[name] = sums.get(name, 0.0) + value * batch.num_targets
            targets += batch.num_targets
        if not all(bool(torch.isfinite(parameter).all()) for parameter in self.model.parameters()):
            raise self._diverged("not all weights are finite after the last step")  # no later loss would tell
        if self.processes.count > 1:
            mine = torch.tensor([targets, *sums.values()], dtype=torch.float64, device=self.processes.device)
            targets, *of_all = self.processes.summed(mine).tolist()
            sums = dict(zip(sums, of_all, strict=True))
        return {name: value / targets for name, value in sums.items()}

    def _step(self, batch: Batch, generator: Generator, rate: float) -> dict[str, float]:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        device = self.processes.device
        with torch.autocast(device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
            loss: Loss = self.wrapped(batch.to(device, non_blocking=True), generator)
        if not torch.isfinite(loss.total):
            raise self._diverged(f"the loss is {float(loss.total.detach())}")
        loss.total.backward()  # type: ignore[no-untyped-call]
        if self.config.clip_norm:
            clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.model.timesteps.update(*self._gathered(loss.timesteps, loss.per_latent))
        return {name: float(value) for name, value in loss.named.items()}

    def _follow(self, step: int) -> None:
        """Move the averaged weights towards the model's."""
        if self.average is not None:
            decay = min(self.config.average_decay, (1 + step) / (10 + step))
            with torch.no_grad():
                for ours, theirs in zip(self.average.parameters(), self.model.parameters(), strict=True):
                    ours.lerp_(theirs, 1 - decay)

    def _diverged(self, sign: str) -> ValueError:
        return ValueError(
            f"Training diverged: {sign} in epoch {self.state.epoch + 1}. Lower the learning rate, or set clip_norm."
        )

    def _gathered(self, timesteps: Tensor, losses: Tensor) -> tuple[Tensor, Tensor]:
        """Of all processes, so that their timestep samplers stay alike."""
        if self.processes.count == 1:
            return timesteps, losses
        timesteps, losses = self.processes.gathered(timesteps), self.processes.gathered(losses)
        return timesteps[timesteps > 0], losses[timesteps > 0]

    def _generator(self, epoch: int, step: int) -> Generator:
        return Generator().manual_seed(stream_seed(self.config.seed, epoch, step, self.processes.rank))

    def _validate(self, validation: Holdout, progress: bool) -> dict[str, float]:
        report = evaluate(
            self.trained.judged,
            validation,
            ks=self.config.cutoffs,
            seeds=self.config.validation_seeds,
            progress=progress and self.processes.is_main,
        )
        metrics = report.metrics(exclude_seen=self.config.exclude_seen)
        score = metrics[self.config.select_by]
        if score > self.state.best_score:
            self.state.best_score, self.state.best_epoch, self.state.stale = score, self.state.epoch, 0
        else:
            self.state.stale += 1
        return {f"validation_{name}": value for name, value in metrics.items()}

    def restore_best(self) -> None:
        """Give the model its best weights."""
        self.processes.wait()
        self.model.load_state_dict(self.keeper.best())
        self.model.eval()
