"""Recommendations for tables: rows as those of ``recommend``, memory that does not grow, and runs that resume."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from unittest import mock
from weakref import WeakSet, WeakValueDictionary

import narwhals as nw
import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffusers_rec import DiffRec, Ensemble, Recommender, SyntheticWorld, recommend_file, recommend_frame
from diffusers_rec.core.parts import open_parts
from diffusers_rec.data import histories as histories_module
from diffusers_rec.data.histories import UserHistory
from diffusers_rec.recommenders import user_calls

SEQUENCES = SyntheticWorld(24).sample(60).sequences()
ITEMS = SEQUENCES.vocabulary.ids


def build(items=SEQUENCES.vocabulary, **settings):
    schedule = {"name": "cosine", "num_timesteps": 6}
    settings = {"denoiser": "conditional-mlp", "memory": "transitions", **settings}
    return DiffRec(items, dim=8, max_length=6, schedule=schedule, seeds=2, **settings).eval()


MODEL = build().prepare(SEQUENCES)
NUMBERED = build(range(100, 124), memory="none")
BACKENDS = [pl.DataFrame, pd.DataFrame]

some_items = st.lists(st.sampled_from(ITEMS), min_size=1, max_size=6, unique=True)
users = st.lists(
    st.tuples(st.lists(st.sampled_from(ITEMS), min_size=1, max_size=7), some_items, st.lists(st.sampled_from(ITEMS))),
    min_size=1,
    max_size=9,
)


def log_of(rows, order=None):
    """A row for each interaction, in the order of a permutation's draws; times keep each user's order."""
    log = [{"user": f"u{u}", "item": item, "time": n} for u, items in enumerate(rows) for n, item in enumerate(items)]
    return log if order is None else order(log)


def answers(table):
    """Item and score by user, best first."""
    frame, found = nw.from_native(table), {}
    assert frame.columns == ["user", "rank", "item", "score", "std"]
    for user, rank, item, score, std in frame.iter_rows():
        found.setdefault(user, []).append((item, score, std))
        assert rank == len(found[user])
    return found


def assert_same(found, expected, names):
    """Rows of a table against :class:`Recommendations`; batches of another size change the last digits."""
    for name, row in zip(names, expected, strict=True):
        rows = found.get(name, [])
        assert [item for item, *_ in rows] == [item for item, *_ in row]
        for values, others in zip(rows, row, strict=True):
            assert values[1:] == pytest.approx(others[1:], rel=1e-4, abs=1e-6)
    assert set(found) <= set(names)


@given(users=users, data=st.data(), backend=st.sampled_from(BACKENDS), size=st.integers(1, 3))
def test_a_log_in_any_order_answers_as_recommend(users, data, backend, size):
    rows = [items for items, _, _ in users]
    log = log_of(rows, lambda log: data.draw(st.permutations(log)))
    exclude = data.draw(st.none() | some_items)
    with mock.patch.object(user_calls, "BATCHES_A_PART", 2), mock.patch.object(histories_module, "ROWS_AT_ONCE", 3):
        table = recommend_frame(MODEL, backend(log), 4, exclude=exclude, batch_size=size)
    assert type(table) is backend
    found, names = answers(table), [f"u{number}" for number in range(len(rows))]
    assert_same(found, MODEL.recommend(rows, 4, exclude=exclude), names)
    order = list(dict.fromkeys(row["user"] for row in log))
    assert list(found) == [name for name in order if name in found]


@given(users=users, backend=st.sampled_from(BACKENDS), text=st.booleans())
def test_lists_of_each_user_answer_as_recommend(users, backend, text):
    form = json.dumps if text else list
    frame = backend(
        {
            "user": range(len(users)),
            "history": [form(items) for items, _, _ in users],
            "may": [form(candidates) for _, candidates, _ in users],
            "not": [form(exclude) for _, _, exclude in users],
        }
    )
    with mock.patch.object(user_calls, "BATCHES_A_PART", 1), mock.patch.object(histories_module, "LISTS_AT_ONCE", 3):
        found = answers(recommend_frame(MODEL, frame, 5, candidates="may", exclude="not", batch_size=2))
    rows, candidates, exclude = zip(*users, strict=True)
    k = min(5, max(map(len, candidates)))
    expected = MODEL.recommend(rows, k, candidates=candidates, exclude=exclude)
    assert_same(found, expected, range(len(users)))


@settings(max_examples=10)
@given(
    users=users,
    source=st.sampled_from(["csv", "tsv", "parquet", "txt", "lists"]),
    out=st.sampled_from(["csv", "parquet"]),
)
def test_a_file_answers_as_recommend(users, source, out, tmp_path_factory):
    folder, rows = tmp_path_factory.mktemp("files"), [items for items, _, _ in users]
    names, log = [f"u{number}" for number in range(len(rows))], pl.DataFrame(log_of(rows))
    path = folder / f"log.{'csv' if source == 'lists' else source}"
    if source == "txt":
        path.write_text("".join(f"{name} {' '.join(row)}\n" for name, row in zip(names, rows, strict=True)))
    elif source == "lists":
        pl.DataFrame({"user": names, "history": list(map(json.dumps, rows))}).write_csv(path)
    elif source == "parquet":
        log.write_parquet(path)
    else:
        log.write_csv(path, separator="," if source == "csv" else "\t")
    with mock.patch.object(user_calls, "BATCHES_A_PART", 2), mock.patch.object(histories_module, "ROWS_AT_ONCE", 3):
        count = recommend_file(MODEL, path, folder / f"out.{out}", 3, batch_size=2)
    assert count == len(users)
    table = (pl.read_csv if out == "csv" else pl.read_parquet)(folder / f"out.{out}")
    assert_same(answers(table), MODEL.recommend(rows, 3), names)
    assert sorted(os.listdir(folder)) == sorted([path.name, f"out.{out}"])


def test_unknown_items_and_empty_histories_are_as_the_options_say(tmp_path):
    frame = pl.DataFrame({"user": ["a", "b", "c"], "history": [[ITEMS[1], "new"], [], ["new"]]})
    frame.write_parquet(tmp_path / "log.parquet")
    asks = (
        lambda **options: recommend_frame(MODEL, frame, 2, **options),
        lambda **options: recommend_file(MODEL, tmp_path / "log.parquet", tmp_path / "out.csv", 2, **options),
    )
    for ask in asks:
        with pytest.raises(ValueError, match="the history of user 'a': Vocabulary: 1 unknown id"):
            ask()
        with pytest.raises(ValueError, match="the history of user 'b' holds no known item"):
            ask(unknown="drop")
        ask(unknown="drop", empty="popularity")
    assert not (tmp_path / "out.csv.parts").exists()
    expected = MODEL.recommend([[ITEMS[1]], [], []], 2, empty="popularity")
    assert_same(answers(asks[0](unknown="drop", empty="popularity")), expected, "abc")
    assert_same(answers(pl.read_csv(tmp_path / "out.csv")), expected, "abc")


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_ids_are_kept(kind, tmp_path):
    """Leading zeros, integers of both signs; text of a file becomes the integers of the model."""
    names, dtype = (["007", "7", "-1"], pl.String) if kind == "csv" else ([2**63 + 5, 7, 0], pl.UInt64)
    users = pl.Series(names, dtype=dtype)
    frame = pl.DataFrame({"user": users, "item": [101, 102, 103], "time": [1, 2, 3]})
    getattr(frame, f"write_{kind}")(tmp_path / f"log.{kind}")
    recommend_file(NUMBERED, tmp_path / f"log.{kind}", tmp_path / "out.parquet", 1)
    found = pl.read_parquet(tmp_path / "out.parquet")
    assert found["user"].to_list() == names
    assert found["user"].dtype == dtype
    assert found["item"].dtype == pl.Int64
    mixed = build(["a", 1, "b"], memory="none")
    assert recommend_frame(mixed, pl.DataFrame({"user": [1], "history": [["a"]]}), 2)["item"].dtype == pl.String


def test_times_order_a_log_and_its_rows_where_there_are_none(tmp_path):
    log = pl.DataFrame({"user": ["u", "u"], "item": ITEMS[:2], "time": ["2024-02-01", "2024-01-01"]})
    assert_same(answers(recommend_frame(MODEL, log, 3)), MODEL.recommend([[ITEMS[1], ITEMS[0]]], 3), "u")
    assert_same(answers(recommend_frame(MODEL, log, 3, time=None)), MODEL.recommend([list(ITEMS[:2])], 3), "u")


def write_log(path, users=60, items=5):
    """A log of many users."""
    rows = [[ITEMS[(7 * user + 3 * n) % 24] for n in range(items)] for user in range(users)]
    pl.DataFrame(log_of(rows)).write_parquet(path)
    return rows


@pytest.mark.parametrize("kind", ["parquet", "csv", "frame"])
def test_memory_holds_two_parts_however_many_users_there_are(kind, tmp_path, monkeypatch):
    """One that is answered and the next, whose rows are read from one slice of the file."""
    rows, part, most = write_log(tmp_path / "log.parquet", users=400), 8, {"users": 0, "slices": 0}
    frame, users, slices = pl.read_parquet(tmp_path / "log.parquet"), WeakSet(), WeakValueDictionary()
    frame.write_csv(tmp_path / "log.csv")
    made, collect = UserHistory.__init__, pl.LazyFrame.collect

    def making(self, *given):
        made(self, *given)
        users.add(self)
        most["users"] = max(most["users"], len(users))

    def collecting(self, *given, **named):
        found = collect(self, *given, **named)
        slices[len(slices) and max(slices) + 1] = found
        most["slices"] = max(most["slices"], len(slices))
        return found

    monkeypatch.setattr(user_calls, "BATCHES_A_PART", 2)
    monkeypatch.setattr(histories_module, "ROWS_AT_ONCE", 20)
    monkeypatch.setattr(UserHistory, "__init__", making)
    monkeypatch.setattr(pl.LazyFrame, "collect", collecting)
    with killed_after(99) as asked:
        if kind == "frame":
            recommend_frame(MODEL, frame, 2, batch_size=4)
        else:
            recommend_file(MODEL, tmp_path / f"log.{kind}", tmp_path / "out.parquet", 2, batch_size=4)
    assert asked == [part] * (len(rows) // part)
    assert part <= most["users"] <= 2 * part + 1
    assert most["slices"] <= 2


class Killed(BaseException):
    """What ends a run."""


@contextmanager
def killed_after(parts):
    """Users asked for; the run ends when so many parts are done."""
    asked, recommend = [], Recommender.recommend

    def counting(self, histories, **given):
        asked.append(len(histories))
        if len(asked) > parts:
            raise Killed
        return recommend(self, histories, **given)

    with mock.patch.object(Recommender, "recommend", counting):
        yield asked


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(user_calls, "BATCHES_A_PART", 2)


@pytest.mark.parametrize("out", ["out.parquet", "out.csv"])
def test_a_run_resumes_with_the_same_bytes(out, tmp_path, small_parts):
    write_log(tmp_path / "log.parquet")
    path, whole = tmp_path / out, tmp_path / f"whole.{out}"
    recommend_file(MODEL, tmp_path / "log.parquet", whole, 2, batch_size=4)
    path.write_text("older")
    for done in (3, 0, 2):
        with killed_after(done), pytest.raises(Killed):
            recommend_file(MODEL, tmp_path / "log.parquet", path, 2, batch_size=4)
        assert path.read_text() == "older"
    with killed_after(99) as asked:
        assert recommend_file(MODEL, tmp_path / "log.parquet", path, 2, batch_size=4) == 60
    assert asked == [8, 8, 4]
    assert path.read_bytes() == whole.read_bytes()
    assert {each.name for each in tmp_path.iterdir()} == {"log.parquet", out, f"whole.{out}"}


def test_parts_of_another_job_are_not_used(tmp_path, small_parts):
    log = tmp_path / "log.parquet"
    write_log(log)
    given = {"path": log, "out": tmp_path / "out.csv", "k": 2, "batch_size": 4}
    others = [
        {"model": build(seed=1).prepare(SEQUENCES)},
        {"k": 3},
        {"exclude_seen": False},
        {"sampler": {"name": "ddim", "num_steps": 2}},
        {"exclude": ITEMS[:2]},
        {"model": Ensemble([MODEL, build(seed=2).prepare(SEQUENCES)])},
    ]
    for other in others:
        with killed_after(2), pytest.raises(Killed):
            recommend_file(**{"model": MODEL, **given})
        with pytest.warns(UserWarning, match="parts of another model"), killed_after(0), pytest.raises(Killed):
            recommend_file(**{"model": MODEL, **given, **other})
        with killed_after(0), pytest.raises(Killed):
            recommend_file(**{"model": MODEL, **given})
    write_log(log, users=50)
    assert recommend_file(MODEL, **given) == 50


def test_a_bar_counts_the_users(tmp_path, small_parts, capfd):
    write_log(tmp_path / "log.parquet", users=20)
    with killed_after(1), pytest.raises(Killed):
        recommend_file(MODEL, tmp_path / "log.parquet", tmp_path / "out.csv", 2, batch_size=4, progress=True)
    recommend_file(MODEL, tmp_path / "log.parquet", tmp_path / "out.csv", 2, batch_size=4, progress=True)
    printed = capfd.readouterr().err
    assert "users checked" in printed
    assert "8/20" in printed.rpartition("users checked")[2]


@pytest.mark.slow
def test_a_process_that_is_killed_leaves_no_file_and_resumes(tmp_path):
    rows = write_log(tmp_path / "log.parquet", users=40)
    MODEL.save_pretrained(tmp_path / "model")
    script = """
import os, signal, sys
from diffusers_rec import load_pretrained, recommend_file
from diffusers_rec.core import parts
write, written = parts.write_atomically, []
def killing(path, data):
    write(path, data)
    written.append(path)
    if len(written) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
parts.write_atomically = killing
recommend_file(load_pretrained(sys.argv[1]), sys.argv[2], sys.argv[3], 2, batch_size=1)
"""
    out = tmp_path / "out.parquet"
    command = [sys.executable, "-c", script, tmp_path / "model", tmp_path / "log.parquet", out]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert not out.exists()
    with killed_after(99) as asked:
        recommend_file(MODEL, tmp_path / "log.parquet", out, 2, batch_size=1)
    assert asked == [8]  # 40 users, 16 a part, two parts were done
    assert_same(answers(pl.read_parquet(out)), MODEL.recommend(rows, 2), [f"u{user}" for user in range(40)])
    assert not (tmp_path / "out.parquet.parts").exists()


def test_a_file_that_cannot_be_written_leaves_the_older_one(tmp_path, small_parts):
    write_log(tmp_path / "log.parquet")
    (tmp_path / "out.csv").write_text("older")
    full = mock.Mock(side_effect=OSError(28, "No space left on device"))
    with mock.patch.object(pl.LazyFrame, "sink_csv", full), pytest.raises(OSError, match="Free space on that disk"):
        recommend_file(MODEL, tmp_path / "log.parquet", tmp_path / "out.csv", 2, batch_size=4)
    assert (tmp_path / "out.csv").read_text() == "older"
    with killed_after(0):
        recommend_file(MODEL, tmp_path / "log.parquet", tmp_path / "out.csv", 2, batch_size=4)
    assert (tmp_path / "out.csv").read_text() != "older"


def test_two_runs_do_not_write_one_file(tmp_path):
    write_log(tmp_path / "log.parquet")
    folder = tmp_path / "out.csv.parts"
    with open_parts(tmp_path / "out.csv", "job"), ThreadPoolExecutor() as others:
        run = others.submit(recommend_file, MODEL, tmp_path / "log.parquet", tmp_path / "out.csv", 2)
        with pytest.raises(ValueError, match="is in use: another process or thread"):
            run.result()
    assert not folder.exists() or list(folder.iterdir()) == [folder / "job.json"]
    folder.mkdir(exist_ok=True)
    (folder / "job.json").write_text("[1]")
    with pytest.raises(ValueError, match="was not written by this library"):
        recommend_file(MODEL, tmp_path / "log.parquet", tmp_path / "out.csv", 2)


ONE = {"user": [1], "history": [[ITEMS[0]]]}
LOG = {"user": ["a", "b", "a"], "item": list(ITEMS[:3]), "time": [1, 2, 3]}


@pytest.mark.parametrize(
    ("frame", "asked", "message"),
    [
        (LOG, {}, "rows of user 'a' are in several places.*sort=True"),
        (LOG, {"user": "who"}, r"Expected the columns \['who', 'item', 'time'\], one interaction a row, or"),
        (LOG | {"history": [["x"]] * 3}, {}, "Rename the column that is not meant"),
        (LOG, {"candidates": "time"}, "need one row a user"),
        (LOG | {"item": [None, *ITEMS[:2]]}, {}, "the item in row 1, counted from 1, is missing"),
        (LOG | {"user": [None, "a", "b"]}, {}, "the user in row 1, counted from 1, is missing"),
        (LOG | {"user": list("aab"), "time": [None, 1, 2]}, {}, "the times of user 'a'.*is missing"),
        (LOG | {"user": list("abc"), "time": ["x", "1", "2"]}, {}, "the times of user 'a'"),
        ({"user": [1], "history": [ITEMS[0]]}, {}, "the history of user 1 must be a list, in text a JSON list"),
        ({"user": [1], "history": ["['a']"]}, {}, "in text a JSON list"),
        (ONE | {"time": [5]}, {}, "the time of user 1 must be a list"),
        (ONE | {"time": [[5, 6]]}, {}, "expected one time an item, 1, got 2"),
        (ONE | {"c": [["q"]]}, {"candidates": "c"}, "the candidates of user 1"),
        (ONE | {"c": pl.Series([None], dtype=pl.List(pl.String))}, {"candidates": "c"}, "user 1 has no list"),
        (ONE, {"exclude": [[ITEMS[0]]]}, "Lists of each user come in a column"),
        (ONE, {"exclude": "not"}, "but the table has"),
        ({"user": [None, 1], "history": [[ITEMS[0]]] * 2}, {}, "the user in row 1, counted from 1, is missing"),
        (LOG | {"user": [1.0, float("nan"), 2.0]}, {}, "the user in row 2, counted from 1, is missing"),
        ({"user": [], "history": []}, {}, "at least one row"),
        (ONE, {"k": 0}, "k must be an integer >= 1"),
    ],
)  # fmt: skip
def test_other_forms_are_refused_before_anything_is_scored(frame, asked, message, tmp_path):
    pl.DataFrame(frame).write_parquet(tmp_path / "log.parquet")
    with mock.patch.object(DiffRec, "recommend", side_effect=AssertionError), pytest.raises(ValueError, match=message):
        recommend_file(MODEL, tmp_path / "log.parquet", tmp_path / "out.parquet", **asked)
    if "places" not in message:
        with pytest.raises(ValueError, match=message):
            recommend_frame(MODEL, pl.DataFrame(frame), **asked)
    assert os.listdir(tmp_path) == ["log.parquet"]


def test_other_arguments_are_refused(tmp_path):
    with pytest.raises(TypeError, match=r"expected a data frame.*got list"):
        recommend_frame(MODEL, [[ITEMS[0]]])
    with pytest.raises(FileNotFoundError, match="There is no file"):
        recommend_file(MODEL, tmp_path / "log.csv", tmp_path / "out.csv")
    with pytest.raises(ValueError, match=r"out must end in \.parquet or \.csv"):
        recommend_file(MODEL, tmp_path / "log.csv", tmp_path / "out.json")
    (tmp_path / "log.parquet").write_text("no")
    with pytest.raises(ValueError, match="expected a parquet file"):
        recommend_file(MODEL, tmp_path / "log.parquet", tmp_path / "out.csv")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("user,item,time\na,item-001,1\n,item-001,2\n", "the user in row 2, counted from 1, is missing"),
        ("user,item,time\na,item-001,1\na,NA,2\n", "the item in row 2, counted from 1, is missing"),
        ('user,history\nnull,"[]"\n', "the user in row 1, counted from 1, is missing"),
        ("user,item,time\na,item-001,soon\n", "the times of user 'a'.*neither a number nor an ISO date"),
        ("user,item,time\na,item-001\n", "rows of equal width"),
    ],
)
def test_broken_text_is_refused(text, message, tmp_path):
    (tmp_path / "log.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        recommend_file(MODEL, tmp_path / "log.csv", tmp_path / "out.csv")


def test_a_log_in_any_order_is_sorted_on_request(tmp_path):
    frame = pl.DataFrame(LOG)
    expected = MODEL.recommend([[ITEMS[0], ITEMS[2]], [ITEMS[1]]], 3)
    for kind in ("csv", "parquet"):
        getattr(frame, f"write_{kind}")(tmp_path / f"log.{kind}")
        recommend_file(MODEL, tmp_path / f"log.{kind}", tmp_path / "out.csv", 3, sort=True)
        assert_same(answers(pl.read_csv(tmp_path / "out.csv")), expected, "ab")


def test_a_frame_that_is_not_collected_is_read_too():
    frame = pl.DataFrame({"user": [1], "history": [[ITEMS[0]]]})
    assert recommend_frame(MODEL, frame.lazy(), 2).equals(recommend_frame(MODEL, frame, 2))


def test_pyarrow_tables_give_pyarrow_tables():
    pa = pytest.importorskip("pyarrow")
    found = recommend_frame(MODEL, pa.table({"user": [1], "history": [[ITEMS[0]]]}), 2)
    assert isinstance(found, pa.Table)
    assert_same(answers(found), MODEL.recommend([[ITEMS[0]]], 2), [1])
