"""The denoisers ``bidirectional`` and ``cloze``; the tests of ``maskgr`` and ``bert4rec`` compare them with code."""

from __future__ import annotations

import pytest
import torch
from strategies import gaussian

from diffusers_rec import BidirectionalDenoiser, ClozeDenoiser
from diffusers_rec.data import History
from diffusers_rec.nn.rotary import rotated
from diffusers_rec.testing.inputs import perturbed
from diffusers_rec.testing.queries import queries_of

DIM = 8


def predicted(denoiser, latents, visible, steps=3):
    """Predictions behind the first ``visible`` positions of a sequence ``(L, D)``, which are the history."""
    history = History.of_latents(latents[None, :visible], torch.tensor([visible]))
    count = len(latents) - visible
    condition = denoiser.condition(denoiser.encode(history), queries_of(*torch.tensor([[[visible]], [[count]]]), count))
    return denoiser(latents[None, None, visible:], torch.tensor([[steps]]), condition)[0, 0]


both = pytest.mark.parametrize("cls", [BidirectionalDenoiser, ClozeDenoiser])


@both
@pytest.mark.parametrize("visible", [0, 1, 2, 3])
def test_history_and_known_positions_are_one_sequence(cls, visible):
    denoiser = perturbed(cls(DIM, 6).double().eval())
    latents = gaussian(6, DIM, dtype=torch.float64)
    latents[3] = latents[5] = 0
    expected = predicted(denoiser, latents, 0)[visible:]
    torch.testing.assert_close(predicted(denoiser, latents, visible), expected)
    assert not torch.allclose(expected[3 - visible], expected[5 - visible]), "two blanks at different places"


@both
def test_the_number_of_blanks_takes_the_place_of_the_step(cls):
    denoiser = perturbed(cls(DIM, 6).double().eval())
    latents = gaussian(5, DIM, dtype=torch.float64)
    latents[2] = 0
    assert torch.equal(predicted(denoiser, latents, 1, 1), predicted(denoiser, latents, 1, 900))
    more = latents.clone()
    more[4] = 0
    assert not torch.allclose(predicted(denoiser, latents, 1)[1], predicted(denoiser, more, 1)[1])


def test_only_distances_count():
    query, key = gaussian(2, 7, 6, dtype=torch.float64)
    places = torch.tensor([0, 1, 2, 5, 9, 11, 30])
    scores = [rotated(query, places + shift) @ rotated(key, places + shift).mT for shift in (0, 17)]
    torch.testing.assert_close(*scores)
    torch.testing.assert_close(rotated(query, places).norm(dim=-1), query.norm(dim=-1))
    assert torch.equal(rotated(query, torch.tensor(0)), query)


def test_the_angles_are_those_of_roformer():
    x = torch.tensor([1.0, 0.0, 0.0, 2.0], dtype=torch.float64)
    angles = torch.tensor([3.0, 3 / 100], dtype=torch.float64)
    expected = torch.stack([angles.cos()[0], angles.sin()[0], -2 * angles.sin()[1], 2 * angles.cos()[1]])
    torch.testing.assert_close(rotated(x, torch.tensor(3)), expected)


def test_an_odd_width_of_a_head_is_refused():
    with pytest.raises(ValueError, match="Rotary positions need an even width per head, got dim=6 and num_heads=2"):
        BidirectionalDenoiser(6, 6, num_heads=2)


def test_the_hidden_width_is_four_times_the_width_by_default():
    assert BidirectionalDenoiser(DIM, 6).blocks[0].feed_forward[0].out_features == 4 * DIM
    assert BidirectionalDenoiser(DIM, 6, hidden_dim=5).blocks[0].feed_forward[0].out_features == 5
