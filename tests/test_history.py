"""Times and features ride along with the items, from a log to a prediction, and change nothing for who ignores them."""

from __future__ import annotations

from datetime import datetime

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffusers_rec import (
    Batch,
    DiffRec,
    Ensemble,
    History,
    Interactions,
    Recommender,
    Scores,
    Sequences,
    SyntheticWorld,
    TrainingBatches,
    Vocabulary,
)
from diffusers_rec.data import pad
from diffusers_rec.evaluation import evaluate

NUM_ITEMS = 12
lengths = st.lists(st.integers(0, 7), min_size=1, max_size=8)


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_latents_that_are_not_finite_are_refused(value):
    latents = torch.zeros(2, 3, 4)
    latents[1, 0, 2] = value
    with pytest.raises(ValueError, match=r"latents must be finite.*1 of 24"):
        History.of_latents(latents, torch.tensor([3, 2]))


def test_a_blank_history_has_nothing_of_what_was_behind_its_items():
    times = torch.tensor([[1.0, 2.0, torch.nan], [3.0, torch.inf, 4.0]])
    history = History(torch.tensor([[3, 4, 5], [6, 7, 8]]), torch.tensor([2, 1]), times, latents=torch.ones(2, 3, 4))
    blank = history.blank()
    assert blank.items.tolist() == [[3, 4, 0], [6, 0, 0]]
    assert blank.times.tolist() == [[1, 2, 0], [3, 0, 0]]
    assert blank.lengths is history.lengths
    assert blank.latents is None


def rich(lengths):
    """Sequences in which an item, its time and the features of its user are known from one another."""
    offsets = np.cumsum([0, *lengths])
    items = np.arange(offsets[-1])
    users = np.arange(len(lengths))
    return Sequences(
        items,
        offsets,
        Vocabulary([f"u{user}" for user in users]),
        Vocabulary(range(max(1, offsets[-1]))),
        times=1000 + 10 * items,
        features={"age": users.astype(np.float32), "taste": np.stack([users, -users], axis=1)},
    )


def assert_rides_along(sequences):
    assert np.array_equal(sequences.times, 1000 + 10 * np.array(sequences.vocabulary.decode(sequences.items)))
    users = np.array([int(user[1:]) for user in sequences.users.ids])
    assert np.array_equal(sequences.features["age"], users)
    assert np.array_equal(sequences.features["taste"], np.stack([users, -users], axis=1))


@given(lengths=lengths, data=st.data())
def test_times_and_features_ride_through_everything_that_cuts_sequences(lengths, data):
    sequences = rich(lengths)
    users = data.draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1, unique=True))
    assert_rides_along(sequences.take(users))
    assert_rides_along(sequences.reindexed(Vocabulary(reversed(sequences.vocabulary.ids))))
    if max(lengths) >= 3:
        short = data.draw(st.sampled_from(["drop", "train"]))
        split = sequences.leave_one_out(short)
        for part in (split.train, split.validation.histories, split.test.sample(2, seed=0).histories):
            assert_rides_along(part)


@given(lengths=lengths, max_length=st.integers(1, 8))
def test_padding_keeps_the_latest_times_and_every_feature(lengths, max_length):
    sequences = rich(lengths)
    padded = pad(sequences, max_length)
    assert torch.equal(padded.time(), torch.where(padded.mask, 1000 + 10 * padded.items, 0))
    assert padded.feature("age").tolist() == list(range(len(lengths)))
    assert padded.feature("taste").shape == (len(lengths), 2)
    times = np.split(sequences.times, sequences.offsets[1:-1])
    again = pad([*sequences], max_length, times=times, features=sequences.features)
    for one, other in ((padded.items, again.items), (padded.time(), again.time())):
        assert torch.equal(one, other)
    assert torch.equal(padded.feature("taste"), again.feature("taste"))


@given(
    lengths=lengths.filter(lambda lengths: max(lengths) >= 2),
    examples=st.sampled_from(["every-prefix", "last-target", "all-positions"]),
    max_length=st.integers(2, 6),
)
def test_windows_of_training_have_their_own_times_and_their_users_features(lengths, examples, max_length):
    sequences = rich(lengths)
    owner = np.repeat(np.arange(len(lengths)), lengths)
    plain = Sequences(sequences.items, sequences.offsets, sequences.users, sequences.vocabulary)
    settings = {"examples": examples, "max_length": max_length, "batch_targets": 7}
    batches = zip(
        TrainingBatches(sequences, **settings).epoch(0), TrainingBatches(plain, **settings).epoch(0), strict=True
    )
    for batch, without in batches:
        history = batch.history
        assert torch.equal(batch.items, without.items)
        assert torch.equal(history.time(), torch.where(history.mask, 1000 + 10 * history.items, 0))
        assert history.feature("age").tolist() == owner[history.items[:, 0].numpy()].tolist()
        assert without.history.times is None
        assert not without.history.features


def test_times_are_kept_on_request():
    log = Interactions.from_arrays(["a", "b", "a"], ["x", "y", "z"], [30, 20, 10])
    assert log.sequences().times is None
    sequences = log.sequences(times=True)
    assert sequences.times.tolist() == [10, 30, 20]
    with pytest.raises(TypeError, match="times must be True or False"):
        log.sequences(times="yes")


def test_features_are_added_and_converted():
    sequences = rich([1, 2]).with_features({"age": [0.5, 1.5], "flag": torch.tensor([True, False])})
    assert sequences.features["age"].dtype == np.float32
    assert sequences.features["flag"].tolist() == [True, False]
    assert set(sequences.features) == {"age", "taste", "flag"}


@pytest.mark.parametrize(
    ("features", "error", "message"),
    [
        ({"age": [1.0]}, ValueError, r"feature 'age' needs one row for each of 2 users, got \(1,\)"),
        ({"age": 1.0}, ValueError, r"feature 'age' needs one row for each of 2 users, got \(\)"),
        ({"town": ["a", "b"]}, TypeError, r"feature 'town' must hold numbers, got <U1.*Vocabulary\(values\)\.encode"),
        ([1, 2], TypeError, "features must be a mapping"),
    ],
)
def test_features_that_do_not_fit_are_refused(features, error, message):
    for take in (rich([1, 2]).with_features, lambda features: pad([[1], [2]], features=features)):
        with pytest.raises(error, match=message):
            take(features)


def test_times_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"expected one time an item, \[1, 2\] a history, got \[1, 1\]"):
        pad([[1], [2, 3]], times=[[5], [6]])
    with pytest.raises(ValueError, match="Sequences carry their own times and features"):
        pad(rich([1]), times=[[5]])
    with pytest.raises(ValueError, match=r"expected one time an interaction, \(3,\), got \(1,\)"):
        Sequences(np.zeros(3, np.int64), np.array([0, 3]), Vocabulary(["a"]), Vocabulary([0]), times=np.zeros(1))


def test_a_history_says_what_it_does_not_have():
    history = History(torch.zeros(2, 3, dtype=torch.int64), torch.tensor([3, 1]))
    with pytest.raises(ValueError, match=r"interactions\.sequences\(times=True\)"):
        history.time()
    with pytest.raises(ValueError, match=r"no feature 'age', only: none.*recommend\(\.\.\., features=\.\.\.\)"):
        history.feature("age")
    with pytest.raises(ValueError, match=r"with_latents"):
        history.latent()
    with pytest.raises(ValueError, match=r"feature 'age' needs one row for each of the 2 users"):
        History(history.items, history.lengths, features={"age": torch.zeros(3)})
    with pytest.raises(ValueError, match="times must begin with the shape of items"):
        History(history.items, history.lengths, times=torch.zeros(2, 2))


@given(lengths=lengths, data=st.data())
def test_rows_and_the_first_positions_of_a_history(lengths, data):
    history = pad(rich(lengths)).with_latents(torch.zeros(len(lengths), max(1, *lengths, 1), 2))
    rows = torch.tensor(data.draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1)))
    taken, first = history.take(rows), history.first(2)
    assert torch.equal(taken.time(), history.time()[rows])
    assert torch.equal(taken.feature("taste"), history.feature("taste")[rows])
    assert first.items.shape[1] == min(2, history.items.shape[1])
    assert torch.equal(first.time(), history.time()[:, :2])
    assert torch.equal(first.lengths, history.lengths.clamp(max=2))
    assert torch.equal(first.feature("age"), history.feature("age"))
    moved = Batch(history, history.lengths[:, None] - 1).to("meta").history
    assert {part.device.type for part in (moved.time(), moved.feature("age"), moved.latent())} == {"meta"}


# Serving


class ByAge(Recommender):
    """A model without a head: the item of the user's age comes next, the surer the later the last time."""

    device, history_length = torch.device("cpu"), 3

    def __init__(self, popularity=None):
        super().__init__()
        self.vocabulary = Vocabulary([f"i{v}" for v in range(NUM_ITEMS)])
        if popularity is not None:
            self.popularity = popularity

    def score(self, history, *, seeds=None, sampler=None):
        last = history.time().float().gather(1, history.lengths[:, None] - 1)
        age = history.feature("age")[:, None]
        yield Scores.of_logits(-last * (torch.arange(NUM_ITEMS) - age).abs())


HISTORIES = [["i1", "i2", "i3", "i4"], ["i5"], ["i6", "i7"]]
TIMES = [[1.0, 2.0, 3.0, 4.0], [2.0], [1.0, 3.0]]
AGES = {"age": [2.0, 8.0, 0.0]}


def expected(ages, last):
    distance = (torch.arange(NUM_ITEMS) - torch.tensor(ages)[:, None]).abs()
    return (-torch.tensor(last)[:, None] * distance).softmax(-1)


def test_a_model_of_another_kind_recommends_with_times_and_features():
    model = ByAge()
    given = {"times": TIMES, "features": AGES}
    probabilities = expected(AGES["age"], [4.0, 2.0, 3.0])
    torch.testing.assert_close(model.predict_proba(HISTORIES, **given), probabilities)
    found = model.recommend(HISTORIES, 3, exclude_seen=False, batch_size=2, **given)
    assert [row[0] for row in found.items] == ["i2", "i8", "i0"]
    torch.testing.assert_close(found.scores, probabilities.topk(3).values)
    assert not found.std.any()
    with pytest.raises(ValueError, match="The history has no times"):
        model.recommend(HISTORIES, features=AGES)


def test_each_row_keeps_its_own_where_requests_are_reordered_and_ids_dropped():
    model = ByAge(popularity=torch.arange(NUM_ITEMS))
    histories = [[], ["i1", "unknown", "i2", "new"], ["i3"]]
    times = [[], [1.0, 9.0, 2.0, 9.0], [3.0]]
    found = model.recommend(
        histories, 2, unknown="drop", empty="popularity", times=times, features={"age": [0.0, 5.0, 7.0]}
    )
    assert found.items[0] == ["i11", "i10"]
    assert [row[0] for row in found.items[1:]] == ["i5", "i7"]
    torch.testing.assert_close(found.scores[1:, 0], expected([5.0, 7.0], [2.0, 3.0]).amax(1))
    with pytest.raises(ValueError, match="needs to know how often each item occurs"):
        ByAge().recommend([[]], empty="popularity", times=[[]], features={"age": [0.0]})


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"times": TIMES[:2]}, ValueError, r"one time for each item of each history, \[4, 1, 2\], got \[4, 1\]"),
        ({"times": [[1.0]] * 3}, ValueError, r"\[4, 1, 2\], got \[1, 1, 1\]"),
        ({"times": "2024"}, TypeError, "times must be a list of lists"),
        ({"times": [[None] * 4, [1], [1, 2]]}, ValueError, "missing"),
        ({"features": {"age": [1.0]}}, ValueError, "feature 'age' needs one row for each of 3 users"),
    ],
)
def test_times_and_features_of_a_call_that_do_not_fit_are_refused(given, error, message):
    with pytest.raises(error, match=message):
        ByAge().recommend(HISTORIES, **{"times": TIMES, "features": AGES, **given})


def test_dates_become_nanoseconds_as_in_a_log():
    history = ByAge().encode_histories([["i1", "i2"]], times=[[datetime(1970, 1, 1), datetime(1970, 1, 2)]])
    assert history.time().tolist() == [[0, 86_400_000_000_000]]


def test_a_model_of_another_kind_is_evaluated_and_joins_an_ensemble():
    world = SyntheticWorld(NUM_ITEMS, num_groups=2).sample(30, min_length=3, max_length=6)
    ages = {"age": np.arange(30.0) % NUM_ITEMS}
    test = world.sequences(times=True).with_features(ages).leave_one_out().test
    model = ByAge()
    model.vocabulary = test.histories.vocabulary
    order = torch.arange(len(model.vocabulary))
    nearest = (order - torch.from_numpy(ages["age"])[:, None]).abs()
    hits = (nearest <= nearest.gather(1, torch.from_numpy(test.targets)[:, None])).sum(1) <= 3
    report = evaluate(model, test, ks=[3])
    assert report.metrics(exclude_seen=False)["hr@3"] == pytest.approx(hits.double().mean().item())
    assert evaluate(model, test, ks=[3], memory=False) == report
    other = DiffRec(test.histories.vocabulary, dim=8, max_length=4, denoiser="conditional-mlp", seeds=2)
    histories = [test.histories.vocabulary.decode(row) for row in test.histories]
    given = {"times": [np.split(test.histories.times, test.histories.offsets[1:-1])[row].tolist() for row in range(30)]}
    given |= {"features": ages}
    both = Ensemble([model, other]).predict_proba(histories, **given)
    mean = (model.predict_proba(histories, **given) + other.predict_proba(histories)) / 2
    torch.testing.assert_close(both, mean)


def test_a_model_that_asks_for_neither_answers_alike_with_them():
    model = DiffRec([f"i{v}" for v in range(NUM_ITEMS)], dim=8, max_length=4, denoiser="conditional-mlp", seeds=2)
    plain, rich_answer = (model.recommend(HISTORIES, **given) for given in ({}, {"times": TIMES, "features": AGES}))
    assert plain.items == rich_answer.items
    assert torch.equal(plain.scores, rich_answer.scores)


def test_the_old_form_is_refused_with_the_new_one():
    model = DiffRec(range(5), dim=8, max_length=4, denoiser="conditional-mlp", memory="transitions")
    items = torch.zeros(1, 2, dtype=torch.int64)
    for take in (model.next_item_latents, model.score, model.memory.predict):
        with pytest.raises(TypeError, match=r"history must be History, got Tensor\. Use History\(items, lengths\)"):
            take(items)


def test_the_old_name_of_predict_and_of_its_answer_still_work(monkeypatch):
    from diffusers_rec.recommenders import memory

    monkeypatch.setattr("diffusers_rec.core.deprecation._SHOWN", set())
    fitted = memory.TransitionMemory(NUM_ITEMS)
    fitted.fit(rich([4, 5]).reindexed(Vocabulary(range(NUM_ITEMS))))
    history = pad([[1, 2]])
    with pytest.warns(FutureWarning, match=r"recall\(items, lengths\) is deprecated.*predict\(History"):
        old = fitted.recall(history.items, history.lengths)
    assert torch.equal(old.mass, fitted.predict(history).mass)
    with pytest.warns(FutureWarning, match="Recalled is deprecated"):
        assert memory.Recalled is memory.MemoryPrediction


def test_the_old_name_of_a_deviation_still_works(monkeypatch):
    monkeypatch.setattr("diffusers_rec.core.deprecation._SHOWN", set())
    found = DiffRec(range(5), dim=8, max_length=4, denoiser="conditional-mlp").recommend([[1]], 2)
    with pytest.warns(FutureWarning, match=r"Recommendations\.spread is deprecated"):
        assert found.spread is found.std
