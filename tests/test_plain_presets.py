"""The presets ``gru4rec``, ``sasrec`` and ``bert4rec`` and the encoder ``filter`` compute what public code computes.

``plain_presets.json`` holds what RecBole 1.2.1 gave in float64, without dropout, for the weights of :func:`weights`,
and what the code of FMLP-Rec (Woeee/FMLP-Rec, commit 51acc8c) gave for ``filter``. The softmax of RecBole has the
padding as a further class, whose vector is zero: ``loss_with_padding``. ``loss`` is that of the same scores without it.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import formulas
import pytest
import torch
from torch.nn import functional as F

from diffusers_rec import Batch, FilterEncoder, History, SyntheticWorld
from diffusers_rec.evaluation import evaluate, evaluate_popularity
from diffusers_rec.items.negatives import NegativeSample
from diffusers_rec.presets import PRESETS, bert4rec, gru4rec, sasrec
from diffusers_rec.processes.noising import whole_windows
from diffusers_rec.training import RECIPES, TrainingConfig, train

RECORDED = json.loads(Path(__file__).with_name("plain_presets.json").read_text())
NUM_ITEMS, DIM, MAX_LENGTH = 11, 8, 7
HISTORIES = [[3, 7, 1, 10, 4, 8], [5, 2, 9]]
POSITIVE, NEGATIVE = torch.tensor([2, 0]), torch.tensor([6, 4])
WINDOWS, LENGTHS = torch.tensor([[3, 7, 1, 10, 4, 8], [5, 2, 9, 6, 0, 0]]), torch.tensor([6, 4])
MASKED = torch.tensor([[0, 1, 0, 1, 0, 1], [0, 0, 1, 0, 0, 0]]) == 1

wave = partial(formulas.wave, size=0.4, frequency=1.7)
of_histories = pytest.mark.parametrize("name", ["gru4rec", "sasrec"])


def weights(module):
    """Waves, around 1 for the scales of layer norms."""
    shapes = sorted((name, weight.shape) for name, weight in module.named_parameters())
    scales = [name.endswith("weight") and "norm" in name for name, _ in shapes]
    return {name: wave(shape, i, float(scales[i])) for i, (name, shape) in enumerate(shapes)}


def made(name, **changes):
    sizes = {"dim": DIM, "max_length": MAX_LENGTH, **({"hidden_dim": 5} if name == "gru4rec" else {})}
    model = PRESETS[name](range(NUM_ITEMS), **sizes).double().eval()
    model.load_state_dict(weights(model), strict=False)
    return model.replace(**changes).eval() if changes else model


def close(name, key, got):
    expected = torch.tensor(RECORDED[name][key], dtype=torch.float64)
    torch.testing.assert_close(got.detach().reshape(expected.shape), expected, rtol=0, atol=1e-9)


def batch():
    """The histories with their targets behind them, the last of each row to be predicted."""
    rows = [[*history, target] for history, target in zip(HISTORIES, POSITIVE.tolist(), strict=True)]
    items = torch.tensor([row + [0] * (MAX_LENGTH - len(row)) for row in rows])
    lengths = torch.tensor([len(row) for row in rows])
    return Batch(History(items, lengths), lengths[:, None] - 1)


@of_histories
def test_states_and_scores_are_those_of_recbole(name):
    model = made(name)
    states = model.sample(HISTORIES)[:, 0, 0]
    close(name, "states", states)
    close(name, "scores", model.head.logits(states))


@of_histories
def test_losses_are_those_of_recbole(name, monkeypatch):
    cross_entropy = {"name": "weighted", "terms": ["cross-entropy"]}
    model = made(name, objective=cross_entropy, negatives="all")
    loss = model.loss(batch(), torch.Generator()).total
    close(name, "loss", loss)
    close(name, "grad_items", torch.autograd.grad(loss, model.embedding.weight)[0].sum(1))
    logits = model.head.logits(model.sample(HISTORIES)[:, 0, 0])
    close(name, "loss_with_padding", F.cross_entropy(F.pad(logits, (1, 0)), POSITIVE + 1))
    model = made(name, objective={"name": "weighted", "terms": ["bpr"]}, negatives="uniform")
    monkeypatch.setattr(model.negatives, "draw", lambda *_: NegativeSample(NEGATIVE[:, None], torch.zeros(2, 1)))
    close(name, "bpr", model.loss(batch(), torch.Generator()).total)


def test_the_state_of_the_filter_is_that_of_the_authors_code():
    encoder = FilterEncoder(DIM, MAX_LENGTH).double().eval()
    encoder.load_state_dict(weights(encoder))
    items = wave((NUM_ITEMS, DIM), 50)
    latents = torch.stack([items[history + [0] * (6 - len(history))] for history in HISTORIES])
    lengths = torch.tensor([[6], [3]])
    close("filter", "states", encoder.states(encoder.encode(History.of_latents(latents, lengths[:, 0])), lengths))


@pytest.fixture
def masks(monkeypatch):
    """The masks of :data:`MASKED` in place of drawn ones: the first item of a window has none."""
    kept = F.pad(~MASKED[:, 1:], (0, 1), value=True)  # the last column is padding
    numbers = [kept.double(), torch.ones(2)]
    monkeypatch.setattr(whole_windows, "uniform", lambda shape, *_, **__: numbers.pop(0).view(shape))


def test_outputs_and_loss_of_the_cloze_are_those_of_recbole(masks):
    model, outputs = made("bert4rec"), []
    model.denoiser.register_forward_hook(lambda _, __, output: outputs.append(output[:, 0]))
    places = torch.arange(1, 6).expand(2, -1)
    targets = places.where(places < LENGTHS[:, None], -1)
    loss = model.loss(Batch(History(WINDOWS, LENGTHS), targets), torch.Generator()).total
    found = outputs[0][:, :5][MASKED[:, 1:]]
    close("bert4rec", "outputs", found)
    close("bert4rec", "loss", loss)
    close("bert4rec", "grad_items", torch.autograd.grad(loss, model.embedding.weight, retain_graph=True)[0].sum(1))
    close("bert4rec", "grad_blank", torch.autograd.grad(loss, model.denoiser.blank)[0])
    logits = F.pad(model.head.logits(found), (1, 0))
    close("bert4rec", "loss_with_padding", F.cross_entropy(logits, WINDOWS[MASKED] + 1))


def test_scores_of_the_cloze_are_those_of_recbole():
    """RecBole removes the first item of a history; it was given one more."""
    model = made("bert4rec")
    latents = model.sample([[3, 7, 1, 10, 4], [5, 2, 9]])[:, 0, 0]
    close("bert4rec", "scores", model.head.logits(latents))


def test_the_settings_are_those_of_the_papers():
    items = range(20)
    assert gru4rec(items).config()["denoiser"]["encoder"]["hidden_dim"] == 128
    assert gru4rec(items).negatives.config() == {"name": "in-batch"}
    model = sasrec(items)
    assert (model.history_length, model.embedding.dim, model.denoiser.encoder.dropout) == (50, 64, 0.5)
    assert model.negatives.config() == {"name": "uniform", "count": 1, "shared": False}
    assert model.objective.config()["terms"] == [{"name": "sampled-bce", "weight": 1.0, "calibration": 0.0}]
    model = bert4rec(items)
    assert (model.max_length, model.noising.k, model.noising.share) == (50, 49, 0.6)
    network = model.denoiser
    assert (network.dim, network.num_layers, network.num_heads, network.dropout) == (64, 2, 2, 0.5)
    assert (RECIPES["bert4rec"].weight_decay, RECIPES["bert4rec"].clip_norm) == (0.01, 5.0)
    assert (RECIPES["sasrec"].learning_rate, RECIPES["sasrec"].epochs, RECIPES["sasrec"].validate_every) == (
        1e-3,
        200,
        20,
    )


@pytest.mark.parametrize("name", ["sasrec", "bert4rec"])
def test_the_initial_weights_are_distributed_as_in_recbole(name):
    """N(0, .02^2), zero biases, and layer norms that change nothing."""
    for key, weight in PRESETS[name](range(200)).named_parameters():
        if weight.ndim == 2 or key.endswith(("blank", "empty")):
            assert weight.std().item() == pytest.approx(0.02, rel=0.3 if weight.ndim == 1 else 0.1), key
        else:
            assert bool((weight == float(key.endswith("weight"))).all()), key


@of_histories
def test_a_plain_model_becomes_a_diffusion_model_with_the_same_encoder(name):
    model = made(name)
    changed = model.replace(denoiser="conditional-mlp")
    assert changed.schedule.num_timesteps == 1000
    weights = changed.denoiser.encoder.state_dict()
    assert all(torch.equal(weight, weights[key]) for key, weight in model.denoiser.encoder.state_dict().items())
    assert changed.denoiser.encoder.config() == model.denoiser.encoder.config()
    assert torch.equal(changed.embedding.weight, model.embedding.weight)
    assert changed.denoiser.reads_xn
    assert not model.denoiser.reads_xn


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gru4rec", "sasrec", "bert4rec"])
def test_it_ranks_ahead_of_popularity(name, tmp_path):
    split = SyntheticWorld(40, num_groups=4).sample(300).sequences().leave_one_out()
    model = PRESETS[name](split.train.vocabulary, dim=32, max_length=12, dropout=0.1)
    config = TrainingConfig(
        epochs=15, examples="all-positions", batch_targets=256, learning_rate=3e-3, validate_every=15
    )
    train(model, split.train, split.validation, config, directory=tmp_path, device="cpu")
    found = evaluate(model, split.test, ks=[10]).metrics(exclude_seen=False)["ndcg@10"]
    assert found > 1.1 * evaluate_popularity(split.train, split.test, ks=[10]).metrics(exclude_seen=False)["ndcg@10"]
