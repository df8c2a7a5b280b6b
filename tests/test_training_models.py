"""A recommender of a third party is trained through the hooks alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from training_runs import CONFIG, SPLIT, build, fit

from diffusers_rec import Ensemble, Loss, Recommender, TrainingBatches
from diffusers_rec.data import pad
from diffusers_rec.recommenders.pretrained import Pretrained
from diffusers_rec.training import train


class UserVectors(Recommender):
    """A denoising autoencoder: predicts the next item from the counts of those before it, a V-wide vector."""

    def __init__(self, vocabulary, width=16):
        super().__init__()
        self.vocabulary, self.width = vocabulary, width
        self.network = nn.Sequential(nn.Linear(len(vocabulary), width), nn.Tanh(), nn.Linear(width, len(vocabulary)))
        self.register_buffer("popularity", torch.zeros(len(vocabulary), dtype=torch.int64))
        self.register_buffer("difficulty", torch.zeros(()))
        self.updates = []

    device = property(lambda self: self.popularity.device)
    history_length = property(lambda self: 6)

    def log_probabilities(self, items, lengths, generator=None):
        """Of every item to come after the first ``lengths`` of ``items``, of which one in ten is forgotten."""
        counted = torch.arange(items.shape[1]) < lengths[:, None]
        if generator is not None:
            counted = counted & (torch.rand(items.shape, generator=generator) > 0.1)
        counts = torch.zeros(len(items), len(self.vocabulary)).scatter_add(1, items, counted.float())
        return self.network(counts).log_softmax(-1)

    def draw(self, *_):
        raise NotImplementedError("this model draws no latents")

    def score(self, history, *, seeds=None, sampler=None):
        raise NotImplementedError("this model has a metric of its own")

    def forward(self, batch, generator):
        rows, columns = (batch.positions >= 0).nonzero(as_tuple=True)
        items, positions = batch.items[rows], batch.positions[rows, columns]
        target = items.gather(1, positions[:, None])[:, 0]
        losses = F.nll_loss(self.log_probabilities(items, positions, generator), target, reduction="none")
        return Loss(losses.mean(), {"cross_entropy": losses.mean().detach()}, {"losses": losses.detach()})

    def update(self, observed):
        self.updates.append(len(observed["losses"]))
        self.difficulty.copy_(observed["losses"].mean())


def log_likelihood(model, holdout):
    """The mean log-probability of the targets."""
    history = pad(list(holdout.histories), model.history_length)
    targets = torch.from_numpy(holdout.targets)[:, None]
    return model.log_probabilities(history.items, history.lengths).gather(1, targets).mean().item()


class SavedUserVectors(Pretrained, UserVectors):
    def config(self):
        return {"width": self.width}

    @classmethod
    def from_config(cls, items, config):
        return cls(items, **config)


def end(model, result):
    rows = [{name: value for name, value in row.items() if name != "targets_per_second"} for row in result.history]
    return rows, {name: tensor.numpy().tobytes() for name, tensor in model.state_dict().items()}


def new(cls=UserVectors):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return cls(SPLIT.train.vocabulary)


def trained(model, directory=None, **changes):
    config = replace(CONFIG, examples="all-positions", learning_rate=0.02, **changes)
    return train(model, SPLIT.train, SPLIT.validation, config, directory=directory, device="cpu", metric=log_likelihood)


@pytest.mark.parametrize("examples", ["every-prefix", "all-positions"])
def test_a_model_of_another_kind_learns(examples):
    model = new()
    with torch.no_grad():
        untrained = log_likelihood(model, SPLIT.validation)
    config = replace(CONFIG, examples=examples, learning_rate=0.02, epochs=6)
    result = train(model, SPLIT.train, SPLIT.validation, config, device="cpu", metric=log_likelihood)
    assert result.best_score > untrained + 0.1
    assert result.history[-1]["cross_entropy"] < result.history[0]["cross_entropy"]
    assert log_likelihood(model, SPLIT.validation) == pytest.approx(result.best_score)


def test_the_hooks_are_called(monkeypatch):
    model = new()
    checks = []
    monkeypatch.setattr(UserVectors, "check_fit", lambda self: checks.append(type(self)))
    trained(model, epochs=2)
    assert checks == [UserVectors]
    assert sum(model.updates) == 2 * int((SPLIT.train.lengths - 1).sum()), "each target is observed once an epoch"
    assert model.popularity.tolist() == torch.from_numpy(SPLIT.train.items).bincount(minlength=40).tolist()


def test_the_default_hooks_need_nothing_of_the_model():
    class Bare(UserVectors):
        update = Recommender.update

        def __init__(self, vocabulary):
            super().__init__(vocabulary)
            del self.popularity

        device = torch.device("cpu")

    model = new(Bare)
    assert trained(model, epochs=1).best_epoch == 1
    assert float(model.difficulty) == 0


def test_a_model_of_another_kind_ends_with_the_same_bits():
    one, other = new(), new()
    assert end(one, trained(one)) == end(other, trained(other))


def test_a_model_that_can_be_saved_resumes_bit_for_bit(tmp_path):
    def interrupt(record):
        raise KeyboardInterrupt

    config = replace(CONFIG, examples="all-positions", learning_rate=0.02, average_decay=0.5)
    arguments = SPLIT.train, SPLIT.validation, config
    alone, model = new(), new(SavedUserVectors)
    expected = end(alone, train(alone, *arguments, device="cpu", metric=log_likelihood))
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            train(new(SavedUserVectors), *arguments, directory=tmp_path, device="cpu", metric=log_likelihood,
                  on_epoch=interrupt)  # fmt: skip
    assert end(model, train(model, *arguments, directory=tmp_path, device="cpu", metric=log_likelihood)) == expected
    saved = SavedUserVectors.from_pretrained(tmp_path)
    assert end(saved, train(model, *arguments, directory=tmp_path, device="cpu", metric=log_likelihood)) == expected


def test_a_model_that_cannot_be_saved_needs_no_directory(tmp_path):
    with pytest.raises(ValueError, match=r"UserVectors cannot be saved\. Derive it from Pretrained .*directory=None"):
        trained(new(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_recommender_without_a_loss_is_refused(tmp_path):
    ensemble = Ensemble([build(seed=seed) for seed in range(2)])
    with pytest.raises(ValueError, match=r"Ensemble cannot be trained: it has no loss\. Define forward\(batch"):
        fit(tmp_path / "run", model=ensemble)
    with pytest.raises(NotImplementedError, match="Ensemble has no loss"):
        ensemble(next(iter(TrainingBatches(SPLIT.train).epoch(0))), torch.Generator())
    assert not (tmp_path / "run").exists()


def test_a_forward_that_returns_no_loss_is_refused():
    class Scalar(UserVectors):
        def forward(self, batch, generator):
            return super().forward(batch, generator).total

    with pytest.raises(TypeError, match=r"Scalar\.forward\(batch, generator\) must be Loss, got Tensor"):
        trained(new(Scalar))


def test_a_loss_names_what_was_not_observed():
    loss = Loss(torch.tensor(1.0), {}, {"losses": torch.ones(2)})
    with pytest.raises(AttributeError, match=r"Loss\.timesteps: the model observed only \['losses'\]"):
        loss.timesteps  # noqa: B018
