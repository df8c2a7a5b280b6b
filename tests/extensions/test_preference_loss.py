r"""A preference loss: the denoiser is more certain of the true item than of another item in its place.

.. math:: -\log \sigma\big(\beta\, (\|x_0^- - f(x_n^-, n)\|^2 - \|x_0^+ - f(x_n^+, n)\|^2)\big)

per dimension, after BPR (Rendle et al. 2009) and PreferDiff (Liu et al. 2025). The pipeline corrupts and denoises the
other item in the pass ``"negative"``, at the same step and given the same history.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from diffusers_rec import DiffRec, Interactions, LossTerm
from diffusers_rec.testing import check_component
from diffusers_rec.training import TrainingConfig, train


class PreferenceTerm(LossTerm, name="bpr"):
    """The term above, one number a latent."""

    passes = ("sampled", "negative")

    def __init__(self, weight: float = 1.0, *, beta: float = 5.0):
        super().__init__(weight)
        self.beta = beta

    def __call__(self, step):
        near, far = (error(step.at(name)) for name in self.passes)
        return F.softplus(self.beta * (near - far))


def error(one):
    return (one.x0 - one.prediction.to(one.x0.dtype)).square().mean(-1)


class Watched(PreferenceTerm, name="watched-bpr"):
    """Keeps the last step, for the tests."""

    def __call__(self, step):
        self.step = step
        return super().__call__(step)


def build(term, **changes):
    return DiffRec(
        range(8),
        dim=16,
        max_length=6,
        schedule={"name": "sqrt", "num_timesteps": 20},
        embedding={"name": "table", "scale": "unit"},
        denoiser={"name": "conditional-mlp", "num_layers": 1, "num_heads": 1},
        objective={"name": "weighted", "terms": [term, "cross-entropy"]},
        **changes,
    )


@pytest.fixture(scope="module")
def sequences():
    """Users that walk round a circle of items."""
    rows = [(start, (start + time) % 8, time) for start in range(8) for time in range(6)]
    return Interactions.from_arrays(*zip(*rows, strict=True)).sequences()


def test_the_term_keeps_its_contract_and_goes_into_a_config():
    check_component(PreferenceTerm)
    model = build({"name": "bpr", "beta": 2.0})
    assert model.objective.passes == ("sampled", "negative")
    again = DiffRec.from_config(range(8), model.config())
    assert again.objective.terms[0].beta == 2.0


def test_the_negative_is_another_item_at_the_same_step(sequences):
    model = build(watched := Watched())
    train(model, sequences, config=TrainingConfig(epochs=1), device="cpu")
    true, other = watched.step.sampled, watched.step.at("negative")
    assert bool((true.items != other.items).all())
    assert torch.equal(true.timesteps, other.timesteps)
    assert not torch.equal(true.noise, other.noise)


def test_training_prefers_the_true_item(sequences):
    model = build(watched := Watched())
    config = TrainingConfig(epochs=40, examples="all-positions", batch_targets=40, learning_rate=1e-2)
    history = train(model, sequences, config=config, device="cpu").history
    assert history[0]["watched-bpr"] > 0.6  # log 2 where nothing is preferred
    assert history[-1]["watched-bpr"] < 0.5 * math.log(2)
    near, far = error(watched.step.sampled), error(watched.step.at("negative"))
    assert float((near < far).float().mean()) > 0.8
    assert model.recommend([[3, 4]], k=1).items == [[5]]
