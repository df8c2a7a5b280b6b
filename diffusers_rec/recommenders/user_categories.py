r"""Diffusion of user vectors, guided by a preference over the categories of items.

:math:`F_{cv}` is the share of category c in item v: 1 over the number of its categories, or 0. The preference of a user
is the mean of his items' shares, unless a call gives another. The prediction :math:`\hat x_0` is

.. math:: \hat x_0 = (1 + w)\, f(x_n, n, p) - w\, f(x_n, n, \varnothing).

Training hides the preference of some rows. Its loss is the bound, whose squared errors have weights by the preference,

.. math:: \frac1V \sum_v b_v\, (x_{0,v} - \hat x_{0,v})^2, \qquad b = b_{min} + (b_{max} - b_{min})\, u,

where u is :math:`F^\top (1 - p)` at items of the user and :math:`F^\top p` at others, scaled to [0, 1] over the items.
Three further terms are added: the squared error of the preference :math:`\mathrm{softmax}(F \hat x)` of what the
latent of the categories decodes to, that of F from the vectors of the categories, and :math:`|\cos|` of both latents.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import Any, Self

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from diffusers_rec.core.entrances import guarded
from diffusers_rec.core.errors import check_float, check_int
from diffusers_rec.core.randomness import isolated_rng, uniform
from diffusers_rec.data.batching import Batch, Examples
from diffusers_rec.data.history import History
from diffusers_rec.data.sequences import Sequences
from diffusers_rec.data.vocabulary import Vocabulary
from diffusers_rec.items.features import AttributeBags, as_bags
from diffusers_rec.nn.category_mlp import CategoryMLP
from diffusers_rec.processes.schedules import NoiseSchedule
from diffusers_rec.processes.timesteps import TimestepSampler
from diffusers_rec.recommenders.trainable import Loss
from diffusers_rec.recommenders.user_diffusion import GaussianVectorModel


@guarded
class CategoryVectorDiffusion(GaussianVectorModel, model_name="category-vector-diffusion"):
    """Gaussian diffusion of user vectors that is guided by categories (Han et al. 2025, *D3Rec*).

    See the module for the guide and the loss. ``recommend(..., features={"preference": rows})`` gives the preferences
    of the call, ``(B, C)``. Features of other names have no effect.

    Args:
        items: See :class:`~diffusers_rec.recommenders.user_vectors.UserVectorModel`.
        num_categories: Number C of categories.
        schedule: Noise levels of the steps.
        widths: Widths of the encoder's layers, multiples of 4; the last is that of the latents.
        max_length: See :class:`~diffusers_rec.recommenders.user_vectors.UserVectorModel`.
        timesteps: Steps that are trained on; ``"importance"`` learns from the weighted losses.
        weighting: Weights of the steps: ``"bound"``, or ``"uniform"`` for 1 at all steps.
        balance: Smallest and largest weight b of an item's squared error.
        scale: Weight w of the guide. 0 is the prediction with the preference, -1 that without.
        drop: Share of the rows whose preference is hidden in training.
        regularisation: Factor of the terms of the categories' vectors and of the angle.
        rounds: Number of times that the chain is run, from N to 1, each time from the end of the last.
        step_dim: See :class:`~diffusers_rec.recommenders.user_vectors.UserVectorModel`.
        dropout: Dropout rate of the corrupted vector.
        temperature: See :class:`~diffusers_rec.recommenders.user_vectors.UserVectorModel`.
        seed: See :class:`~diffusers_rec.recommenders.user_vectors.UserVectorModel`.

    Attributes:
        shares: The matrix F, ``(C, V)``; zero until :meth:`set_categories`.
    """

    shares: Tensor
    network: CategoryMLP

    def __init__(
        self,
        items: Vocabulary | Iterable[Hashable],
        *,
        num_categories: int,
        schedule: NoiseSchedule | str | Mapping[str, Any],
        widths: Sequence[int] = (600, 200),
        max_length: int = 1000,
        timesteps: TimestepSampler | str | Mapping[str, Any] = "importance",
        weighting: str = "bound",
        balance: Sequence[float] = (1.0, 1.0),
        scale: float = -0.5,
        drop: float = 0.3,
        regularisation: float = 1.0,
        rounds: int = 1,
        step_dim: int = 10,
        dropout: float = 0.3,
        temperature: float = 0.1,
        seed: int = 0,
    ) -> None:
        self.num_categories = check_int("num_categories", num_categories, minimum=1)
        super().__init__(
            items,
            schedule=schedule,
            widths=widths,
            max_length=max_length,
            oldest_weight=1.0,
            timesteps=timesteps,
            weighting=weighting,
            step_dim=step_dim,
            dropout=dropout,
            temperature=temperature,
            seed=seed,
        )
        if len(balance) != 2:
            raise ValueError(f"balance must hold two numbers, the smallest and the largest, got {len(balance)}.")
        self.balance = [check_float("each of balance", each, minimum=0) for each in balance]
        self.scale = check_float("scale", scale)
        self.drop = check_float("drop", drop, minimum=0, maximum=1)
        self.regularisation = check_float("regularisation", regularisation, minimum=0)
        self.rounds = check_int("rounds", rounds, minimum=1)
        self.register_buffer("shares", torch.zeros(self.num_categories, len(self.vocabulary)))

    def _new_network(self) -> nn.Module:
        if any(width % 4 for width in self.widths):
            raise ValueError(f"widths must be multiples of 4, got {self.widths}.")
        size = len(self.vocabulary)
        return CategoryMLP(size, self.num_categories, self.widths, step_dim=self.step_dim, dropout=self.dropout)

    def set_categories(self, categories: AttributeBags | Tensor) -> Self:
        """Set the categories of all items.

        Args:
            categories: What :func:`~diffusers_rec.attribute_bags` gives, or indices ``(V, A)``, padded with -1.

        Raises:
            ValueError: Not one row an item, or a category outside 0..C-1.
        """
        bags = as_bags(categories)
        if len(bags) != len(self.vocabulary) or int(bags.max()) >= self.num_categories:
            raise ValueError(
                f"Expected categories of {len(self.vocabulary)} items, below num_categories={self.num_categories}, got "
                f"{len(bags)} rows and a largest index of {int(bags.max())}."
            )
        real = bags >= 0
        found = torch.zeros(len(bags), self.num_categories, dtype=torch.float64)
        found.scatter_add_(1, bags.clamp(min=0), real / real.sum(1, keepdim=True).clamp(min=1).double())
        self.shares.copy_(found.T)
        return self

    def prepare(self, sequences: Sequences, *, examples: Examples = "every-prefix") -> Self:
        """Count the items' popularity; :func:`~diffusers_rec.training.train` calls it.

        Args:
            sequences: Training sequences; items are matched with the model's by id.
            examples: How they become examples; has no effect.

        Raises:
            ValueError: The categories are not set, or the sequences have items that the model does not know.
        """
        if not bool(self.shares.any()):
            raise ValueError("The categories of the items are not set. Call model.set_categories(attribute_bags(...)).")
        return super().prepare(sequences, examples=examples)

    def given(self) -> dict[str, Tensor]:
        """The categories of the items."""
        return {"shares": self.shares}

    def preferences(self, history: History) -> Tensor:
        """Preferences of users, ``(B, C)``: those of the call, or the mean of the shares of their items.

        Raises:
            ValueError: The call's preferences have another number of categories, or are negative or not finite.
        """
        if "preference" in history.features:
            given = history.feature("preference").to(self.shares)
            if given.shape != (len(history), self.num_categories):
                raise ValueError(
                    f"The feature 'preference' must hold one number for each of the {self.num_categories} categories, "
                    f"got {tuple(given.shape)} for {len(history)} users."
                )
            if not bool((given.isfinite() & (given >= 0)).all()):
                raise ValueError(
                    "The feature 'preference' must hold shares of the categories, numbers from 0, got some that are "
                    "negative or not finite. Replace these."
                )
            return given
        with torch.autocast(self.shares.device.type, enabled=False):  # the loss compares them in full precision
            found = (self.vectors(history) > 0).to(self.shares) @ self.shares.T
        return found / found.sum(-1, keepdim=True).clamp(min=1e-12)

    def forward(self, batch: Batch, generator: Generator) -> Loss:
        """The loss of a batch.

        Args:
            batch: Rows of items; which of them are targets has no effect.
            generator: Source of timesteps, noise, dropout and hidden preferences.
        """
        x0, preference = self.vectors(batch.history), self.preferences(batch.history)
        timesteps, weights = self.timesteps.sample((len(x0),), generator, device=x0.device)
        shown = (uniform((len(x0), 1), generator, device=x0.device) >= self.drop).to(x0.dtype)
        xn = self._corrupt(x0, timesteps, generator)
        network, guide = self.network, (preference * shown) @ self.network.categories
        with isolated_rng(generator, self.device):  # dropout draws from torch's global state
            latents = network.encode(xn, self._seen_step(timesteps), guide)
        predicted, of_category = network.decode(latents, guide), network.decode_category(latents.category, guide)
        each_category = network.category_vectors()
        with torch.autocast(x0.device.type, enabled=False):
            squared = (self._balance(x0, preference) * (x0 - predicted.to(x0.dtype)).square()).mean(-1)
            each = self._loss_weight(timesteps).to(x0.dtype) * squared
            bound = (weights.to(x0.dtype) * each).mean()
            stated = (of_category.to(x0.dtype) @ self.shares.T).softmax(-1)
            category = (shown[:, 0] * (stated - preference).square().mean(-1)).mean()
            vectors = F.mse_loss(each_category.to(x0.dtype), self.shares)
            angle = F.cosine_similarity(latents.user.to(x0.dtype), latents.category.to(x0.dtype), eps=1e-12).abs().sum()
            total = bound + category + self.regularisation * (angle + vectors)
        terms = {"bound": bound, "category": category, "vectors": vectors, "angle": angle}
        named = {name: term.detach() for name, term in terms.items()} | {"reconstruction": squared.detach().mean()}
        return Loss(total, named, {"timesteps": timesteps, "per_latent": each.detach()})

    def denoise(self, history: History) -> Tensor:
        """Run the guided chain from the vectors of histories to predicted clean vectors, ``(B, V)``."""
        preference = self.preferences(history)

        def guided(xn: Tensor, timesteps: Tensor) -> Tensor:
            step = self._seen_step(timesteps)
            shown, hidden = (self.network(xn, step, each) for each in (preference, 0 * preference))
            return (1 + self.scale) * shown - self.scale * hidden

        return self._chain(self.vectors(history), guided)

    @property
    def _course(self) -> Sequence[int]:
        """All steps, ``rounds`` times."""
        return [*super()._course] * self.rounds

    def _loss_weight(self, timesteps: Tensor) -> Tensor:
        """The weight of the bound with its factor 1/2 above step 1, or 1."""
        weight = super()._loss_weight(timesteps)
        return torch.where(timesteps > 1, weight / 2, weight) if self.weighting == "bound" else weight

    def _balance(self, x0: Tensor, preference: Tensor) -> Tensor:
        """Weights of the squared errors, ``(B, V)``."""
        wanted, other = preference @ self.shares, (1 - preference) @ self.shares
        return torch.where(x0 > 0, self._scaled(other), self._scaled(wanted))

    def _scaled(self, given: Tensor) -> Tensor:
        low, high = given.amin(-1, keepdim=True), given.amax(-1, keepdim=True)
        smallest, largest = self.balance
        return smallest + (largest - smallest) * (given - low) / (high - low).clamp(min=1e-12)
