r"""Cross-entropy over a catalogue, a chunk of targets at a time.

.. math:: \mathcal L = \frac1M \sum_i \Big( \log \sum_v e^{s_{iv}} - s_{i v_i} \Big),
          \qquad s_{iv} = q_i \cdot k_v + b_v

Its gradient, :math:`(\mathrm{softmax}(s_i) - \mathbb 1_{v_i}) / M` with respect to the scores, needs nothing that comes
after it but one scalar factor. So each chunk's gradient is computed while its scores are at hand, and no score
is kept or computed twice: memory is one chunk's, whatever M and V.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from diffusers_rec.errors import check_int

CHUNK_SCORES = 2**22
"""How many scores (targets x items) are held at once, about 16 MiB in float32."""


def chunked_cross_entropy(
    queries: Tensor,
    keys: Tensor,
    bias: Tensor | None,
    target: Tensor,
    *,
    gradient_dtype: torch.dtype | None = None,
    chunk_scores: int = CHUNK_SCORES,
) -> Tensor:
    """The mean cross-entropy of M targets among V items.

    Args:
        queries: ``(M, D)``.
        keys: ``(V, D)``.
        bias: ``(V,)``, or None.
        target: item indices, ``(M,)``.
        gradient_dtype: of the gradient's matrix products, bfloat16 for speed; that of ``queries`` when None. Scores
            and softmax are always in the precision of ``queries``.
        chunk_scores: the most scores to hold at once; those of one target at the least.

    Returns:
        A scalar, once differentiable with respect to queries, keys and bias.
    """
    rows = max(1, check_int("chunk_scores", chunk_scores, minimum=1) // len(keys))
    apply: Any = _ChunkedCrossEntropy.apply  # torch does not type it
    return apply(queries, keys, bias, target, rows, gradient_dtype or queries.dtype)


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, queries: Tensor, keys: Tensor, bias: Tensor | None, target: Tensor, rows: int, low: torch.dtype
    ) -> Tensor:
        wanted = any(ctx.needs_input_grad)
        total = queries.new_zeros(())
        of_queries, of_keys = (torch.zeros_like(part) if wanted else None for part in (queries, keys))
        of_bias = torch.zeros_like(bias) if wanted and bias is not None else None
        low_keys = keys.to(low)
        for chunk in (slice(start, start + rows) for start in range(0, len(queries), rows)):
            some, true = queries[chunk], target[chunk, None]
            scores = some @ keys.T if bias is None else torch.addmm(bias, some, keys.T)
            scores = scores.log_softmax(-1)
            total -= scores.gather(1, true).sum()
            if of_queries is None or of_keys is None:
                continue
            gradient = scores.exp_()
            gradient.scatter_add_(1, true, gradient.new_full(true.shape, -1.0))
            if of_bias is not None:
                of_bias += gradient.sum(0)
            gradient = gradient.to(low)
            of_queries[chunk] = gradient @ low_keys
            of_keys += gradient.T @ some.to(low)
        if wanted:
            parts = (of_queries, of_keys, of_bias)
            ctx.save_for_backward(*(None if part is None else part / len(queries) for part in parts))
        return total / len(queries)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor | None, ...]:
        parts = (None if part is None else part * factor for part in ctx.saved_tensors)
        return (*parts, None, None, None)
