"""A model as one module of tensors in and tensors out, for ``torch.export``, ONNX and ``torch.compile``.

It computes what :meth:`top_k <diffusers_rec.DiffRec.top_k>` computes, with the noise as an input: no generator, no
check of values and no choice that depends on them, so that a tracer sees the same operations for every batch.
"""

from __future__ import annotations

import math
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from diffusers_rec.core.entrances import guarded
from diffusers_rec.core.errors import check_bool, check_int
from diffusers_rec.core.randomness import generators_from
from diffusers_rec.data.history import History
from diffusers_rec.items.embeddings import ItemEmbedding
from diffusers_rec.recommenders.calibration import CalibratedUsers, Calibration, Evidence
from diffusers_rec.recommenders.chains import ChainParts, run_chain
from diffusers_rec.recommenders.head_scores import mean_over_draws
from diffusers_rec.recommenders.memory import Memory
from diffusers_rec.recommenders.scoring import Seeds
from diffusers_rec.recommenders.serving import evaluating_copy
from diffusers_rec.samplers import Sampler


class _Parts(ChainParts, Protocol):
    embedding: ItemEmbedding
    memory: Memory
    seeds: Seeds
    calibration: Calibration | None
    popularity: Tensor

    @property
    def history_length(self) -> int: ...

    @property
    def device(self) -> torch.device: ...


@guarded
class OneStep(nn.Module):
    """Histories and noise in, the k likeliest items out: :meth:`DiffRec.one_step <diffusers_rec.DiffRec.one_step>`.

    The module is in evaluation mode and has no gradient. It shares the model's weights.

    Args:
        model: A :class:`~diffusers_rec.DiffRec`.
        sampler: Sampler whose steps draw no noise.
        k: Number of items.
        exclude_seen: Whether to leave out the items of the history.

    Attributes:
        num_items: Number of items V.
        history_length: Largest number of items in a history.
        any_length: Whether a trace takes shorter histories, too. If not, as with a recurrent encoder, all are padded to
            ``history_length``.

    Raises:
        ValueError: k outside 1..V; or a model that needs more than the items of a history and one noised position, or a
            sampler whose steps draw noise.
    """

    def __init__(self, model: nn.Module, sampler: Sampler, k: int = 10, *, exclude_seen: bool = True) -> None:
        super().__init__()
        self.model = _frozen(model)
        self.sampler = sampler
        self.num_items = len(self._parts.vocabulary)
        if not 1 <= check_int("k", k) <= self.num_items:
            raise ValueError(f"k must lie in 1..{self.num_items}, the number of items, got {k}.")
        self.k, self.exclude_seen = k, check_bool("exclude_seen", exclude_seen)
        self.history_length = self._parts.history_length
        self.any_length = all(getattr(part, "any_length", True) for part in self.model.modules())
        self.training = False
        self._check()

    @property
    def _parts(self) -> _Parts:
        return cast(_Parts, self.model)

    def noise(self, batch: int = 1, seeds: Seeds | None = None) -> Tensor:
        """The noise that the model itself starts from, ``(B, S, D)``; all histories share it.

        Args:
            batch: Number of histories B.
            seeds: S seeds, or their number; the model's own if None.
        """
        parts = self._parts
        generators = generators_from(parts.seeds if seeds is None else seeds)
        shape = check_int("batch", batch, minimum=1), len(generators), 1, parts.embedding.dim
        start = parts.process.start(shape, generators, device=parts.device, dtype=parts.embedding.dtype)
        return start[:, :, 0].contiguous()

    def example(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Arguments of :meth:`forward` to trace with: three histories of four items, or of as many as a trace takes."""
        length = min(4, self.history_length) if self.any_length else self.history_length
        items = torch.zeros(3, length, dtype=torch.int64, device=self._parts.device)
        return items, torch.full_like(items[:, 0], items.shape[1]), self.noise(3, 2), torch.full_like(items[:, :2], -1)

    def dynamic_shapes(self) -> dict[str, dict[int, Any]]:
        """Axes of the arguments of :meth:`forward` that vary, for ``torch.export.export``."""
        batch = torch.export.Dim("batch", min=1)
        length = torch.export.Dim("length", min=1, max=self.history_length)
        items = {0: batch, 1: length} if self.any_length and self.history_length > 4 else {0: batch}
        return {
            "items": items,
            "lengths": {0: batch},
            "noise": {0: batch, 1: torch.export.Dim("draws", min=1)},
            "excluded": {0: batch, 1: torch.export.Dim("exclusions", min=1)},
        }

    def forward(
        self, items: Tensor, lengths: Tensor, noise: Tensor, excluded: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Rank.

        Args:
            items: Item indices, oldest first, int64 ``(B, L)``, with any padding behind them; at most
                :attr:`history_length`.
            lengths: Number of items in each row, int64 ``(B,)``.
            noise: Start of S chains, such as that of :meth:`noise` or any standard Gaussian noise, ``(B, S, D)``.
            excluded: Indices of further items to leave out, int64 ``(B, E)``, padded with -1; none when None.

        Returns:
            Items ``(B, k)``, -1 where fewer are left, and their probabilities, ``(B, k)``, calibrated if the model is.
        """
        parts = self._parts
        real = torch.arange(items.shape[1], device=items.device) < lengths[:, None]
        history = History(items.where(real, 0), lengths)
        latents = run_chain(parts, history, self.sampler, None, start=noise[:, :, None]).next_item()
        keys, bias = parts.head.scoring_keys()
        logits = F.linear(parts.head.queries(latents.to(keys.dtype)), keys, bias)
        scores = mean_over_draws(logits.log_softmax(-1))
        # As many columns as a memory may look back on, so that no choice depends on the length.
        padded = History(F.pad(history.items, (0, self.history_length)), lengths)
        memory = parts.memory.predict(padded)
        if memory is not None:
            scores = memory.mix(scores, slice(0, len(keys)), logarithms=True)
        if self.exclude_seen:
            scores = _without(scores, history.items, real)
        if excluded is not None:
            scores = _without(scores, excluded.clamp(min=0), excluded >= 0)
        best, found = scores.topk(self.k, dim=1)
        probabilities = best.exp()
        if parts.calibration is not None:
            longer = History(F.pad(history.items, (0, 2)), lengths)  # so that a trace takes one item, too
            evidence = Evidence.of(parts.calibration, longer, memory, parts.popularity)
            probabilities = _calibrated(evidence, logits, found).masked_fill(best == -math.inf, 0)
        return found.masked_fill(best == -math.inf, -1), probabilities

    def train(self, mode: bool = True) -> OneStep:
        """Nothing: the module serves."""
        return self

    def _check(self) -> None:
        """Refuse what :meth:`forward` cannot compute."""
        parts = self._parts
        if features := sorted(parts.denoiser.user_features):
            raise ValueError(
                f"one_step takes histories of items, but the denoiser {parts.denoiser.registered_name!r} reads the "
                f"user features {', '.join(features)}. Use recommend(..., features=...)."
            )
        length = torch.tensor([self.history_length])
        width = parts.noising.serving(length, parts.noising.max_noised(parts.max_length)).positions.shape[-1]
        if width != 1:
            raise ValueError(
                f"one_step takes the noise of one position, but the noising {parts.noising.registered_name!r} noises "
                f"{width} when serving. Use recommend(), or model.replace(noising='target')."
            )
        items, lengths, noise, _ = self.example()
        generators = generators_from(noise.shape[1])
        before = [each.get_state() for each in generators]
        run_chain(parts, History(items, lengths), self.sampler, generators, start=noise[:, :, None])
        if not all(map(torch.equal, before, (each.get_state() for each in generators))):
            raise ValueError(
                f"one_step takes all noise as an input, but the sampler {self.sampler.registered_name!r} draws noise "
                "at its steps. Use one that draws none, such as 'one-step', 'euler' or {'name': 'ddim', 'eta': 0.0}."
            )


def _without(scores: Tensor, items: Tensor, barred: Tensor) -> Tensor:
    """Logarithms of probabilities ``(B, V)``, of which those of the barred among the items ``(B, E)`` are -inf."""
    return scores.scatter_add(1, items, torch.where(barred, -math.inf, 0.0).to(scores.dtype))


def _calibrated(evidence: Evidence, logits: Tensor, items: Tensor) -> Tensor:
    """Calibrated probabilities of items ``(B, k)``, from the logits of all, ``(B, S, V)``."""

    def logits_of(chosen: Tensor) -> Tensor:
        return logits.gather(2, chosen[:, None].expand(-1, logits.shape[1], -1))

    def normaliser() -> Tensor:
        scaled = logits / evidence.calibration.temperature  # runtimes have a fast log_softmax, and a slow logsumexp
        return scaled.amax(-1, keepdim=True) - scaled.log_softmax(-1).amax(-1, keepdim=True)

    users = CalibratedUsers(evidence, normaliser, lambda: logits_of(evidence.seen.clamp(min=0)))
    remembered = evidence.remembered_within(slice(0, logits.shape[2]), items)
    known = evidence.popular(items), evidence.repeated(items)
    return users.probabilities(logits_of(items), remembered, *known)[0].exp()


def _frozen(model: nn.Module) -> nn.Module:
    """A copy in evaluation mode whose weights have no gradient, and share memory with the model's."""
    copied, frozen = evaluating_copy(model), dict[int, nn.Parameter]()
    for module in copied.modules():
        weights = module._parameters = dict(module._parameters)
        for name, weight in weights.items():
            if weight is not None:
                weights[name] = frozen.setdefault(id(weight), nn.Parameter(weight.detach(), requires_grad=False))
    return copied
