"""The encoder ``stochastic`` against the equations of its docstring, pair by pair."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from strategies import gaussian, perturbed, seeds
from torch.nn import functional as F

from diffusers_rec.encoders import StochasticEncoder
from diffusers_rec.nn.gaussians import gaussian_points

HALF, HEADS, LENGTH = 4, 2, 5


def made(seed=0, **settings):
    encoder = StochasticEncoder(2 * HALF, LENGTH, num_heads=HEADS, dropout=0.5, seed=seed, **settings)
    return perturbed(encoder, seed).double().eval()


def distance(one, other):
    """Squared 2-Wasserstein distance of two Gaussians ``(mean, covariance)``, by the trace formula."""
    root = one[1].sqrt()
    return (one[0] - other[0]).square().sum() + (one[1] + other[1] - 2 * (root * other[1] * root).sqrt()).sum()


@given(seed=seeds)
def test_distances_of_points_are_those_of_gaussians(seed):
    latents = gaussian(2, 2 * HALF, seed=seed) * 3
    one, other = ((x[:HALF], F.elu(x[HALF:]) + 1) for x in latents)
    points = gaussian_points(latents)
    torch.testing.assert_close((points[0] - points[1]).square().sum(), distance(one, other))


@pytest.mark.parametrize("free", [-800.0, -30.0, 0.0, 5.0])
def test_points_have_finite_gradients_however_small_a_variance(free):
    latent = torch.tensor([0.0, free], requires_grad=True)
    gaussian_points(latent)[1].backward()
    slope = math.exp(free / 2) / 2 if free <= 0 else (1 + free) ** -0.5 / 2
    assert latent.grad.tolist() == pytest.approx([0, slope])


def of_head(x, head):
    return x.view(HEADS, -1)[head]


def attended(layer, mean, covariance, place, head):
    """Mean and covariance that one place reads from itself and those before it."""
    width = HALF // HEADS

    def projected(name, at):
        return (
            of_head(getattr(layer.mean, name)(mean[at]), head),
            F.elu(of_head(getattr(layer.covariance, name)(covariance[at]), head)) + 1,
        )

    query = projected("query", place)
    scores = [-distance(query, projected("key", at)) / math.sqrt(width) for at in range(place + 1)]
    share = torch.stack(scores).softmax(0)
    means, covariances = zip(*(projected("value", at) for at in range(place + 1)), strict=True)
    return share @ torch.stack(means), share.square() @ torch.stack(covariances)


@given(seed=seeds)
def test_attention_is_a_sum_of_independent_gaussians(seed):
    encoder = made(seed % 1000, num_layers=1)
    latents = gaussian(LENGTH, 2 * HALF, seed=seed)
    layer = encoder.layers[0]
    mean, free = (encoder.norm(x) for x in (latents + encoder.place.weight).chunk(2, dim=-1))
    mean, covariance = F.elu(mean), F.elu(free) + 1
    for place in range(LENGTH):
        heads = [attended(layer, mean, covariance, place, head) for head in range(HEADS)]
        expected = []
        for stream, x, parts in zip(
            (layer.mean, layer.covariance), (mean, covariance), zip(*heads, strict=True), strict=True
        ):
            inner = layer.norm(x[place] + stream.out(torch.cat(parts)))
            expected.append(stream.norm(inner + stream.feed_forward(inner)))
        torch.testing.assert_close(encoder.sequence(latents[None])[0, place], torch.cat(expected))


def test_without_attention_the_mean_reads_the_last_item_alone():
    encoder, latents = made(num_layers=2, attend_means=False), gaussian(1, LENGTH, 2 * HALF)
    other = torch.cat([gaussian(1, LENGTH - 1, 2 * HALF, seed=7), latents[:, -1:]], dim=1)
    one, two = (encoder.sequence(x)[0, -1].chunk(2) for x in (latents, other))
    assert torch.equal(one[0], two[0])
    assert not torch.allclose(one[1], two[1])


def test_heads_must_divide_the_width_of_the_means():
    with pytest.raises(ValueError, match="num_heads must divide dim / 2, the width of the means, got num_heads=4"):
        StochasticEncoder(12, num_heads=4)
