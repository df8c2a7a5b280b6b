"""A denoiser that knows the user: a feature is added to the condition, from the log to the recommendation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from diffusers_rec import Denoiser, DiffRec, Interactions
from diffusers_rec.core.randomness import isolated_rng
from diffusers_rec.testing import check_component
from diffusers_rec.training import TrainingConfig, train


class UserDenoiser(Denoiser, name="user"):
    """A perceptron on the mean of the history and the user's group, the corrupted latents and the step."""

    def __init__(self, dim=256, max_length=50, *, num_groups=2, seed=0):
        super().__init__(dim, max_length, seed)
        self.num_groups = num_groups
        self.user_features = {"group": ()}  # one number a user, for the contract checks
        with isolated_rng(self.seed):
            self.group = nn.Embedding(num_groups, dim)
            self.layers = nn.Sequential(nn.Linear(3 * dim + 1, 4 * dim), nn.SiLU(), nn.Linear(4 * dim, dim))

    def encode(self, history):
        sums = nn.functional.pad(history.latent().cumsum(1), (0, 0, 1, 0))  # of all prefixes, the empty one first
        return sums, self.group(history.feature("group"))

    def condition(self, context, queries, *, null=False):
        sums, group = context
        queries = queries.blind(null)
        mean = (
            sums.gather(1, queries.visible[..., None].expand(-1, -1, self.dim))
            / queries.visible.clamp(min=1)[..., None]
        )
        known = ~torch.as_tensor(null, device=sums.device).expand_as(queries.visible)  # blind() hides the items alone
        real = queries.keys[..., None]
        return (mean + known[..., None] * group[:, None])[:, :, None], real / real.sum(2, keepdim=True)

    def forward(self, xn, timesteps, condition):
        state, share = condition
        if timesteps.ndim == 2:
            timesteps = timesteps[..., None]
        step = timesteps[..., None].to(xn.dtype).log().expand(*xn.shape[:3], 1)
        together = (xn * share.to(xn.dtype)).sum(2, keepdim=True)
        parts = xn, together.expand_as(xn), state.expand_as(xn), step
        return state + self.layers(torch.cat(parts, dim=-1))


def log():
    """From "start" the users of group 0 go to "left", those of group 1 to "right"."""
    group = np.arange(60) % 2
    items = [item for each in group for item in ("start", ["left", "right"][each])]
    sequences = Interactions.from_arrays(np.repeat(np.arange(60), 2), items, np.arange(120)).sequences()
    return sequences, group


def build(items):
    levels, objective = {"name": "sqrt", "num_timesteps": 10}, {"name": "weighted", "terms": ["cross-entropy"]}
    return DiffRec(items, dim=8, max_length=4, denoiser="user", schedule=levels, objective=objective, sampler="ddim")


def test_keeps_the_contract_of_a_denoiser():
    check_component(UserDenoiser, waive=["order_matters"])


def test_the_feature_decides_from_the_log_to_the_recommendation():
    sequences, group = log()
    sequences = sequences.with_features({"group": group})
    model = build(sequences.vocabulary)
    train(model, sequences, config=TrainingConfig(epochs=15, batch_targets=20, learning_rate=1e-2))
    best = model.recommend([["start"], ["start"]], 1, features={"group": [0, 1]})
    assert best.items == [["left"], ["right"]]
    assert best.scores.min() > 0.8
    chances = model.predict_proba([["start"]] * 2, features={"group": [1, 0]})
    assert chances[:, model.vocabulary.encode(["right"])].flatten().tolist() == pytest.approx([1, 0], abs=0.2)
    latents = model.sample([["start"]] * 2, features={"group": [0, 1]})
    assert not torch.allclose(latents[0], latents[1])


def test_a_missing_feature_is_named():
    sequences, _ = log()
    model = build(sequences.vocabulary)
    with pytest.raises(ValueError, match=r"has no feature 'group', only: none. Give sequences.with_features"):
        train(model, sequences, config=TrainingConfig(epochs=1))
    with pytest.raises(ValueError, match=r"recommend\(..., features=...\)"):
        model.recommend([["start"]])
    with pytest.raises(ValueError, match=r"has no feature 'group', only: grup"):
        model.recommend([["start"]], features={"grup": [0]})
