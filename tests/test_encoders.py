"""Encoders against closed forms and against the layers of PyTorch; ``check_component`` tests the contract of each."""

from __future__ import annotations

import pytest
import torch
from strategies import gaussian
from torch import nn
from torch.nn import functional as F

from diffusers_rec import FilterEncoder, History, HistoryEncoder
from diffusers_rec.nn.positional import EPS
from diffusers_rec.testing.inputs import perturbed

DIM, MAX_LENGTH, HEADS = 8, 6, 2
VISIBLE = torch.tensor([[1, 3, 6], [5, 2, 2]])


def states_of(encoder, latents):
    return encoder.states(encoder.encode(History.of_latents(latents, VISIBLE.amax(1))), VISIBLE)


def torch_layer(block, hidden_dim):
    """The layer of PyTorch with the weights of a block."""
    layer = nn.TransformerEncoderLayer(
        DIM, HEADS, hidden_dim, dropout=0.0, activation="gelu", layer_norm_eps=EPS, batch_first=True
    ).double()
    attention, (first, _, _, second) = block.attention, block.feed_forward
    for kind in ("weight", "bias"):
        ours = [getattr(part, kind) for part in (attention.query, attention.key_value)]
        layer.self_attn.register_parameter(f"in_proj_{kind}", nn.Parameter(torch.cat(ours)))
    layer.self_attn.out_proj, layer.linear1, layer.linear2 = attention.out, first, second
    layer.norm1, layer.norm2 = block.attention_norm, block.feed_forward_norm
    return layer


@pytest.mark.parametrize(("name", "causal"), [("positional-transformer", True), ("bidirectional-transformer", False)])
@pytest.mark.parametrize("hidden_dim", [None, 5])
def test_a_positional_transformer_is_that_of_pytorch(name, causal, hidden_dim):
    settings = {"dim": DIM, "max_length": MAX_LENGTH, "num_heads": HEADS, "hidden_dim": hidden_dim}
    encoder = perturbed(HistoryEncoder.build(name, **settings).double().eval())
    latents, network = gaussian(2, MAX_LENGTH, DIM, dtype=torch.float64), encoder.network
    layers = [torch_layer(block, hidden_dim or 4 * DIM) for block in network.blocks]
    for row, visible in enumerate(VISIBLE.tolist()):
        for query, length in enumerate(visible):
            x = network.norm(latents[row : row + 1, :length] + network.place.weight[:length])
            mask = torch.ones(length, length, dtype=torch.bool).triu(1) if causal else None
            for layer in layers:
                x = layer(x, src_mask=mask)
            torch.testing.assert_close(states_of(encoder, latents)[row, query], x[0, -1])


def test_a_filter_is_a_circular_convolution_of_a_window():
    """Of one block: the kernel of a dimension is the inverse transform of its response."""
    encoder = perturbed(FilterEncoder(DIM, MAX_LENGTH, num_layers=1).double().eval())
    latents, (block,) = gaussian(2, MAX_LENGTH, DIM, dtype=torch.float64), encoder.blocks
    frequency = torch.arange(MAX_LENGTH // 2 + 1)
    twice = torch.where((frequency == 0) | (2 * frequency == MAX_LENGTH), 1.0, 2.0).double()  # a wave and its conjugate
    angle = 2 * torch.pi / MAX_LENGTH * torch.arange(MAX_LENGTH)[:, None] * frequency
    real, imaginary = block.response.unbind(-1)
    kernel = ((twice * angle.cos()) @ real - (twice * angle.sin()) @ imaginary) / MAX_LENGTH
    for row, visible in enumerate(VISIBLE.tolist()):
        for query, length in enumerate(visible):
            window = F.pad(latents[row, :length], (0, 0, MAX_LENGTH - length, 0))
            x = encoder.norm(window + encoder.place.weight)
            last = sum(kernel[shift] * x[(MAX_LENGTH - 1 - shift) % MAX_LENGTH] for shift in range(MAX_LENGTH))
            u = block.filter_norm(x[-1] + last)
            expected = block.feed_forward_norm(u + block.feed_forward(u))
            torch.testing.assert_close(states_of(encoder, latents)[row, query], expected)


@pytest.mark.parametrize("name", ["positional-transformer", "bidirectional-transformer", "filter"])
def test_weights_start_as_those_of_bert(name):
    for key, weight in HistoryEncoder.build(name, dim=64).named_parameters():
        if weight.ndim > 1:
            assert weight.std().item() == pytest.approx(0.02, rel=0.1), key
        else:
            assert bool((weight == float("norm" in key and key.endswith("weight"))).all()), key
