"""The page's code for Lightning and for transformers' `Trainer`, against `train`.

Where Lightning is not installed, a class of a few lines replaces its trainer and calls the module in the same order.
`make test-integrations` installs both libraries.
"""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

import pytest
import torch
from page import run

from diffusers_rec import DiffRec, SyntheticWorld
from diffusers_rec.presets import best
from diffusers_rec.training import TrainingConfig, train

SEQUENCES = SyntheticWorld(20, num_groups=2).sample(40, max_length=10).sequences()
SETTINGS = TrainingConfig(epochs=2, batch_targets=256, learning_rate=3e-3)


def build():
    return best(SEQUENCES.vocabulary, dim=16, max_length=8, dropout=0.1)


class StandIn:
    """The calls that Lightning's trainer makes."""

    def __init__(self, max_epochs):
        self.max_epochs = max_epochs

    def fit(self, module, loader):
        module.trainer, self.train_dataloader = self, loader
        optimizer = module.configure_optimizers()
        for module.current_epoch in range(self.max_epochs):
            module.train()
            module.on_train_epoch_start()
            for number, batch in enumerate(loader):
                optimizer.zero_grad()
                module.training_step(batch, number).backward()
                optimizer.step()


@pytest.fixture
def lightning(monkeypatch):
    if importlib.util.find_spec("lightning") is None:
        module = ModuleType("lightning")
        module.LightningModule, module.Trainer = torch.nn.Module, StandIn
        monkeypatch.setitem(sys.modules, "lightning", module)


def test_lightning_ends_on_the_weights_of_train(lightning, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # Lightning writes its logs to the working directory
    model, ours = build(), build()
    run("A model in Lightning", "Lightning trains", model=model, sequences=SEQUENCES)
    train(ours, SEQUENCES, config=SETTINGS, device="cpu")
    state = model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in ours.state_dict().items())
    model.save_pretrained(tmp_path / "saved")
    found = DiffRec.from_pretrained(tmp_path / "saved").recommend([SEQUENCES.vocabulary.ids[:2]], k=3)
    assert found.items == ours.recommend([SEQUENCES.vocabulary.ids[:2]], k=3).items


def test_transformers_trains_on_the_same_batches(tmp_path, monkeypatch):
    """By the loop that the page's code stands for: one generator, and a rate that falls to zero."""
    pytest.importorskip("transformers", reason="transformers is not installed; make test-integrations installs it")
    monkeypatch.chdir(tmp_path)
    model, ours = build(), build().prepare(SEQUENCES)
    module = run("A model in transformers' Trainer", "transformers trains", model=model, sequences=SEQUENCES)
    optimizer = torch.optim.AdamW(ours.parameters(), lr=3e-3, weight_decay=0.0)
    steps = sum(module.batches.num_batches(epoch) for epoch in range(2))
    decay = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    generator = torch.Generator().manual_seed(0)
    ours.train()
    for epoch in range(2):
        for batch in module.batches.epoch(epoch):
            loss = ours.loss(batch, generator).total
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(ours.parameters(), 1.0)
            optimizer.step()
            decay.step()
    for name, tensor in ours.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name].cpu(), tensor, rtol=1e-5, atol=1e-6)
