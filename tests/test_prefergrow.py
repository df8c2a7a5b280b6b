"""The preset ``prefergrow`` computes what the authors' code computes.

``prefergrow_values.json`` has outputs of that code (commit 7451996) in float64, for histories of full length. The code
sets the logit of x_n to 0, and so do the tests of the logits. Its score entropies and reverse probabilities are those
of the ratios of the distributions below, for the graphs ``PairWise``, ``PointWise`` and ``AdaptiveWise``, whose fading
distribution is uniform over items and blank. The constant of the last one's score entropy is wrong, so only its
gradient is compared. Its hybrid graph has errors that the docstring of the preset lists.
"""

from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path

import formulas
import pytest
import torch

from diffusers_rec import History, Queries, SyntheticWorld
from diffusers_rec.evaluation import evaluate, evaluate_popularity
from diffusers_rec.objectives.score_entropy import score_entropy
from diffusers_rec.presets import control, prefergrow
from diffusers_rec.training import RECIPES, TrainingConfig, train

VALUES = json.loads(Path(__file__).with_name("prefergrow_values.json").read_text())
DIM, NUM_ITEMS, LENGTH = 8, 7, 5
HISTORIES = torch.tensor([[0, 3, 5, 2, 6], [4, 4, 1, 0, 2], [6, 1, 2, 3, 5]])
TRUE, SHOWN = torch.tensor([1, 6, 0]), torch.tensor([1, 4, 3])
STEPS, PREVIOUS = torch.tensor([4, 12, 21]), torch.tensor([2, 7, 20])
QUERIES = Queries.next_item(torch.full((3,), LENGTH))
GRAPHS = {  # share of blanks, and the items at step n, -1 at blanks
    "pair": (0.0, SHOWN),
    "point": (1.0, torch.tensor([-1, -1, -1])),
    "adaptive": (1 / (NUM_ITEMS + 1), torch.tensor([1, 4, -1])),
}

graphs = pytest.mark.parametrize("name", GRAPHS)


wave = partial(formulas.wave, size=0.4, frequency=1.3)


def made(blank=0.0):
    """In float64, with a formula for weights; of the norms around 1, and of the items larger."""
    model = prefergrow(range(NUM_ITEMS), dim=DIM, max_length=LENGTH + 1, dropout=0.0)
    model = model.replace(process={"blank": blank}).double()
    without = tuple(f"encoder.{name}.bias" for name in ("query_norm", "input_norm", "norm"))  # the code has none
    with torch.no_grad():
        for number, (name, weight) in enumerate(sorted(model.named_parameters())):
            size = 0.0 if name.endswith(without) else 1.0 if name.startswith("embedding") else 0.4
            weight.copy_(wave(weight.shape, number, float(name.endswith("norm.weight")), size=size))
    return model.eval()


def expect(name, got, *path):
    expected = VALUES[name]
    for key in path:
        expected = expected[key]
    torch.testing.assert_close(got.detach(), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["given", "null", "guided"])
def test_the_logits_are_those_of_the_code(name):
    model = made()
    denoiser = model.denoiser if name == "guided" else model.denoiser.base
    context = denoiser.encode(History(HISTORIES, QUERIES.visible[:, 0]).with_latents(model.embedding(HISTORIES)))
    condition = denoiser.condition(context, QUERIES, null=name == "null")
    output = denoiser(model.embedding(SHOWN)[:, None, None], STEPS[:, None], condition)[:, 0, 0]
    expect(name, model.head.logits(output).scatter(1, SHOWN[:, None], 0.0))


@graphs
def test_the_score_entropy_and_its_gradient_are_those_of_the_code(name):
    blank, shown = GRAPHS[name]
    model, logits = made(blank), wave((3, NUM_ITEMS), 0.7, size=0.9).requires_grad_()
    (term,) = model.objective.terms
    loss = term.weight * score_entropy(model.process, logits, TRUE, shown, STEPS)
    if name != "adaptive":
        expect(name, loss, "loss")
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    expect(name, gradient, "grad")


@graphs
def test_the_reverse_probabilities_are_those_of_the_code(name):
    blank, shown = GRAPHS[name]
    process, clean = made(blank).process, wave((3, NUM_ITEMS), 0.7, size=2.0).softmax(-1)
    kept = process.schedule.alpha_bar[STEPS][:, None]
    logits = (kept * clean + (1 - kept) * (1 - blank) / NUM_ITEMS).log()
    expect(name, process.reverse_probabilities(logits, shown, STEPS, PREVIOUS), "reverse")


@pytest.mark.parametrize(
    ("settings", "gamma", "drop"),
    [("steam", 0.99999, 0.1), ("ml-1m", 0.9999, 0.1), ("beauty", 0.999, 0.1), ("toys", 0.9999, 0.2),
     ("sports", 0.9999, 0.2)],
)  # fmt: skip
def test_the_settings_are_those_of_the_commands(settings, gamma, drop):
    model = prefergrow(range(NUM_ITEMS), settings=settings)
    assert model.process.blank == pytest.approx(1 - gamma)
    assert (model.denoiser.drop, model.denoiser.scale, model.embedding.dim) == (drop, 2.0, 256)
    levels = -model.schedule.alpha_bar.log()
    assert levels[1:].tolist() == pytest.approx([1e-3 * 10 ** (step / 5) for step in range(21)])
    assert model.objective.terms[0].weight == pytest.approx(math.log(10) - math.log(1e-3))


def test_the_chain_takes_twenty_steps_and_one_last_prediction():
    model, steps = made(), []
    model.sample([[0, 1], [2]], seeds=2, callback=lambda step: steps.append(step.previous))
    assert steps == [*range(20, -1, -1)]


def test_the_recipe_is_that_of_the_code():
    recipe = RECIPES["prefergrow"]
    assert (recipe.batch_targets, recipe.learning_rate, recipe.weight_decay, recipe.clip_norm) == (256, 1e-4, 0, 1)
    assert (recipe.average_decay, recipe.decay, recipe.exclude_seen) == (0.9999, "constant", False)


def test_the_control_is_trained_by_the_cross_entropy():
    terms = control(made()).objective.config()["terms"]
    assert [term["name"] for term in terms] == ["cross-entropy"]


def test_unknown_settings_are_refused():
    with pytest.raises(ValueError, match="settings must be one of 'steam'"):
        prefergrow(range(NUM_ITEMS), settings="yelp")


@pytest.mark.slow
def test_it_learns_to_rank_ahead_of_popularity():
    split = SyntheticWorld(num_items=60).sample(num_users=300).sequences().leave_one_out()
    model = prefergrow(split.train.vocabulary, dim=32)
    config = TrainingConfig(
        epochs=10, learning_rate=1e-2, clip_norm=1.0, average_decay=0.99, exclude_seen=False, validate_every=10,
        calibrate=False,
    )  # fmt: skip
    train(model, split.train, split.validation, config)
    ours, theirs = evaluate(model, split.test), evaluate_popularity(split.train, split.test)
    assert ours.metrics()["ndcg@10"] > 2 * theirs.metrics()["ndcg@10"]
