r"""What training needs of a model: a loss, and hooks that do nothing unless a model overrides them.

:func:`~diffusers_rec.training.train` calls them in this order, and so can a loop of your own:

.. code-block:: python

    model.check_fit()
    model.prepare(sequences, examples="every-prefix")
    for batch in batches:
        loss = model(batch, generator)
        loss.total.backward()
        optimizer.step()
        optimizer.zero_grad()
        model.update(loss.observed)
    model.calibrate(validation)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Generator, Tensor, nn

from diffusers_rec.core.entrances import guarded
from diffusers_rec.data.batching import Batch, Examples
from diffusers_rec.data.sequences import Holdout, Sequences
from diffusers_rec.data.vocabulary import Vocabulary


@dataclass(frozen=True)
class Loss:
    """The loss of a batch.

    Args:
        total: Scalar to be minimised.
        named: Its terms by name, scalars without gradient. Each becomes a column of the training history.
        observed: What the model learns from in another way than by gradient, by name: tensors ``(M, ...)`` without
            gradient, whose M may differ. They go to :meth:`Trainable.update`, end to end where several processes train.
    """

    total: Tensor
    named: dict[str, Tensor]
    observed: dict[str, Tensor] = field(default_factory=dict)

    @property
    def timesteps(self) -> Tensor:
        """The drawn timestep of each of the M noised latents, ``(M,)``, where the model observes it."""
        return self._observed("timesteps")

    @property
    def per_latent(self) -> Tensor:
        """The unweighted reconstruction loss of each noised latent, ``(M,)``, where the model observes it."""
        return self._observed("per_latent")

    def _observed(self, name: str) -> Tensor:
        if name not in self.observed:
            raise AttributeError(f"Loss.{name}: the model observed only {sorted(self.observed)}.")
        return self.observed[name]


@guarded
class Trainable(nn.Module):
    """The hooks of :func:`~diffusers_rec.training.train`. A model defines :meth:`forward`; the others have defaults."""

    vocabulary: Vocabulary

    def forward(self, batch: Batch, generator: Generator) -> Loss:
        """The loss of a batch.

        Args:
            batch: Item indices and the positions of the targets among them.
            generator: Source of everything random. Dropout draws from the global state of torch, which
                :func:`~diffusers_rec.core.randomness.isolated_rng` seeds from the generator.

        Raises:
            NotImplementedError: The model cannot be trained.
        """
        raise NotImplementedError(
            f"{type(self).__name__} has no loss. Define forward(batch, generator) -> Loss to train it."
        )

    def check_fit(self) -> None:
        """Raise a ``ValueError`` where the parts of the model do not fit one another; called before training."""

    def prepare(self, sequences: Sequences, *, examples: Examples = "every-prefix") -> Self:
        """Count what the model needs to know of the training data; called once, before the first loss.

        By default it counts the items' popularity, where the model has such a buffer. Parameters must exist before:
        the optimizer holds them already.

        Args:
            sequences: Training sequences; items are matched with the model's by id.
            examples: How they become examples, see :class:`~diffusers_rec.data.TrainingBatches`.

        Raises:
            ValueError: The sequences have items that the model does not know.
        """
        sequences = sequences.reindexed(self.vocabulary)
        popularity = getattr(self, "popularity", None)
        if isinstance(popularity, Tensor):
            popularity.copy_(torch.from_numpy(sequences.items).bincount(minlength=len(self.vocabulary)))
        return self

    def calibrate(self, validation: Holdout) -> object:
        """Fit the probabilities that are reported to what users took; called once, after training.

        By default it does nothing.

        Args:
            validation: Histories and the items that came next, which were not trained on.
        """
        return None

    def given(self) -> dict[str, Tensor]:
        """Tensors that the model was given and neither learns nor counts, by name, which identify a run; none here."""
        return {}

    def update(self, observed: Mapping[str, Tensor]) -> None:
        """Learn from ``Loss.observed``; called after each step of the optimizer. By default it does nothing.

        Args:
            observed: Tensors by name, those of all processes end to end, so that the processes stay equal.
        """
