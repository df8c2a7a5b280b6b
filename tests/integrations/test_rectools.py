"""A `DiffRec` inside a model class of RecTools', and RecTools' metrics. Run by `make test-integrations`."""

from __future__ import annotations

import pytest

from diffusers_rec import evaluation
from diffusers_rec.data import Sequences, Vocabulary, from_frame
from diffusers_rec.presets import best
from diffusers_rec.training import TrainingConfig, train

pytest.importorskip("rectools", reason="RecTools is not installed; make test-integrations installs it")

import numpy as np
import pandas as pd
import torch
from rectools import Columns, metrics
from rectools.dataset import Dataset
from rectools.models.base import ModelBase

pytestmark = pytest.mark.slow

NUM_USERS, NUM_ITEMS, LENGTH = 60, 20, 8


class DiffRecOfRecTools(ModelBase):
    """RecTools' external ids are the raw ids of the vocabulary."""

    def _fit(self, dataset):
        interactions = dataset.get_raw_interactions()
        log = from_frame(interactions, user=Columns.User, item=Columns.Item, time=Columns.Datetime)
        split = log.sequences().leave_one_out()
        self.recommender = best(split.train.vocabulary, dim=32, dropout=0.1)
        config = TrainingConfig(epochs=10, batch_targets=64, learning_rate=3e-3)
        self.result = train(self.recommender, split.train, split.validation, config, device="cpu")

    def _recommend_u2i(self, user_ids, dataset, k, filter_viewed, sorted_item_ids_to_recommend):
        histories = dataset.interactions.df.sort_values(Columns.Datetime, kind="stable").groupby(Columns.User)
        items, allowed = dataset.item_id_map, sorted_item_ids_to_recommend
        found = self.recommender.recommend(
            [items.convert_to_external(histories.get_group(user)[Columns.Item].to_numpy()) for user in user_ids],
            k,
            exclude_seen=filter_viewed,
            candidates=None if allowed is None else items.convert_to_external(allowed),
        )
        rows = [(user, item, score) for row, user in enumerate(user_ids) for item, score, _ in found[row]]
        users, names, scores = zip(*rows, strict=True)
        return users, items.convert_to_internal(names), scores


@pytest.fixture(scope="module")
def dataset():
    """Users that walk round a circle of items, rows in no order."""
    rows = [
        (f"u{user}", f"i{(user + time) % NUM_ITEMS}", 1.0, pd.Timestamp("2024-01-01") + pd.Timedelta(days=time))
        for user in range(NUM_USERS)
        for time in range(LENGTH)
    ]
    columns = [Columns.User, Columns.Item, Columns.Weight, Columns.Datetime]
    return Dataset.construct(pd.DataFrame(rows, columns=columns).sample(frac=1, random_state=0))


@pytest.fixture(scope="module")
def model(dataset):
    return DiffRecOfRecTools().fit(dataset)


def recommended(model, dataset, **settings):
    users = [f"u{user}" for user in range(NUM_USERS)]
    table = model.recommend(users, dataset, **settings)
    return {user: rows[Columns.Item].tolist() for user, rows in table.groupby(Columns.User)}


def test_rectools_fits_a_diffrec(model, dataset):
    losses = [record["recommendation"] for record in model.result.history]
    assert losses[-1] < 0.5 * losses[0]
    first = recommended(model, dataset, k=1, filter_viewed=True)
    hits = [first[f"u{user}"] == [f"i{(user + LENGTH) % NUM_ITEMS}"] for user in range(NUM_USERS)]
    assert sum(hits) > 0.9 * NUM_USERS


@pytest.mark.parametrize("filter_viewed", [True, False])
@pytest.mark.parametrize("allowed", [None, [f"i{item}" for item in range(0, NUM_ITEMS, 2)]])
def test_rectools_recommends_what_the_diffrec_does(model, dataset, filter_viewed, allowed):
    found = recommended(model, dataset, k=4, filter_viewed=filter_viewed, items_to_recommend=allowed)
    histories = [[f"i{(user + time) % NUM_ITEMS}" for time in range(LENGTH)] for user in range(NUM_USERS)]
    own = model.recommender.recommend(histories, 4, exclude_seen=filter_viewed, candidates=allowed)
    assert found == {f"u{user}": items for user, items in enumerate(own.items)}


def test_rectools_saves_and_loads_a_diffrec(model, dataset, tmp_path):
    model.save(tmp_path / "model.pkl")
    loaded = DiffRecOfRecTools.load(tmp_path / "model.pkl")
    settings = {"k": 4, "filter_viewed": True}
    assert recommended(loaded, dataset, **settings) == recommended(model, dataset, **settings)


def test_metrics_are_those_of_rectools():
    """Lists of all items for users of one to several held-out items."""
    generator = np.random.default_rng(0)
    users, items = 50, 30
    scores = generator.permuted(np.tile(np.arange(items), (users, 1)), axis=1)
    order = np.argsort(-scores, axis=1)
    relevant, known = generator.random((users, items)) < 0.15, generator.random((users, items)) < 0.1
    relevant[np.arange(users), generator.integers(0, items, users)] = True
    known[:, 0], known[:, 1] = True, False
    rows, targets = np.nonzero(relevant)
    ranks, rows = torch.from_numpy(1 + (scores[rows] > scores[rows, targets][:, None]).sum(1)), torch.from_numpy(rows)
    offsets = np.concatenate([[0], known.sum(1).cumsum()])
    train = Sequences(np.nonzero(known)[1], offsets, Vocabulary(range(users)), Vocabulary(range(items)))
    places = np.tile(np.arange(1, items + 1), users)
    listed = pd.DataFrame({Columns.User: np.repeat(range(users), items), Columns.Item: order.ravel(), "rank": places})
    test, before = (
        pd.DataFrame(dict(zip((Columns.User, Columns.Item), np.nonzero(table), strict=True)))
        for table in (relevant, known)
    )
    for k in (1, 3, 10):
        lists = torch.from_numpy(order[:, :k].copy())
        for ours, theirs in (
            (evaluation.hit_rate(ranks, k, rows), metrics.HitRate(k).calc(listed, test)),
            (evaluation.recall(ranks, k, rows), metrics.Recall(k).calc(listed, test)),
            (evaluation.precision(ranks, k, rows), metrics.Precision(k).calc(listed, test)),
            (evaluation.mrr(ranks, k, rows), metrics.MRR(k).calc(listed, test)),
            (evaluation.ndcg(ranks, k, rows), metrics.NDCG(k, divide_by_achievable=True).calc(listed, test)),
            (evaluation.coverage(lists, items), metrics.CatalogCoverage(k, True).calc(listed, range(items))),
            (evaluation.novelty(lists, train), metrics.MeanInvUserFreq(k).calc(listed, before)),
        ):
            assert ours == pytest.approx(theirs)
