"""Classifier-free guidance by hand: a denoiser around a denoiser, with two conditions of one encoding."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from diffusers_rec import ConditionalMLPDenoiser, DiffRec, Guide, SyntheticWorld, TrainingBatches
from diffusers_rec.testing import check_component

SEQUENCES = SyntheticWorld(20).sample(20).sequences()
HISTORIES = [SEQUENCES.vocabulary.ids[:3], SEQUENCES.vocabulary.ids[5:6]]
CALLS = Counter()


class HandGuide(Guide, name="hand"):
    """null + scale * (given - null); in training the history of every tenth query is hidden."""

    requires = frozenset({"schedule"})
    per_call = ("scale",)

    def __init__(self, base="conditional-mlp", *, scale=1.0, schedule, dim=256, max_length=50, seed=0):
        super().__init__(base, schedule=schedule, dim=dim, max_length=max_length, seed=seed)
        self._set(scale=scale)

    def _set(self, scale):
        self.scale = scale

    def condition(self, context, queries, *, null=False):
        nulls = [null | (torch.rand(queries.visible.shape) < 0.1)] if self.training else [null, True]
        return [self.base.condition(context, queries, null=each) for each in nulls]

    def forward(self, xn, timesteps, condition):
        given, *null = (self.base(xn, timesteps, each) for each in condition)
        return null[0] + self.scale * (given - null[0]) if null else given


class CountedMLP(ConditionalMLPDenoiser, name="counted"):
    """Counts its calls."""

    def encode(self, history):
        CALLS["encode"] += 1
        return super().encode(history)

    def condition(self, context, queries, *, null=False):
        CALLS["null" if null is True else "condition"] += 1
        return super().condition(context, queries, null=null)

    def forward(self, xn, timesteps, condition):
        CALLS["forward"] += 1
        return super().forward(xn, timesteps, condition)


def build(guide, **settings):
    """A small model away from its initial weights, where the perceptron's last layer is zero."""
    denoiser = {
        "name": guide,
        "base": {"name": "counted", "encoder": {"name": "causal-transformer", "num_layers": 1}},
        **settings,
    }
    sampler = {"name": "ddim", "num_steps": 10}
    model = DiffRec(SEQUENCES.vocabulary, dim=8, max_length=8, denoiser=denoiser, sampler=sampler)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn(weight.shape, generator=generator), alpha=0.2)
    return model.eval()


def test_keeps_the_contract_of_a_denoiser():
    check_component(HandGuide, scale=2.0)


def test_a_chain_of_ten_steps_encodes_once_and_predicts_twenty_times():
    model = build("hand")
    CALLS.clear()
    model.sample(HISTORIES, seeds=3, guidance=2.5)
    assert CALLS == {"encode": 1, "condition": 1, "null": 1, "forward": 20}


@pytest.mark.parametrize("scale", [0.0, 1.0, 2.5])
def test_gives_what_the_registered_guide_gives(scale):
    ours = build("hand").sample(HISTORIES, guidance=scale)
    theirs = build("classifier-free", scale=scale).sample(HISTORIES)
    torch.testing.assert_close(ours, theirs)
    assert (scale == 1) == torch.allclose(ours, build("hand").sample(HISTORIES))


def test_the_base_learns_to_predict_without_the_history():
    model = build("hand").train()
    batch = next(iter(TrainingBatches(SEQUENCES, batch_targets=64).epoch(0)))
    model.loss(batch, torch.Generator().manual_seed(0)).total.backward()
    assert model.denoiser.base.empty.grad.any()  # the state of an empty history
