"""Every preset by the commands: trained on a table of the synthetic world, it ranks ahead of popularity."""

from __future__ import annotations

import pytest

from diffusers_rec import SyntheticWorld
from diffusers_rec.presets import PRESETS

from .command import as_json

SMALL = ("--dim", 32, "--max-length", 12, "--cpu", "--quiet")

SHORT = {
    "training.learning_rate": 3e-3, "training.decay": "constant", "training.warmup_epochs": 0,
    "training.average_decay": 0, "training.batch_targets": 128, "training.epochs": 12, "training.validate_every": 12,
    "training.calibrate": "false", "training.precision": "fp32",
}  # fmt: skip
"""A dozen epochs at a high rate, instead of the hundreds of a recipe.

The squared error of `dreamrec` draws its vectors together by a quarter in these, which leaves it ahead.
"""

VECTORS = ("wang2023", "wang2023-latent", "wang2023-temporal", "flowcf")
"""Models of user vectors. They have one example per user, and keep the dropout of the preset."""

OWN = {
    "preferdiff": {"training.examples": "every-prefix"},
    "maskgr": {"denoiser.num_layers": 2, "denoiser.hidden_dim": 64},
    "prefergrow": {"training.learning_rate": 1e-2},
    "tarec": {"training.learning_rate": 1e-2},
    "paper": {"training.learning_rate": 1e-2},
    **{name: {"training.batch_targets": 40, "training.epochs": 60, "training.validate_every": 60} for name in VECTORS},
}
"""What differs from :data:`SHORT`."""


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    path = tmp_path_factory.mktemp("world") / "log.csv"
    world = SyntheticWorld(60).sample(200)
    users, items = world.user_vocabulary.decode(world.users), world.item_vocabulary.decode(world.items)
    rows = [f"{user},{item},{time}" for user, item, time in zip(users, items, world.times.tolist(), strict=True)]
    path.write_text("\n".join(["user,item,time", *rows]) + "\n")
    return path


@pytest.mark.slow
@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_trained_on_a_table_ranks_ahead_of_popularity(name, log, tmp_path):
    changes = [f"--set={key}={value}" for key, value in (SHORT | OWN.get(name, {})).items()]
    dropout = () if name in VECTORS else ("--dropout", 0.1)
    as_json("train", log, "--out", tmp_path, "--preset", name, *SMALL, *dropout, *changes)
    answer = as_json("evaluate", tmp_path, log)
    ours, popular = (answer[row]["excluding_seen"]["ndcg@10"] for row in ("model", "popularity"))
    assert ours > 1.1 * popular
