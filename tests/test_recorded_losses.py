"""The presets and their controls train as they did in version 0.1.0, whose losses and metrics are recorded.

``recorded_losses.json`` was written by running this file against that version; the numbers are those of float64.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from diffusers_rec import SyntheticWorld
from diffusers_rec.presets import best, control, paper
from diffusers_rec.training import TrainingConfig, train

RECORDED = Path(__file__).with_name("recorded_losses.json")
CONFIGS = {
    "paper": TrainingConfig(epochs=2),
    "best": TrainingConfig(epochs=2, examples="all-positions", batch_targets=400, decay="cosine", average_decay=0.999),
}
MODELS = {
    "paper": lambda items: paper(items, dim=16, max_length=12),
    "best": lambda items: best(items, dim=16, max_length=12),
    "paper-control": lambda items: control(paper(items, dim=16, max_length=12)),
    "best-control": lambda items: control(best(items, dim=16, max_length=12)),
}


def trained(name):
    """The records of two epochs, without what depends on the machine."""
    split = SyntheticWorld(40, num_groups=4).sample(60, min_length=4, max_length=14).sequences().leave_one_out()
    model = MODELS[name](split.train.vocabulary).double()
    history = train(model, split.train, split.validation, CONFIGS[name.removesuffix("-control")], device="cpu").history
    return [{key: value for key, value in record.items() if "targets" not in key} for record in history]


@pytest.mark.parametrize("name", MODELS)
def test_a_preset_trains_as_recorded(name):
    recorded = json.loads(RECORDED.read_text())[name]
    for now, then in zip(trained(name), recorded, strict=True):
        assert now.keys() == then.keys()
        assert now == pytest.approx(then, rel=1e-6, abs=1e-9)


if __name__ == "__main__":
    torch.set_num_threads(1)
    json.dump({name: trained(name) for name in MODELS}, sys.stdout, indent=1)
