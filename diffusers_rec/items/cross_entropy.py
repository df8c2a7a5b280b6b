r"""Cross-entropy over all items, computed in chunks of targets.

.. math:: \mathcal L = \frac1M \sum_i \Big( \log \sum_v e^{s_{iv}} - s_{i v_i} \Big),
          \qquad s_{iv} = q_i \cdot k_v + b_v

The gradient with respect to the scores is :math:`(\mathrm{softmax}(s_i) - \mathbb 1_{v_i}) / M`, up to a scalar factor
from later operations. The gradient of each chunk is therefore computed together with its scores. No score is kept or
computed twice. In addition to the gradients, memory holds two chunks, for any M and V.
"""

from __future__ import annotations

import math
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from diffusers_rec.core.entrances import explained
from diffusers_rec.core.errors import check_int

CHUNK_SCORES = 2**24
"""Maximum number of scores (targets x items) in a chunk: 64 MiB in float32, or 16 targets for a million items.

Each chunk also costs a few passes over the keys, so smaller chunks would be slower.
"""

ALIGNMENT = 16
"""Divisor of the length of a row of scores in memory: matrix products into rows of odd lengths take up to 2.5 times as
long. Scores in excess are minus infinity."""


@explained
def chunked_cross_entropy(
    queries: Tensor,
    keys: Tensor,
    bias: Tensor | None,
    target: Tensor,
    *,
    gradient_dtype: torch.dtype | None = None,
    fixed: int = 0,
    weights: Tensor | None = None,
    chunk_scores: int = CHUNK_SCORES,
) -> Tensor:
    """Mean cross-entropy of M targets among V items, ``F.cross_entropy(F.linear(queries, keys, bias), target)``.

    Scores and softmax are computed in float32, or in float64 if queries, keys or bias are float64, also under autocast.
    Queries that autocast has cast to bfloat16 may be combined with float32 keys. Every gradient has the dtype of its
    tensor.

    Args:
        queries: Query vectors, ``(M, D)``.
        keys: Key vectors of the items, ``(V, D)``.
        bias: Biases of the items, ``(V,)``; no bias if None.
        target: Item indices of the targets, ``(M,)``.
        gradient_dtype: Dtype of the matrix products of the gradient, such as bfloat16 for speed; the dtype of the
            scores if None.
        fixed: Number of trailing dimensions of D that have no gradient in queries and keys.
        weights: Weights of the targets in the mean, ``(M,)``, of which one is positive; all equal if None.
        chunk_scores: Maximum number of scores in a chunk; a chunk has at least one target.

    Returns:
        A scalar that is once differentiable with respect to queries, keys and bias; NaN without targets, as in PyTorch.

    Raises:
        ValueError: Shapes do not match.
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
    check_int("fixed", fixed, minimum=0, maximum=keys.shape[1])
    rows = max(1, check_int("chunk_scores", chunk_scores, minimum=1) // _aligned(len(keys)))
    if weights is not None and weights.shape != target.shape:
        raise ValueError(f"Expected one weight for each target, {tuple(target.shape)}, got {tuple(weights.shape)}.")
    dtype = reduce(
        torch.promote_types, (part.dtype for part in (queries, keys, bias) if part is not None), torch.float32
    )
    queries, keys, bias = queries.to(dtype), keys.to(dtype), None if bias is None else bias.to(dtype)
    if not torch.is_grad_enabled():  # unknown within an autograd function, which would compute gradients
        queries, keys, bias = queries.detach(), keys.detach(), None if bias is None else bias.detach()
    apply: Any = _ChunkedCrossEntropy.apply  # PyTorch does not annotate it
    with torch.autocast(queries.device.type, enabled=False):
        each = None if weights is None else relative(weights.to(dtype))
        return apply(queries, keys, bias, target, rows, gradient_dtype or dtype, queries.shape[1] - fixed, each)


def relative(weights: Tensor) -> Tensor:
    """Divide weights by their mean."""
    return weights / weights.mean()


def _aligned(length: int) -> int:
    return -(-length // ALIGNMENT) * ALIGNMENT


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        keys: Tensor,
        bias: Tensor | None,
        target: Tensor,
        rows: int,
        low: torch.dtype,
        learned: int,
        weights: Tensor | None,
    ) -> Tensor:
        parts = zip((queries, keys, bias), ctx.needs_input_grad, strict=False)
        gradients = [torch.zeros_like(part) if part is not None and wanted else None for part, wanted in parts]
        of_queries, of_keys, of_bias = gradients
        total = queries.new_zeros(())
        low_keys = None if of_queries is None else keys[:, :learned].to(low)
        for chunk in (slice(start, start + rows) for start in range(0, len(queries), rows)):
            some, true = queries[chunk], target[chunk, None]
            scores = queries.new_empty(len(some), _aligned(len(keys)))
            scores[:, len(keys) :] = -math.inf
            if bias is None:
                torch.mm(some, keys.T, out=scores[:, : len(keys)])
            else:
                torch.addmm(bias, some, keys.T, out=scores[:, : len(keys)])
            softmax = scores.softmax(-1)
            # The largest score s has softmax exp(s - logsumexp), which never underflows.
            logsumexp = scores.amax(1, keepdim=True) - softmax.amax(1, keepdim=True).log()
            found = scores.gather(1, true) - logsumexp
            del scores  # free it before more is computed
            total -= (found if weights is None else found * weights[chunk, None]).sum()
            if not any(ctx.needs_input_grad):
                continue
            gradient = softmax.scatter_add_(1, true, softmax.new_full(true.shape, -1.0))
            if weights is not None:
                gradient *= weights[chunk, None]
            if of_bias is not None:
                of_bias += gradient[:, : len(keys)].T @ gradient.new_ones(len(some))
            gradient = gradient.to(low)[:, : len(keys)]
            if of_queries is not None and low_keys is not None:
                of_queries[chunk, :learned] = gradient @ low_keys
            if of_keys is not None:
                of_keys[:, :learned] += gradient.T @ some[:, :learned].to(low)
            del softmax, gradient
        ctx.save_for_backward(*gradients)
        ctx.count = max(1, len(queries))
        return total / len(queries)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor | None, ...]:
        parts = (None if part is None else part * (factor / ctx.count) for part in ctx.saved_tensors)
        return (*parts, None, None, None, None, None)
