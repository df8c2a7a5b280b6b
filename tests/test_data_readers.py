from __future__ import annotations

import codecs
import gzip
import os
import re
import sys
import threading
from datetime import date, datetime

import numpy as np
import pandas as pd
import polars as pl
import pytest

from diffusers_rec.data import from_frame, read_interactions

USERS, ITEMS, TIMES = [7, 7, 9], [10, 20, 10], [2, 1, 3]


def rows(log):
    users, items = log.user_vocabulary.decode(log.users), log.item_vocabulary.decode(log.items)
    return list(zip(users, items, log.times.tolist(), strict=True))


ROWS = list(zip(USERS, ITEMS, TIMES, strict=True))
FRAME = pl.DataFrame({"user": USERS, "item": ITEMS, "time": TIMES, "rating": [5, 4, 3]})


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("suffix", ["csv", "tsv", "parquet"])
def test_tables(tmp_path, suffix):
    path = tmp_path / f"log.{suffix}"
    if suffix == "parquet":
        FRAME.write_parquet(path)
    else:
        FRAME.write_csv(path, separator={"csv": ",", "tsv": "\t"}[suffix])
    assert rows(read_interactions(path)) == ROWS
    assert rows(read_interactions(str(path), time=None)) == [(7, 10, 0), (7, 20, 1), (9, 10, 2)]
    assert rows(read_interactions(path, user="item", item="user")) == [(i, u, t) for u, i, t in ROWS]


def test_csv_separator_and_dates(tmp_path):
    path = write(tmp_path / "log.csv", "user;item;time\na;x;1970-01-01 00:00:01\nb;y;1970-01-01 00:00:00.5\n")
    expected = [("a", "x", 1_000_000_000), ("b", "y", 500_000_000)]
    assert rows(read_interactions(path, separator=";")) == expected


@pytest.mark.parametrize(("ids", "expected"), [("1 2", [1, 2]), ("-1 2", [-1, 2]), ("007 7", ["007", "7"])])
@pytest.mark.parametrize("format", ["csv", "sequences", "movielens"])
def test_text_ids_are_int_only_where_nothing_is_lost(tmp_path, ids, expected, format):
    one, two = ids.split()
    text = {
        "csv": f"user,item,time\n{one},{one},0\n{two},{two},0\n",
        "sequences": f"{one} {one}\n{two} {two}\n",
        "movielens": f"{one}::{one}::5::0\n{two}::{two}::5::0\n",
    }
    log = read_interactions(write(tmp_path / "log", text[format]), format=format)
    assert list(log.user_vocabulary.ids) == list(log.item_vocabulary.ids) == expected


def test_movielens(tmp_path):
    text = "".join(f"{user}::{item}::5::{time}\n" for user, item, time in ROWS)
    for name in ("ratings.dat", "ratings.txt"):
        assert rows(read_interactions(write(tmp_path / name, text))) == ROWS


def test_sequences(tmp_path):
    path = write(tmp_path / "log.txt", "\ufeffb 10 20 10\n\na 30\n")
    expected = [("b", 10, 0), ("b", 20, 1), ("b", 10, 2), ("a", 30, 0)]
    assert rows(read_interactions(path)) == expected
    assert (
        rows(read_interactions(write(tmp_path / "log", "b,10,20,10\na,30"), format="sequences", separator=","))
        == expected
    )


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("log.dat", "1::2::3::4\n1::2::3\n", r"line 2: expected user::item::rating::time, got '1::2::3'"),
        ("log.dat", "1::2::3::x\n", r"line 1: expected user::item::rating::time"),
        ("log.dat", "::2::3::4\n", r"line 1: expected user::item::rating::time"),
        ("log.txt", "1 2\n3\n", "line 2: user '3' has no items"),
        ("log.txt", "1 2\n1 3\n", "line 2: user '1' has an earlier line"),
        ("log.txt", "", "the file is empty"),
        ("log.dat", "\n\n", "the file is empty"),
        ("log.csv", "", "the file is empty"),
        ("log.csv", "user,item,time\n", "at least one interaction"),
        (
            "log.csv",
            "user,item,time\n1,2,3\n\n1,2,3,4\n",
            r"line 4: .* equal width, 3 fields .*, got 4\. .* separator=",
        ),
        ("log.csv", "user,item,time\n1,2,3\n1,,3\n", "the item in row 2, counted from 1, is empty"),
        ("log.csv", "user,item,time\n1,2,3\n , ,3\n", "the user in row 2, counted from 1, is empty"),
        ("log.csv", "user,item,time\n1,2,3\n1,2\n", "line 3: .* equal width, 3 fields .*, got 2"),
        ("log.csv", "user,item,time\n1,2,3\n1,2,\n", "the time in row 2, counted from 1, is missing"),
        ("log.csv", 'user,item,time\n1,"a\nb",3\n1,"2,3\n1,2,3\n', r"line 4: .*quote.* Pass quote=''"),
        ("log.txt", "1 2\n3 NaN\n", "the item in line 2, counted from 1, is 'NaN', which means missing"),
        (
            "log.dat",
            "1::2::3::4\nnull::2::3::4\n",
            "the user in line 2, counted from 1, is 'null', which means missing",
        ),
        ("log.dat", "1:: ::3::4\n", r"line 1: expected user::item::rating::time"),
        ("log.dat", f"1::2::3::{2**63}\n", r"line 1: expected user::item::rating::time"),
        (
            "log.csv",
            "user_id,item,time\n1,2,3\n",
            r"\['user'\] are missing; the table has \['user_id', 'item', 'time'\]",
        ),
        ("log.parquet", "no parquet", "expected a parquet file"),
        ("log.json", "{}", r"the suffix '\.json' of log\.json does not give the format.* Pass format="),
    ],
)
def test_broken_files(tmp_path, name, text, message):
    with pytest.raises(ValueError, match=message):
        read_interactions(write(tmp_path / name, text))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("log.csv", ""),
        ("log.csv", "user,item\n"),
        ("log.csv", "user,item,time\na,b,\n"),
        ("log.dat", "1\n"),
        ("log.txt", ""),
    ],
)
def test_a_broken_file_is_named_once(tmp_path, name, text):
    path = write(tmp_path / name, text)
    with pytest.raises(ValueError, match=name) as raised:
        read_interactions(path)
    assert str(raised.value).startswith(str(path))
    assert str(raised.value).count(name) == 1


@pytest.mark.parametrize("name", ["log.txt", "log.csv", "log.csv.gz"])
def test_not_utf8(tmp_path, name):
    def raising(content):
        (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        with pytest.raises(ValueError, match=name) as raised:
            read_interactions(tmp_path / name)
        return str(raised.value)

    for order in ("le", "be"):
        bom = {"le": codecs.BOM_UTF16_LE, "be": codecs.BOM_UTF16_BE}[order]
        told = raising(bom + "user,item,time\n1,2,3\n".encode(f"utf-16-{order}"))
        assert "expected text in UTF-8, got the byte order mark of UTF-16. Convert it: iconv -f UTF-16" in told
    assert re.search("expected text in UTF-8, got .*can't decode byte 0xe9", raising("café,1\n".encode("latin-1")))


TEXTS = {
    "csv": "user,item,time\n7,10,2\n7,20,1\n9,10,3\n",
    "tsv": "user\titem\ttime\n7\t10\t2\n7\t20\t1\n9\t10\t3\n",
    "dat": "7::10::5::2\n7::20::5::1\n9::10::5::3\n",
    "txt": "7 10 20\n9 10\n",
}


@pytest.mark.parametrize("suffix", TEXTS)
def test_packed_files_and_suffixes_of_capitals(tmp_path, suffix):
    plain = read_interactions(write(tmp_path / f"log.{suffix}", TEXTS[suffix]))
    assert rows(read_interactions(write(tmp_path / f"LOG.{suffix.upper()}", TEXTS[suffix]))) == rows(plain)
    for name in (f"log.{suffix}.gz", f"LOG.{suffix.upper()}.GZ", f"disguised.{suffix}"):
        (tmp_path / name).write_bytes(gzip.compress(TEXTS[suffix].encode()))
        assert rows(read_interactions(tmp_path / name)) == rows(plain)


@pytest.mark.parametrize("damage", [lambda packed: packed[:-12], lambda packed: packed[:-8] + b"\0" * 8])
def test_a_damaged_archive_is_named(tmp_path, damage):
    path = tmp_path / "log.csv.gz"
    path.write_bytes(damage(gzip.compress(TEXTS["csv"].encode())))
    with pytest.raises(ValueError, match=r"log\.csv\.gz: expected a complete gzip archive"):
        read_interactions(path)


@pytest.mark.parametrize(("format", "suffix"), [("csv", "csv"), ("movielens", "dat"), ("sequences", "txt")])
def test_pipes_are_read_once(tmp_path, format, suffix):
    pipe = tmp_path / f"pipe.{suffix}"
    os.mkfifo(pipe)
    with pytest.raises(ValueError, match=r"is a pipe or a device.* Pass format="):
        read_interactions(pipe)
    writer = threading.Thread(target=pipe.write_text, args=(TEXTS[suffix],))
    writer.start()
    piped = read_interactions(pipe, format=format)
    writer.join()
    assert rows(piped) == rows(read_interactions(write(tmp_path / f"log.{suffix}", TEXTS[suffix])))


def test_a_parquet_file_may_come_through_a_pipe(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    FRAME.write_parquet(tmp_path / "log.parquet")
    content = (tmp_path / "log.parquet").read_bytes()
    writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(content,))
    writer.start()
    assert rows(read_interactions(tmp_path / "pipe", format="parquet")) == ROWS
    writer.join()


def test_quotes_hold_separators_and_line_ends(tmp_path):
    text = 'user,item,time\r\na,"x, ""y""",1\r\na,"two\nlines",2\r\n'
    expected = [("a", 'x, "y"', 1), ("a", "two\nlines", 2)]
    path = tmp_path / "log.csv"
    path.write_bytes(text.encode())
    assert rows(read_interactions(path)) == expected
    path.write_bytes(text.replace('"', "'").encode())
    assert rows(read_interactions(path, quote="'")) == [("a", "x, 'y'", 1), expected[1]]
    assert rows(read_interactions(write(tmp_path / "log.tsv", 'user\titem\ttime\n"a\tb"\t1\n'))) == [('"a', 'b"', 1)]


def test_blank_lines_are_no_rows(tmp_path):
    for text in ("\nuser,item,time\n\n7,10,2\n  \n7,20,1\n9,10,3\n\n\n", TEXTS["csv"].replace("\n", "\r\n\r\n")):
        (tmp_path / "log.csv").write_bytes(text.encode())
        assert rows(read_interactions(tmp_path / "log.csv")) == ROWS
    assert rows(read_interactions(write(tmp_path / "log.txt", "\n7\t10\n \n"), separator="\t")) == [(7, 10, 0)]


@pytest.mark.parametrize("line", ["7,10,,20", "7,10,20,", "7,", "7, ,10"])
def test_an_empty_id_in_a_sequence_is_refused(tmp_path, line):
    with pytest.raises(ValueError, match="the item in line 2, counted from 1, is empty"):
        read_interactions(write(tmp_path / "log.txt", f"1,2\n{line}\n"), separator=",")


def test_white_space_around_the_fields_of_a_sequence_is_none_of_theirs(tmp_path):
    assert rows(read_interactions(write(tmp_path / "log.txt", "7, 10 ,20 \n"), separator=",")) == [
        (7, 10, 0),
        (7, 20, 1),
    ]


def test_what_means_missing_is_a_choice(tmp_path):
    path = write(tmp_path / "log.csv", "user,item,time\n1,NA,3\n1,-1,4\n")
    with pytest.raises(ValueError, match="the item in row 1, counted from 1, is 'NA', which means missing"):
        read_interactions(path)
    with pytest.raises(ValueError, match="the item in row 2, counted from 1, is '-1', which means missing"):
        read_interactions(path, missing={"-1"})
    assert rows(read_interactions(path, missing=())) == [(1, "NA", 3), (1, "-1", 4)]
    for missing in ((), ["nan"]):
        with pytest.raises(ValueError, match="the item in row 1, counted from 1, is empty"):
            read_interactions(write(tmp_path / "gap.csv", "user,item,time\n1,,3\n"), missing=missing)


def test_wrong_calls(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no file '.*none\.csv' \(looked from"):
        read_interactions(tmp_path / "none.csv")
    with pytest.raises(IsADirectoryError, match=f"'{tmp_path}' is a folder"):
        read_interactions(tmp_path)
    with pytest.raises(ValueError, match="unknown format 'xlsx'"):
        read_interactions(write(tmp_path / "log", "1 2"), format="xlsx")
    path = write(tmp_path / "log.csv", "user::item\n")
    for settings, message in (
        ({"separator": "::"}, "separator must be one character in a csv file, got '::'.* format='movielens'"),
        ({"separator": "\n"}, r"separator must be one character in a csv file, got '\\n'"),
        ({"separator": ""}, "separator must not be empty"),
        ({"quote": "''"}, "quote must be one character"),
        ({"quote": ","}, "quote must be one character other than the separator, got ','"),
    ):
        with pytest.raises(ValueError, match=message):
            read_interactions(path, **settings)
    for settings, message in (
        ({"missing": "nan"}, r"missing must be a list of texts, got 'nan'\. Use \['nan'\]"),
        ({"user": 0}, "user must be str, got int"),
        ({"separator": 5}, "separator must be str or None, got int"),
    ):
        with pytest.raises(TypeError, match=message):
            read_interactions(path, **settings)
    with pytest.raises(TypeError, match="path must be a path, got "):
        read_interactions([path])
    with pytest.raises(ValueError, match="path must be a path, got ''"):
        read_interactions("")


COLUMNS = FRAME.to_dict(as_series=False)


def as_pyarrow(columns):
    return pytest.importorskip("pyarrow").table(columns)


def with_odd_index(columns):
    return pd.DataFrame(columns, index=[5, 5, 1])


@pytest.mark.parametrize("make", [pl.DataFrame, pl.LazyFrame, with_odd_index, as_pyarrow])
def test_frames(make):
    assert rows(from_frame(make(COLUMNS))) == ROWS


def test_columns_may_be_numbers():
    assert rows(from_frame(pd.DataFrame(zip(USERS, ITEMS, TIMES, strict=True)), user=0, item=1, time=2)) == ROWS
    with pytest.raises(ValueError, match=r"\[3\] are missing; the table has \[0, 1, 2\]"):
        from_frame(pd.DataFrame(zip(USERS, ITEMS, TIMES, strict=True)), user=0, item=1, time=3)


NANOSECONDS = 1_700_000_000_000_000_001


@pytest.mark.parametrize(
    ("make", "times", "expected"),
    [
        (pl.DataFrame, pl.Series([NANOSECONDS]).cast(pl.Datetime("ns")), NANOSECONDS),
        (pl.DataFrame, pl.Series([NANOSECONDS]).cast(pl.Datetime("ns", "Europe/Paris")), NANOSECONDS),
        (pl.DataFrame, [datetime(1970, 1, 1, 0, 0, 1)], 1_000_000_000),
        (pl.DataFrame, [date(1970, 1, 2)], 86_400_000_000_000),
        (pl.DataFrame, ["1970-01-02"], 86_400_000_000_000),
        (pd.DataFrame, [pd.Timestamp(NANOSECONDS, tz="Asia/Tokyo")], NANOSECONDS),
        (pd.DataFrame, pd.Series([NANOSECONDS], dtype="Int64"), NANOSECONDS),
        (pd.DataFrame, [date(1970, 1, 2)], 86_400_000_000_000),
        (as_pyarrow, [date(1970, 1, 2)], 86_400_000_000_000),
        (as_pyarrow, [datetime(1970, 1, 1, 0, 0, 1)], 1_000_000_000),
    ],
)
def test_frame_times(make, times, expected):
    log = from_frame(make({"user": ["a"], "item": ["x"], "time": times}))
    assert log.times.tolist() == [expected]
    assert log.times.dtype == np.int64


def test_broken_frames():
    with pytest.raises(ValueError, match="the time in row 2, counted from 1, is missing"):
        from_frame(pl.DataFrame({"user": [1, 2], "item": [1, 2], "time": [datetime(2020, 1, 1), None]}))
    with pytest.raises(ValueError, match="the time in row 1, counted from 1, is missing"):
        from_frame(pd.DataFrame({"user": [1], "item": [1], "time": [pd.NaT]}))
    for make in (pl.DataFrame, pd.DataFrame):  # nanoseconds would overflow
        with pytest.raises(ValueError, match=r"the time in row 1, .* outside the years 1678..2261"):
            from_frame(make({"user": [1], "item": [1], "time": np.array(["9999"], "datetime64[us]")}))
    with pytest.raises(ValueError, match="the user in row 2, counted from 1, is missing"):
        from_frame(pd.DataFrame({"user": [1, None], "item": [1, 2]}), time=None)
    with pytest.raises(ValueError, match=r"\['time'\] are missing"):
        from_frame(pl.DataFrame({"user": [1], "item": [1]}))
    with pytest.raises(TypeError, match=r"expected a data frame .*, got dict"):
        from_frame({"user": [1]})


def test_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "narwhals", None)
    with pytest.raises(ImportError, match=r"pip install 'diffusers-rec\[data\]'"):
        from_frame(FRAME)
    assert rows(read_interactions(write(tmp_path / "log.csv", TEXTS["csv"]))) == ROWS, "text needs no extra"
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(ImportError, match=r"pip install 'diffusers-rec\[data\]'"):
        read_interactions(write(tmp_path / "log.parquet", ""))


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_a_table_of_one_column_is_told_its_separator(separator, tmp_path):
    path = write(tmp_path / "log.csv", separator.join(["user", "item", "time"]) + "\n" + separator.join("ab1") + "\n")
    with pytest.raises(ValueError, match=re.escape(f"has one column, 'user{separator}item".replace("\t", "\\t"))):
        read_interactions(path)
    assert len(read_interactions(path, separator=separator)) == 1
