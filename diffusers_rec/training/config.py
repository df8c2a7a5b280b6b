"""Settings of a training run, and the settings for each preset."""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, ClassVar

from diffusers_rec.core.entrances import explained
from diffusers_rec.core.errors import check_bool, check_choice, check_float, check_int
from diffusers_rec.data.batching import Examples


@dataclass(frozen=True)
class TrainingConfig:
    """Settings of a training run. The defaults are the paper's (Sec. 5.1.4), with every prefix as an example.

    Args:
        epochs: Largest number of passes over the training targets.
        examples: Split of sequences into examples: ``"every-prefix"``, ``"last-target"`` or ``"all-positions"``; see
            :class:`~diffusers_rec.data.TrainingBatches`.
        batch_targets: Largest number of targets in a batch of one process.
        learning_rate: Peak learning rate of AdamW; not used with your own ``optimizer``.
        decay: Decay of the learning rate: ``"constant"``, ``"cosine"`` to zero at the last epoch, or ``"step"``, to a
            tenth after every fifth of the epochs.
        warmup_epochs: Number of epochs, or a fraction, in which the learning rate increases linearly from zero.
        weight_decay: Decoupled weight decay of AdamW; not used with your own ``optimizer``.
        clip_norm: Maximum norm of the gradient; no limit if 0.
        average_decay: Decay per step of an exponential moving average of the weights, which is then validated and kept;
            no average if 0. The decay at step t is at most (1 + t) / (10 + t).
        select_by: Validation metric that selects the epoch, ``"hr@K"`` or ``"ndcg@K"`` with any K >= 1.
        exclude_seen: Whether to exclude items of the history from the ranking in validation, as ``recommend`` does by
            default. Use False if users return to items; repeated targets are misses otherwise.
        patience: Number of validations without improvement after which training stops; no limit if 0.
        validate_every: Number of epochs between validations.
        validation_seeds: Number of noise draws that a validation averages.
        calibrate: Whether to calibrate the trained model's probabilities on validation, where there is any, see
            :meth:`DiffRec.calibrate <diffusers_rec.DiffRec.calibrate>`. The ranking stays as it is. Models of user
            vectors, such as ``wang2023``, have no calibration.
        precision: Precision of the matrix products of the backbone, ``"fp32"`` or ``"bf16"``; ``"auto"`` is bf16 on
            an x86 CPU or an NVIDIA GPU with units for it, and fp32 elsewhere. Losses and softmax are always fp32.
        seed: Seed of the order of the examples, the timesteps, the noise and the dropout.
    """

    epochs: int = 50
    examples: Examples = "every-prefix"
    batch_targets: int = 256
    learning_rate: float = 1e-3
    decay: str = "constant"
    warmup_epochs: float = 0.0
    weight_decay: float = 0.0
    clip_norm: float = 0.0
    average_decay: float = 0.0
    select_by: str = "ndcg@10"
    exclude_seen: bool = True
    patience: int = 0
    validate_every: int = 1
    validation_seeds: int = 1
    calibrate: bool = True
    precision: str = "fp32"
    seed: int = 0

    made_by: ClassVar[str] = "TrainingConfig(epochs=20, ...) or one of RECIPES"

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_targets", "validate_every", "validation_seeds"):
            object.__setattr__(self, name, check_int(name, getattr(self, name), minimum=1))
        for name in ("patience", "seed"):
            object.__setattr__(self, name, check_int(name, getattr(self, name), minimum=0))
        for name in ("warmup_epochs", "weight_decay", "clip_norm"):
            object.__setattr__(self, name, check_float(name, getattr(self, name), minimum=0))
        object.__setattr__(self, "learning_rate", check_float("learning_rate", self.learning_rate, above=0))
        object.__setattr__(self, "average_decay", check_float("average_decay", self.average_decay, minimum=0, below=1))
        check_bool("exclude_seen", self.exclude_seen)
        check_bool("calibrate", self.calibrate)
        if not isinstance(self.select_by, str) or not re.fullmatch("(hr|ndcg)@[1-9][0-9]*", self.select_by):
            raise ValueError(f"select_by must be 'hr@K' or 'ndcg@K', K a whole number >= 1, got {self.select_by!r}.")
        check_choice("decay", self.decay, ("constant", "cosine", "step"))
        check_choice("precision", self.precision, ("fp32", "bf16", "auto"))
        check_choice("examples", self.examples, ("every-prefix", "last-target", "all-positions"))

    @explained
    def rate(self, epochs_done: float, *, initial: float | None = None) -> float:
        """Learning rate after a number of epochs.

        Args:
            epochs_done: Number of epochs so far, which may have a fraction.
            initial: Rate that the schedule multiplies; :attr:`learning_rate` if None.
        """
        peak = self.learning_rate if initial is None else initial
        warmup = min(1.0, epochs_done / self.warmup_epochs) if self.warmup_epochs else 1.0
        return peak * warmup * self._left(epochs_done / self.epochs)

    def _left(self, done: float) -> float:
        """Share of the learning rate that the decay leaves after a share of the epochs."""
        if self.decay == "cosine":
            return 0.5 + 0.5 * math.cos(math.pi * min(1.0, done))
        return 10.0 ** -min(4, math.floor(5 * done)) if self.decay == "step" else 1.0

    @property
    def cutoffs(self) -> list[int]:
        """Cut-offs K of the metrics that a validation records, including that of ``select_by``."""
        return sorted({5, 10, 20, int(self.select_by.partition("@")[2])})

    def config(self) -> dict[str, Any]:
        """Settings as JSON values."""
        return asdict(self)

    @classmethod
    def names(cls) -> list[str]:
        """Names of the settings."""
        return [field.name for field in fields(cls)]


_AVERAGED = TrainingConfig(
    epochs=30, examples="all-positions", batch_targets=400, decay="cosine", average_decay=0.999, precision="auto"
)

_DREAMREC = TrainingConfig(epochs=1000, select_by="ndcg@20", exclude_seen=False, validate_every=10)

_DIFFUREC = TrainingConfig(  # fp32: bf16 would round away the noised latent, which is scaled by .001
    epochs=500, batch_targets=512, decay="step", exclude_seen=False, patience=5, validate_every=20
)

_EDIFFUREC = replace(_DIFFUREC, warmup_epochs=20)

_PREFERDIFF = TrainingConfig(  # one example per user, as in the code's files
    epochs=150, examples="last-target", learning_rate=1e-4, select_by="hr@5", exclude_seen=False, patience=10
)

_ADREC = TrainingConfig(  # fp32, as that of diffurec
    epochs=500,
    examples="all-positions",
    batch_targets=2500,
    decay="cosine",
    weight_decay=1e-5,
    select_by="ndcg@20",
    exclude_seen=False,
    patience=4,
    validate_every=5,
)

_MASKGR = TrainingConfig(
    epochs=200,
    examples="all-positions",
    batch_targets=4096,
    decay="cosine",
    weight_decay=1e-3,
    clip_norm=1.0,
    select_by="hr@5",
    exclude_seen=False,
    patience=10,
    validate_every=2,
)

_PREFERGROW = TrainingConfig(
    epochs=1000, learning_rate=1e-4, warmup_epochs=5, clip_norm=1.0, average_decay=0.9999, exclude_seen=False,
    validate_every=10,
)  # fmt: skip

_CDDREC = TrainingConfig(epochs=1000, examples="all-positions", batch_targets=1024, patience=50)

_WANG2023 = TrainingConfig(
    epochs=1000, examples="last-target", batch_targets=400, learning_rate=5e-5, select_by="hr@20", patience=3,
    validate_every=5,
)  # fmt: skip

_D3REC = TrainingConfig(
    epochs=2000, examples="last-target", batch_targets=400, learning_rate=5e-5, weight_decay=1e-3, select_by="hr@20",
    patience=24, validate_every=2,
)  # fmt: skip

_FLOWCF = TrainingConfig(epochs=500, examples="last-target", batch_targets=4096, patience=11)

_GRU4REC = TrainingConfig(epochs=100, examples="all-positions", batch_targets=500, patience=10)

_SASREC = TrainingConfig(  # evaluated every 20th epoch, as in the code
    epochs=200, examples="all-positions", batch_targets=750, validate_every=20
)

_BERT4REC = TrainingConfig(  # 256 windows of Beauty in a batch
    epochs=200, examples="all-positions", batch_targets=1500, decay="cosine", weight_decay=0.01, clip_norm=5.0,
    validate_every=10,
)  # fmt: skip

_STOSA = TrainingConfig(epochs=500, examples="all-positions", batch_targets=1536, select_by="ndcg@40", patience=100)

_VSAN = TrainingConfig(
    epochs=200, examples="all-positions", batch_targets=1024, exclude_seen=False, patience=10, validate_every=2
)

_ACVAE = TrainingConfig(  # 64 users of some 8 items
    epochs=350, examples="all-positions", batch_targets=512, weight_decay=1e-2, exclude_seen=False, patience=10,
    validate_every=4,
)  # fmt: skip

_MFGAN = TrainingConfig(  # 128 users of Beauty; its epochs of pretraining
    epochs=400, examples="all-positions", batch_targets=750, validate_every=20
)

_DUOREC = TrainingConfig(exclude_seen=False, patience=10)

RECIPES = {
    "paper": TrainingConfig(),
    "best": _AVERAGED,
    "joint": _AVERAGED,
    "diffurec": _DIFFUREC,
    "dreamrec": _DREAMREC,
    "preferdiff": _PREFERDIFF,
    "adrec": _ADREC,
    "fmrec": _DIFFUREC,
    "flowrec": TrainingConfig(exclude_seen=False),
    "maskgr": _MASKGR,
    "prefergrow": _PREFERGROW,
    "tarec": _DREAMREC,
    "cddrec": _CDDREC,
    "ediffurec": _EDIFFUREC,
    "wang2023": _WANG2023,
    "wang2023-latent": replace(_WANG2023, learning_rate=5e-4),
    "wang2023-temporal": replace(_WANG2023, learning_rate=1e-5),
    "flowcf": _FLOWCF,
    "d3rec": _D3REC,
    "gru4rec": _GRU4REC,
    "sasrec": _SASREC,
    "bert4rec": _BERT4REC,
    "stosa": _STOSA,
    "cl4srec": _DUOREC,
    "duorec": _DUOREC,
    "vsan": _VSAN,
    "acvae": _ACVAE,
    "mfgan": _MFGAN,
}
"""Training settings for each of :data:`diffusers_rec.presets.PRESETS`, and for ``d3rec``."""
