r"""Models of user vectors: they corrupt and denoise all items of a user at once.

The clean vector :math:`x_0 \in [0, 1]^V` has a positive number for each item of the user and 0 for the others. A
network predicts it from a corrupted vector :math:`x_n`. The chain that ranks starts from the vector of the history
itself, which it takes for :math:`x_m`, and no noise is drawn:

.. math:: x_m = x_0(\text{history}), \qquad x_{n-1} = \operatorname{mode} q(x_{n-1} \mid x_n, f_\theta(x_n, n)), \qquad
          \hat x_0 = f_\theta(x_1, 1).

An item's score is its number in :math:`\hat x_0`. The order of the items has no effect, except through their weights.

**A row of a training batch is one vector, with all its items, the last included.** No item is held out, because the
vector itself is what the network must predict. Train with ``examples="last-target"``, where a row has all items of a
user; with ``"every-prefix"``, each prefix is a vector of its own.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from os import PathLike
from typing import Any, Self

import torch
from torch import Generator, Tensor, nn

from diffusers_rec.core.checkpoint import Checkpoint
from diffusers_rec.core.entrances import guarded
from diffusers_rec.core.errors import check_float, check_int
from diffusers_rec.core.randomness import MAX_SEED, isolated_rng
from diffusers_rec.core.registry import Component, Config, unknown_name
from diffusers_rec.data.batching import Batch
from diffusers_rec.data.history import History
from diffusers_rec.data.vocabulary import Vocabulary
from diffusers_rec.guidance import Guidance
from diffusers_rec.nn.vector_mlp import VectorMLP
from diffusers_rec.processes.timesteps import TimestepSampler
from diffusers_rec.recommenders.base import Recommender
from diffusers_rec.recommenders.pretrained import Pretrained, own_name, wrong_class
from diffusers_rec.recommenders.ranking import Scores
from diffusers_rec.recommenders.scoring import SamplerChoice, Seeds
from diffusers_rec.recommenders.trainable import Loss


@guarded
class UserVectorModel(Pretrained, Recommender, ABC):
    """What the models of user vectors share: the vectors, the network, the training loss and the chain.

    Args:
        items: Item ids that can be recommended.
        num_timesteps: Number of steps N.
        widths: Widths of the hidden layers of the network.
        max_length: Largest number of items in a training row; a history has one less. Older items are left out.
        oldest_weight: Number of the oldest item in the vector, in (0, 1]; that of the newest is 1.
        timesteps: Steps that are trained on.
        step_dim: Width of the sinusoids of the step, even.
        dropout: Dropout rate of the corrupted vector.
        hidden_dropout: Dropout rate of the hidden layers.
        temperature: Temperature of the softmax that makes probabilities of the scores. The ranking does not depend on
            it.
        seed: Seed of the initial weights.
    """

    timesteps: TimestepSampler
    network: nn.Module

    def __init__(
        self,
        items: Vocabulary | Iterable[Hashable],
        *,
        num_timesteps: int,
        widths: Sequence[int],
        max_length: int,
        oldest_weight: float,
        timesteps: TimestepSampler | str | Mapping[str, Any],
        step_dim: int,
        dropout: float,
        hidden_dropout: float,
        temperature: float,
        seed: int,
    ) -> None:
        super().__init__()
        self.vocabulary = items if isinstance(items, Vocabulary) else Vocabulary(items)
        self.num_timesteps = num_timesteps
        self.widths = [check_int("each of widths", width, minimum=1) for width in widths]
        if not self.widths:
            raise ValueError(f"{type(self).__name__}: widths must hold one width at least, got none.")
        self._max_length = check_int("max_length", max_length, minimum=2)
        self.oldest_weight = check_float("oldest_weight", oldest_weight, above=0, maximum=1)
        self.timesteps = TimestepSampler.build_with({"num_timesteps": num_timesteps}, timesteps)
        self.step_dim = check_int("step_dim", step_dim, minimum=2)
        if self.step_dim % 2:
            raise ValueError(f"step_dim must be even, got {step_dim}. Use {step_dim + 1}.")
        self.dropout = check_float("dropout", dropout, minimum=0, below=1)
        self.hidden_dropout = check_float("hidden_dropout", hidden_dropout, minimum=0, below=1)
        self.temperature = check_float("temperature", temperature, above=0)
        self.seed = check_int("seed", seed, minimum=0, maximum=MAX_SEED)
        with isolated_rng(self.seed):
            self.network = self._new_network()
        self.register_buffer("popularity", torch.zeros(len(self.vocabulary), dtype=torch.int64))
        self.check_fit()

    # What a model defines

    def _new_network(self) -> nn.Module:
        """Build the network, with the seed of its weights; the constructor calls it when the settings are set."""
        return self._perceptron(len(self.vocabulary))

    def _perceptron(self, size: int) -> VectorMLP:
        rates = {"dropout": self.dropout, "hidden_dropout": self.hidden_dropout}
        return VectorMLP(size, self.widths, step_dim=self.step_dim, **rates)

    @property
    def _course(self) -> Sequence[int]:
        """Steps of the chain, which takes the vector of the history for that of the first; N to 1 by default."""
        return range(self.num_timesteps, 0, -1)

    @abstractmethod
    def _corrupt(self, x0: Tensor, timesteps: Tensor, generator: Generator) -> Tensor:
        """Draw corrupted vectors.

        Args:
            x0: Clean vectors, ``(B, V)``.
            timesteps: Steps n in 1..N, ``(B,)``.
            generator: Generator of the random numbers.

        Returns:
            Vectors at step n, ``(B, V)``.
        """

    @abstractmethod
    def _reverse(self, x0: Tensor, xn: Tensor, n: int, history: Tensor) -> Tensor:
        """Compute one reverse step without noise, from n to n - 1.

        Args:
            x0: Predicted clean vectors, ``(B, V)``.
            xn: Vectors at step n, like ``x0``.
            n: Step in 2..N.
            history: Vectors of the histories, like ``x0``.
        """

    @abstractmethod
    def _loss_weight(self, timesteps: Tensor) -> Tensor:
        """Weight of the squared error at steps n, ``(B,)``."""

    @abstractmethod
    def _seen_step(self, timesteps: Tensor) -> Tensor:
        """Number that the network is given for steps n, ``(B,)``."""

    # Training and serving

    def vectors(self, history: History) -> Tensor:
        """Clean vectors of histories, ``(B, V)``, in the dtype of the weights.

        From the oldest to the newest item, weights increase linearly from ``oldest_weight`` to 1; a history of one item
        has weight 1. An item that occurs twice has its latest weight.
        """
        dtype = next(self.network.parameters()).dtype
        last = history.lengths[:, None] - 1
        age = last - torch.arange(history.items.shape[1], device=history.items.device)
        each = (1 - (1 - self.oldest_weight) * age.to(dtype) / last.clamp(min=1)).where(history.mask, 0.0)
        empty = each.new_zeros(len(history), len(self.vocabulary))
        return empty.scatter_reduce(1, history.items.where(history.mask, 0), each, "amax")

    def predict(self, xn: Tensor, timesteps: Tensor) -> Tensor:
        """Predict clean vectors ``(B, V)`` from vectors at steps n, ``(B,)``."""
        predicted: Tensor = self.network(xn, self._seen_step(timesteps))
        return predicted

    def forward(self, batch: Batch, generator: Generator) -> Loss:
        """The weighted squared error of a batch, a mean over items and rows.

        Args:
            batch: Rows of items; which of them are targets has no effect.
            generator: Source of timesteps, noise and dropout.
        """
        with isolated_rng(generator, self.device):  # dropout draws from torch's global state
            return self._bound(self.vectors(batch.history), generator)[0]

    def _bound(self, x0: Tensor, generator: Generator) -> tuple[Loss, Tensor]:
        """The weighted squared error of clean vectors, ``(B, V)``, and the vectors that are predicted."""
        timesteps, weights = self.timesteps.sample((len(x0),), generator, device=x0.device)
        predicted = self.predict(self._corrupt(x0, timesteps, generator), timesteps)
        with torch.autocast(x0.device.type, enabled=False):
            squared = (x0 - predicted.to(x0.dtype)).square().mean(-1)
            each = self._loss_weight(timesteps).to(x0.dtype) * squared
            total = (weights.to(x0.dtype) * each).mean()
        named = {"bound": total.detach(), "reconstruction": squared.detach().mean()}
        return Loss(total, named, {"timesteps": timesteps, "per_latent": each.detach()}), predicted

    def update(self, observed: Mapping[str, Tensor]) -> None:
        """Show the timestep sampler what was observed: the ``timesteps`` drawn and the losses ``per_latent``."""
        self.timesteps.update(observed["timesteps"], observed["per_latent"])

    def denoise(self, history: History) -> Tensor:
        """Run the chain from the vectors of histories to predicted clean vectors, ``(B, V)``."""
        return self._chain(self.vectors(history))

    def _chain(self, given: Tensor, predict: Callable[[Tensor, Tensor], Tensor] | None = None) -> Tensor:
        """Run the chain from clean vectors, ``(B, V)``, to those of ``predict``, :meth:`predict` if None."""
        xn = given
        for n in self._course:
            x0 = (predict or self.predict)(xn, torch.full((len(xn),), n, device=xn.device))
            xn = self._reverse(x0, xn, n, given) if n > 1 else x0
        return xn

    def score(
        self,
        history: History,
        *,
        seeds: Seeds | None = None,
        sampler: SamplerChoice | None = None,
        guidance: Guidance = None,
    ) -> Iterator[Scores]:
        """How likely each item comes next: the softmax of the predicted vector, divided by the temperature.

        Args:
            history: B histories of at most :attr:`history_length` items.
            seeds: Ignored, because nothing is drawn.
            sampler: Ignored, because the model has its own chain.
            guidance: Refused, because no guide acts on a vector of all items.

        Raises:
            ValueError: A guide is given.
        """
        if guidance is not None:
            raise ValueError(
                f"A {type(self).__name__} has no guides: they act on the latent of one item. Leave guidance out or use "
                "a DiffRec."
            )
        yield Scores.of_logits(self.denoise(history) / self.temperature)

    # What it is

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.popularity.device

    @property
    def max_length(self) -> int:
        """The most items in a training row."""
        return self._max_length

    @property
    def history_length(self) -> int:
        """How many of the last items of a history are used."""
        return self._max_length - 1

    def check_fit(self) -> None:
        """Check that the timestep sampler has N steps.

        Raises:
            ValueError: It has not.
        """
        if self.timesteps.num_timesteps != self.num_timesteps:
            raise ValueError(
                f"The parts do not fit: the timestep sampler has num_timesteps={self.timesteps.num_timesteps}, the "
                f"model {self.num_timesteps}. Give the sampler by name, or with the same number."
            )

    def config(self) -> Config:
        """The name of the class and its settings, ready for JSON.

        Raises:
            ValueError: The class was declared without a ``model_name`` of its own.
        """
        values = {name: getattr(self, name) for name in _settings(type(self))}
        plain = {name: value.config() if isinstance(value, Component) else value for name, value in values.items()}
        return {"model": own_name(type(self)), **plain}

    @classmethod
    def restored(cls, saved: Checkpoint, directory: str | PathLike[str]) -> Self:
        """Build the model of a checkpoint that was read from ``directory``.

        Raises:
            ValueError: As :meth:`from_pretrained`.
        """
        if saved.config.get("model") is None:
            raise ValueError(wrong_class(directory, "DiffRec", cls))
        return super().restored(saved, directory)

    @classmethod
    def from_config(cls, items: Vocabulary | Iterable[Hashable], config: Mapping[str, Any]) -> Self:
        """The model that :meth:`config` describes, with fresh weights.

        Raises:
            ValueError: Unknown keys.
        """
        given = {name: value for name, value in config.items() if name != "model"}
        for name in given:
            if name not in _settings(cls):
                raise ValueError(unknown_name(f"setting of {cls.__name__}", name, _settings(cls)))
        return cls(items, **given)


def _settings(cls: type[UserVectorModel]) -> list[str]:
    """Parameters of the constructor except the items."""
    return [name for name in inspect.signature(cls).parameters if name != "items"]
