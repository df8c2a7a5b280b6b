r"""Cross-entropy over a catalogue, a chunk of targets at a time.

.. math:: \mathcal L = \frac1M \sum_i \Big( \log \sum_v e^{s_{iv}} - s_{i v_i} \Big),
          \qquad s_{iv} = q_i \cdot k_v + b_v

Its gradient, :math:`(\mathrm{softmax}(s_i) - \mathbb 1_{v_i}) / M` with respect to the scores, needs nothing that comes
after it but one scalar factor. So each chunk's gradient is computed while its scores are at hand, and no score
is kept or computed twice: beside the gradients themselves, memory is two chunks', whatever M and V.
"""

from __future__ import annotations

from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from diffusers_rec.core.entrances import explained
from diffusers_rec.core.errors import check_int

CHUNK_SCORES = 2**24
"""How many scores (targets x items) a chunk holds at most, 64 MiB in float32: 16 targets among a million items.

Each chunk also costs a few passes over the keys, so that smaller ones would be slower there.
"""


@explained
def chunked_cross_entropy(
    queries: Tensor,
    keys: Tensor,
    bias: Tensor | None,
    target: Tensor,
    *,
    gradient_dtype: torch.dtype | None = None,
    chunk_scores: int = CHUNK_SCORES,
) -> Tensor:
    """The mean cross-entropy of M targets among V items: ``F.cross_entropy(F.linear(queries, keys, bias), target)``.

    Scores and softmax are in float32, or in float64 where any of queries, keys and bias is, under autocast too. Queries
    that autocast made bfloat16 may thus meet float32 keys; every gradient comes in its own tensor's precision.

    Args:
        queries: ``(M, D)``.
        keys: ``(V, D)``.
        bias: ``(V,)``, or None.
        target: item indices, ``(M,)``.
        gradient_dtype: of the gradient's matrix products, bfloat16 for speed; that of the scores when None.
        chunk_scores: the most scores in a chunk, but those of one target at the least.

    Returns:
        A scalar, once differentiable with respect to queries, keys and bias; NaN without targets, as torch's own.

    Raises:
        ValueError: shapes that do not belong together.
    """
    if queries.ndim != 2 or target.shape != queries.shape[:1]:
        raise ValueError(
            "Expected queries (M, D) and one target for each, (M,), "
            f"got {tuple(queries.shape)} and {tuple(target.shape)}."
        )
    if (
        keys.ndim != 2
        or not len(keys)
        or keys.shape[1] != queries.shape[1]
        or (bias is not None and bias.shape != keys.shape[:1])
    ):
        raise ValueError(
            f"Expected keys (V, D), V at least 1, with D = {queries.shape[1]} as of the queries, and bias (V,) or "
            f"None, got {tuple(keys.shape)} and {None if bias is None else tuple(bias.shape)}."
        )
    rows = max(1, check_int("chunk_scores", chunk_scores, minimum=1) // len(keys))
    dtype = reduce(
        torch.promote_types, (part.dtype for part in (queries, keys, bias) if part is not None), torch.float32
    )
    queries, keys, bias = queries.to(dtype), keys.to(dtype), None if bias is None else bias.to(dtype)
    if not torch.is_grad_enabled():  # which torch does not tell a function's forward: it would compute gradients
        queries, keys, bias = queries.detach(), keys.detach(), None if bias is None else bias.detach()
    apply: Any = _ChunkedCrossEntropy.apply  # torch does not type it
    with torch.autocast(queries.device.type, enabled=False):
        return apply(queries, keys, bias, target, rows, gradient_dtype or dtype)


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, queries: Tensor, keys: Tensor, bias: Tensor | None, target: Tensor, rows: int, low: torch.dtype
    ) -> Tensor:
        parts = zip((queries, keys, bias), ctx.needs_input_grad, strict=False)
        gradients = [torch.zeros_like(part) if part is not None and wanted else None for part, wanted in parts]
        of_queries, of_keys, of_bias = gradients
        total = queries.new_zeros(())
        low_keys = None if of_queries is None else keys.to(low)
        for chunk in (slice(start, start + rows) for start in range(0, len(queries), rows)):
            some, true = queries[chunk], target[chunk, None]
            scores = some @ keys.T if bias is None else torch.addmm(bias, some, keys.T)
            scores = scores.log_softmax(-1)
            total -= scores.gather(1, true).sum()
            if not any(ctx.needs_input_grad):
                continue
            gradient = scores.exp_()
            gradient.scatter_add_(1, true, gradient.new_full(true.shape, -1.0))
            if of_bias is not None:
                of_bias += gradient.sum(0)
            gradient = gradient.to(low)
            if of_queries is not None and low_keys is not None:
                of_queries[chunk] = gradient @ low_keys
            if of_keys is not None:
                of_keys += gradient.T @ some.to(low)
            del scores, gradient  # or they would stand beside the next chunk's
        ctx.save_for_backward(*(None if part is None else part.div_(max(1, len(queries))) for part in gradients))
        return total / len(queries)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor | None, ...]:
        parts = (None if part is None else part * factor for part in ctx.saved_tensors)
        return (*parts, None, None, None)
