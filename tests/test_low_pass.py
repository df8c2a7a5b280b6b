from __future__ import annotations

import math

import pytest
import torch
from strategies import gaussian

from diffusers_rec.encoders import CausalTransformerEncoder
from diffusers_rec.nn.low_pass import LowPass
from diffusers_rec.testing import check_component


def test_the_filter_is_the_first_lobe_of_three_frequencies():
    wave = [(1 + 2 * math.cos(2 * math.pi * k / 50) + 2 * math.cos(4 * math.pi * k / 50)) / 50 for k in range(10)]
    assert LowPass(4, 0.5).kernel.tolist() == pytest.approx([*wave, *[0.0] * 40], abs=1e-7)


def test_smooth_and_sharp_parts_against_a_plain_loop():
    mix = LowPass(3, 0.6).double()
    sequence, attended = gaussian(2, 15, 3, seed=1), gaussian(2, 15, 3, seed=2)
    place = torch.arange(15)
    found = mix(sequence, sequence, place[:, None] - place, attended)
    for t in range(15):
        smooth = sum(mix.kernel[k] * sequence[:, t - k] for k in range(t + 1))
        sharp = mix.sharpness**2 * (sequence[:, t] - smooth)
        torch.testing.assert_close(found[:, t], 0.6 * (smooth + sharp) + 0.4 * attended[:, t])


@pytest.mark.parametrize("num_layers", [1, 2])
def test_an_encoder_with_the_filter_keeps_its_contract(num_layers):
    check_component(CausalTransformerEncoder, low_pass=0.7, num_layers=num_layers)
