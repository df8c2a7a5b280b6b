from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from strategies import built, gaussian, learned, seeds

from diffusers_rec.embeddings import ItemEmbedding
from diffusers_rec.heads import CosineHead, ItemHead, LinearHead, TiedHead
from diffusers_rec.negatives import NegativeSample

ITEMS, WIDTH = 7, 8


def made(name, seed=0, scale="learned"):
    """A head as if trained, and the embedding that it may share."""
    embedding = learned(ItemEmbedding(ITEMS, WIDTH, scale=scale, seed=seed), seed)
    return learned(
        built(ItemHead, name, num_items=ITEMS, dim=WIDTH, embedding=embedding, seed=seed), seed + 1
    ), embedding


heads = st.builds(made, st.sampled_from(ItemHead.names()), seeds, st.sampled_from(["learned", "unit"]))
shapes = st.lists(st.integers(1, 3), min_size=1, max_size=3)


def latents(*shape, seed=3):
    return gaussian(*shape, WIDTH, seed=seed, dtype=torch.float32)


def per_item(head, embedding):
    """What belongs to an item: learned tensors with a row for each."""
    return [p for p in [*head.parameters(), *embedding.parameters()] if len(p) == ITEMS]


@given(made=heads, shape=shapes)
def test_logits_are_an_inner_product(made, shape):
    head, _ = made
    x = latents(*shape)
    bias = head.bias()
    expected = torch.einsum("...d,vd->...v", head.queries(x), head.keys()) + (0 if bias is None else bias)
    assert head.logits(x).shape == (*shape, ITEMS)
    torch.testing.assert_close(head.logits(x), expected, rtol=1e-4, atol=1e-4)


@given(seed=seeds)
def test_linear_logits_are_equation_8(seed):
    head, _ = made("linear", seed)
    assert isinstance(head, LinearHead)
    x = latents(5)
    torch.testing.assert_close(head.logits(x), x @ head.weight.T + head.offset)


@given(seed=seeds, use_bias=st.booleans())
def test_tied_logits_use_the_item_vectors(seed, use_bias):
    embedding = ItemEmbedding(ITEMS, WIDTH, seed=seed)
    head = learned(TiedHead(embedding, use_bias=use_bias))
    x = latents(5)
    torch.testing.assert_close(head.logits(x), x @ embedding.weight.T + (head.offset if use_bias else 0))


@given(seed=seeds, temperature=st.floats(0.01, 2), length=st.floats(0.1, 10))
def test_cosine_logits_are_cosines(seed, temperature, length):
    embedding = ItemEmbedding(ITEMS, WIDTH, seed=seed)
    head, x = CosineHead(embedding, temperature=temperature), latents(5)
    expected = torch.cosine_similarity(x[:, None], embedding.weight, dim=-1) / temperature
    torch.testing.assert_close(head.logits(length * x), expected, rtol=1e-4, atol=1e-4)


@given(made=heads, shape=shapes)
def test_the_loss_is_minus_the_mean_log_softmax(made, shape):
    head, _ = made
    x, target = latents(*shape), torch.randint(ITEMS, shape, generator=torch.Generator().manual_seed(0))
    z = head.logits(x).double()
    expected = z.exp().sum(-1).log() - z.gather(-1, target[..., None])[..., 0]
    torch.testing.assert_close(head.loss(x, target).double(), expected.mean(), rtol=1e-4, atol=1e-4)
    one = (0,) * len(shape)
    torch.testing.assert_close(head.loss(x[one], target[one]).double(), expected[one], rtol=1e-4, atol=1e-4)


@given(made=heads, order=st.permutations(range(ITEMS)))
def test_permuting_item_ids_permutes_the_scores_and_nothing_else(made, order):
    head, embedding = made
    x, order = latents(4), torch.tensor(order)
    before, loss = head.logits(x), head.loss(x, order[:4])
    with torch.no_grad():
        for parameter in per_item(head, embedding):
            parameter.copy_(parameter[order])
    torch.testing.assert_close(head.logits(x), before[:, order])
    torch.testing.assert_close(head.loss(x, torch.arange(4)), loss)


@given(made=heads, chosen=st.lists(st.integers(0, ITEMS - 1), max_size=6))
def test_keys_and_bias_of_some_items_are_those_of_all(made, chosen):
    head, _ = made
    chosen = torch.tensor(chosen, dtype=torch.int64)
    for some, every in zip(head.scoring_keys(chosen), head.scoring_keys(), strict=True):
        assert some is every is None or torch.equal(some, every[chosen])


@given(made=heads, target=st.lists(st.integers(0, ITEMS - 1), min_size=1, max_size=6))
def test_with_every_item_drawn_once_the_sampled_loss_is_the_full_one(made, target):
    head, _ = made
    x, target = latents(len(target)), torch.tensor(target)
    every = NegativeSample(torch.arange(ITEMS), torch.zeros(ITEMS))
    torch.testing.assert_close(head.loss(x, target, every), head.loss(x, target), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ItemHead.names())
def test_logits_stay_float32_under_autocast(name):
    head, _ = made(name)
    x, target = latents(4), torch.arange(4)
    plain = head.logits(x), head.loss(x, target)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert head.logits(x.bfloat16()).dtype == torch.float32
        for expected, got in zip(plain, (head.logits(x), head.loss(x, target)), strict=True):
            assert torch.equal(got, expected)


@pytest.mark.parametrize("name", ItemHead.names())
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_logits_have_the_precision_of_the_weights_but_float32_at_least(name, dtype):
    head, embedding = made(name)
    embedding.to(dtype)
    logits = head.to(dtype).logits(latents(2))
    assert logits.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)


@pytest.mark.parametrize("name", ItemHead.names())
def test_the_loss_teaches_the_latent_and_the_items(name):
    head, embedding = made(name)
    x = latents(4).requires_grad_()
    head.loss(x, torch.arange(4)).backward()
    taught = [x, *head.parameters(), *(embedding.parameters() if "embedding" in head.context else [])]
    assert len(taught) > 1
    assert all(part.grad is not None and part.grad.abs().sum() > 0 for part in taught)


@pytest.mark.parametrize("name", [name for name in ItemHead.names() if "embedding" in ItemHead.named(name).context])
def test_a_shared_embedding_is_saved_by_its_owner_alone(name):
    head, embedding = made(name)
    shared = {id(parameter) for parameter in embedding.parameters()}
    assert not shared & {id(parameter) for parameter in head.parameters()}
    assert not any(value.shape == embedding.weight.shape for value in head.state_dict().values())


@pytest.mark.parametrize("name", ItemHead.names())
def test_the_same_seed_gives_the_same_bits_and_leaves_the_global_state(name):
    before = torch.get_rng_state()
    first, second = built(ItemHead, name, seed=4), built(ItemHead, name, seed=4)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.logits(latents(3)), second.logits(latents(3)))


def test_the_initial_weight_is_small_enough_for_even_odds():
    x = latents(200)
    loss = LinearHead(ITEMS, WIDTH).loss(x, torch.arange(200) % ITEMS)
    assert loss.item() == pytest.approx(math.log(ITEMS), abs=0.3)


@pytest.mark.parametrize("temperature", [0, -1, math.nan])
def test_refuses_a_temperature_that_is_none(temperature):
    with pytest.raises(ValueError, match="temperature must be a finite number above 0"):
        CosineHead(ItemEmbedding(2, 2), temperature=temperature)


def test_a_latent_of_zeros_has_finite_scores():
    for name in ItemHead.names():
        head, _ = made(name)
        assert torch.isfinite(head.logits(torch.zeros(2, WIDTH))).all()
