r"""The replacement process: a position holds its item, or another one.

At step n a position holds its item :math:`x_0` with probability :math:`\bar\alpha_n`, else what was drawn from a fixed
distribution e: a blank with probability b, else any item with the same probability,

.. math:: q(x_n = y \mid x_0) = \bar\alpha_n\, [y = x_0] + (1 - \bar\alpha_n)\, e_y, \qquad
          e_v = \frac{1 - b}{V}, \quad e_\text{blank} = b.

A latent at step n is the latent of an item, or zero for a blank. The head turns a prediction into logits whose softmax
is the distribution of the item at step n, given that it is no blank. A blank has the probability
:math:`(1 - \bar\alpha_n)\, b` whatever the items are, so that the head gives the whole of
:math:`p_n(y \mid \text{history})`, and all of its ratios. With :math:`a = \bar\alpha_n / \bar\alpha_m`, the reverse
step from n to m draws

.. math:: p(x_m = y \mid x_n = x) \propto \big[\, p_n(y) - (1 - a)\, e_y \,\big]_+
          \big( a\, [x = y] + (1 - a)\, e_x \big),

where the first factor is :math:`a\, p_m(y)`, clipped at 0. Austin et al. 2021, *D3PM*; Lou et al. 2024, *SEDD* (the
analytic step); Hu et al. 2025, *PreferGrow*, where b = 0 is pair-wise, b = 1 point-wise, and all between are hybrid.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from diffusers_rec.core.errors import check_float
from diffusers_rec.core.randomness import Generators, uniform
from diffusers_rec.items.choice import inverse_cdf
from diffusers_rec.items.embeddings import ItemEmbedding
from diffusers_rec.items.heads import ItemHead
from diffusers_rec.processes.mask import is_blank, share_kept
from diffusers_rec.processes.process import Corrupted, Process
from diffusers_rec.processes.schedules import NoiseSchedule

CHUNK_SCORES = 2**20
"""How many scores (positions x items) are held at once."""


class ReplacementProcess(Process, name="replacement"):
    """Replaces items by other items or by blanks; see the docstring of the module.

    Args:
        schedule: Noise schedule, shared and not owned; it sets the probability ``alpha_bar`` that an item is kept.
        embedding: Item embedding, shared and not owned.
        head: Item head, shared and not owned.
        blank: Share b of the replaced positions that are blank, in [0, 1].
    """

    requires = frozenset({"schedule", "embedding", "head"})
    entrances = (*Process.entrances, "shown", "log_probabilities", "reverse_probabilities")

    def __init__(
        self, schedule: NoiseSchedule, embedding: ItemEmbedding, head: ItemHead, *, blank: float = 0.0
    ) -> None:
        super().__init__(schedule)
        self.embedding, self.head = embedding, head
        self.blank = check_float("blank", blank, minimum=0, maximum=1)

    def check_fit(self, model: Any) -> None:
        """See :meth:`Component.check_fit <diffusers_rec.Component>`."""
        super().check_fit(model)
        if model.denoiser.prediction != "x0":
            raise ValueError(
                "The parts do not fit: the process 'replacement' reads a distribution from what the head makes of a "
                f"predicted latent, but the denoiser predicts {model.denoiser.prediction}. Use a denoiser that "
                "predicts x0."
            )

    def start(
        self,
        shape: Sequence[int],
        generator: Generators,
        *,
        device: torch.device | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Tensor:
        """Draw items and blanks from e."""
        number = uniform(tuple(shape[:-1]), generator, device=device or torch.device("cpu"))
        return self._latents(self._drawn(number, torch.zeros_like(number))).to(dtype)

    def corrupt(
        self, x0: Tensor, timesteps: Tensor, generator: Generators | None, *, noise: Tensor | None = None
    ) -> Corrupted:
        """Replace each position with probability ``1 - alpha_bar``.

        Args:
            x0: See :meth:`Process.corrupt`.
            timesteps: See :meth:`Process.corrupt`.
            generator: See :meth:`Process.corrupt`.
            noise: Numbers in [0, 1) in float64, the same along D. The integer part of V times a number is the item that
                may replace, and its fraction decides whether it does.
        """
        if noise is None:
            noise = uniform((*x0.shape[:-1], 1), generator, device=x0.device).expand_as(x0)
        items = self.shown(torch.full(x0.shape[:-1], _KEPT, device=x0.device), noise, timesteps)
        return Corrupted(torch.where((items == _KEPT)[..., None], x0, self._latents(items).to(x0.dtype)), noise)

    def shown(self, items: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Items at step n, -1 at blanks, like ``items``.

        Args:
            items: Items at step 0, ``(...)``.
            noise: Noise that :meth:`corrupt` has drawn or was given, ``(..., D)``.
            timesteps: Steps n, integers whose axes are the leading axes of ``items``.
        """
        drawn = self._drawn(noise[..., 0], self._kept(timesteps, noise))
        return torch.where(drawn == _KEPT, items, drawn)

    def step(
        self,
        x0: Tensor,
        xn: Tensor,
        timesteps: Tensor | int,
        previous: Tensor | int,
        generator: Generators | None,
        *,
        eta: float = 1.0,
    ) -> Tensor:
        """Draw latents of items at step m; at m = 0 the prediction itself, from which the head ranks.

        Args:
            x0: Predictions that the head turns into logits, like ``xn``.
            xn: See :meth:`Process.step`.
            timesteps: See :meth:`Process.step`.
            previous: See :meth:`Process.step`.
            generator: See :meth:`Process.step`.
            eta: Randomness of the step, in [0, 1]: the probabilities are raised to the power 1 / eta. 0 takes the
                likeliest item.
        """
        check_float("eta", eta, minimum=0, maximum=1)
        if x0.shape != xn.shape:
            raise ValueError(f"x0 must be like xn, {tuple(xn.shape)}, got {tuple(x0.shape)}.")
        now, then = self._kept(timesteps, xn), self._kept(previous, xn)
        number = uniform(xn.shape[:-1], generator, device=xn.device) if eta else torch.zeros_like(now)
        moves = (then > now) & (then < 1)
        xm = torch.where((then > now)[..., None], x0, xn)
        if bool(moves.any()):
            shown, drawn = xn[moves], []
            size = max(1, CHUNK_SCORES // self.embedding.num_items)
            for start in range(0, len(shown), size):
                rows = slice(start, start + size)
                logits = self.head.logits(x0[moves][rows])
                chances = self._reverse(logits, self._items_of(shown[rows]), now[moves][rows], then[moves][rows])
                scores = (chances.log() / (eta or 1)).log_softmax(-1)
                found = inverse_cdf(scores, number[moves][rows, None])[:, 0] if eta else scores.argmax(-1)
                drawn.append(found)
            items = torch.cat(drawn)
            xm[moves] = self._latents(items.where(items < self.embedding.num_items, -1)).to(xm.dtype)
        return xm

    @property
    def replacing(self) -> Tensor:
        """The distribution e of the V items and, last, of a blank, float64 ``(V + 1,)``."""
        items = self.embedding.num_items
        shares = torch.full((items + 1,), (1 - self.blank) / items, dtype=torch.float64, device=self.embedding.device)
        shares[-1] = self.blank
        return shares

    def log_probabilities(self, logits: Tensor, timesteps: Tensor) -> Tensor:
        r"""Logarithm of :math:`p_n` of the V items and of a blank, float64.

        Args:
            logits: Logits of the items, ``(..., V)``.
            timesteps: Steps n, integers ``(...)``.

        Returns:
            Log-probabilities, ``(..., V + 1)``; minus infinity for a blank that there is none of.
        """
        return self._log_probabilities(logits, self._kept(timesteps, logits))

    def reverse_probabilities(self, logits: Tensor, items: Tensor, timesteps: Tensor, previous: Tensor) -> Tensor:
        r"""Distribution of :math:`x_m` given :math:`x_n` and the prediction, float64.

        Args:
            logits: Logits of the items, ``(..., V)``.
            items: Items at step n, -1 at blanks, ``(...)``.
            timesteps: Steps n, integers ``(...)``.
            previous: Steps m < n, integers ``(...)``.

        Returns:
            Probabilities of the V items and of a blank, ``(..., V + 1)``.
        """
        return self._reverse(logits, items, self._kept(timesteps, logits), self._kept(previous, logits))

    def _reverse(self, logits: Tensor, items: Tensor, now: Tensor, then: Tensor) -> Tensor:
        a, e = (now / then)[..., None], self.replacing
        before = (self._log_probabilities(logits, now).exp() - (1 - a) * e).clamp(min=0)
        own = torch.zeros_like(before).scatter_(-1, items[..., None] % len(e), 1.0)
        chances = before * ((1 - a) * e[items][..., None] + a * own)
        total = chances.sum(-1, keepdim=True)
        return torch.where(total > 0, chances / total, own)

    def _log_probabilities(self, logits: Tensor, kept: Tensor) -> Tensor:
        blank = ((1 - kept) * self.blank)[..., None]
        return torch.cat([logits.double().log_softmax(-1) + (-blank).log1p(), blank.log()], dim=-1)

    def _drawn(self, number: Tensor, kept: Tensor) -> Tensor:
        """Items that numbers in [0, 1) stand for, -1 for a blank and -2 where the item is kept."""
        scaled = number.double() * self.embedding.num_items
        item = scaled.long().clamp(max=self.embedding.num_items - 1)
        fraction = (scaled - item).clamp(max=1 - torch.finfo(scaled.dtype).eps)
        item = torch.where(fraction >= 1 - self.blank * (1 - kept), -1, item)
        return torch.where(fraction < kept, _KEPT, item)

    def _items_of(self, latents: Tensor) -> Tensor:
        """Items ``(R,)`` whose latents ``(R, D)`` are nearest, -1 at blanks."""
        table = self.embedding.table().detach().to(latents.dtype)
        nearest = (latents @ table.T - 0.5 * table.square().sum(-1)).argmax(-1)
        return torch.where(is_blank(latents), -1, nearest)

    def _latents(self, items: Tensor) -> Tensor:
        """Latents of items ``(...)``; zero where the index is negative."""
        return torch.where((items >= 0)[..., None], self.embedding(items.clamp(min=0)), 0.0)

    def _kept(self, timesteps: Tensor | int, like: Tensor) -> Tensor:
        """Probability that an item is kept, float64, with the axes of ``like`` but the last."""
        return share_kept(self.schedule, timesteps, like)[..., 0].expand(like.shape[:-1])


_KEPT = -2
