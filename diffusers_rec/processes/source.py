r"""Sources: where a Gaussian chain is centred.

A chain that is centred on c runs on :math:`x_0 - c`: training corrupts the difference, and serving adds c to what the
chain ends on. Zero is the usual choice. A centre that is near the next item leaves the chain less to do.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from diffusers_rec.core.errors import check_float
from diffusers_rec.core.registry import Component
from diffusers_rec.data.history import History
from diffusers_rec.processes.noising import Queries


class Source(Component, ABC, kind="source"):
    """Where the chains of queries are centred. See the module's docstring."""

    entrances = ("centre",)

    @abstractmethod
    def centre(self, history: History, queries: Queries) -> Tensor | None:
        """The centre of each query, from the items that it sees clean; None stands for zero.

        Args:
            history: Histories with latents.
            queries: Q queries about each; the first ``visible`` items of the history are seen.

        Returns:
            ``(B, Q, 1, D)``, zero where nothing is visible; or None.
        """


class ZeroSource(Source, name="zero"):
    """Zero. The default."""

    def centre(self, history: History, queries: Queries) -> Tensor | None:
        return None


class LastItemSource(Source, name="last-item"):
    """The clean latent of the last visible item."""

    def centre(self, history: History, queries: Queries) -> Tensor | None:
        return queries.last_visible(history.latent())[:, :, None]


class HistorySource(Source, name="history"):
    r"""The decayed mean of the clean latents of the v visible items:

    .. math:: c = \frac{\sum_{j=1}^{v} \gamma^{v-j} x_0^{(j)}}{\sum_{j=1}^{v} \gamma^{v-j}}.

    Args:
        decay: Weight gamma of an item relative to the next one, in (0, 1]; 1 is the plain mean.
    """

    def __init__(self, *, decay: float = 0.5) -> None:
        self.decay = check_float("decay", decay, above=0, maximum=1)

    def centre(self, history: History, queries: Queries) -> Tensor | None:
        latents = history.latent()
        age = queries.visible[..., None] - 1 - torch.arange(latents.shape[1], device=latents.device)
        exact = torch.promote_types(latents.dtype, torch.float32)
        weight = torch.where(age >= 0, self.decay ** age.clamp(min=0).to(exact), 0.0)
        share = weight / weight.sum(-1, keepdim=True).clamp(min=1)  # the last visible item has weight 1
        return (share.to(latents.dtype) @ latents)[:, :, None]
