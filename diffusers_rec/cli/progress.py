"""Messages of ``diffrec train`` about its epochs and the selected epoch."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from diffusers_rec.cli.terminal import stderr
from diffusers_rec.training import TrainingConfig, TrainingResult
from diffusers_rec.training.state import STATE_FILE


class EpochLog:
    """Prints the epochs of a run, and whether its folder contained the run already.

    This is certain only after an epoch or at the end, because the folder of another run is an error.
    """

    def __init__(self, folder: Path, metric: str) -> None:
        self.metrics = dict.fromkeys(("hr@10", "ndcg@10", metric))
        self.folder, self.exists, self.trained = folder, (folder / STATE_FILE).is_file(), False

    def epoch(self, record: dict[str, float]) -> None:
        """Print a completed epoch."""
        if self.exists and not self.trained:
            stderr.print(f"{self.folder} already contains this run: resuming where it stopped.")
        self.trained = True
        stderr.print(describe_epoch(record, self.metrics))

    def end(self) -> None:
        """Print a message if there was nothing to train."""
        if self.exists and not self.trained:
            stderr.print(f"{self.folder} already contains this run, and it is finished: there is nothing to train.")


NO_LOSSES = frozenset({"epoch", "targets", "learning_rate", "targets_per_second"})
"""What the record of an epoch holds beside losses and validation metrics."""


def describe_epoch(record: dict[str, float], metrics: Iterable[str]) -> str:
    """Describe an epoch in one line: losses, validation metrics and speed."""
    losses = "  ".join(
        f"{name} {value:.4f}" for name, value in record.items() if name not in NO_LOSSES and "validation_" not in name
    )
    scores = "".join(f"  {name} {record[f'validation_{name}']:.4f}" for name in metrics
                     if f"validation_{name}" in record)  # fmt: skip
    return f"epoch {record['epoch']:>3}  {losses}{scores}  {record['targets_per_second']:,.0f} targets/s"


def describe_outcome(result: TrainingResult, config: TrainingConfig, metrics: dict[str, float]) -> str:
    """Describe the selected epoch in one line."""
    epochs = len(result.history)
    if not metrics:
        return f"Kept epoch {epochs}, the last: there was no validation"
    stopped = f" (stopped after {config.patience} validations without a better one)" if epochs < config.epochs else ""
    seen = "excluded" if config.exclude_seen else "included"
    scores = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
    criterion = f"by validation {config.select_by} (seen items {seen})"
    return f"Best epoch {result.best_epoch} of {epochs}{stopped} {criterion}: {scores}"
