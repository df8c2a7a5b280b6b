"""The preset ``maskgr`` predicts, trains and fills as the authors' code, github.com/snap-research/MaskGR at b2d44f2.

``maskgr.json`` holds what that code gave in float64, without dropout and with one token per item, for the weights and
masks that the formulas of this file define. For width 16, a head has one pair of dimensions. For width 32, each pair
got a frequency of its own, as in RoFormer; the code gives the same frequencies to both halves of a head. The loss is
that of a softmax over the items. ``loss_with_classes`` is that of the code itself, whose softmax also has the mask and
the padding, here with the vector 0.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from diffusers_rec import GAP, SyntheticWorld
from diffusers_rec.data import Batch, History
from diffusers_rec.evaluation import evaluate, evaluate_popularity
from diffusers_rec.presets import maskgr
from diffusers_rec.processes import mask
from diffusers_rec.training import RECIPES, train

PUBLISHED = json.loads(Path(__file__).with_name("maskgr.json").read_text())
ITEMS = torch.tensor([[3, 7, 1, 11, 4, 8], [5, 2, 9, 0, 0, 0]])
LENGTHS = torch.tensor([6, 4])
MASKED = torch.tensor([[0, 1, 0, 1, 0, 1], [0, 0, 1, 1, 0, 0]]) == 1
TIMESTEPS = torch.tensor([[400], [700]])  # of 1,000: the code's shares of masks, .4 and .7


def weights(model):
    """Weights by name: waves, around 1 for layer norms."""
    sizes = {"denoiser.blank": 0.3, "embedding.weight": 1.0}
    found = {}
    for phase, (name, weight) in enumerate(sorted(model.named_parameters())):
        wave = torch.sin(1.7 * torch.arange(weight.numel(), dtype=torch.float64) + phase).view(weight.shape)
        found[name] = sizes.get(name, 0.4) * wave + (1.0 if "norm.weight" in name else 0.0)
    return found


@pytest.fixture(params=PUBLISHED)
def model(request, monkeypatch):
    model = maskgr(range(12), dim=int(request.param), max_length=7, num_layers=2, hidden_dim=24).double().eval()
    model.load_state_dict(weights(model), strict=False)
    drawn = MASKED[:, None, 1:, None].double()  # the first item stays; the last column is padding
    monkeypatch.setattr(mask, "uniform", lambda shape, *args, **kwargs: F.pad(drawn, (0, 0, 0, 1)).view(shape))
    monkeypatch.setattr(model.timesteps, "sample", lambda *args, **kwargs: (TIMESTEPS, torch.ones(2, 1)))
    return model


def loss_of(model):
    targets = torch.arange(1, 6).expand(2, -1)
    return model.loss(Batch(History(ITEMS, LENGTHS), targets.where(targets < LENGTHS[:, None], -1)), torch.Generator())


def published(model, name):
    return torch.tensor(PUBLISHED[str(model.denoiser.dim)][name], dtype=torch.float64)


def close(model, got, name):
    torch.testing.assert_close(got, published(model, name), rtol=0, atol=1e-6)


def test_the_network_and_the_loss_are_those_of_the_authors_code(model):
    outputs = []
    model.denoiser.register_forward_hook(lambda module, args, output: outputs.append(output[:, 0]))
    loss = loss_of(model).total
    close(model, outputs[0][0, :5], "output")
    close(model, outputs[0][1, :3], "second")
    close(model, loss, "loss")
    close(model, torch.autograd.grad(loss, model.embedding.weight)[0].sum(1), "grad_items")


def test_the_authors_softmax_has_two_classes_more(model):
    outputs = []
    model.denoiser.register_forward_hook(lambda module, args, output: outputs.append(output[:, 0]))
    loss_of(model)
    blanks = torch.cat([outputs[0][0, [0, 2, 4]], outputs[0][1, [1, 2]]])
    classes = torch.cat([model.embedding.weight, model.denoiser.blank[None], torch.zeros(1, model.denoiser.dim)])
    losses = F.cross_entropy(blanks @ classes.T, torch.tensor([7, 11, 8, 9, 0]), reduction="none")
    share = torch.tensor([0.4, 0.4, 0.4, 0.7, 0.7], dtype=torch.float64)
    close(model, (losses / share).sum() / (1 / share).sum(), "loss_with_classes")


def test_masks_are_filled_in_the_order_of_the_authors_code(model):
    before = torch.tensor([3, 12, 1, 12, 4, 12])
    for after in published(model, "chain").long():
        open_places = (before == 12).nonzero()[:, 0].tolist()
        given = [GAP if item == 12 else item for item in before.tolist()]
        likeliest = [gap[0] for gap in model.complete([given], exclude_seen=False).marginals[0]]
        (item, _), place = max(zip(likeliest, open_places, strict=True), key=lambda found: found[0][1])
        assert ((before != after).nonzero()[:, 0].tolist(), after[place].item()) == ([place], item)
        before = after
    greedy = {"name": "unmask", "order": "confidence", "temperature": 0.0}
    assert model.complete([[3, GAP, 1, GAP, 4, GAP]], sampler=greedy, exclude_seen=False)[0][0] == before.tolist()


def test_heads_rotate_pairs_of_dimensions():
    with pytest.raises(ValueError, match=r"dim must be a multiple of 16, .*got 24"):
        maskgr(range(4), dim=24)


def test_one_step_ranks_the_next_item(model):
    likeliest = model.complete([[3, 7, 1, GAP]], exclude_seen=False).marginals[0][0]
    probabilities = model.predict_proba([[3, 7, 1]])[0]
    assert probabilities[[item for item, _ in likeliest]].tolist() == pytest.approx([p for _, p in likeliest])
    assert model.recommend([[3, 7, 1]], k=3, exclude_seen=False).items[0] == [item for item, _ in likeliest[:3]]


def test_the_settings_are_those_of_the_authors_code():
    model = maskgr(range(12))
    config = model.config()
    assert (model.max_length, model.noising.k, model.noising.gaps, model.seeds) == (24, 23, "all", 1)
    network = {"dim": 128, "num_layers": 8, "num_heads": 8, "hidden_dim": 3072, "dropout": 0.25}
    assert config["denoiser"] == {**config["denoiser"], **network, "name": "bidirectional"}
    assert config["embedding"] == {**config["embedding"], "scale": "learned", "init_std": 1.0}
    assert config["head"] == {"name": "tied", "use_bias": False}
    assert [term["name"] for term in config["objective"]["terms"]] == ["bound"]
    assert (config["process"]["name"], config["schedule"]["name"]) == ("mask", "linear-alpha-bar")
    recipe = RECIPES["maskgr"]
    assert (recipe.weight_decay, recipe.clip_norm) == (1e-3, 1.0)
    assert (recipe.select_by, recipe.patience, recipe.exclude_seen) == ("hr@5", 10, False)


@pytest.mark.slow
def test_it_ranks_ahead_of_popularity(tmp_path):
    split = SyntheticWorld(40, num_groups=4).sample(300).sequences().leave_one_out()
    model = maskgr(split.train.vocabulary, dim=32, max_length=12, num_layers=2, hidden_dim=64, dropout=0.1)
    recipe = replace(RECIPES["maskgr"], epochs=15, learning_rate=3e-3, batch_targets=512, validate_every=15)
    train(model, split.train, split.validation, recipe, directory=tmp_path, device="cpu")
    found = evaluate(model, split.test, ks=[10]).metrics(exclude_seen=False)["ndcg@10"]
    assert found > 1.1 * evaluate_popularity(split.train, split.test, ks=[10]).metrics(exclude_seen=False)["ndcg@10"]
