from __future__ import annotations

from collections import Counter
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from diffusers_rec.data import Interactions, Statistics, Vocabulary, read_interactions

rows = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(0, 3)), min_size=1, max_size=60)


def log_of(rows):
    return Interactions.from_arrays(*map(list, zip(*rows, strict=True)))


def raw(log):
    users, items = log.user_vocabulary.decode(log.users), log.item_vocabulary.decode(log.items)
    return list(zip(users, items, log.times.tolist(), strict=True))


@given(rows=rows)
def test_from_arrays_keeps_rows(rows):
    log = log_of(rows)
    assert raw(log) == rows
    assert list(log.user_vocabulary.ids) == list(dict.fromkeys(user for user, _, _ in rows))
    assert len(log) == len(rows)


@given(rows=rows)
def test_sequences_are_chronological_and_stable(rows):
    sequences = log_of(rows).sequences()
    for user, sequence in zip(sequences.users.ids, sequences, strict=True):
        own = sorted((row for row in rows if row[0] == user), key=lambda row: row[2])  # sorted() is stable
        assert sequences.vocabulary.decode(sequence) == [item for _, item, _ in own]


@given(rows=rows, k=st.integers(1, 4))
def test_k_core_is_the_largest_fixed_point(rows, k):
    core = rows
    while True:  # one user or item at a time, as slowly as can be
        users, items = Counter(row[0] for row in core), Counter(row[1] for row in core)
        low = [("user", u) for u in users if users[u] < k] + [("item", i) for i in items if items[i] < k]
        if not low:
            break
        (kind, gone), place = low[0], {"user": 0, "item": 1}
        core = [row for row in core if row[place[kind]] != gone]
    if not core:
        with pytest.raises(ValueError, match="Use a smaller k"):
            log_of(rows).k_core(k)
        return
    kept = log_of(rows).k_core(k)
    assert raw(kept) == core
    assert raw(kept.k_core(k)) == core
    assert set(kept.user_vocabulary.ids) == {row[0] for row in core}
    assert set(kept.item_vocabulary.ids) == {row[1] for row in core}


def test_k_core_refuses_k_below_one():
    with pytest.raises(ValueError, match="k must be an integer >= 1, got 0"):
        log_of([(0, 0, 0)]).k_core(0)
    with pytest.raises(TypeError, match=r"k must be an integer >= 1, got 2\.0 \(float\)"):
        log_of([(0, 0, 0)]).k_core(2.0)


@pytest.mark.parametrize("make", [list, np.array, torch.tensor, pd.Series])
def test_columns_may_be_anything(make):
    log = Interactions.from_arrays(make([7, 7, 9]), make([1, 2, 1]), make([3, 2, 1]))
    assert raw(log) == [(7, 1, 3), (7, 2, 2), (9, 1, 1)]


def test_no_times_means_the_order_given():
    assert Interactions.from_arrays(["a", "a", "b"], ["x", "y", "x"]).times.tolist() == [0, 1, 2]


NANOSECONDS = 1_700_000_000_000_000_001  # float64 would drop the last one


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([NANOSECONDS, NANOSECONDS - 1], [NANOSECONDS, NANOSECONDS - 1]),
        ([str(NANOSECONDS), "7"], [NANOSECONDS, 7]),
        (np.array([NANOSECONDS], dtype="datetime64[ns]"), [NANOSECONDS]),
        ([pd.Timestamp(NANOSECONDS, tz="UTC")], [NANOSECONDS]),
        (pd.Series([pd.Timestamp(NANOSECONDS)]), [NANOSECONDS]),
        (np.array([3], dtype=np.uint8), [3]),
        ([1, 2.5], [1.0, 2.5]),
        (["1", "2.5"], [1.0, 2.5]),
        ([b"1"], [1]),
        (["1970-01-02", "1970-01-01T00:00:01"], [86_400_000_000_000, 1_000_000_000]),
        (["1970-01-01T01:00:01Z", "1970-01-01T01:00:01+01:00"], [3_601_000_000_000, 1_000_000_000]),
        (["1970-01-01T00:00:00.123456789987654321", " 1970-01-02 "], [123_456_789, 86_400_000_000_000]),
        (["1969-12-31T23:59:59.999999999999"], [-1]),
        (np.array([1999], dtype="datetime64[ps]"), [1]),
        (["0.5", "0.50", "5e-1"], [0.5, 0.5, 0.5]),
        ([date(1970, 1, 2)], [86_400_000_000_000]),
        ([datetime(1970, 1, 1, 0, 0, 1)], [1_000_000_000]),
        ([datetime(1970, 1, 1, 1, tzinfo=timezone(timedelta(hours=1)))], [0]),
        (np.array([1, 2.5], dtype=object), [1.0, 2.5]),
    ],
)
def test_times_of_any_notation(times, expected):
    log = Interactions.from_arrays(range(len(times)), range(len(times)), times)
    assert log.times.tolist() == expected
    assert log.times.dtype == (np.float64 if isinstance(expected[0], float) else np.int64)


@given(numbers=st.lists(st.decimals(-(2**62), 2**62, places=6) | st.integers(-(2**62), 2**62), min_size=1, max_size=9))
@example(numbers=[10**18, 10**18 + 1, Decimal("0.5")])
def test_times_written_as_text_sort_as_they_are_written_or_are_refused(numbers):
    try:
        times = Interactions.from_arrays(numbers, numbers, [f"{Decimal(number):f}" for number in numbers]).times
    except ValueError as error:
        assert "by less than float64 can hold" in str(error)  # noqa: PT017 - most are read
        return
    assert [a < b for a in times for b in times] == [a < b for a in numbers for b in numbers]


@pytest.mark.parametrize(
    ("times", "error", "message"),
    [
        ([1.0, float("nan")], ValueError, "time in row 2, counted from 1, is missing"),
        (np.array([1.0, np.nan]), ValueError, "time in row 2, counted from 1, is missing or infinite"),
        ([1.0, float("inf")], ValueError, "time in row 2, counted from 1, is missing or infinite"),
        ([1, None], ValueError, "time in row 2, counted from 1, is missing"),
        (["2020-01-01", ""], ValueError, "time in row 2, counted from 1, is missing"),
        (np.array(["2020", "NaT"], dtype="datetime64[D]"), ValueError, "time in row 2, counted from 1, is missing"),
        ([pd.Timestamp(0), pd.NaT], ValueError, "time in row 2, counted from 1, is missing"),
        (pd.array([1, pd.NA]), ValueError, "time in row 2, counted from 1, is missing"),
        (["2020-01-01", "soon"], ValueError, "time in row 2, counted from 1, is neither a number nor an ISO date"),
        (
            np.array(["2020", "9999"], dtype="datetime64[Y]"),
            ValueError,
            "row 2, counted from 1, lies outside the years",
        ),
        (np.array([1, 2**63], dtype=np.uint64), ValueError, "row 2, counted from 1, does not fit into int64"),
        ([0, 10**30], ValueError, "row 2, counted from 1, does not fit into int64"),
        (["0", "9" * 24], ValueError, "row 2, counted from 1, does not fit into int64"),
        ([0, 10**400], ValueError, "row 2, counted from 1, is missing or infinite"),
        ([10**18, 10**18 + 1, 0.5], ValueError, "row 2, counted from 1, differs from an earlier one by less than"),
        (
            ["1700000000.1234567", "1700000000.1234568"],
            ValueError,
            "row 2, counted from 1, differs from an earlier one",
        ),
        (["2020-01-01", "now"], ValueError, "row 2, counted from 1, is neither a number nor an ISO date"),
        (["2020-01-01", "today"], ValueError, "row 2, counted from 1, is neither a number nor an ISO date"),
        (["2020-01-01", "NaT"], ValueError, "time in row 2, counted from 1, is missing"),
        (["2020-01-01", "5"], ValueError, "row 2, counted from 1, is a number among dates"),
        (["2020-01-01", "99999999999999-01-01"], ValueError, "row 2, .* neither a number nor an ISO date"),
        (["2020-01-01T00:00:00.123456789", "9999-01-01"], ValueError, "row 2, .* outside the years 1678..2261"),
        ([np.datetime64(1, "ns"), np.datetime64("9999-01-01")], ValueError, "row 2, .* outside the years 1678..2261"),
        ([datetime(2020, 1, 1), datetime(9999, 1, 1)], ValueError, "row 2, .* outside the years 1678..2261"),
        ([True, False], TypeError, "times as numbers, datetimes or text, all of one kind, got bool"),
        ([timedelta(1), timedelta(2)], TypeError, "got object of timedelta"),
        ([date(2020, 1, 1), 5], TypeError, "of date, int"),
        ([[1, 2], [3, 4]], ValueError, r"times of shape \(n,\), got \(2, 2\)"),
        ([1], ValueError, "equally long, got 2, 2 and 1"),
    ],
)
def test_refuses_bad_times(times, error, message):
    with pytest.raises(error, match=message):
        Interactions.from_arrays([0, 1], [0, 1], times)


@pytest.mark.parametrize(
    ("times", "shown"),
    [
        (["1", "soon"], "'soon'"),
        (np.array([1.0, np.nan]), "nan"),
        (np.array(["2020", "9999"], dtype="datetime64[Y]"), "9999"),
        (np.array(["2020", "NaT"], dtype="datetime64[ns]"), "NaT"),
    ],
)
def test_a_bad_time_is_shown_as_it_stands(times, shown):
    with pytest.raises(ValueError, match=rf"\({shown}; 1 of 2 rows\)"):
        Interactions.from_arrays([0, 1], [0, 1], times)


@pytest.mark.parametrize(
    ("users", "items", "error", "message"),
    [
        ([1, None], [1, 2], ValueError, "the user in row 2, counted from 1, is missing"),
        ([1, 2, 3], [1, float("nan"), float("nan")], ValueError, "the item in row 2, counted from 1, is missing"),
        ([1, 2], [1, pd.NA], ValueError, "the item in row 2, counted from 1, is missing"),
        ([1, 2], [1, {}], TypeError, "Every item must be hashable, but row 2, counted from 1, is a dict"),
        ([1, 2], [1], ValueError, "equally long, got 2, 1 and 2"),
        ([], [], ValueError, "at least one interaction, but users is empty"),
        ("ab", [1, 2], TypeError, "users as a sequence of ids, got 'ab'"),
        ({"a", "b"}, [1, 2], TypeError, r"users in an order, got a set, .* sorted\(\.\.\.\)"),
        ([1, 2], frozenset({1, 2}), TypeError, r"items in an order, got a frozenset"),
    ],
)
def test_refuses_bad_ids(users, items, error, message):
    with pytest.raises(error, match=message):
        Interactions.from_arrays(users, items)


def test_the_constructor_checks_indices():
    one = Vocabulary(["a"])
    index = np.zeros(1, np.int64)
    with pytest.raises(ValueError, match=r"Interactions\.items: expected indices in 0\.\.0, got 1\.\.1"):
        Interactions(index, index + 1, index, one, one)
    with pytest.raises(TypeError, match=r"Interactions\.users: expected an int64 array, got float64"):
        Interactions(np.zeros(1), index, index, one, one)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"Interactions: item_vocabulary must be Vocabulary, got list\. Use Vocabulary"):
        Interactions(index, index, index, one, ["a"])
    with pytest.raises(TypeError, match=r"Interactions: times must be ndarray, got list"):
        Interactions(index, index, [0], one, one)
    with pytest.raises(ValueError, match="at least one interaction, got none"):
        Interactions(index[:0], index[:0], index[:0], one, one)


def test_statistics_follow_from_counts():
    statistics = Statistics(num_users=2, num_items=5, num_actions=4)
    assert statistics.average_length == 2
    assert statistics.sparsity == pytest.approx(0.6)
    with pytest.raises(ValueError, match="at least one user, item and action, got 0, 5 and 4"):
        Statistics(0, 5, 4)
    with pytest.raises(TypeError, match=r"num_items must be an integer, got 5\.5"):
        Statistics(2, 5.5, 4)


@pytest.mark.parametrize(
    ("file", "row"),
    [
        ("beauty.txt", "22,363 12,101 198,502 8.9 99.93%"),
        ("toys.txt", "19,412 11,924 167,597 8.6 99.93%"),
        ("ml-1m.txt", "6,040 3,706 1,000,209 165.6 95.53%"),  # the paper prints 3,953 items; 3,706 occur
    ],
)
def test_table_1(real_data_dir, file, row):
    log = read_interactions(real_data_dir / file)
    header, cells = str(log.statistics()).splitlines()
    assert header.split() == ["#users", "#items", "#actions", "avg.length", "sparsity"]
    assert cells.split() == row.split()
    sequences = log.sequences()
    assert sequences.statistics() == log.statistics()
    user, *items = (real_data_dir / file).read_text().splitlines()[41].split()
    assert sequences.users.ids[41] == int(user)
    assert sequences.vocabulary.decode(sequences[41]) == [int(item) for item in items]


@given(
    rows=st.lists(st.tuples(st.sampled_from("uvw"), st.sampled_from("abcd")), min_size=1, max_size=12),
    known=st.lists(st.sampled_from("abcdefg"), min_size=1, unique=True),
)
def test_a_log_in_a_given_vocabulary_keeps_the_rows_of_known_items(rows, known):
    log, vocabulary = Interactions.from_arrays(*zip(*rows, strict=True)), Vocabulary(known)
    kept = [(user, item, time) for time, (user, item) in enumerate(rows) if item in known]
    if len(kept) < len(rows):
        with pytest.raises(ValueError, match="unknown id"):
            log.reindexed(vocabulary)
    if not kept:
        with pytest.raises(ValueError, match="unknown id"):
            log.reindexed(vocabulary, unknown="drop")
        return
    found = log.reindexed(vocabulary, unknown="drop")
    assert found.item_vocabulary is vocabulary
    users, items = found.user_vocabulary.decode(found.users), vocabulary.decode(found.items)
    assert list(zip(users, items, found.times.tolist(), strict=True)) == kept
    assert set(found.user_vocabulary.ids) == {user for user, *_ in kept}


def test_the_treatment_of_unknown_items_has_two_names():
    with pytest.raises(ValueError, match="unknown must be one of 'error', 'drop'"):
        Interactions.from_arrays(["u"], ["a"]).reindexed(Vocabulary(["a"]), unknown="ignore")
