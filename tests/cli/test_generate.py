"""``diffrec complete`` and ``diffrec slate``: what they return, and the errors of wrong input."""

from __future__ import annotations

import pytest

from diffusers_rec import GAP, DiffRec, presets

from .command import SMALL, as_json, assert_one_clear_line, diffrec, good

SEQUENCE = "item-001,?,item-004,?"
LISTED = ["item-001", None, "item-004", None]


@pytest.fixture(scope="module")
def joint(logs, tmp_path_factory):
    """A joint model of each log."""
    folder = tmp_path_factory.mktemp("joint")
    for kind in ("csv", "txt"):
        good("train", logs / f"log.{kind}", "--out", folder / kind, "--preset", "joint", *SMALL, "--quiet")
    return folder


@pytest.mark.parametrize(
    ("kind", "text", "ids"),
    [
        ("csv", SEQUENCE, LISTED),
        ("csv", '["item-001", null, "item-004", null]', LISTED),
        ("txt", "101, ? ,104,?", [101, None, 104, None]),
        ("txt", "[101, null, 104, null]", [101, None, 104, None]),
    ],
)
def test_complete_returns_what_the_library_returns(kind, text, ids, joint):
    (answer,) = as_json("complete", joint / kind, "--sequence", text, "--samples", 3)
    model = DiffRec.from_pretrained(joint / kind)
    expected = model.complete([[GAP if each is None else each for each in ids]], 3)
    assert answer["sequence"] == ids
    assert [sample["items"] for sample in answer["samples"]] == expected[0]
    assert [sample["log_likelihood"] for sample in answer["samples"]] == expected.log_likelihood[0].tolist()
    got = [[(item["item"], item["probability"]) for item in gap] for gap in answer["gaps"]]
    assert got == expected.marginals[0]


def test_slate_returns_what_the_library_returns(joint):
    model, history = DiffRec.from_pretrained(joint / "csv"), ["item-001", "item-004"]
    for options, (k, samples) in (((), (None, None)), (("-k", 3, "--samples", 4), (3, 4))):
        (answer,) = as_json("slate", joint / "csv", "--history", ",".join(history), *options)
        expected = model.slate([history], k, samples)
        assert answer["history"] == history
        assert [slate["items"] for slate in answer["slates"]] == expected[0]
        assert len(answer["positions"]) == len(expected.marginals[0])


def test_several_sequences_are_printed_as_tables(joint):
    table = good("complete", joint / "csv", "--sequence", SEQUENCE, "--sequence", "item-002,?", "--samples", 2)
    assert table.index(SEQUENCE) < table.index("item-002,?")
    assert table.count("gap 1") == 2
    assert table.count("gap 2") == 1
    slates = good("slate", joint / "csv", "--history", "item-001", "--history", "item-002", "-k", 2)
    assert slates.index("after item-001") < slates.index("after item-002")
    assert slates.count("item 2") == slates.count("log-likelihood") == 2


def test_a_table_that_is_too_wide_still_lists_every_item(logs, tmp_path):
    small = ("--preset", "joint", *SMALL, "--set", "noising.k=7", "--quiet")
    good("train", logs / "log.csv", "--out", tmp_path, *small)
    (answer,) = as_json("slate", tmp_path, "--history", "item-001")
    printed = good("slate", tmp_path, "--history", "item-001")
    assert len(answer["slates"][0]["items"]) == 7
    assert all(item in printed for item in answer["slates"][0]["items"])


def test_candidates_and_exclusions_hold(joint):
    among = ("--candidates", "item-001,item-002,item-003,item-005")
    command = ("slate", joint / "csv", "--history", "item-001", "-k", 3, *among)
    (answer,) = as_json(*command)
    assert set(answer["slates"][0]["items"]) == {"item-002", "item-003", "item-005"}
    (with_seen,) = as_json(*command, "--exclude", "item-002", "--include-seen")
    assert set(with_seen["slates"][0]["items"]) == {"item-001", "item-003", "item-005"}
    (filled,) = as_json("complete", joint / "csv", "--sequence", "item-001,?,?,?", *among)
    assert set(filled["samples"][0]["items"]) == {"item-001", "item-002", "item-003", "item-005"}


def test_a_sampler_without_a_likelihood_prints_none(joint):
    command = ("slate", joint / "csv", "--history", "item-001", "-k", 3)
    (answer,) = as_json(*command, "--sampler", "ddim", "--steps", 2)
    assert list(answer["slates"][0]) == ["items"]
    assert len(set(answer["slates"][0]["items"])) == 3
    assert "log-likelihood" not in good(*command, "--sampler", "ddim", "--steps", 2)
    (unmasked,) = as_json(*command, "--steps", 1, "--samples", 2)
    assert all(len(set(slate["items"])) == 3 for slate in unmasked["slates"])


def test_the_ranking_takes_the_sampler_that_fills_blanks(joint):
    (answer,) = as_json("recommend", joint / "csv", "--history", "item-001", "--sampler", "unmask", "-k", 3)
    assert len(answer["recommendations"]) == 3


def test_drops_unknown_ids_on_request(joint):
    command = ("slate", joint / "csv", "--history", "item-001,nowhere", "-k", 2)
    assert as_json(*command, "--unknown", "drop")[0]["slates"] == as_json(
        "slate", joint / "csv", "--history", "item-001", "-k", 2
    )[0]["slates"]  # fmt: skip


def test_a_mark_that_is_an_item_needs_a_list(tmp_path):
    presets.joint(["?", "a", "b"], dim=4, max_length=6, k=2).save_pretrained(tmp_path)
    (answer,) = as_json("complete", tmp_path, "--sequence", '["?", null]')
    assert answer["samples"][0]["items"][0] == "?"
    assert as_json("complete", tmp_path, "--sequence", "a,?")[0]["sequence"] == ["a", None]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--sequence", "item-001,item-002"), r"expected a gap.*\? or a JSON null marks a gap"),
        (("--sequence", "?,item-001"), "begins with a gap"),
        (("--sequence", "item-001,,?"), "--sequence 'item-001,,.' contains an empty item id"),
        (("--sequence", "item-001,?,nowhere"), "'nowhere'"),
        (("--sequence", "[1.5, null]"), "a text or a whole number, or null for a gap"),
        (("--sequence", "item-001,?", "--samples", 0), "--samples must be an integer >= 1, got 0"),
        (("--sequence", "item-001,?", "--sampler", "unmusk"), "Did you mean 'unmask'"),
        (("--sequence", "item-001,?", "--sampler", '{"name": "unmask", "num_steps": 2}', "--steps", 3), "Keep one"),
    ],
)
def test_wrong_input_is_one_clear_line(arguments, message, joint):
    code, out, err = diffrec("complete", joint / "csv", *arguments)
    assert (code, out) == (2, "")
    assert_one_clear_line(err, message)


@pytest.mark.parametrize(
    ("command", "message"),
    [(("complete", "--sequence", SEQUENCE), "complete"), (("slate", "--history", "item-001"), "slate")],
)
def test_a_model_of_another_preset_is_refused(command, message, models):
    code, _, err = diffrec(command[0], models / "csv", *command[1:])
    assert code == 2
    assert_one_clear_line(err, f"{message} needs a denoiser that predicts items.*diffrec train --preset joint")


def test_a_slate_has_at_most_as_many_items_as_the_model_fills_in(joint):
    assert_one_clear_line(diffrec("slate", joint / "csv", "--history", "item-001", "-k", 9)[2], "k must lie in 1..5")
