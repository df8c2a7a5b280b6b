r"""``DiffRec``: the parts composed into a recommender.

To train: ``batch -> noising -> process -> denoiser -> head -> objective``. To serve: ``histories -> denoiser <->
sampler -> head -> ranking``. The pipeline owns the item vocabulary and nothing else of the data; every part can be
swapped alone, and every part works without it.
"""

from __future__ import annotations

import copy
from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import Any, Self

import numpy.typing as npt
import torch
from torch import Generator, Tensor

from diffusers_rec.core.entrances import guarded
from diffusers_rec.core.errors import check_class, check_int, warn_caller
from diffusers_rec.core.randomness import MAX_SEED, generators_from, isolated_rng, weight_seed
from diffusers_rec.core.registry import Component, Config
from diffusers_rec.data.batching import Batch, Examples, TrainingBatches
from diffusers_rec.data.history import History
from diffusers_rec.data.same_target import SameTarget
from diffusers_rec.data.sequences import Holdout, Sequences
from diffusers_rec.data.vocabulary import Vocabulary
from diffusers_rec.denoisers import Denoiser
from diffusers_rec.guidance import Guidance, unwrapped
from diffusers_rec.items.choice import Choice
from diffusers_rec.items.embeddings import ItemEmbedding
from diffusers_rec.items.heads import ItemHead
from diffusers_rec.items.laid_out import LaidOutHead
from diffusers_rec.items.negatives import Negatives
from diffusers_rec.objectives import LossTerms, Objective, TrainingStep
from diffusers_rec.objectives.views import HIDING
from diffusers_rec.processes.noising import NoisingStrategy, TargetOnly
from diffusers_rec.processes.process import Process
from diffusers_rec.processes.schedules import NoiseSchedule
from diffusers_rec.processes.source import Source
from diffusers_rec.processes.timesteps import TimestepSampler
from diffusers_rec.recommenders.base import Unknown
from diffusers_rec.recommenders.calibrating import fitted
from diffusers_rec.recommenders.calibration import Calibration, Evidence
from diffusers_rec.recommenders.chains import Drawn, items_at, run_chain
from diffusers_rec.recommenders.completing import Completing
from diffusers_rec.recommenders.extending import extended
from diffusers_rec.recommenders.head_scores import head_scores
from diffusers_rec.recommenders.index import Index
from diffusers_rec.recommenders.memory import Memory, MemoryPrediction, NoMemory
from diffusers_rec.recommenders.one_step import OneStep
from diffusers_rec.recommenders.passes import run_passes, steps_of_positions
from diffusers_rec.recommenders.pretrained import Pretrained
from diffusers_rec.recommenders.ranking import Scores, TopK
from diffusers_rec.recommenders.replacing import replaced
from diffusers_rec.recommenders.scoring import SamplerChoice, Seeds
from diffusers_rec.recommenders.serving import Written
from diffusers_rec.recommenders.shortlist import best_items
from diffusers_rec.recommenders.trainable import Loss
from diffusers_rec.recommenders.views import MaskedItem, run_views
from diffusers_rec.samplers import Sampler, StepCallback

MAX_LAST_ALPHA_BAR = 0.05
"""Above it, x_N tells the target, which serving has not: the pipeline warns."""


@guarded
class DiffRec(Pretrained, Completing):
    """Sequential recommendation with diffusion models (Du et al. 2023). The defaults are the paper's choices.

    Every part is given as a component, a registered name, or a config (see :mod:`diffusers_rec.core.registry`).

    Args:
        items: Item ids that can be recommended, a :class:`~diffusers_rec.Vocabulary` or any iterable of hashable ids.
        dim: Latent width D of the parts given by name.
        max_length: Largest number of positions in a sequence, the corrupted ones included, of a denoiser given by name.
        schedule: Noise levels of the steps.
        process: Corruption, and the one reverse step.
        source: Centre of the process.
        noising: Positions that are corrupted.
        timesteps: Steps that are trained on.
        embedding: Items to clean latents.
        denoiser: Prediction of the clean latent.
        head: Latents to item scores.
        objective: Loss.
        negatives: Items that a target is weighed against: all, or a sample for large catalogues.
        memory: What other users did next, mixed into the ranking.
        sampler: Chain from noise to latent, when serving.
        seeds: Noise draws averaged when serving, unless a call says otherwise: seeds, or their number.
        seed: Seed of the initial weights of the parts given by name.
        calibration: Calibration of the probabilities that are reported, as :meth:`calibrate` fits it; None reports
            those that the ranking is by.

    Raises:
        ValueError: unknown names or keys, or parts that do not fit one another.

    Attributes:
        updates: Number of training steps so far, where the objective counts them.
    """

    updates: Tensor
    kept_for_serving = (*Completing.kept_for_serving, "_laid_out")
    _laid_out: tuple[Written | None, LaidOutHead] | None = None

    def __init__(
        self,
        items: Vocabulary | Iterable[Hashable],
        *,
        dim: int = 256,
        max_length: int = 50,
        schedule: NoiseSchedule | str | Mapping[str, Any] = "sqrt",
        process: Process | str | Mapping[str, Any] = "gaussian",
        source: Source | str | Mapping[str, Any] = "zero",
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
        calibration: Calibration | Mapping[str, float] | None = None,
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
        self.process = Process.build_with({**size, **shared}, process)
        self.source = Source.build_with({**size, "seed": weight_seed(self.seed, "source")}, source)
        self.noising = NoisingStrategy.build(noising)
        self.timesteps = TimestepSampler.build_with({"num_timesteps": self.schedule.num_timesteps}, timesteps)
        self.objective = Objective.build(objective)
        hides = set(HIDING) & set(self.objective.views)
        self.masked_item = MaskedItem(self.embedding.dim) if hides else None
        self.examples: SameTarget | None = None
        self.negatives = Negatives.build(negatives)
        self.memory = Memory.build_with({"num_items": size["num_items"]}, memory)
        self.sampler = Sampler.build_with(shared, sampler)
        self.calibration = Calibration.of(calibration)
        self.register_buffer("popularity", torch.zeros(size["num_items"], dtype=torch.int64))
        if self.objective.counts_updates:
            self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        self.check_fit()
        signal = float(self.schedule.alpha_bar[-1])
        told = signal > MAX_LAST_ALPHA_BAR and unwrapped(self.denoiser).reads_xn
        if told and not self.popularity.is_meta:  # which is not the model yet
            warn_caller(
                f"At the last step {signal:.0%} of the signal is left (alpha_bar_N), but serving starts from pure "
                "noise: training would learn to read the target there. Use more steps, or a negative log_snr_shift."
            )

    # Training

    def prepare(self, sequences: Sequences, *, examples: Examples = "every-prefix") -> Self:
        """Count what the parts need to know of the training data, such as the items' popularity.

        An objective with the view ``same-target`` draws from these examples.

        :func:`~diffusers_rec.training.train` calls it; a loop of your own calls it once, before the first loss. What
        the negatives have counted belongs to the data and is in no checkpoint; the rest is saved with the weights. An
        earlier calibration is dropped.

        Args:
            sequences: Training sequences; items are matched with the model's by id.
            examples: How they become examples, see :class:`~diffusers_rec.data.TrainingBatches`.

        Raises:
            ValueError: the sequences have items that the model does not know.
        """
        sequences = sequences.reindexed(self.vocabulary)
        self.calibration = None
        self.negatives.fit(TrainingBatches(sequences, examples=examples).target_counts())
        self.memory.fit(sequences)
        if "same-target" in self.objective.views:
            self.examples = SameTarget(sequences, examples=examples, max_length=self.max_length)
        super().prepare(sequences, examples=examples)
        self.denoiser.fit(self.popularity)
        return self

    def forward(self, batch: Batch, generator: Generator) -> Loss:
        """:meth:`loss` without :meth:`update`: for loops that gather over processes what the loss has observed."""
        if not self.training:
            return self._loss(batch, generator)
        with isolated_rng(generator, self.device):  # dropout draws from torch's global state
            return self._loss(batch, generator)

    def loss(self, batch: Batch, generator: Generator) -> Loss:
        """The loss of a batch (Algorithm 1, lines 3-12 and 15).

        Args:
            batch: Item indices and the positions of the targets in them.
            generator: The source of timesteps, noise and dropout; the global random state is not touched.

        Returns:
            The total and its named terms. In training mode the timestep sampler has learned from them.
        """
        loss: Loss = self(batch, generator)
        if self.training:
            self.update(loss.observed)
        return loss

    def calibrate(self, validation: Holdout, *, users: int | None = None, seed: int = 0) -> Calibration:
        """Fit the probabilities that :meth:`recommend` and :meth:`predict_proba` report; the ranking stays as it is.

        :func:`~diffusers_rec.training.train` calls it. A later change of a part calls for another calibration. The
        items' popularity is what :meth:`prepare` has counted.

        Args:
            validation: Histories and the items that came next, which were not trained on.
            users: Number of users to look at; 4,096, or fewer for a large catalogue, if None.
            seed: Seed of the choice of users.

        Returns:
            The fitted numbers.

        Raises:
            ValueError: no target, or items that the model does not know.
        """
        self.calibration = fitted(self, validation, users, seed)
        return self.calibration

    def given(self) -> dict[str, Tensor]:
        """Tensors that the user gave in addition to the settings: features of items, and those of the denoiser."""
        return {**dict(self.embedding.named_buffers()), **unwrapped(self.denoiser).given()}

    def update(self, observed: Mapping[str, Tensor]) -> None:
        """Show the timestep sampler the ``timesteps`` drawn and the losses ``per_latent``, and count the update."""
        if self.objective.counts_updates:
            self.updates += 1
        self.timesteps.update(observed["timesteps"], observed["per_latent"])

    def _loss(self, batch: Batch, generator: Generator) -> Loss:
        if not batch.num_targets:
            raise ValueError("The batch holds no target: all its positions are -1.")
        length = batch.items.shape[1]
        if length > self.max_length:
            raise ValueError(f"The batch holds {length} positions, but the denoiser takes {self.max_length} at most.")
        queries = self.noising.training(batch.positions, min(self.noising.max_noised(length), length), generator)
        items = items_at(batch.items, queries.positions)
        timesteps, weights = self.timesteps.sample(self.noising.timestep_shape(queries), generator, device=items.device)
        following, widest = None, queries
        if "next" in self.objective.passes:  # its queries see as much as any other query about the same targets
            widest = TargetOnly().queries(batch.positions, 1)
            following = widest, items_at(batch.items, widest.positions)
        # No row shows more than its queries see: its own target above all stays hidden.
        history = widest.cut(batch.history).first(int(widest.visible.max())).blank()
        passes, predicted, penalties = run_passes(self, history, queries, items, timesteps, generator, following)
        sampled = passes["sampled"]
        negatives = self.negatives.draw(sampled.items, len(self.vocabulary), generator)
        views = run_views(self, history, batch, generator)
        updates = int(self.updates) if self.objective.counts_updates else 0
        weights = steps_of_positions(weights, predicted)[predicted]
        step = TrainingStep(passes, weights, self.head, negatives, views, penalties, updates)
        terms = check_class(f"The result of {type(self.objective).__name__}(step)", self.objective(step), LossTerms)
        return Loss(terms.total, terms.named, {"timesteps": sampled.timesteps, "per_latent": terms.per_latent})

    # Serving

    def sample(
        self,
        histories: Iterable[Iterable[Hashable]],
        *,
        unknown: Unknown = "error",
        times: Iterable[Iterable[Any]] | None = None,
        features: Mapping[str, npt.ArrayLike] | None = None,
        seeds: Seeds | None = None,
        sampler: SamplerChoice | None = None,
        guidance: Guidance = None,
        callback: StepCallback | None = None,
    ) -> Tensor:
        """Draw the clean latents of what comes next.

        Args:
            histories: Raw item ids, oldest first, one item at least.
            unknown: Treatment of ids that the model does not know: ``"error"`` or ``"drop"``.
            times: Times of the items, one list a history; for models that read them.
            features: Features of the users, name to one row a history; for models that read them.
            seeds: Noise draws; the model's own when None.
            sampler: Component, name, or config; the model's own when None.
            guidance: Scale of the model's guide for this call, or a mapping of its settings, such as ``{"scale": 2.0,
                "start": 0.2}``; the guide's own when None. A mapping with the name of a further guide, such as
                ``{"name": "attribute", "values": genre, "scale": 2.0}``, adds it for this call; a list adds several.
            callback: Called with a :class:`~diffusers_rec.SamplerStep` at the end of every reverse step.

        Returns:
            ``(B, S, K, D)``; K = 1 except for strategies that corrupt several positions.
        """
        history = self.encode_histories(histories, unknown=unknown, times=times, features=features)
        with self.serving() as model:
            return model._draw(history, seeds, sampler, guidance, callback).latents

    def next_item_latents(
        self,
        history: History,
        *,
        seeds: Seeds | None = None,
        sampler: SamplerChoice | None = None,
        guidance: Guidance = None,
    ) -> Tensor:
        """Draw the latent of the next item, without gradient.

        Args:
            history: B histories of at most :attr:`history_length` items.
            seeds: Noise draws; the model's own when None.
            sampler: Component, name, or config; the model's own when None.
            guidance: Guidance of this call, as in :meth:`sample`.

        Returns:
            What the head takes, ``(B, S, D)``.

        Raises:
            ValueError: items that are none of the model's or more than it reads, or a sampler of more steps than its
                schedule has.
        """
        items = history.items
        if items.numel() and not 0 <= int(items.min()) <= int(items.max()) < len(self.vocabulary):
            raise ValueError(f"items must hold indices in 0..{len(self.vocabulary) - 1}, padding included.")
        if items.shape[1] > self.history_length:
            raise ValueError(f"The model reads {self.history_length} items at most, got {items.shape[1]}.")
        with self.serving() as model:
            return model._draw(history, seeds, sampler, guidance).next_item()

    def score(
        self,
        history: History,
        *,
        seeds: Seeds | None = None,
        sampler: SamplerChoice | None = None,
        guidance: Guidance = None,
    ) -> Iterator[Scores]:
        """How likely each item comes next, in chunks of users and items; see :meth:`Recommender.score`.

        Args:
            history: B histories of at most :attr:`history_length` items.
            seeds: Noise draws to average; the model's own when None.
            sampler: Component, name, or config; the model's own when None.
            guidance: Guidance of this call, as in :meth:`sample`.
        """
        latents = self.next_item_latents(history, seeds=seeds, sampler=sampler, guidance=guidance)
        memory, evidence = self._known(history)
        return head_scores(self.head, latents, memory, evidence=evidence)

    def _known(self, history: History) -> tuple[MemoryPrediction | None, Evidence | None]:
        """The memory's prediction, and the evidence for the calibration; None without a calibration."""
        memory = self.memory.predict(history)
        if self.calibration is None:
            return memory, None
        return memory, Evidence.of(self.calibration, history, memory, self.popularity)

    def _best(self, history: History, k: int, choice: Choice, *, index: Index | None = None, **options: Any) -> TopK:
        own = DiffRec.score, DiffRec.next_item_latents
        if (type(self).score, type(self).next_item_latents) != own:  # a subclass ranks by what its methods give
            return super()._best(history, k, choice, index=index, **options)
        with torch.autocast(self.device.type, enabled=False):  # the keys outlive the call
            head = self._keys()
            if index is not None:
                check_class("index", index, Index).check_once(head)
        latents = self._draw(history, **options).next_item()
        memory, evidence = self._known(history)
        search = None if index is None else index.shortlist
        return best_items(head, latents, k, choice, memory, evidence=evidence, search=search)

    def _keys(self) -> LaidOutHead:
        """The head with its keys laid out, anew where torch has counted a write to a weight since."""
        written, kept = self._written, self._laid_out
        if written is None or kept is None or kept[0] is not written or kept[1].head is not self.head:
            kept = self._laid_out = written, LaidOutHead(self.head)
        return kept[1]

    def without_memory(self) -> Self:
        """The model whose network ranks alone, sharing its weights; itself where it has no memory."""
        if isinstance(self.memory, NoMemory):
            return self
        network = copy.copy(self)
        network._modules = {**self._modules, "memory": NoMemory()}
        return network

    def one_step(self, k: int = 10, *, exclude_seen: bool = True, sampler: SamplerChoice | None = None) -> OneStep:
        """The model as one module of tensors, for ``torch.export``, ONNX and ``torch.compile``.

        ``module(items, lengths, module.noise(len(items)))`` gives the items and the probabilities of :meth:`top_k`.

        Args:
            k: Number of items.
            exclude_seen: Whether to leave out the items of the history.
            sampler: Component, name, or config, of a sampler whose steps draw no noise; the model's own when None.

        Raises:
            ValueError: k outside 1..V; a model that noises several positions when serving or reads user features; or a
                sampler whose steps draw noise.
        """
        return OneStep(self, self._chosen(sampler), k, exclude_seen=exclude_seen)

    def _draw(
        self,
        history: History,
        seeds: Seeds | None = None,
        sampler: SamplerChoice | None = None,
        guidance: Guidance = None,
        callback: StepCallback | None = None,
    ) -> Drawn:
        for name in ("process", "denoiser"):
            self._check_shared(name, getattr(self, name))  # a schedule may have been assigned since
        generators = generators_from(self.seeds if seeds is None else seeds)
        return run_chain(self, history, self._chosen(sampler), generators, guidance, callback)

    def _chosen(self, sampler: SamplerChoice | None) -> Sampler:
        """The sampler of one call; the model's own when None."""
        return self.sampler if sampler is None else self._built(sampler)

    def _built(self, sampler: SamplerChoice, **settings: Any) -> Sampler:
        """A sampler of one call, with defaults of settings that it may have."""
        shared = {"embedding": self.embedding, "head": self.head, "schedule": self.schedule}
        chosen = Sampler.build_with({**shared, **settings}, sampler)
        self._check_shared("sampler", chosen)
        chosen.check_fit(self)
        return chosen

    # What it is

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.popularity.device

    @property
    def max_length(self) -> int:
        """The most positions in a sequence, the noised ones included."""
        return self.denoiser.max_length

    @property
    def history_length(self) -> int:
        """How many of the last items of a history are used (Sec. 4.5.2: the first are dropped for the [unk] behind)."""
        return self.max_length - self.noising.new_items

    def config(self) -> Config:
        """Everything except the items and the weights, ready for JSON."""
        parts = {name: getattr(self, name).config() for name in PARTS}
        config = {**parts, "seeds": self.seeds, "seed": self.seed}
        return config if self.calibration is None else {**config, "calibration": self.calibration.config()}

    @classmethod
    def from_config(cls, items: Vocabulary | Iterable[Hashable], config: Mapping[str, Any]) -> DiffRec:
        """The pipeline that :meth:`config` describes, with fresh weights.

        Raises:
            ValueError: unknown names or keys, or parts that do not fit one another.
        """
        known = {*PARTS, "seeds", "seed", "calibration"}
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

    def replace(self, **changes: Any) -> DiffRec:
        """The same model with parts changed; this one stays as it is.

        A name or a mapping is merged into the part's config: ``schedule={"num_timesteps": 200}`` changes one setting,
        ``denoiser="causal-transformer"`` changes the class and keeps the settings that both classes have. A guide
        without a ``base`` wraps the present denoiser. A part keeps its weights if its class and their shapes stay, and
        its mapping holds no component; ``seed=`` gives all parts fresh weights. A calibration is not carried over: it
        belongs to the parts together.

        Args:
            changes: Parts by name, as components, names or mappings; ``dim``, ``max_length``, ``seeds``, ``seed``.

        Raises:
            ValueError: an unknown part, name or setting, or parts that do not fit one another.
        """
        new: DiffRec = replaced(self, PARTS, changes)
        return new

    def check_fit(self) -> None:
        """Check that the parts fit one another, when they are composed and once more before training.

        Raises:
            ValueError: they do not; the message names the two that differ.
        """
        for name in PARTS:
            part = getattr(self, name)
            self._check_shared(name, part)
            part.check_fit(self)
        if self.history_length < 1:
            raise ValueError(
                f"max_length={self.max_length} leaves no room for a history before {self.noising.new_items} new items."
            )
        unread = [name for name in self.denoiser.penalised if name not in self.objective.penalties]
        if unread and not self.popularity.is_meta:  # which is not the model yet
            warn_caller(
                f"No term of the objective reads {', '.join(map(repr, unread))}, penalties of the history encoder: "
                "weights that they alone train, if any, keep their initial values, and several processes then cannot "
                "train the model. Add the terms of these names, or use another encoder."
            )

    def _check_shared(self, name: str, part: Any) -> None:
        """Refuse a part that holds another schedule, embedding or head than the model's own."""
        for key in getattr(part, "requires", ()):
            held = getattr(part, key, None)
            if held is not None and held is not getattr(self, key):
                raise ValueError(
                    f"The parts do not fit: the {name} holds another {key} than the model's own. Give the {name} by "
                    f"name or config, or change the {key} with model.replace({key}=...)."
                )
        if hasattr(part, "base"):
            self._check_shared(name, part.base)


PARTS: dict[str, type[Component]] = {  # name in the config, which is the family's kind
    "schedule": NoiseSchedule,
    "process": Process,
    "source": Source,
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
