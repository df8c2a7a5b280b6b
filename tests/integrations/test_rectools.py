"""The page's code for RecTools, and RecTools' metrics. Run by `make test-integrations`."""

from __future__ import annotations

import pytest

from diffusers_rec import evaluation
from diffusers_rec.data import Sequences, Vocabulary

pytest.importorskip("rectools", reason="RecTools is not installed; make test-integrations installs it")

import numpy as np
import pandas as pd
import torch
from page import run
from rectools import Columns, metrics
from rectools.dataset import Dataset

pytestmark = pytest.mark.slow

NUM_USERS, NUM_ITEMS, LENGTH = 60, 20, 8


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
    return run("A whole model in RecTools").BestInRecTools().fit(dataset)


def recommended(model, dataset, **settings):
    users = [f"u{user}" for user in range(NUM_USERS)]
    table = model.recommend(users, dataset, **settings)
    return {user: rows[Columns.Item].tolist() for user, rows in table.groupby(Columns.User)}


def test_rectools_fits_a_diffrec(model, dataset):
    first = recommended(model, dataset, k=1, filter_viewed=True)
    hits = [first[f"u{user}"] == [f"i{(user + LENGTH) % NUM_ITEMS}"] for user in range(NUM_USERS)]
    assert sum(hits) > 0.9 * NUM_USERS


@pytest.mark.parametrize("filter_viewed", [True, False])
@pytest.mark.parametrize("allowed", [None, [f"i{item}" for item in range(0, NUM_ITEMS, 2)]])
def test_rectools_recommends_what_the_diffrec_does(model, dataset, filter_viewed, allowed):
    found = recommended(model, dataset, k=4, filter_viewed=filter_viewed, items_to_recommend=allowed)
    histories = [[f"i{(user + time) % NUM_ITEMS}" for time in range(LENGTH)] for user in range(NUM_USERS)]
    inside, outside = dataset.item_id_map.convert_to_internal, dataset.item_id_map.convert_to_external
    own = model.recommender.recommend(
        [inside(history) for history in histories],
        4,
        exclude_seen=filter_viewed,
        candidates=None if allowed is None else inside(allowed),
    )
    assert found == {f"u{user}": outside(items).tolist() for user, items in enumerate(own.items)}


def test_rectools_saves_and_loads_a_diffrec(model, dataset, tmp_path):
    model.save(tmp_path / "model.pkl")
    loaded = type(model).load(tmp_path / "model.pkl")
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
