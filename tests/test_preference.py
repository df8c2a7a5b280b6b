"""The term ``preference`` in training: the true item is denoised better than other items in its place."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch

from diffusers_rec import DiffRec, Interactions, PreferenceTerm
from diffusers_rec.training import TrainingConfig, train


@pytest.fixture
def watched_term(fresh_registry):
    """A preference that keeps its last step."""

    class Watched(PreferenceTerm, name="watched"):
        def __call__(self, step):
            self.step = step
            return super().__call__(step)

    return Watched


def build(term, **changes):
    return DiffRec(
        range(8),
        dim=16,
        max_length=6,
        schedule={"name": "sqrt", "num_timesteps": 20},
        embedding={"name": "table", "scale": "unit"},
        denoiser={
            "name": "conditional-mlp",
            "encoder": {"name": "causal-transformer", "num_layers": 1, "num_heads": 1},
        },
        objective={"name": "weighted", "terms": [term, "cross-entropy"]},
        **changes,
    )


@pytest.fixture(scope="module")
def sequences():
    """Users that walk round a circle of items."""
    rows = [(start, (start + time) % 8, time) for start in range(8) for time in range(6)]
    return Interactions.from_arrays(*zip(*rows, strict=True)).sequences()


@pytest.mark.parametrize("distance", ["squared", {"name": "cosine", "power": 2.0}], ids=str)
def test_the_term_goes_into_a_config(distance):
    model = build({"name": "preference", "distance": distance, "scale": 2.0, "at": "centroid", "over": "batch"})
    assert model.objective.passes == ("sampled", "centroid")
    again = DiffRec.from_config(range(8), model.config())
    assert again.config() == model.config()
    assert again.objective.terms[0].scale == 2.0


def test_the_negative_is_another_item_at_the_same_step(sequences, watched_term):
    model = build(watched := watched_term())
    train(model, sequences, config=TrainingConfig(epochs=1), device="cpu")
    true, other = watched.step.sampled, watched.step.at("negative")
    assert bool((true.items != other.items).all())
    assert torch.equal(true.timesteps, other.timesteps)
    assert not torch.equal(true.noise, other.noise)


@pytest.mark.parametrize(
    ("at", "over"), [*product(("negative", "centroid"), ("latent", "batch")), ("paired", "latent")]
)
def test_training_prefers_the_true_item(sequences, watched_term, at, over):
    model = build(watched := watched_term(at=at, over=over))
    config = TrainingConfig(epochs=40, examples="all-positions", batch_targets=40, learning_rate=1e-2)
    history = train(model, sequences, config=config, device="cpu").history
    assert history[-1]["watched"] < 0.5 * math.log(2)  # log 2 where nothing is preferred
    assert history[-1]["watched"] < history[0]["watched"]
    near, far = ((each.x0 - each.prediction).square().mean(-1) for each in (watched.step.sampled, watched.step.at(at)))
    assert float((near < far).float().mean()) > 0.8
    assert model.recommend([[3, 4]], k=1).items == [[5]]
