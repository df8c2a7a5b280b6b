from __future__ import annotations

import weakref
from itertools import product

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import gaussian, seeded
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from diffusers_rec import chunked_cross_entropy
from diffusers_rec.items.cross_entropy import CHUNK_SCORES


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


@pytest.mark.parametrize("learns", list(product([False, True], repeat=3)), ids=str)
def test_only_what_learns_gets_a_gradient_and_none_is_computed_for_the_others(learns):
    *parts, target = case(6, 4)
    parts = [part.detach().requires_grad_(wanted) for part, wanted in zip(parts, learns, strict=True)]
    with _Watch() as watch:
        loss = chunked_cross_entropy(*parts, target)
    products = watch.operations.count("aten.mm") + watch.operations.count("aten.addmm")
    assert products == 1 + sum(learns[:2])
    if any(learns):
        loss.backward()
    assert [part.grad is not None and bool(part.grad.any()) for part in parts] == list(learns)


def test_without_gradients_it_is_just_the_value():
    *parts, target = case(6, 4)
    with torch.no_grad(), _Watch() as watch:
        loss = chunked_cross_entropy(*parts, target, chunk_scores=9)
    assert not loss.requires_grad
    assert "aten.mm" not in watch.operations
    assert "aten.zeros_like" not in watch.operations
    torch.testing.assert_close(loss, F.cross_entropy(F.linear(*parts), target))


@given(targets=st.integers(1, 9), chunk=st.integers(1, 70), first=st.sampled_from([0.0, 0.5, 3.0]))
def test_weights_give_a_weighted_mean(targets, chunk, first):
    *parts, target = case(targets, 4)
    weights = torch.arange(1.0, targets + 1)
    weights[0] = first + (targets == 1)
    loss = chunked_cross_entropy(*parts, target, weights=weights, chunk_scores=chunk)
    expected = weights @ F.cross_entropy(F.linear(*parts), target, reduction="none").float() / weights.sum()
    torch.testing.assert_close(loss.float(), expected)
    exact = (weights.double() / weights.sum()) @ F.cross_entropy(F.linear(*parts), target, reduction="none")
    for got, wanted in zip(*(torch.autograd.grad(x, parts) for x in (loss, exact)), strict=True):
        torch.testing.assert_close(got, wanted)


def test_there_is_one_weight_for_each_target():
    *parts, target = case(3, 4)
    with pytest.raises(ValueError, match=r"Expected one weight for each target, \(3,\), got \(2,\)"):
        chunked_cross_entropy(*parts, target, weights=torch.ones(2))


@given(fixed=st.integers(0, 5), chunk=st.integers(1, 70))
def test_fixed_dimensions_count_and_have_no_gradient(fixed, chunk):
    *parts, target = case(6, 4)
    loss = chunked_cross_entropy(*parts, target, fixed=fixed, chunk_scores=chunk)
    expected = F.cross_entropy(F.linear(*parts), target)
    torch.testing.assert_close(loss, expected)
    for got, exact in zip(*(torch.autograd.grad(x, parts) for x in (loss, expected)), strict=True):
        learned = exact.shape[-1] - (fixed if exact.ndim == 2 else 0)
        torch.testing.assert_close(got[..., :learned], exact[..., :learned])
        assert not got[..., learned:].any()


def test_no_more_dimensions_are_fixed_than_there_are():
    *parts, target = case(6, 4)
    with pytest.raises(ValueError, match="fixed must be an integer >= 0 and <= 5, got 6"):
        chunked_cross_entropy(*parts, target, fixed=6)


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


def test_autocast_leaves_the_scores_in_their_precision():
    *parts, target = case(6, 4, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        loss = chunked_cross_entropy(*parts, target)
    assert torch.equal(loss, chunked_cross_entropy(*parts, target))


@pytest.mark.parametrize("keys_dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("queries_dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_queries_and_keys_may_differ_in_precision(queries_dtype, keys_dtype):
    *parts, target = case(6, 4, dtype=torch.float32)
    dtypes = queries_dtype, keys_dtype, torch.bfloat16
    given = [part.detach().to(dtype).requires_grad_() for part, dtype in zip(parts, dtypes, strict=True)]
    wide = torch.float64 if torch.float64 in dtypes else torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        loss = chunked_cross_entropy(*given, target)
    expected = F.cross_entropy(F.linear(*(part.to(wide) for part in given)), target)
    assert loss.dtype == wide
    torch.testing.assert_close(loss, expected)
    for got, exact in zip(*(torch.autograd.grad(x, given) for x in (loss, expected)), strict=True):
        torch.testing.assert_close(got, exact)


def test_a_model_of_ones_own_trains_under_autocast():
    """Its last layer gives bfloat16 there, its table stays float32."""
    layer, table = torch.nn.Linear(5, 5), gaussian(9, 5, seed=1, dtype=torch.float32).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        queries = layer(gaussian(3, 5, dtype=torch.float32))
        loss = chunked_cross_entropy(queries, table, None, torch.tensor([1, 8, 0]))
    loss.backward()
    assert queries.dtype == torch.bfloat16
    assert loss.dtype == table.grad.dtype == layer.weight.grad.dtype == torch.float32
    assert table.grad.any()
    assert layer.weight.grad.any()


def test_no_targets_teach_nothing():
    queries, keys, bias, target = case(0, 4)
    loss = chunked_cross_entropy(queries, keys, bias, target)
    loss.backward()
    assert loss.isnan()
    assert not keys.grad.any()
    assert not bias.grad.any()


class _Watch(TorchDispatchMode):
    """The operations, the most numbers in any tensor that one returns, and the most that stand at once."""

    def __init__(self):
        super().__init__()
        self.operations, self.largest, self.standing, self.most = [], 0, [], 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        self.operations.append(str(operation.overloadpacket))
        for part in result if isinstance(result, tuple) else (result,):
            if isinstance(part, torch.Tensor):
                self.largest = max(self.largest, part.numel())
                storage = part.untyped_storage()
                self.standing.append((weakref.ref(part), storage.data_ptr(), storage.nbytes() // part.element_size()))
        self.standing = [each for each in self.standing if each[0]() is not None]
        self.most = max(self.most, sum({at: size for _, at, size in self.standing}.values()))
        return result


@pytest.mark.parametrize("low", [None, torch.bfloat16])
def test_no_tensor_is_larger_than_a_chunk_and_two_stand_at_once(low):
    queries, keys, bias, target = case(600, 64, dtype=torch.float32)
    with _Watch() as watch:
        loss = chunked_cross_entropy(queries, keys, bias, target, chunk_scores=3200, gradient_dtype=low)
    assert watch.most < 2.5 * 3200 + 2 * queries.numel() + 4 * keys.numel()  # theirs and their gradients
    with watch:
        loss.backward()
    assert watch.largest == 3200


@pytest.mark.parametrize("items", [40_000, 1_000_000, CHUNK_SCORES // 2 + 1])
def test_a_chunk_holds_no_more_than_it_says_however_many_items(items):
    targets = 2 * CHUNK_SCORES // items
    queries, keys = torch.zeros(targets, 1), torch.zeros(items, 1)
    with torch.no_grad(), _Watch() as watch:
        chunked_cross_entropy(queries, keys, None, torch.arange(targets))
    assert CHUNK_SCORES / 2 < watch.largest <= CHUNK_SCORES


@pytest.mark.parametrize("chunk", [0, -4])
def test_refuses_an_empty_chunk(chunk):
    with pytest.raises(ValueError, match="chunk_scores must be an integer >= 1"):
        chunked_cross_entropy(*case(2, 2), chunk_scores=chunk)


@pytest.mark.parametrize("targets", [4, 7])
def test_refuses_targets_that_are_not_one_a_query(targets):
    queries, keys, bias, _ = case(6, 4)
    with pytest.raises(ValueError, match=r"one target for each"):
        chunked_cross_entropy(queries, keys, bias, torch.zeros(targets, dtype=torch.int64))


@pytest.mark.parametrize(
    ("keys", "bias"),
    [((4, 3), None), ((4,), None), ((0, 5), None), ((4, 5), (1,)), ((4, 5), (5,)), ((4, 5), (4, 1))],
    ids=str,
)
def test_refuses_keys_and_a_bias_that_do_not_belong_to_the_queries(keys, bias):
    queries, *_, target = case(6, 4)
    with pytest.raises(
        ValueError, match=r"Expected keys \(V, D\), V at least 1, with D = 5 .* bias \(V,\) or None, got"
    ):
        chunked_cross_entropy(queries, torch.zeros(keys), None if bias is None else torch.zeros(bias), target)
