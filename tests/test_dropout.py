from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import DTYPES, gaussian, seeds

from diffusers_rec.core.randomness import isolated_rng
from diffusers_rec.nn.dropout import Dropout, dropout


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_a_share_p_is_zero_and_the_mean_stays(p):
    x = torch.ones(400, 501, dtype=torch.float64)
    with isolated_rng(0):
        y = dropout(x, p)
    assert (y == 0).double().mean().item() == pytest.approx(p, abs=0.005)
    assert y.mean().item() == pytest.approx(1, abs=0.02)
    assert len(y.unique()) == 2
    passed = (y != 0).double() - (1 - p)
    for shifted in (
        passed.roll(1, 1),
        passed.roll(4, 1),
        passed.roll(1, 0),
    ):  # within a word, between words, between rows
        assert abs((passed * shifted).mean().item()) < 0.005


@given(
    seed=seeds,
    shape=st.lists(st.integers(0, 5), min_size=1, max_size=3),
    p=st.floats(0, 0.99),
    dtype=st.sampled_from(DTYPES),
)
def test_the_same_seed_gives_the_same_bits_in_every_shape_and_dtype(seed, shape, p, dtype):
    x, results = gaussian(*shape, dtype=dtype), []
    for _ in range(2):
        with isolated_rng(seed):
            results.append(dropout(x, p))
    assert results[0].dtype == dtype
    assert results[0].shape == x.shape
    assert torch.equal(*results)


@pytest.mark.parametrize("p", [1e-9, 1 - 1e-9])
def test_the_extremes_stay_finite(p):
    with isolated_rng(0):
        assert dropout(torch.ones(1000), p).isfinite().all()


def test_the_gradient_passes_where_the_value_does():
    x = gaussian(9, 7).requires_grad_()
    with isolated_rng(1):
        y = dropout(x, 0.4)
    y.sum().backward()
    torch.testing.assert_close(x.grad * x.detach(), y.detach())


def test_it_acts_in_training_alone():
    layer, x = Dropout(0.5), gaussian(8, 8)
    assert torch.equal(layer.eval()(x), x)
    with isolated_rng(0):
        assert not torch.equal(layer.train()(x), x)
        assert torch.equal(Dropout(0.0)(x), x)
