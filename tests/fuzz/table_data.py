"""Valid calls of the data: vocabularies, logs, sequences, batches, readers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch

import diffusers_rec as dr
from diffusers_rec.data import pad

from . import world
from .soundness import Call, finite, of, probabilities
from .world import generator


def frame() -> pd.DataFrame:
    return pd.DataFrame({"user": ["a", "a", "b"], "item": ["x", "y", "x"], "time": [1, 2, 3]})


def arrays() -> dict[str, Any]:
    log = world.log()
    return {"items": log.items.copy(), "users": log.users.copy(), "times": log.times.copy()}


def sequence_arguments() -> dict[str, Any]:
    whole = world.sequences()
    return {"items": whole.items, "offsets": whole.offsets, "users": whole.users, "vocabulary": whole.vocabulary}


def rich() -> dr.History:
    return replace(
        world.history(), times=torch.ones(2, 3), features={"age": torch.ones(2)}, latents=torch.ones(2, 3, 4),
        copies=torch.ones(2, 3, 4), copy_steps=torch.ones(2, 3).long(),
    )  # fmt: skip


def synthetic() -> dr.SyntheticWorld:
    return dr.SyntheticWorld(12, num_groups=2)


CALLS: dict[str, Call] = {
    "Vocabulary": Call(lambda: dr.Vocabulary, lambda: {"ids": ["a", 1, ("b", 2)]}, of(dr.Vocabulary)),
    "Vocabulary.encode": Call(lambda: world.vocabulary().encode, lambda: {"ids": ["i0", "i1"]}),
    "Vocabulary.decode": Call(lambda: world.vocabulary().decode, lambda: {"indices": np.array([0, 1])}),
    "Vocabulary.__contains__": Call(lambda: world.vocabulary().__contains__, lambda: {"raw_id": "i0"}),
    "Vocabulary.to_json": Call(lambda: world.vocabulary().to_json, dict),
    "Vocabulary.from_json": Call(lambda: dr.Vocabulary.from_json, lambda: {"ids": ["a", 1]}, of(dr.Vocabulary)),
    "Interactions": Call(
        lambda: dr.Interactions,
        lambda: {**arrays(), "user_vocabulary": world.vocabulary(6), "item_vocabulary": world.vocabulary()},
        lambda result, _: bool(result.sequences()),
    ),
    "Interactions.from_arrays": Call(
        lambda: dr.Interactions.from_arrays, lambda: {"users": ["a", "a"], "items": ["x", "y"], "times": [1, 2]},
        lambda result, _: bool(result.sequences()),
    ),
    "Interactions.k_core": Call(lambda: world.log().k_core, lambda: {"k": 2}),
    "Interactions.reindexed": Call(
        lambda: world.log().reindexed,
        lambda: {"vocabulary": dr.Vocabulary([f"i{v}" for v in range(9, -1, -1)]), "unknown": "error"},
        of(dr.Interactions),
    ),
    "Interactions.statistics": Call(lambda: world.log().statistics, dict),
    "Interactions.sequences": Call(lambda: world.log().sequences, lambda: {"times": True}),
    "Sequences": Call(lambda: dr.Sequences, sequence_arguments, lambda result, _: len(list(result)) == len(result)),
    "Sequences.__getitem__": Call(lambda: world.sequences().__getitem__, lambda: {"user": 1}, errors=(IndexError,)),
    "Sequences.statistics": Call(lambda: world.sequences().statistics, dict),
    "Sequences.take": Call(lambda: world.sequences().take, lambda: {"users": [1, 2]}, of(dr.Sequences)),
    "Sequences.with_features": Call(
        lambda: world.sequences().with_features, lambda: {"features": {"age": np.arange(6.0)}}, of(dr.Sequences)
    ),
    "Sequences.reindexed": Call(
        lambda: world.sequences().reindexed, lambda: {"vocabulary": dr.Vocabulary([f"i{v}" for v in range(9, -1, -1)])},
        of(dr.Sequences),
    ),
    "Holdout.reindexed": Call(
        lambda: world.holdout().reindexed, lambda: {"vocabulary": dr.Vocabulary([f"i{v}" for v in range(9, -1, -1)])},
        of(dr.Holdout),
    ),
    "Sequences.without_repeats": Call(lambda: world.sequences().without_repeats, dict, of(dr.Sequences)),
    "Sequences.split_by_time": Call(
        lambda: world.log().sequences(times=True).split_by_time, lambda: {"validation": 8, "test": "60%"}, of(dr.Split)
    ),
    "Sequences.leave_last_out": Call(lambda: world.sequences().leave_last_out, lambda: {"k": 1}, of(dr.Split)),
    "Sequences.leave_one_out": Call(lambda: world.sequences().leave_one_out, lambda: {"short": "error"}, of(dr.Split)),
    "Holdout": Call(
        lambda: dr.Holdout,
        lambda: {"histories": world.sequences(), "targets": world.holdout().targets,
                 "following": world.holdout().following},
        of(dr.Holdout),
    ),
    "Holdout.of": Call(
        lambda: dr.Holdout.of, lambda: {"histories": world.sequences(), "following": world.sequences()}, of(dr.Holdout)
    ),
    "Holdout.take": Call(lambda: world.holdout().take, lambda: {"users": [1, 2]}, of(dr.Holdout)),
    "Holdout.sample": Call(lambda: world.holdout().sample, lambda: {"users": 3, "seed": 0}, of(dr.Holdout)),
    "Split": Call(
        lambda: dr.Split,
        lambda: {"train": world.sequences(), "validation": world.holdout(), "test": world.holdout(),
                 "before_test": world.sequences()},
        lambda result, _: isinstance(result.train, dr.Sequences) and isinstance(result.test, dr.Holdout)
        and isinstance(result.validation, dr.Holdout),
    ),
    "Split.of": Call(
        lambda: dr.Split.of,
        lambda: {"train": world.sequences(), "validation": world.sequences(), "test": world.sequences()}, of(dr.Split),
    ),
    "Split.final": Call(lambda: world.sequences().leave_one_out().final, dict, of(dr.Sequences)),
    "Statistics": Call(lambda: dr.Statistics, lambda: {"num_users": 2, "num_items": 3, "num_actions": 4}),
    "History": Call(
        lambda: dr.History,
        lambda: {"items": torch.ones(2, 3).long(), "lengths": torch.tensor([3, 2]), "times": torch.ones(2, 3),
                 "features": {"age": torch.ones(2)}, "latents": torch.ones(2, 3, 4), "copies": torch.ones(2, 3, 4),
                 "copy_steps": torch.ones(2, 3).long()},
        lambda result, _: len(result) == 2,
    ),
    "History.of_latents": Call(
        lambda: dr.History.of_latents, lambda: {"latents": torch.ones(2, 3, 4), "lengths": torch.tensor([3, 2])},
        of(dr.History),
    ),
    "History.of_items": Call(
        lambda: dr.History.of_items,
        lambda: {"items": torch.tensor([[1, 2, 3], [4, 0, 0]]), "lengths": torch.tensor([3, 1]), "padding": None},
        of(dr.History),
    ),
    "History.last": Call(lambda: rich().last, lambda: {"length": 2}, of(dr.History)),
    "History.latent": Call(lambda: rich().latent, dict),
    "History.noised": Call(lambda: rich().noised, dict),
    "History.time": Call(lambda: rich().time, dict),
    "History.feature": Call(lambda: rich().feature, lambda: {"name": "age"}),
    "History.with_latents": Call(
        lambda: rich().with_latents,
        lambda: {"latents": torch.zeros(2, 3, 4)},
        lambda result, _: isinstance(result, dr.History),  # what an embedding gives is carried, whatever it is
    ),
    "History.blank": Call(lambda: rich().blank, dict, of(dr.History)),
    "History.take": Call(lambda: rich().take, lambda: {"rows": torch.tensor([1, 0])}, of(dr.History)),
    "History.first": Call(lambda: rich().first, lambda: {"length": 2}, of(dr.History)),
    "History.to": Call(lambda: rich().to, lambda: {"device": "cpu", "non_blocking": False}, of(dr.History)),
    "Batch.next_item": Call(
        lambda: dr.Batch.next_item,
        lambda: {"history": world.history(), "target": torch.tensor([1, 0])},
        lambda result, _: finite(world.model().loss(result, generator()), {}),
    ),
    "Batch": Call(
        lambda: dr.Batch,
        lambda: {"history": world.history(), "positions": torch.tensor([[2], [1]]), "num_targets": 2,
                 "starts": torch.tensor([0, 3])},
        lambda result, _: finite(world.model().loss(result, generator()), {}),
    ),
    "Batch.to": Call(lambda: world.batch().to, lambda: {"device": "cpu", "non_blocking": False}),
    "TrainingBatches": Call(
        lambda: dr.TrainingBatches,
        lambda: {"sequences": world.sequences(), "examples": "all-positions", "max_length": 4, "batch_targets": 5,
                 "seed": 0},
        lambda result, _: sum(batch.num_targets for batch in result.epoch(0)) == result.num_targets,
    ),
    "TrainingBatches.epoch": Call(
        lambda: dr.TrainingBatches(world.sequences()).epoch, lambda: {"epoch": 1, "rank": 0, "count": 2},
        lambda result, _: bool(list(result)),
    ),
    "TrainingBatches.dataset": Call(
        lambda: dr.TrainingBatches(world.sequences()).dataset, lambda: {"rank": 1, "num_ranks": 2, "even": True},
        lambda result, _: len(list(result)) == len(result),
    ),
    "TrainingBatches.num_batches": Call(
        lambda: dr.TrainingBatches(world.sequences(), examples="all-positions").num_batches, lambda: {"epoch": 1}
    ),
    "TrainingBatches.target_counts": Call(lambda: dr.TrainingBatches(world.sequences()).target_counts, dict),
    "pad": Call(lambda: pad, lambda: {"histories": [[1, 2], [3]], "max_length": 2, "fill": -1, "times": [[5, 6], [7]],
                                         "features": {"age": [0.5, 1.5]}}),
    "from_frame": Call(
        lambda: dr.from_frame, lambda: {"frame": frame(), "user": "user", "item": "item", "time": "time"},
        of(dr.Interactions),
    ),
    "read_interactions": Call(
        lambda: dr.read_interactions,
        lambda: {"path": "log.csv", "format": "csv", "user": "user", "item": "item", "time": "time", "separator": ","},
        of(dr.Interactions),
    ),
    "SyntheticWorld": Call(
        lambda: dr.SyntheticWorld, lambda: {"num_items": 12, "num_groups": 2, "seed": 0},
        lambda result, _: probabilities(result.next_item_probabilities([[0]]), {}),
    ),
    "SyntheticWorld.next_item_probabilities": Call(
        lambda: synthetic().next_item_probabilities, lambda: {"histories": [[0, 1], []]}, probabilities
    ),
    "SyntheticWorld.sample": Call(
        lambda: synthetic().sample, lambda: {"num_users": 3, "min_length": 2, "max_length": 4, "seed": 0},
        of(dr.Interactions),
    ),
    "SyntheticWorld.best_metrics": Call(
        lambda: synthetic().best_metrics,
        lambda: {"holdout": synthetic().sample(5, max_length=8).sequences().leave_one_out().test, "ks": [2, 5]},
        lambda result, _: probabilities([*result.values()], {}),
    ),
}  # fmt: skip
