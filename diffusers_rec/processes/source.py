r"""Sources: the centre of a Gaussian chain.

A chain with centre c diffuses :math:`x_0 - c`. Training corrupts this difference, and serving adds c to the end of the
chain. Zero is the usual choice. If the centre is near the next item, the denoiser has less to predict.
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
    """Centre of the chains of queries. See the docstring of the module."""

    entrances = ("centre",)

    @abstractmethod
    def centre(self, history: History, queries: Queries) -> Tensor | None:
        """Centre of each query, computed from the items that it sees clean; None means zero.

        Args:
            history: Histories with latents.
            queries: Q queries per history; each sees the first ``visible`` items.

        Returns:
            Centres ``(B, Q, 1, D)``, zero where no item is visible; or None.
        """


class ZeroSource(Source, name="zero"):
    """The centre zero. The default."""

    def centre(self, history: History, queries: Queries) -> Tensor | None:
        return None


class LastItemSource(Source, name="last-item"):
    """The clean latent of the last visible item as centre."""

    def centre(self, history: History, queries: Queries) -> Tensor | None:
        return queries.last_visible(history.latent())[:, :, None]


class HistorySource(Source, name="history"):
    r"""The decayed mean of the clean latents of the v visible items as centre:

    .. math:: c = \frac{\sum_{j=1}^{v} \gamma^{v-j} x_0^{(j)}}{\sum_{j=1}^{v} \gamma^{v-j}}.

    Args:
        decay: Weight gamma of an item relative to the next one, in (0, 1]; 1 is the arithmetic mean.
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
