r"""``DiffRec``: the parts composed into a recommender.

To train: ``batch -> noising -> schedule -> denoiser -> head -> objective``. To serve: ``histories -> denoiser <->
sampler -> head -> ranking``. The pipeline owns the item vocabulary and nothing else of the data; every part can be
swapped alone, and every part works without it.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Generator, Tensor

from diffusers_rec.core.entrances import guarded
from diffusers_rec.core.errors import check_choice, check_int, warn_caller
from diffusers_rec.core.randomness import MAX_SEED, generators_from, isolated_rng, randn, weight_seed
from diffusers_rec.core.registry import Component, Config
from diffusers_rec.data.batching import Batch, Examples, TrainingBatches
from diffusers_rec.data.sequences import Sequences
from diffusers_rec.data.vocabulary import Vocabulary
from diffusers_rec.denoisers import Denoiser
from diffusers_rec.items.embeddings import ItemEmbedding
from diffusers_rec.items.heads import ItemHead
from diffusers_rec.items.negatives import InBatchNegatives, Negatives
from diffusers_rec.objectives import Objective
from diffusers_rec.processes.noising import NoisingStrategy, Questions
from diffusers_rec.processes.schedules import NoiseSchedule
from diffusers_rec.processes.timesteps import TimestepSampler
from diffusers_rec.recommenders.base import Recommender, SamplerChoice, Seeds, Unknown
from diffusers_rec.recommenders.extending import extended
from diffusers_rec.recommenders.memory import Memory
from diffusers_rec.recommenders.pretrained import Pretrained
from diffusers_rec.samplers import Sampler

MAX_LAST_ALPHA_BAR = 0.05
"""Above it, x_N tells the target, which serving has not: the pipeline warns."""


@dataclass(frozen=True)
class Loss:
    """What :meth:`DiffRec.loss` gives.

    Attributes:
        total: scalar, to be minimised.
        named: its terms, scalars without gradient.
        timesteps: the drawn step of each of the M noised latents, ``(M,)``.
        per_latent: the unweighted reconstruction loss of each, ``(M,)``, without gradient.
    """

    total: Tensor
    named: dict[str, Tensor]
    timesteps: Tensor
    per_latent: Tensor


@guarded
class DiffRec(Pretrained, Recommender):
    """Sequential recommendation with diffusion models (Du et al. 2023). The defaults are the paper's choices.

    Every part is given as a component, a registered name, or a config (see :mod:`diffusers_rec.core.registry`).

    Args:
        items: the item ids that can be recommended, a :class:`~diffusers_rec.data.Vocabulary` or any iterable of
            hashable ids.
        dim: D, for the parts given by name.
        max_length: positions in a sequence, the noised ones included, for a denoiser given by name.
        schedule: how much noise a step carries.
        noising: which positions carry noise.
        timesteps: which steps are trained on.
        embedding: item to clean latent.
        denoiser: predicts the clean latent.
        head: latent to item scores.
        objective: what is minimised.
        negatives: what targets are weighed against: all items, or a sample for large catalogues.
        memory: what other users did next, mixed into the ranking.
        sampler: noise to latent, at serving time.
        seeds: the noise draws averaged at serving time, unless a call says otherwise: seeds, or their number.
        seed: of the initial weights of the parts given by name.

    Raises:
        ValueError: unknown names or keys, or parts that do not fit one another.
    """

    def __init__(
        self,
        items: Vocabulary | Iterable[Hashable],
        *,
        dim: int = 256,
        max_length: int = 50,
        schedule: NoiseSchedule | str | Mapping[str, Any] = "sqrt",
        noising: NoisingStrategy | str | Mapping[str, Any] = "target",
        timesteps: TimestepSampler | str | Mapping[str, Any] = "importance",
        embedding: ItemEmbedding | str | Mapping[str, Any] = "table",
        denoiser: Denoiser | str | Mapping[str, Any] = "transformer",
        head: ItemHead | str | Mapping[str, Any] = "linear",
        objective: Objective | str | Mapping[str, Any] = "simplified",
        negatives: Negatives | str | Mapping[str, Any] = "all",
        memory: Memory | str | Mapping[str, Any] = "none",
        sampler: SamplerChoice = "one-step",
        seeds: Seeds = 10,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.vocabulary = items if isinstance(items, Vocabulary) else Vocabulary(items)
        self.seed = check_int("seed", seed, minimum=0, maximum=MAX_SEED)
        seeds = list(seeds) if isinstance(seeds, Iterable) else seeds
        generators_from(seeds)  # refuses bad seeds here rather than at the first recommendation
        self.seeds: Seeds = [int(each) for each in seeds] if isinstance(seeds, list) else int(seeds)
        size = {"num_items": len(self.vocabulary), "dim": dim, "max_length": max_length}
        # Each part draws its initial weights from a stream of its own.
        self.embedding = ItemEmbedding.build_with({**size, "seed": weight_seed(self.seed, "embedding")}, embedding)
        size["dim"] = self.embedding.dim
        shared: dict[str, Any] = {"embedding": self.embedding}
        self.head = ItemHead.build_with({**size, **shared, "seed": weight_seed(self.seed, "head")}, head)
        self.schedule = NoiseSchedule.build(schedule)
        shared |= {"head": self.head, "schedule": self.schedule}
        self.denoiser = Denoiser.build_with({**size, **shared, "seed": weight_seed(self.seed, "denoiser")}, denoiser)
        self.noising = NoisingStrategy.build(noising)
        self.timesteps = TimestepSampler.build_with({"num_timesteps": self.schedule.num_timesteps}, timesteps)
        self.objective = Objective.build(objective)
        self.negatives = Negatives.build(negatives)
        self.memory = Memory.build_with({"num_items": size["num_items"]}, memory)
        self.sampler = Sampler.build(sampler)
        self.register_buffer("popularity", torch.zeros(size["num_items"], dtype=torch.int64))
        self.check_fit()
        signal = float(self.schedule.alpha_bar[-1])
        if signal > MAX_LAST_ALPHA_BAR and self.embedding.device.type != "meta":  # which is not the model yet
            warn_caller(
                f"At the last step {signal:.0%} of the signal is left (alpha_bar_N), but serving starts from pure "
                "noise: training would learn to read the target there. Use more steps, or a negative log_snr_shift."
            )

    # Training

    def prepare(self, sequences: Sequences, *, examples: Examples = "every-prefix") -> Self:
        """Count what the parts need to know of the training data: memory, negatives and the items' popularity.

        :func:`~diffusers_rec.training.train` calls it; a loop of your own calls it once, before the first loss. What
        the negatives have counted belongs to the data and is in no checkpoint; the rest is saved with the weights.

        Args:
            sequences: Training sequences; items are matched with the model's by id.
            examples: How they become examples, see :class:`~diffusers_rec.data.TrainingBatches`.

        Raises:
            ValueError: the sequences have items that the model does not know.
        """
        sequences = sequences.reindexed(self.vocabulary)
        self.negatives.fit(TrainingBatches(sequences, examples=examples).target_counts())
        self.memory.fit(sequences)
        counts = torch.from_numpy(sequences.items).bincount(minlength=len(self.vocabulary))
        self.popularity.copy_(counts)
        return self

    def forward(self, batch: Batch, generator: Generator) -> Loss:
        """:meth:`loss`, without entering the losses into the timestep sampler: for wrappers that gather them first."""
        if not self.training:
            return self._loss(batch, generator)
        with isolated_rng(generator, self.device):  # dropout draws from torch's global state
            return self._loss(batch, generator)

    def loss(self, batch: Batch, generator: Generator) -> Loss:
        """The loss of a batch (Algorithm 1, lines 3-12 and 15).

        Args:
            batch: item indices and the positions of the targets in them.
            generator: the source of timesteps, noise and dropout; the global random state is not touched.

        Returns:
            The total and its named terms. In training mode the timestep sampler has learned from them.
        """
        loss: Loss = self(batch, generator)
        if self.training:
            self.timesteps.update(loss.timesteps, loss.per_latent)
        return loss

    def _loss(self, batch: Batch, generator: Generator) -> Loss:
        if not batch.num_targets:
            raise ValueError("The batch holds no target: all its positions are -1.")
        length = batch.items.shape[1]
        if length > self.max_length:
            raise ValueError(f"The batch holds {length} positions, but the denoiser takes {self.max_length} at most.")
        questions = self.noising.questions(batch.positions, min(self.noising.max_noised(length), length))
        items = _items_at(batch.items, questions.positions)
        x0 = self.embedding(items)
        timesteps, weights = self.timesteps.sample(self.noising.timestep_shape(questions), generator, device=x0.device)
        noise = randn(x0.shape, generator, device=x0.device, dtype=x0.dtype)
        xn = self.schedule.add_noise(x0, noise, timesteps)
        context = self._encode(batch.items[:, : int(questions.visible.max())], batch.lengths)
        real = questions.mask
        if self.objective.recommend_from == "start":
            end = torch.full_like(timesteps, self.schedule.num_timesteps)
            fresh = randn(x0.shape, generator, device=x0.device, dtype=x0.dtype)
            both = self.denoiser(
                torch.cat([xn, self.schedule.add_noise(x0, fresh, end)], dim=1),
                torch.cat([timesteps, end], dim=1),
                questions.visible.repeat(1, 2),
                context,
                questions.count.repeat(1, 2),
            )
            predicted, from_start = (half[real] for half in both.chunk(2, dim=1))
        else:
            predicted = self.denoiser(xn, timesteps, questions.visible, context, questions.count)[real]
            from_start = predicted
        if timesteps.ndim == real.ndim - 1:
            timesteps, weights = timesteps[..., None].expand_as(real), weights[..., None].expand_as(real)
        negatives = self.negatives.draw(items[real], len(self.vocabulary), generator)
        terms = self.objective(x0[real], predicted, weights[real], from_start, items[real], self.head, negatives)
        return Loss(terms.total, terms.named, timesteps[real], terms.per_latent)

    # Serving

    def sample(
        self,
        histories: Iterable[Iterable[Hashable]],
        *,
        unknown: Unknown = "error",
        seeds: Seeds | None = None,
        sampler: SamplerChoice | None = None,
    ) -> Tensor:
        """Draw the clean latents of what comes next.

        Args:
            histories: raw item ids, oldest first, one item at least.
            unknown: Treatment of ids that the model does not know: ``"error"`` or ``"drop"``.
            seeds: noise draws; the model's own when None.
            sampler: a component, a name, or a config; the model's own when None.

        Returns:
            ``(B, S, K, D)``; K = 1 but for strategies that noise several positions.
        """
        history = self.encode_histories(histories, unknown=unknown)
        with self.serving() as model:
            return model._sample(*history, seeds, sampler)[0]

    def draw(self, items: Tensor, lengths: Tensor, seeds: Seeds | None, sampler: SamplerChoice | None) -> Tensor:
        """As :meth:`~diffusers_rec.Recommender.draw` says, ``(B, S, D)`` with the embedding's D."""
        latents, answer = self._sample(items, lengths, seeds, sampler)
        index = answer[..., None, None].expand(-1, latents.shape[1], 1, latents.shape[-1])
        return latents.gather(2, index)[:, :, 0]

    def _sample(
        self, items: Tensor, lengths: Tensor, seeds: Seeds | None, sampler: SamplerChoice | None
    ) -> tuple[Tensor, Tensor]:
        """Latents ``(B, S, K, D)`` and which of the K is the next item, ``(B, 1)``."""
        chosen = self.sampler if sampler is None else Sampler.build(sampler)
        generators = generators_from(self.seeds if seeds is None else seeds)
        width = self.noising.max_noised(self.max_length)
        questions = self.noising.serving(lengths, width)
        repeated = _repeat(questions, len(generators))
        context = self._encode(items, lengths)
        shape = (len(items), len(generators), width, self.embedding.dim)
        noise = randn(shape, generators, device=self.device, dtype=self.embedding.dtype)

        # Noised positions may hold items of the history: those are noised to step n (Algorithm 3, line 5), not drawn.
        known = (repeated.positions < lengths[:, None, None])[..., None]
        clean = self.embedding(_items_at(items, repeated.positions)) if bool(known.any()) else None

        def denoise(xn: Tensor, timesteps: Tensor) -> Tensor:
            if clean is not None:
                xn = torch.where(known, self.schedule.add_noise(clean, noise, timesteps), xn)
            return self.denoiser(xn, timesteps, repeated.visible, context, repeated.count).to(xn.dtype)

        return chosen.sample(denoise, self.schedule, noise, generators), questions.answer

    def _encode(self, items: Tensor, lengths: Tensor) -> Any:
        mask = torch.arange(items.shape[1], device=items.device) < lengths[:, None]
        return self.denoiser.encode(self.embedding(items), mask)

    # What it is

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embedding.device

    @property
    def max_length(self) -> int:
        """The most positions in a sequence, the noised ones included."""
        return self.denoiser.max_length

    @property
    def history_length(self) -> int:
        """How many of the last items of a history are used (Sec. 4.5.2: the first are dropped for the [unk] behind)."""
        return self.max_length - self.noising.new_items

    def config(self) -> Config:
        """Everything but the items and the weights, ready for JSON."""
        parts = {name: getattr(self, name).config() for name in PARTS}
        return {**parts, "seeds": self.seeds, "seed": self.seed}

    @classmethod
    def from_config(cls, items: Vocabulary | Iterable[Hashable], config: Mapping[str, Any]) -> DiffRec:
        """The pipeline that :meth:`config` describes, with fresh weights.

        Raises:
            ValueError: unknown names or keys, or parts that do not fit one another.
        """
        known = {*PARTS, "seeds", "seed"}
        unknown = sorted(set(config) - known)
        if unknown:
            raise ValueError(f"Unknown keys in the config of DiffRec: {unknown}. Known: {sorted(known)}.")
        return cls(items, **config)

    def extend(self, items: Iterable[Hashable], features: Any = None) -> DiffRec:
        """A model with more items, which knows what this one has learned; this one stays as it is.

        Weights of the items that this model knows are carried over bit for bit; everything that belongs to a new item
        (its vector, its row in a head, its bias) starts from the model's seed, and its popularity and its memory are
        empty. An embedding that computes vectors from features can recommend the new items at once; another learns
        them when training goes on: ``train(model.extend(items), sequences)``.

        Args:
            items: Ids of the new items; they get the indices after those of the known.
            features: Features of the new items in their order, for an embedding that takes features: vectors ``(n, F)``
                or what :func:`~diffusers_rec.attribute_bags` gives.

        Raises:
            ValueError: No items, items that the model knows already, or features that are missing, of another shape, or
                not taken by the embedding.
        """
        return extended(self, items, features)

    def check_fit(self) -> None:
        """Whether the parts fit one another: asked when they are composed, and before training once more.

        Raises:
            ValueError: they do not; the message names the two that differ.
        """
        for name in PARTS:
            getattr(self, name).check_fit(self)
        pairs = [
            ("dim of the denoiser", self.denoiser.dim, "dim of the embedding", self.embedding.dim),
            ("items of the memory", getattr(self.memory, "num_items", len(self.vocabulary)), "items of the vocabulary",
             len(self.vocabulary)),
            ("num_timesteps of the timestep sampler", self.timesteps.num_timesteps, "that of the schedule",
             self.schedule.num_timesteps),
        ]  # fmt: skip
        for left, got, right, expected in pairs:
            if got != expected:
                raise ValueError(f"The parts do not fit: {left} is {got}, {right} is {expected}.")
        check_choice("recommend_from of the objective", self.objective.recommend_from, ("sampled", "start"))
        if isinstance(self.negatives, InBatchNegatives) and self.noising.max_noised(self.max_length) > 1:
            raise ValueError(
                f"The parts do not fit: under the noising {self.noising} an item is a target more often than the data "
                "says, and in-batch negatives are corrected by the data. Use negatives='uniform' or 'popularity'."
            )
        steps = getattr(self.sampler, "num_steps", None)
        if steps is not None and steps > self.schedule.num_timesteps:
            raise ValueError(
                f"The parts do not fit: the sampler takes num_steps={steps}, but the schedule has "
                f"num_timesteps={self.schedule.num_timesteps}. Use as many at most, or num_steps=None for all."
            )
        if self.history_length < 1:
            raise ValueError(
                f"max_length={self.max_length} leaves no room for a history before {self.noising.new_items} new items."
            )


PARTS: dict[str, type[Component]] = {  # name in the config, which is the family's kind
    "schedule": NoiseSchedule,
    "noising": NoisingStrategy,
    "timesteps": TimestepSampler,
    "embedding": ItemEmbedding,
    "denoiser": Denoiser,
    "head": ItemHead,
    "objective": Objective,
    "negatives": Negatives,
    "memory": Memory,
    "sampler": Sampler,
}


def _items_at(items: Tensor, positions: Tensor) -> Tensor:
    """Item indices at ``(B, Q, K)`` positions; positions beyond the sequence are padding and give its last column."""
    flat = positions.clamp(max=items.shape[1] - 1).flatten(1)
    return items.gather(1, flat).view(positions.shape)


def _repeat(questions: Questions, draws: int) -> Questions:
    """One question a history to S equal ones."""
    return Questions(
        questions.visible.expand(-1, draws),
        questions.positions.expand(-1, draws, -1),
        questions.count.expand(-1, draws),
        questions.answer.expand(-1, draws),
    )
