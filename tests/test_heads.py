from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import built, gaussian, over, perturbed, seeds

from diffusers_rec.items.embeddings import ItemEmbedding, TableEmbedding
from diffusers_rec.items.heads import CosineHead, ItemHead, LinearHead, TiedHead, WassersteinHead
from diffusers_rec.testing.embeddings import with_features
from diffusers_rec.testing.heads import CLAUSES

ITEMS, WIDTH = 7, 8


EMBEDDINGS = [
    "table",
    {"name": "features", "num_features": 5, "hidden": 6},
    {"name": "table+features", "features": {"name": "attributes", "num_attributes": 6}},
]


def made(name, seed=0, scale="learned", spec="table"):
    """A head as if trained, in float64."""
    embedding = with_features(ItemEmbedding.build_with({"num_items": ITEMS, "dim": WIDTH, "seed": seed}, spec))
    embedding.scale = scale
    embedding = perturbed(embedding, seed).double()
    head = built(ItemHead, name, num_items=ITEMS, dim=WIDTH, embedding=embedding, seed=seed)
    return perturbed(head, seed + 1).double()


heads = st.builds(
    made, st.sampled_from(ItemHead.names()), seeds, st.sampled_from(["learned", "unit"]), st.sampled_from(EMBEDDINGS)
)


def latents(*shape, seed=3):
    return gaussian(*shape, WIDTH, seed=seed, dtype=torch.float32)


@over(CLAUSES)
@given(head=heads)
def test_every_head_keeps_its_contract(clause, head):
    clause(head)


@given(seed=seeds)
def test_linear_logits_are_equation_8(seed):
    head, x = perturbed(LinearHead(ITEMS, WIDTH, seed=seed)), latents(5)
    torch.testing.assert_close(head.logits(x), x @ head.weight.T + head.offset)


@given(seed=seeds, use_bias=st.booleans())
def test_tied_logits_use_the_item_vectors(seed, use_bias):
    embedding = TableEmbedding(ITEMS, WIDTH, seed=seed)
    head = perturbed(TiedHead(embedding, use_bias=use_bias))
    x = latents(5)
    torch.testing.assert_close(head.logits(x), x @ embedding.weight.T + (head.offset if use_bias else 0))


@given(seed=seeds, temperature=st.floats(0.01, 2), length=st.floats(0.1, 10))
def test_cosine_logits_are_cosines(seed, temperature, length):
    embedding = TableEmbedding(ITEMS, WIDTH, seed=seed)
    head, x = CosineHead(embedding, temperature=temperature), latents(5)
    expected = torch.cosine_similarity(x[:, None], embedding.weight, dim=-1) / temperature
    torch.testing.assert_close(head.logits(length * x), expected, rtol=1e-4, atol=1e-4)


@given(seed=seeds)
def test_wasserstein_logits_are_squared_distances_of_gaussians(seed):
    embedding = perturbed(TableEmbedding(ITEMS, WIDTH, seed=seed)).double()
    x = gaussian(5, WIDTH, seed=seed)
    mean, free = torch.cat([x, embedding.weight]).chunk(2, dim=-1)
    covariance = torch.nn.functional.elu(free) + 1
    means = (mean[:5, None] - mean[5:]).square().sum(-1)
    # The trace of the covariances, less twice the root of their product: all are diagonal.
    traces = covariance[:5, None] + covariance[5:] - 2 * (covariance[:5, None] * covariance[5:]).sqrt()
    torch.testing.assert_close(WassersteinHead(embedding).logits(x), -(means + traces.sum(-1)))


def test_the_wasserstein_head_needs_two_halves():
    with pytest.raises(ValueError, match="dim must be even, for means and covariances of the same width, got 3"):
        WassersteinHead(TableEmbedding(2, 3))


def test_the_initial_weight_is_small_enough_for_even_odds():
    x = latents(200)
    loss = LinearHead(ITEMS, WIDTH).loss(x, torch.arange(200) % ITEMS)
    assert loss.item() == pytest.approx(math.log(ITEMS), abs=0.3)


@pytest.mark.parametrize("temperature", [0, -1, math.nan])
def test_refuses_a_temperature_that_is_none(temperature):
    with pytest.raises(ValueError, match="temperature must be a finite number above 0"):
        CosineHead(TableEmbedding(2, 2), temperature=temperature)
