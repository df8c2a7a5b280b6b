from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import built, over, seeds

from diffusers_rec.items.embeddings import ItemEmbedding
from diffusers_rec.nn.step_embedding import step_embedding
from diffusers_rec.testing.embeddings import CLAUSES

tables = st.builds(
    lambda name, **settings: built(ItemEmbedding, {"name": name, **settings}),
    st.sampled_from(ItemEmbedding.names()),
    num_items=st.integers(1, 9),
    dim=st.integers(2, 12),  # at unit scale a single dimension has but its sign, and nothing to learn
    scale=st.sampled_from(["learned", "unit"]),
    init_std=st.floats(1e-3, 10),
    seed=seeds,
)


@over(CLAUSES)
@settings(max_examples=20)
@given(table=tables)
def test_every_embedding_keeps_its_contract(clause, table):
    clause(table)


@given(table=tables, factor=st.floats(1e-3, 1e3))
def test_unit_scale_has_the_norm_of_the_noise(table, factor):
    """||x0||^2 = D, whatever the length and along the learned direction."""
    unit = ItemEmbedding(table.num_items, table.dim, scale="unit", init_std=table.init_std, seed=table.seed)
    with torch.no_grad():
        unit.weight *= factor
    norms = unit.table().norm(dim=-1)
    torch.testing.assert_close(norms, torch.full_like(norms, math.sqrt(table.dim)))
    cosine = torch.cosine_similarity(unit.table(), unit.weight, dim=-1)
    torch.testing.assert_close(cosine, torch.ones_like(cosine))


def test_a_vector_of_zeros_stays_finite_at_unit_scale():
    table = ItemEmbedding(2, 4, scale="unit")
    with torch.no_grad():
        table.weight.zero_()
    table(torch.tensor([0, 1])).sum().backward()
    assert torch.isfinite(table.table()).all()
    assert torch.isfinite(table.weight.grad).all()


@pytest.mark.parametrize("init_std", [0.1, 1.0, 4.0])
def test_initial_vectors_have_the_spread_asked(init_std):
    assert ItemEmbedding(2000, 64, init_std=init_std).weight.std().item() == pytest.approx(init_std, rel=0.02)


@pytest.mark.parametrize("scale", ["learned", "unit"])
def test_only_the_items_asked_learn(scale):
    table = ItemEmbedding(5, 4, scale=scale)
    (table(torch.tensor([1, 3, 3])) * torch.arange(4.0)).sum().backward()
    moved = table.weight.grad.abs().sum(-1) > 0
    assert moved.tolist() == [False, True, False, True, False]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_items": 0}, "num_items must be an integer >= 1, got 0"),
        ({"dim": 0}, "dim must be an integer >= 1, got 0"),
        ({"scale": "norm"}, "scale must be one of 'learned', 'unit', got 'norm'"),
        ({"init_std": 0}, "init_std must be a finite number above 0, got 0"),
        ({"seed": -1}, "seed must be an integer >= 0, got -1"),
    ],
)
def test_refuses_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        ItemEmbedding(**{"num_items": 3, **settings})


@given(dim=st.integers(1, 16).map(lambda half: 2 * half), steps=st.lists(st.integers(0, 2000), min_size=1, max_size=5))
def test_step_embedding_is_equation_15(dim, steps):
    expected = np.zeros((len(steps), dim))
    for row, n in enumerate(steps):
        for j in range(dim // 2):
            expected[row, 2 * j] = math.sin(n / 10000 ** (2 * j / dim))
            expected[row, 2 * j + 1] = math.cos(n / 10000 ** (2 * j / dim))
    got = step_embedding(torch.tensor(steps), dim)
    assert got.dtype == torch.float32
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-3)  # float32 angles of up to 2000 radians


@given(shape=st.lists(st.integers(1, 3), max_size=3))
def test_step_embedding_keeps_the_shape(shape):
    steps = torch.arange(math.prod(shape)).view(shape)
    assert step_embedding(steps, 6).shape == (*shape, 6)
    assert torch.equal(step_embedding(steps, 6).view(-1, 6), step_embedding(steps.reshape(-1), 6))
