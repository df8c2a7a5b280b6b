"""A model inside somebody else's training loop, here a module of Lightning.

The module's methods are those that Lightning calls. A loop of a few lines that calls the same ones stands in for
Lightning's trainer where that is not installed; ``make test-integrations`` installs it.
"""

from __future__ import annotations

import importlib.util

import torch
from torch.utils.data import DataLoader

from diffusers_rec import DiffRec, SyntheticWorld, TrainingBatches
from diffusers_rec.core.randomness import stream_seed
from diffusers_rec.training import TrainingConfig, train

INSTALLED = importlib.util.find_spec("lightning") is not None
if INSTALLED:
    from lightning import LightningModule, Trainer
else:
    LightningModule = torch.nn.Module

SETTINGS = TrainingConfig(epochs=2, examples="all-positions", batch_targets=100, learning_rate=3e-3)
SEQUENCES = SyntheticWorld(20, num_groups=2).sample(40, max_length=10).sequences()


def build():
    parts = {"schedule": {"name": "sqrt", "num_timesteps": 20}, "denoiser": "conditional-mlp"}
    return DiffRec(SEQUENCES.vocabulary, dim=8, max_length=8, **parts)


class LitDiffRec(LightningModule):
    """Batches, random numbers and rates as ``train`` has them, so that both end on the same weights."""

    def __init__(self, model, sequences, config):
        super().__init__()
        self.model, self.config = model.prepare(sequences, examples=config.examples), config
        self.batches = TrainingBatches(
            sequences,
            examples=config.examples,
            max_length=model.max_length,
            batch_targets=config.batch_targets,
            seed=config.seed,
        )

    def train_dataloader(self):  # Trainer(reload_dataloaders_every_n_epochs=1): an order for each epoch
        return DataLoader(list(self.batches.epoch(self.current_epoch)), batch_size=None)

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=self.config.learning_rate, weight_decay=0.0, fused=True)

    def training_step(self, batch, batch_idx):
        generator = torch.Generator().manual_seed(stream_seed(self.config.seed, self.current_epoch, batch_idx, 0))
        return self.model.loss(batch, generator).total


class StandIn:
    """The calls that Lightning's trainer makes."""

    def fit(self, module):
        optimizer = module.configure_optimizers()
        for module.current_epoch in range(SETTINGS.epochs):
            module.train()
            for number, batch in enumerate(module.train_dataloader()):
                optimizer.zero_grad()
                module.training_step(batch, number).backward()
                optimizer.step()


def trainer():
    if not INSTALLED:
        return StandIn()
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    return Trainer(max_epochs=SETTINGS.epochs, accelerator="cpu", reload_dataloaders_every_n_epochs=1, **quiet)


def test_the_loop_ends_on_the_weights_of_train(tmp_path):
    module = LitDiffRec(build(), SEQUENCES, SETTINGS)
    trainer().fit(module)
    ours = build()
    train(ours, SEQUENCES, config=SETTINGS, device="cpu")
    state = module.state_dict()
    assert all(torch.equal(state[f"model.{name}"], tensor) for name, tensor in ours.state_dict().items())
    module.model.save_pretrained(tmp_path)
    found = DiffRec.from_pretrained(tmp_path).recommend([SEQUENCES.vocabulary.ids[:2]], k=3)
    assert found.items == ours.recommend([SEQUENCES.vocabulary.ids[:2]], k=3).items
