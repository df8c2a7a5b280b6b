from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import gaussian, seeded
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from diffusers_rec.cross_entropy import chunked_cross_entropy


def case(targets, items, use_bias=True, dtype=torch.float64):
    queries, keys = (gaussian(rows, 5, seed=rows, dtype=dtype).requires_grad_() for rows in (targets, items))
    bias = gaussian(items, seed=3, dtype=dtype).requires_grad_() if use_bias else None
    return queries, keys, bias, torch.randint(items, (targets,), generator=seeded(targets))


@given(targets=st.integers(1, 9), items=st.integers(1, 7), use_bias=st.booleans(), chunk=st.integers(1, 70))
def test_value_and_gradients_are_those_of_the_whole(targets, items, use_bias, chunk):
    *parts, target = case(targets, items, use_bias)
    wanted = [part for part in parts if part is not None]
    loss = chunked_cross_entropy(*parts, target, chunk_scores=chunk)
    expected = F.cross_entropy(F.linear(*parts), target)
    torch.testing.assert_close(loss, expected)
    factor = torch.tensor(-2.5, dtype=torch.float64)
    for got, exact in zip(*(torch.autograd.grad(x, wanted, factor) for x in (loss, expected)), strict=True):
        torch.testing.assert_close(got, exact)


def test_only_what_learns_gets_a_gradient():
    queries, keys, bias, target = case(6, 4)
    chunked_cross_entropy(queries.detach(), keys, bias, target).backward()
    assert queries.grad is None
    assert keys.grad.any()
    assert bias.grad.any()


def test_without_gradients_it_is_just_the_value():
    *parts, target = case(6, 4)
    with torch.no_grad():
        loss = chunked_cross_entropy(*parts, target, chunk_scores=9)
    assert not loss.requires_grad
    torch.testing.assert_close(loss, F.cross_entropy(F.linear(*parts), target))


@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_extreme_scores_stay_finite(scale):
    queries, keys, bias, target = case(6, 4, dtype=torch.float32)
    loss = chunked_cross_entropy(queries * scale, keys, bias, target)
    loss.backward()
    torch.testing.assert_close(loss, F.cross_entropy(F.linear(queries * scale, keys, bias), target))
    assert torch.isfinite(queries.grad).all()


def test_a_low_precision_gradient_is_close_and_its_loss_the_same():
    *parts, target = case(64, 50, dtype=torch.float32)
    exact = chunked_cross_entropy(*parts, target)
    low = chunked_cross_entropy(*parts, target, gradient_dtype=torch.bfloat16)
    assert torch.equal(exact, low)
    for a, b in zip(torch.autograd.grad(exact, parts), torch.autograd.grad(low, parts), strict=True):
        assert b.dtype == torch.float32
        assert (a - b).norm() < 0.01 * a.norm()


class _Largest(TorchDispatchMode):
    """The most numbers in any tensor that an operation returns."""

    def __init__(self):
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        for part in result if isinstance(result, tuple) else (result,):
            self.numel = max(self.numel, part.numel() if isinstance(part, torch.Tensor) else 0)
        return result


def test_no_tensor_is_larger_than_a_chunk():
    queries, keys, bias, target = case(600, 40)
    with _Largest() as largest:
        chunked_cross_entropy(queries, keys, bias, target, chunk_scores=3200).backward()
    assert largest.numel == 3200


@pytest.mark.parametrize("chunk", [0, -4])
def test_refuses_an_empty_chunk(chunk):
    with pytest.raises(ValueError, match="chunk_scores must be an integer >= 1"):
        chunked_cross_entropy(*case(2, 2), chunk_scores=chunk)
