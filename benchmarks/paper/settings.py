"""The settings of the paper and of `best` on each data set, and the trials that several programs share."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from typing import Any

from benchmarks.paper.rows import published
from benchmarks.paper.trial import PLACEHOLDER, Trial, converted, portable, with_parts, with_training
from diffusers_rec.presets import PRESETS
from diffusers_rec.training import RECIPES

DATASETS = ("beauty", "toys", "ml-1m")
PAPER_PRESETS = ("best", "paper")
"""Presets that the paper's tables and figures compare."""

BEST_NETWORK = "best-without-memory"
"""The network of ``best`` alone: the memory, which adds to every ranking, would hide what the network's parts do."""

BEST_RECIPE = replace(RECIPES["best"], precision="bf16")
"""The recipe of ``best``, in the precision of the recorded trainings on every machine."""

# Sec. 5.1.4 tunes the dropout on each data set.
DROPOUT = {"beauty": 0.3, "toys": 0.3, "ml-1m": 0.2}

# With short sequences, one example a prefix costs little and mixes the batches better. Long sequences need batches of
# more targets, and longer windows.
SHORT_SEQUENCES = {"examples": "every-prefix", "batch_targets": 256, "epochs": 25}
BEST: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # arguments of the preset, training settings
    "beauty": ({"dim": 64}, SHORT_SEQUENCES),
    "toys": ({"dim": 64}, SHORT_SEQUENCES),
    "ml-1m": ({"dim": 128, "dropout": 0.2, "max_length": 200, "low_pass": 0.0}, {"batch_targets": 2000, "epochs": 24}),
}

# Sec. 5.1.4 trains for 50 epochs. ML-1M has seven times the targets of Beauty. Its training was stopped after 12 epochs
# to save time: 46,000 steps, against 25,700 in the 50 epochs of Beauty.
PAPER_EPOCHS = {"beauty": 50, "toys": 50, "ml-1m": 12}

# `from_last_item` in Table 2: 4 epochs on ML-1M, 15,300 steps, because we had no time for more.
FROM_LAST_ITEM_EPOCHS = {**PAPER_EPOCHS, "ml-1m": 4}

# Unit variance stops training from raising the signal by longer latents. The shift leaves 1/50 of the SNR.
FIXED_SNR: dict[str, dict[str, Any]] = {"embedding": {"scale": "unit"}, "schedule": {"log_snr_shift": -math.log(50)}}

# The last item of the history is added to the noise at the noised positions.
FROM_LAST_ITEM: dict[str, Any] = {"target_token": "last-item"}


def base(preset: str, dataset: str) -> Trial:
    """A preset, or :data:`BEST_NETWORK`, with its settings on a data set."""
    if preset == BEST_NETWORK:
        return with_parts(base("best", dataset), "without-memory", memory="none")
    if preset == "best":
        return best_with(dataset)
    if preset != "paper":
        raise ValueError(f"preset must be 'best', 'paper' or {BEST_NETWORK!r}, got {preset!r}.")
    # The paper does not state its precision; with bf16 matrix products its size is affordable. Patience shortens the
    # training once the validation score, which chooses the epoch, has not risen for ten validations.
    training = replace(RECIPES["paper"], epochs=PAPER_EPOCHS[dataset], precision="bf16", patience=10)
    return Trial("paper", dataset, _preset_config("paper", dropout=DROPOUT[dataset]), training, _printed(dataset))


def best_with(dataset: str, label: str = "", **changes: Any) -> Trial:
    """``best`` on a data set, with some arguments of the preset changed.

    Args:
        dataset: Data set.
        label: What the name appends to ``best``; ``""`` for no change.
        changes: Arguments of :func:`diffusers_rec.presets.best` that replace those of :data:`BEST`.
    """
    arguments, training = BEST[dataset]
    name = f"best-{label}" if label else "best"
    model = _preset_config("best", **{**arguments, **changes})
    return Trial(name, dataset, model, replace(BEST_RECIPE, **training), _printed(dataset))


def one_target_per_user(dataset: str) -> Trial:
    """``paper`` exactly as in its Algorithm 1: the last training item of a user is the only target, for 50 epochs."""
    # An epoch is a few steps: 50 are affordable on every data set, and ten without a rise mean little.
    epochs = RECIPES["paper"].epochs
    return with_training(base("paper", dataset), "last-target", examples="last-target", epochs=epochs, patience=0)


def on_another_network(dataset: str, network: str = "conditional-mlp") -> Trial:
    """``paper`` with another denoiser, by default that of ``best``.

    Settings that both denoisers have, such as the width, stay those of the paper. On ML-1M, which has many targets, all
    positions of a window are trained at once; a causal history encoder allows it.
    """
    trial = base("paper", dataset)
    trial = with_parts(trial, network, denoiser=converted(trial, "denoiser", network))
    return with_training(trial, "", examples="all-positions") if dataset == "ml-1m" else trial


def with_fixed_snr(dataset: str) -> Trial:
    """:func:`on_another_network` with :data:`FIXED_SNR`; recorded results call it ``paper-mended``."""
    return with_parts(replace(on_another_network(dataset), name="paper"), "mended", **FIXED_SNR)


def from_last_item(dataset: str) -> Trial:
    """``paper`` on its own network, whose prediction starts from the last item, and with :data:`FIXED_SNR`.

    It is trained for as many epochs as ``paper``; Table 2 uses :data:`FROM_LAST_ITEM_EPOCHS` instead.
    """
    return with_parts(base("paper", dataset), "from-last-item", denoiser=FROM_LAST_ITEM, **FIXED_SNR)


def short_windows(preset: str, dataset: str) -> Trial:
    """:func:`base` in the paper's windows of 50: for variants whose cost grows with the square of the window."""
    trial = base(preset, dataset)
    if trial.model["denoiser"]["max_length"] > 50:
        return with_parts(trial, "length-50", denoiser={"max_length": 50})
    return trial


@cache
def _preset_config(preset: str, **arguments: Any) -> dict[str, Any]:
    return portable(PRESETS[preset](PLACEHOLDER, **arguments).config())


@cache
def _printed(dataset: str) -> dict[str, Any]:
    (row,) = published(dataset, "DiffRec")
    return row
