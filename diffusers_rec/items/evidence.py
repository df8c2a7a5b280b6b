r"""Item predictions: the head's logits plus the exact evidence of the position's own corrupted latent.

.. math:: p(v \mid x_n, \text{history}) \propto \exp\big( \text{logits}_v + l \cdot E_v - q\, \|E_v\|^2 \big),
          \qquad \hat x_0 = \textstyle\sum_v p(v \mid x_n, \text{history})\, E_v

with l and q of :meth:`Process.evidence <diffusers_rec.Process.evidence>`, for Gaussian noise :math:`l = a x_n / s^2`
and :math:`q = a^2 / 2 s^2`. What is left for the denoiser is the distribution given the history and the *other*
positions; the own position is exact. Trained by cross-entropy at every step, the prediction never leaves the hull of
the items, and chains end on items. Dieleman et al. 2022, *CDCD* (score interpolation).

The sum is an inner product of longer vectors, so a head with evidence is a head: chunks, sampled negatives and top-k
work as they do without.
"""

from __future__ import annotations

import torch
from torch import Tensor

from diffusers_rec.items.embeddings import ItemEmbedding
from diffusers_rec.items.heads import ItemHead
from diffusers_rec.processes.process import Process


class EvidenceHead(ItemHead):
    """A head for predictions that are joined with their evidence by :func:`with_evidence`, ``(..., 2 D + 1)``.

    The latents of the items have no gradient here: it would only make them easier to recognise in noise.

    Args:
        head: Head of the logits, shared and not owned.
        embedding: Item embedding, shared and not owned.
    """

    def __init__(self, head: ItemHead, embedding: ItemEmbedding) -> None:
        super().__init__()
        self._shared = head, embedding
        self.fixed_dims = embedding.dim + 1

    def queries(self, latent: Tensor) -> Tensor:
        head, _ = self._shared
        output, evidence = latent[..., : -self.fixed_dims], latent[..., -self.fixed_dims :]
        return torch.cat([head.queries(output), evidence], dim=-1)

    def keys(self, items: Tensor | None = None) -> Tensor:
        head, embedding = self._shared
        latents = (embedding.table() if items is None else embedding(items)).detach()
        return torch.cat([head.keys(items), latents, -latents.square().sum(-1, keepdim=True)], dim=-1)

    def bias(self, items: Tensor | None = None) -> Tensor | None:
        return self._shared[0].bias(items)


def with_evidence(process: Process, output: Tensor, xn: Tensor, timesteps: Tensor) -> Tensor | None:
    """Latents for an :class:`EvidenceHead`; None if the process has no evidence, and the head itself takes ``output``.

    Args:
        process: Process that corrupted the latents.
        output: Output of a denoiser that predicts items, ``(..., D)``.
        xn: Corrupted latents, like ``output``.
        timesteps: Step n of each latent, ``(...)``.
    """
    evidence = process.evidence(xn.detach(), timesteps)
    if evidence is None:
        return None
    linear, quadratic = evidence
    return torch.cat([output.to(linear.dtype), linear, quadratic.expand_as(linear[..., :1])], dim=-1)
