"""Serving answers alike in every mode and from every thread, and switches nothing that another could see."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import pytest
import torch
from torch import nn

from diffusers_rec import DiffRec, Ensemble, TableEmbedding
from diffusers_rec.recommenders.serving import in_evaluation_mode

ITEMS = [f"i{v}" for v in range(30)]
DENOISERS = [
    "transformer",
    "causal-transformer",
    "conditional-mlp",
    "added-latent",
    "autoregressive",
    {"name": "posterior", "base": "conditional-mlp"},
    {"name": "noiseless", "base": "transformer"},
]


class DroppingEmbedding(TableEmbedding):
    """Has a training mode of its own, and is held by the head outside the module tree."""

    def __init__(self, num_items, dim):
        super().__init__(num_items, dim)
        self.drop = nn.Dropout(0.5)

    def forward(self, items):
        return self.drop(super().forward(items))


def build(denoiser="conditional-mlp", seed=0, **settings):
    settings = {"schedule": {"name": "cosine", "num_timesteps": 8}, "head": "tied", "seeds": 2, **settings}
    return DiffRec(ITEMS, dim=16, max_length=8, denoiser=denoiser, seed=seed, **settings)


def flags(model):
    return {name: module.training for name, module in model.named_modules()}


def answer(model, number):
    history = [ITEMS[number % 30], ITEMS[(7 * number + 3) % 30]]
    found = model.recommend([history], k=5)
    return found.items[0], found.scores.tolist()


@pytest.mark.parametrize("denoiser", DENOISERS, ids=str)
def test_a_model_that_trains_answers_as_one_that_does_not(denoiser):
    model = build(denoiser)
    training = [answer(model.train(), number) for number in range(3)]
    assert all(flags(model).values())
    assert training == [answer(model.eval(), number) for number in range(3)]


def test_what_a_head_holds_outside_the_module_tree_is_in_evaluation_mode_too():
    model = build(embedding=DroppingEmbedding(30, 16))
    assert answer(model.train(), 1) == answer(model.train(), 1) == answer(model.eval(), 1)
    twin = in_evaluation_mode(model.train())
    assert twin.head.embedding is twin.embedding
    assert twin.embedding.weight is model.embedding.weight


class Pair(NamedTuple):
    first: nn.Module
    second: int


class Holding(nn.Module):
    """Reaches its dropout in every way but by the module tree alone."""

    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.5)
        self.ways = {"mapping": {"drop": self.drop}, "pair": Pair(self.drop, 1), "list": [self.drop]}
        self.pair, self.bound = Pair(self.drop, 1), self.go

    def go(self, x):
        return self.drop(x)

    def forward(self, x):
        answers = self.drop(x), self.ways["mapping"]["drop"](x), self.ways["pair"].first(x), self.ways["list"][0](x)
        return torch.stack([*answers, self.pair.first(x), self.bound(x)])


def test_a_twin_has_twins_wherever_a_module_is_held():
    x = torch.ones(50)
    twin = in_evaluation_mode(Holding().train())
    assert torch.equal(twin(x), torch.ones(6, 50))


def test_an_ensemble_that_trains_answers_as_one_that_does_not():
    model = Ensemble([build(), build("transformer", seed=1)])
    assert answer(model.train(), 1) == answer(model.eval(), 1)


def test_a_model_in_evaluation_mode_is_served_as_it_is():
    model = build().eval()
    with model.serving() as served:
        assert served is model
        assert not torch.is_grad_enabled()


def test_only_the_part_that_trains_is_replaced_in_what_it_does():
    model = build().eval()
    model.denoiser.train()
    with model.serving() as served:
        assert not any(flags(served).values())
    assert model.denoiser.training
    assert not model.training


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("count", [100, pytest.param(10_000, marks=pytest.mark.slow)])
def test_eight_threads_answer_as_one(training, count):
    model = build().train(training)
    expected = [answer(model, number) for number in range(30)]
    before, seen, done = flags(model), [], threading.Event()

    def watch():
        while not done.wait(0.001):
            seen.append(flags(model) == before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda number: answer(model, number), range(count)))
    done.set()
    watcher.join()
    assert all(got == expected[number % 30] for number, got in enumerate(found))
    assert seen
    assert all(seen)


def test_models_built_in_threads_are_those_built_one_by_one():
    state = torch.get_rng_state()
    with ThreadPoolExecutor(8) as pool:
        built = list(pool.map(lambda seed: build(seed=seed), range(8)))
    assert torch.equal(torch.get_rng_state(), state)
    for seed, model in enumerate(built):
        weights = build(seed=seed).state_dict()
        assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
