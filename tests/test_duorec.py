"""The presets ``cl4srec`` and ``duorec`` compute what the code of DuoRec computes, which has both models.

``duorec_values.json`` has outputs of that code (commit 4ebc30d) in float64, without dropout, for the histories and
views below. The code has a class for the padding item in its softmax. In the recording, its vector was such that its
logit is -1000 for each history, so that it has no share in the loss.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import formulas
import pytest
import torch

from diffusers_rec import Batch, History, InfoNCETerm
from diffusers_rec.data.augment import MASKED, Augmentations
from diffusers_rec.data.batching import pad
from diffusers_rec.data.same_target import SameTarget
from diffusers_rec.objectives.views import Views
from diffusers_rec.presets import cl4srec, duorec
from diffusers_rec.testing.training_steps import random_step
from diffusers_rec.training import RECIPES

VALUES = json.loads(Path(__file__).with_name("duorec_values.json").read_text())
DIM, NUM_ITEMS, LENGTH = 8, 9, 6
HISTORIES = [[0, 3, 5, 2, 6, 1], [4, 4, 1, 0], [6, 8], [7, 2, 5]]
TARGETS = [2, 6, 0, 2]
VIEWS = {
    "history": HISTORIES,
    "aug1": [[5, 2, 6], [4, MASKED, 1, 0], [6], [7, 5, 2]],
    "aug2": [[0, MASKED, 5, 2, 6, MASKED], [4, 1, 4, 0], [8, 6], [2]],
    "same": [[1, 2, 3], [8, 0, 5, 5, 1], [6, 8], [0, 3, 5, 2, 6, 1]],
}
wave = partial(formulas.wave, frequency=1.3)


def recorded(name):
    return torch.tensor(VALUES["states"][name], dtype=torch.float64)


def close(got, expected):
    expected = torch.as_tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(got.detach().double().reshape(expected.shape), expected, rtol=0, atol=1e-7)


def history_of(rows):
    """Histories with the items of each row; a masked item has no index to pad with."""
    history = pad([[max(item, 0) for item in row] for row in rows])
    items = history.items.clone()
    for place, row in enumerate(rows):
        items[place, : len(row)] = torch.tensor(row)
    return History(items, history.lengths)


def weights_of_the_code():
    """By their names there, each with a phase of its own."""
    found = {}
    for number, name in enumerate(VALUES["names"]):
        shape = (DIM,)
        if name == "embedding":
            shape = (NUM_ITEMS, DIM)
        elif name == "positions":
            shape = (LENGTH + 1, DIM)  # of which the code has the first six
        elif name.endswith("weight") and "orm" not in name:
            shape = {"1": (4 * DIM, DIM), "2": (DIM, 4 * DIM)}.get(name.split(".")[2][-1:], (DIM, DIM))
        elif name.endswith("dense_1.bias"):
            shape = (4 * DIM,)
        size = 1.0 if name == "embedding" else 0.4
        found[name] = wave(shape, number, float(name.endswith("orm.weight")), size=size)
    return found


def made(preset, **term):
    """The preset in float64 with the weights of the code, and another setting of its contrast."""
    model = preset(range(NUM_ITEMS), dim=DIM, max_length=LENGTH + 1, dropout=0.0)
    terms = model.objective.config()["terms"]
    model = model.replace(objective={"terms": [terms[0], {**terms[1], **term}]}).double()
    theirs, network = weights_of_the_code(), model.denoiser.encoder.network
    ours = {"place.weight": theirs["positions"], "norm.weight": theirs["norm.weight"], "norm.bias": theirs["norm.bias"]}
    for block in range(2):
        for kind in ("weight", "bias"):
            attention, forward = (f"{block}.{part}" for part in ("multi_head_attention", "feed_forward"))
            key, value = (theirs[f"{attention}.{part}.{kind}"] for part in ("key", "value"))
            ours |= {
                f"blocks.{block}.attention.query.{kind}": theirs[f"{attention}.query.{kind}"],
                f"blocks.{block}.attention.key_value.{kind}": torch.cat([key, value]),
                f"blocks.{block}.attention.out.{kind}": theirs[f"{attention}.dense.{kind}"],
                f"blocks.{block}.attention_norm.{kind}": theirs[f"{attention}.LayerNorm.{kind}"],
                f"blocks.{block}.feed_forward.0.{kind}": theirs[f"{forward}.dense_1.{kind}"],
                f"blocks.{block}.feed_forward.3.{kind}": theirs[f"{forward}.dense_2.{kind}"],
                f"blocks.{block}.feed_forward_norm.{kind}": theirs[f"{forward}.LayerNorm.{kind}"],
            }
    network.load_state_dict(ours)
    with torch.no_grad():
        model.embedding.weight.copy_(theirs["embedding"])
        if model.masked_item is not None:
            model.masked_item.vector.copy_(wave((DIM,), 0.7))
    return model.train()


def training_batch():
    history = pad([[*row, target] for row, target in zip(HISTORIES, TARGETS, strict=True)])
    return Batch(history, history.lengths[:, None] - 1)


def contrast(record, loss):
    """Contrastive loss of the code, whose total has it with a weight of .1."""
    return (VALUES[record][loss]["total"] - VALUES["main"]) / 0.1


settings = pytest.mark.parametrize(
    ("similarity", "temperature"), [("dot", 1.0), ("dot", 0.5), ("cosine", 1.0), ("cosine", 0.5)]
)


@settings
@pytest.mark.parametrize(
    ("record", "mode", "views"),
    [
        ("cl4srec", "", ("aug1", "aug2")),
        ("duorec", "un-", ("history", "history")),
        ("duorec", "us_x-", ("history", "same")),
    ],
)
def test_the_contrast_of_recorded_states_is_that_of_the_code(record, mode, views, similarity, temperature):
    one, other = (recorded(view) for view in views)
    step = random_step(("sampled",), 4)
    step = type(step)(
        step.passes, step.weights, step.head, views=Views({"dropout": (one, other)}, torch.tensor(TARGETS))
    )
    term = InfoNCETerm(views=("dropout", "dropout"), similarity=similarity, temperature=temperature)
    close(term(step), contrast(record, f"{mode}{similarity[:3]}-{temperature}"))


def test_states_and_scores_are_those_of_the_code():
    model = made(cl4srec).eval()
    states = model.next_item_latents(history_of(HISTORIES))
    close(states, VALUES["states"]["history"])
    close(model.head.logits(states[:, 0]), VALUES["scores"])


@settings
def test_both_losses_of_cl4srec_and_their_gradients_are_those_of_the_code(similarity, temperature, monkeypatch):
    model = made(cl4srec, similarity=similarity, temperature=temperature)
    views = [history_of(VIEWS[name]) for name in ("aug1", "aug2")]
    monkeypatch.setattr(Augmentations, "any_of", lambda *_: views)
    record = f"{similarity[:3]}-{temperature}"
    loss = expect_losses(model, "cl4srec", record)
    close(model.masked_item.vector.grad, VALUES["cl4srec"][record]["grad_masked"])
    assert loss.named.keys() == {"cross-entropy", "info-nce"}


@settings
@pytest.mark.parametrize(("mode", "views"), [("us_x", ("dropout", "same-target")), ("un", ("dropout", "dropout"))])
def test_both_losses_of_duorec_and_their_gradients_are_those_of_the_code(
    mode, views, similarity, temperature, monkeypatch
):
    """Without dropout, in the mode ``un`` too, whose two encodings of the history are then equal."""
    model = made(duorec, similarity=similarity, temperature=temperature, views=views)
    monkeypatch.setattr(SameTarget, "draw", lambda *_: history_of(VIEWS["same"]))
    model.examples = object.__new__(SameTarget)
    expect_losses(model, "duorec", f"{mode}-{similarity[:3]}-{temperature}")


def expect_losses(model, record, name):
    loss = model.loss(training_batch(), torch.Generator())
    loss.total.backward()
    close(loss.named["cross-entropy"], VALUES["main"])
    close(loss.named["info-nce"], contrast(record, name))
    close(loss.total, VALUES[record][name]["total"])
    close(model.embedding.weight.grad.norm(dim=1), VALUES[record][name]["grad_items"])
    return loss


@pytest.mark.parametrize("preset", [cl4srec, duorec])
def test_the_settings_are_those_of_the_code(preset):
    model = preset(range(NUM_ITEMS))
    encoder, term = model.denoiser.encoder, model.objective.terms[1]
    assert (encoder.num_layers, encoder.num_heads, encoder.dim, encoder.dropout) == (2, 2, 64, 0.5)
    assert (term.weight, term.temperature, term.similarity, term.false_negatives) == (0.1, 1.0, "dot", True)
    assert (term.crop, term.mask, term.reorder) == (0.6, 0.3, 0.6)
    assert model.history_length == 50
    recipe = RECIPES[preset.__name__]
    assert (recipe.epochs, recipe.batch_targets, recipe.learning_rate, recipe.patience) == (50, 256, 1e-3, 10)
    assert (recipe.examples, recipe.weight_decay, recipe.exclude_seen) == ("every-prefix", 0, False)
