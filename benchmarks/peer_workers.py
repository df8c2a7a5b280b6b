"""One library's SASRec, trained and served on request: what `benchmarks.peers` runs in each environment.

Requests and answers are lines of JSON. The network has two blocks, two heads, width 64 and histories of 50 items in all
libraries, and the loss compares a target with one drawn item. Batches are those that a library builds by default, one
after another through its epochs, with its own loop.
"""

# ruff: noqa: PLC0415 - the other libraries are in one environment each

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from diffusers_rec import Split, read_interactions
from diffusers_rec.presets import sasrec
from diffusers_rec.training import RECIPES
from diffusers_rec.training.learner import Learner
from diffusers_rec.training.loop import training_batches
from diffusers_rec.training.optimizers import build_optimizer
from diffusers_rec.training.processes import Processes

DIM, BLOCKS, HEADS, LENGTH, K = 64, 2, 2, 50, 10


class Ours:
    """The preset `sasrec` with its recipe."""

    batch_targets = 750

    def __init__(self, split: Split) -> None:
        self.batch = f"{self.batch_targets} targets"
        config = replace(RECIPES["sasrec"], batch_targets=self.batch_targets)
        self.model = sasrec(split.train.vocabulary).prepare(split.train, examples=config.examples)
        self.learner = Learner(self.model, build_optimizer(None, self.model, config), config, Processes("cpu"))
        self.batches = training_batches(self.model, split.train, config)
        self.epoch_targets = self.batches.num_targets
        self.histories = [split.train.vocabulary.decode(items.tolist()) for items in split.train]
        self.steps = self._steps()

    def train(self, batches: int) -> int:
        return sum(islice(self.steps, batches))

    def serve(self, users: int) -> None:
        self.model.recommend(self.histories[:users], K, exclude_seen=False)

    def _steps(self) -> Iterator[int]:
        number = 0
        generator = torch.Generator().manual_seed(0)
        while True:
            self.learner.start_epoch()
            for batch in self.batches.epoch(0):
                self.learner.step(batch, generator, number=number, epochs_done=0)
                number += 1
                yield batch.num_targets


class OursLarge(Ours):
    """The same in batches as large as RecTools' on ML-1M."""

    batch_targets = 6000


class RecBole:
    """Its SASRec with its default settings, a pair a target (`loss_type: BPR`)."""

    batch = "2048 targets"

    def __init__(self, split: Split) -> None:
        from recbole.config import Config
        from recbole.data import create_dataset, data_preparation
        from recbole.model.sequential_recommender import SASRec
        from recbole.trainer import Trainer

        folder = Path(tempfile.mkdtemp()) / "log"
        folder.mkdir()
        rows = "".join(f"{user}\t{item}\t{time}\n" for user, item, time in _rows(split, targets=2))
        (folder / "log.inter").write_text("user_id:token\titem_id:token\ttimestamp:float\n" + rows)
        os.chdir(folder)  # it writes its logs to the working directory
        sys.argv = sys.argv[:1]  # which it reads
        protocol = {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"}
        settings = {
            "data_path": str(folder.parent), "eval_args": protocol, "loss_type": "BPR", "use_gpu": False,
            "MAX_ITEM_LIST_LENGTH": LENGTH, "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        }  # fmt: skip
        config = Config(model=SASRec, dataset="log", config_dict=settings)
        self.loader, valid, _ = data_preparation(config, create_dataset(config))
        self.model = SASRec(config, self.loader.dataset)
        self.trainer = Trainer(config, self.model)
        self.epoch_targets = len(self.loader.dataset.inter_feat)
        self.requests, self.ids = valid.dataset.inter_feat, self.loader.dataset.field2id_token["item_id"]
        self.rest = iter(self.loader)

    def train(self, batches: int) -> int:
        taken = _Taken(self, batches)
        self.trainer._train_epoch(taken, 0)
        return taken.rows

    def serve(self, users: int) -> None:
        self.model.eval()
        with torch.no_grad():
            for start in range(0, users, 256):
                scores = self.model.full_sort_predict(self.requests[start : min(start + 256, users)])
                self.ids[scores[:, 1:].topk(K).indices + 1]


class RecTools:
    """Its SASRec, a pair a target (`loss="BCE"`), through Lightning."""

    batch = "128 users"

    def __init__(self, split: Split) -> None:
        import pandas as pd
        from pytorch_lightning import Trainer
        from rectools import Columns
        from rectools.dataset import Dataset
        from rectools.models import SASRecModel

        self.quiet = {
            "accelerator": "cpu", "logger": False, "enable_checkpointing": False, "enable_progress_bar": False,
            "enable_model_summary": False,
        }  # fmt: skip
        self.trainer_class = Trainer
        rows = pd.DataFrame(_rows(split, targets=0), columns=[Columns.User, Columns.Item, Columns.Datetime])
        rows[Columns.Datetime] = pd.to_datetime(rows[Columns.Datetime], unit="s")
        self.data = Dataset.construct(rows.assign(**{Columns.Weight: 1.0}))
        self.recommender = SASRecModel(
            n_blocks=BLOCKS, n_heads=HEADS, n_factors=DIM, dropout_rate=0.5, session_max_len=LENGTH, loss="BCE",
            n_negatives=1, get_trainer_func=lambda: Trainer(max_epochs=1, limit_train_batches=1, **self.quiet),
        ).fit(self.data)  # fmt: skip
        self.model = self.recommender.lightning_model
        self.loader = self.recommender.data_preparator.get_dataloader_train()
        self.epoch_targets = int((split.train.lengths - 1).clip(max=LENGTH).sum())
        self.users = rows[Columns.User].unique()
        self.rest = iter(self.loader)

    def train(self, batches: int) -> int:
        taken = _Taken(self, batches)
        self.trainer_class(max_epochs=1, **self.quiet).fit(self.model, taken)
        return taken.rows

    def serve(self, users: int) -> None:
        self.recommender.recommend(self.users[:users], self.data, K, filter_viewed=False)


class _Taken:
    """The next batches of a library's loader as a loader, which counts their targets."""

    shuffle = False

    def __init__(self, owner: Any, batches: int) -> None:
        self.owner, self.batches, self.rows = owner, batches, 0

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[Any]:
        for _ in range(self.batches):
            batch = next(self.owner.rest, None)
            if batch is None:
                self.owner.rest = iter(self.owner.loader)
                batch = next(self.owner.rest)
            self.rows += int((batch["y"] != 0).sum()) if isinstance(batch, dict) else len(batch)
            yield batch


LIBRARIES = {"diffusers_rec": Ours, "diffusers_rec, large batches": OursLarge, "recbole": RecBole, "rectools": RecTools}


def _rows(split: Split, targets: int) -> list[tuple[Any, Any, int]]:
    """User, item and time of the training items, and of one or both held-out targets."""
    rows = []
    ids = split.train.vocabulary.ids
    for user, items in enumerate(split.train):
        held = [split.validation.targets[user], split.test.targets[user]][:targets]
        rows += [(f"u{user}", ids[item], place) for place, item in enumerate([*items.tolist(), *held])]
    return rows


def work() -> None:
    """Answer `["train", batches]` and `["serve", users]` of `benchmarks.peers`: processor seconds and targets."""
    name, path, threads = sys.argv[1:4]
    answers, sys.stdout = os.fdopen(os.dup(1), "w"), sys.stderr  # libraries print to the other
    torch.set_num_threads(int(threads))
    library = LIBRARIES[name](read_interactions(path).sequences().leave_one_out())
    parameters = sum(weight.numel() for weight in library.model.parameters())
    about = {"parameters": parameters, "epoch_targets": library.epoch_targets, "batch": library.batch}
    print(json.dumps(about), file=answers, flush=True)
    for line in sys.stdin:
        request, amount = json.loads(line)
        started = time.process_time()
        targets = getattr(library, request)(amount)
        print(json.dumps([time.process_time() - started, targets]), file=answers, flush=True)
