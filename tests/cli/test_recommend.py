"""``diffrec recommend``: ids, candidates, and what reaches the terminal."""

from __future__ import annotations

import json
import re

import polars as pl
import pytest

from diffusers_rec import DDIMSampler, DiffRec, from_frame

from .command import SMALL, as_json, assert_one_clear_line, diffrec, good, items


@pytest.mark.parametrize(
    ("kind", "history", "ids"),
    [("csv", "item-001,item-004", ["item-001", "item-004"]), ("txt", " 101 ,104", [101, 104])],
)
def test_recommend_returns_what_the_library_returns(kind, history, ids, models):
    (answer,) = as_json("recommend", models / kind, "--history", history, "-k", 4)
    expected = DiffRec.from_pretrained(models / kind).recommend([ids], 4)[0]
    assert answer["history"] == ids
    assert [tuple(row.values()) for row in answer["recommendations"]] == expected
    assert list(answer["recommendations"][0]) == ["item", "score", "std"]


def test_steps_alone_are_of_the_models_own_sampler(logs, tmp_path):
    model = DiffRec(["a", "b", "c"], dim=4, denoiser="conditional-mlp", sampler=DDIMSampler(num_steps=7, eta=0.5))
    model.save_pretrained(tmp_path)
    (answer,) = as_json("recommend", tmp_path, "--history", "a", "--steps", 2, "-k", 2)
    expected = model.recommend([["a"]], 2, sampler=DDIMSampler(num_steps=2, eta=0.5))[0]
    assert [tuple(row.values()) for row in answer["recommendations"]] == expected


def test_recommend_for_several_histories(models):
    one, other = ("item-001", "item-002,item-003")
    answers = as_json("recommend", models / "csv", "--history", one, "--history", other)
    assert [answer["history"] for answer in answers] == [["item-001"], ["item-002", "item-003"]]
    assert items(answers) == items(as_json("recommend", models / "csv", "--history", one))
    assert items(answers) != items(answers[1:])
    table = good("recommend", models / "csv", "--history", one, "--history", other)
    assert table.index(f"after {one}") < table.index(f"after {other}")


def test_recommend_among_candidates_and_seen_items(models):
    history = ("recommend", models / "csv", "--history", "item-001,item-002")
    all_but_seen = items(as_json(*history, "-k", 40))
    assert len(all_but_seen) == 38
    assert not {"item-001", "item-002"} & set(all_but_seen)
    assert len(items(as_json(*history, "-k", 40, "--include-seen"))) == 40
    some = ("--candidates", "item-009,item-002,item-005")
    assert items(as_json(*history, "-k", 3, *some)) == [i for i in all_but_seen if i in ("item-005", "item-009")]
    assert len(items(as_json(*history, "-k", 3, *some, "--include-seen"))) == 3
    assert diffrec(*history, "-k", 2, *some)[2] == ""
    note = diffrec(*history, "-k", 3, *some)[2]
    assert note == (
        "after item-001,item-002: 2 of 3 items, because the others are in the history or excluded. "
        "--include-seen allows items of the history.\n"
    )


def test_recommend_drops_unknown_ids_and_answers_empty_histories_on_request(models):
    command = ["recommend", models / "csv", "--history", "item-001,nowhere", "--history", "nowhere"]
    assert "nowhere" in diffrec(*command)[2]
    assert "holds no known item" in diffrec(*command, "--unknown", "drop")[2]
    rows = as_json(*command, "--unknown", "drop", "--empty", "popularity", "-k", 3, "--exclude", "item-002,nowhere")
    assert rows[0]["recommendations"] == as_json(
        "recommend", models / "csv", "--history", "item-001", "-k", 3, "--exclude", "item-002"
    )[0]["recommendations"]  # fmt: skip
    scores = [row["score"] for row in rows[1]["recommendations"]]
    assert len(scores) == 3
    assert scores == sorted(scores, reverse=True)
    assert as_json("recommend", models / "csv", "--history", "[]", "--empty", "popularity", "-k", 3)[0][
        "recommendations"
    ]


def test_ids_are_shown_and_read_unchanged(tmp_path):
    """Digits that are text, brackets that are no markup, text too long for a line."""
    ids = ["007", "[bold]x[/x]", ":smile:", "n" * 100, "-3"]
    DiffRec(
        ids, dim=4, denoiser={"name": "conditional-mlp", "encoder": {"name": "causal-transformer", "num_heads": 1}}
    ).save_pretrained(tmp_path)
    for one in ids:
        assert as_json("recommend", tmp_path, "--history", one, "-k", 1)[0]["history"] == [one]
    table = good("recommend", tmp_path, "--history", ":smile:,[bold]x[/x]", "-k", 5, "--include-seen")
    assert "after :smile:,[bold]x[/x]" in table
    for one in ids[:3]:
        assert re.search(rf"\d +{re.escape(one)} +0\.", table)
    assert table.count("n") - len("rank") + 3 >= 100
    assert "…" not in table


def test_what_an_id_holds_does_not_reach_the_terminal(tmp_path):
    evil = ["\x1b[2J", "\x9b31m", "\u202ecod", "\x07bell", "plain", "a\x00b"]
    rows = [f"u{user},{evil[(user + step) % 6]},{step}" for user in range(30) for step in range(5)]
    (tmp_path / "log.csv").write_text("\n".join(["user,item,time", *rows]) + "\n")
    good("train", tmp_path / "log.csv", "--out", tmp_path / "run", *SMALL, "--quiet")
    history = json.dumps(["\x1b[2J", "plain"])
    printed = "".join(diffrec("recommend", tmp_path / "run", "--history", history, "--include-seen")[1:])
    printed += "".join(diffrec("recommend", tmp_path / "run", "--history", "\x1b[2J\x9b", "--candidates", "\x07")[1:])
    assert r"\x1b[2J" in printed
    assert r"\u202ecod" in printed
    as_object = good("recommend", tmp_path / "run", "--history", history, "--include-seen", "--json")
    for text in (printed, as_object):
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", text)
    found = {row["item"] for row in json.loads(as_object)[0]["recommendations"]}
    assert found == set(evil)


@pytest.mark.parametrize(("kind", "out"), [("csv", "out.parquet"), ("txt", "out.csv")])
def test_recommend_for_a_file_of_users(kind, out, logs, models, tmp_path):
    path = logs / f"log.{kind}"
    if kind == "csv":
        path = tmp_path / "log.csv"
        pl.read_csv(logs / "log.csv").sort("user", maintain_order=True).write_csv(path)
    printed = good("recommend", models / kind, "--histories", path, "--out", tmp_path / out, "-k", 3, "--seeds", 2)
    assert printed.replace("\n", "").endswith("60 users")
    found = (pl.read_csv if out.endswith("csv") else pl.read_parquet)(tmp_path / out)
    assert found.columns == ["user", "rank", "item", "score", "std"]
    model = DiffRec.from_pretrained(models / kind)
    if kind == "csv":
        sequences = from_frame(pl.read_csv(path)).sequences()
        asked = dict(zip(sequences.users, map(sequences.vocabulary.decode, sequences), strict=True))
    else:
        rows = [list(map(int, line.split())) for line in path.read_text().splitlines()]
        asked = {user: row for user, *row in rows}
    expected = model.recommend(asked.values(), 3, seeds=2)
    assert found["user"].to_list() == [user for user in asked for _ in range(3)]
    assert found["item"].to_list() == [item for row in expected.items for item in row]
    assert not (tmp_path / f"{out}.parts").exists()


def test_recommend_for_users_with_columns_of_candidates(models, tmp_path):
    ids = [f"item-{number:03}" for number in range(1, 10)]
    frame = pl.DataFrame(
        {"who": [7, 8], "bag": [ids[:2], [*ids[2:4], "new"]], "may": [ids[3:7], ids[4:6]], "never": [ids[3:4], []]}
    )
    frame.write_parquet(tmp_path / "users.parquet")
    columns = ("--user", "who", "--history-column", "bag", "--candidates-column", "may", "--exclude-column", "never")
    command = ("recommend", models / "csv", "--histories", tmp_path / "users.parquet", "--out", tmp_path / "out.csv")
    assert_one_clear_line(diffrec(*command, *columns)[2], r"the history of user 8.*'new'.*--unknown drop")
    assert as_json(*command, *columns, "--unknown", "drop") == {"out": str(tmp_path / "out.csv"), "users": 2}
    found = pl.read_csv(tmp_path / "out.csv")
    assert [sorted(found.filter(user=user)["item"]) for user in (7, 8)] == [ids[4:7], ids[4:6]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "either --history.*or --histories and --out"),
        (("--histories", "log.csv"), "--histories and --out belong together"),
        (("--history", "a", "--histories", "log.csv", "--out", "out.csv"), "either --history"),
        (("--histories", "log.csv", "--out", "out.json"), r"out must end in \.parquet or \.csv"),
        (("--histories", "log.csv", "--out", "out.csv"), "in several places.*--sort"),
        (("--histories", "log.csv", "--out", "out.csv", "--item", "sku"), "Expected the columns.*--item"),
        (
            ("--histories", "log.csv", "--out", "out.csv", "--exclude", "item-001", "--exclude-column", "x"),
            "--exclude and --exclude-column exclude each other",
        ),
    ],
)
def test_what_does_not_go_together_is_told(options, message, models, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "log.csv").write_text("user,item,time\na,item-001,1\nb,item-002,2\na,item-003,3\n")
    code, _, err = diffrec("recommend", models / "csv", *options)
    assert code == 2
    assert_one_clear_line(err, message)
    assert not (tmp_path / "out.csv").exists()
