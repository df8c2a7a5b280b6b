"""The command line: the path of a user, and the ways off it."""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, replace
from io import StringIO
from unittest import mock

import pytest
import torch
import typer

from diffusers_rec import DDIMSampler, DDPMSampler, DiffRec, Ensemble, SyntheticWorld, __version__, read_interactions
from diffusers_rec.cli.main import AUDITED, app, run
from diffusers_rec.evaluation import audit, evaluate, evaluate_memory, evaluate_popularity
from diffusers_rec.presets import best, control
from diffusers_rec.recommenders.diffrec import PARTS
from diffusers_rec.training import RECIPES, train

SMALL = ("--dim", 16, "--max-length", 8, "--epochs", 2, "--cpu")


def diffrec(*arguments):
    """Exit code, standard output and standard error of a command."""
    out, err = StringIO(), StringIO()
    line = ["diffrec", *map(str, arguments)]
    with mock.patch.object(sys, "argv", line), redirect_stdout(out), redirect_stderr(err):
        code = run()
    return code, out.getvalue(), err.getvalue()


def good(*arguments):
    code, out, err = diffrec(*arguments)
    assert code == 0, err
    return out


def as_json(*arguments):
    out = good(*arguments, "--json")
    assert out.count("\n") == 1, "more than the object on standard output"
    return json.loads(out)


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    """One log as a table with ids of letters and as sequences with ids of digits; users of one item; items not here."""
    folder = tmp_path_factory.mktemp("logs")
    log = SyntheticWorld(40, num_groups=4).sample(60, min_length=4, max_length=12)
    users, items = log.user_vocabulary.decode(log.users), log.item_vocabulary.decode(log.items)
    rows = [f"{user},{item},{time}" for user, item, time in zip(users, items, log.times.tolist(), strict=True)]
    (folder / "log.csv").write_text("\n".join(["user,item,time", *rows]) + "\n")
    (folder / "renamed.csv").write_text("\n".join(["who,what,when", *rows]) + "\n")
    (folder / "short.csv").write_text("\n".join(["user,item,time", *rows, f"one,{items[0]},0"]) + "\n")
    (folder / "untimed.csv").write_text("user,item\nu,a\nu,b\nu,c\n")
    (folder / "ragged.csv").write_text("user,item,time\nu,a,1\nu,b,2,3,4\n")
    (folder / "gap.csv").write_text("user,item,time\nu,a,1\nu,,2\n")
    sequences = [f"{user} {' '.join(map(str, row + 100))}" for user, row in enumerate(log.sequences())]
    (folder / "log.txt").write_text("\n".join(sequences) + "\n")
    (folder / "broken.txt").write_text("1 2 3\n4\n")
    (folder / "single.txt").write_text("1 5\n2 6\n")
    for name in ("empty.csv", "empty.txt", "log.xyz"):
        (folder / name).touch()
    return folder


@pytest.fixture(scope="module")
def models(logs, tmp_path_factory):
    """A model of each log."""
    folder = tmp_path_factory.mktemp("models")
    for kind in ("csv", "txt"):
        good("train", logs / f"log.{kind}", "--out", folder / kind, *SMALL, "--quiet")
    return folder


# The path of a user


@pytest.mark.parametrize(("kind", "history"), [("csv", "item-001,item-004"), ("txt", "101, 104")])
def test_train_evaluate_recommend_info(kind, history, logs, tmp_path):
    out = tmp_path / "new" / "run"
    code, told, progress = diffrec("train", logs / f"log.{kind}", "--out", out, *SMALL)
    assert code == 0
    assert re.match(r"Best epoch [12] of 2 by validation ndcg@10 \(history masked\): hr@5 0\.\d{4}, ", told)
    assert [line.split()[1] for line in progress.splitlines() if line.startswith("epoch ")] == ["1", "2"]
    assert f"diffrec evaluate {out} {logs}/log.{kind}" in progress
    table = good("evaluate", out, logs / f"log.{kind}")
    for row in ("model", "network alone", "memory alone", "popularity"):
        for masking in ("masked", "unmasked"):
            for where in (told, table):
                assert re.search(rf"{row} +{masking}( +[01]\.\d{{4}}){{6}}", where), "a row cut short"
    assert all(len(line) <= 80 for line in table.splitlines())
    found = good("recommend", out, "--history", history, "-k", 3)
    assert f"after {history}" in found
    assert [int(rank) for rank in re.findall(r"^ +(\d+) +", found, re.MULTILINE)] == [1, 2, 3]
    assert "conditional-mlp(dim=16" in good("info", out)
    assert "60" in good("info", logs / f"log.{kind}")


@pytest.mark.parametrize("kind", ["csv", "txt"])
@pytest.mark.parametrize("split", ["test", "validation"])
def test_evaluate_says_what_the_library_says(kind, split, logs, models):
    parts = read_interactions(logs / f"log.{kind}").sequences().leave_one_out()
    holdout = getattr(parts, split)
    answer = as_json("evaluate", models / kind, logs / f"log.{kind}", "--split", split)
    model = DiffRec.from_pretrained(models / kind)
    assert answer["split"] == split
    assert answer["model"] == asdict(evaluate(model, holdout))
    assert answer["network_alone"] == asdict(evaluate(model, holdout, memory=False))
    assert answer["memory_alone"] == asdict(evaluate_memory(model.memory, holdout))
    assert answer["network_alone"] != answer["model"] != answer["memory_alone"]
    assert answer["popularity"] == asdict(evaluate_popularity(holdout.histories, holdout))
    other = as_json(
        "evaluate", models / kind, logs / f"log.{kind}", "--split", split, "--seeds", 1, "--sampler", "ddpm"
    )
    assert other["model"] == asdict(evaluate(model, holdout, seeds=1, sampler=DDPMSampler()))


def test_a_model_without_a_memory_has_no_rows_for_one(logs, tmp_path):
    command = ("train", logs / "log.csv", "--out", tmp_path, *SMALL, "--set", "memory=none")
    assert set(as_json(*command)) == {
        "out", "best_epoch", "epochs", "select_by", "exclude_seen", "validation",
    }  # fmt: skip
    assert good(*command).count("\n") == 1
    assert set(as_json("evaluate", tmp_path, logs / "log.csv")) == {"split", "model", "popularity"}


def test_training_tells_the_share_of_the_memory(logs, tmp_path):
    answer = as_json("train", logs / "log.csv", "--out", tmp_path, *SMALL)
    holdout = read_interactions(logs / "log.csv").sequences().leave_one_out().validation
    model = DiffRec.from_pretrained(tmp_path)
    assert answer["model"]["masked"] == answer["validation"]
    assert answer["network_alone"]["masked"] == pytest.approx(
        evaluate(model, holdout, seeds=RECIPES["best"].validation_seeds, memory=False).masked
    )
    assert answer["memory_alone"] == asdict(evaluate_memory(model.memory, holdout))
    assert answer["popularity"] == asdict(evaluate_popularity(holdout.histories, holdout))


def test_the_epoch_is_chosen_by_any_metric_with_seen_items_or_without(logs, tmp_path):
    command = ("train", logs / "log.csv", "--out", tmp_path, *SMALL, "--select-by", "hr@3", "--include-seen")
    _, told, progress = diffrec(*command)
    assert re.match(r"Best epoch [12] of 2 by validation hr@3 \(history not masked\): hr@3 0\.\d{4}, ", told)
    assert len(re.findall(r"^epoch .* hr@3 0\.\d{4}", progress, re.MULTILINE)) == 2
    answer = as_json(*command)
    assert (answer["select_by"], answer["exclude_seen"]) == ("hr@3", False)
    holdout = read_interactions(logs / "log.csv").sequences().leave_one_out().validation
    report = evaluate(DiffRec.from_pretrained(tmp_path), holdout, ks=[3, 5, 10, 20], seeds=1)
    assert answer["validation"] == pytest.approx(report.unmasked)
    in_other_words = ("--set", "training.select_by=hr@3", "--set", "training.exclude_seen=false")
    assert as_json(*command[:-3], *in_other_words) == answer, "another run"


def test_training_without_validation_takes_every_item(logs, tmp_path):
    command = ("train", logs / "short.csv", "--out", tmp_path, *SMALL, "--no-validation")
    code, told, progress = diffrec(*command)
    assert code == 0
    assert told == "Kept epoch 2, the last: there was no validation\n"
    assert f"Next: diffrec recommend {tmp_path} --history" in progress
    assert as_json(*command) == {
        "out": str(tmp_path), "best_epoch": 2, "epochs": 2, "select_by": None, "exclude_seen": True, "validation": {},
    }  # fmt: skip
    sequences = read_interactions(logs / "short.csv").sequences()
    model = best(sequences.vocabulary, dim=16, max_length=8)
    train(model, sequences, config=replace(RECIPES["best"], epochs=2), device="cpu")
    saved = DiffRec.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(tensor, saved[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("options", "sampler"),
    [
        (("--sampler", "ddpm", "--steps", 3), DDPMSampler(num_steps=3)),
        (("--sampler", '{"name": "ddim", "eta": 0.5}', "--steps", 3), DDIMSampler(num_steps=3, eta=0.5)),
        (("--sampler", '{"name": "ddpm", "variance": "posterior", "num_steps": 2}'),
         DDPMSampler("posterior", num_steps=2)),
    ],
    ids=str,
)  # fmt: skip
def test_a_sampler_takes_its_settings(options, sampler, logs, models):
    model = DiffRec.from_pretrained(models / "csv")
    (answer,) = as_json("recommend", models / "csv", "--history", "item-001", *options)
    expected = model.recommend([["item-001"]], sampler=sampler)[0]
    assert [tuple(row.values()) for row in answer["recommendations"]] == expected
    assert expected != model.recommend([["item-001"]])[0]
    holdout = read_interactions(logs / "log.csv").sequences().leave_one_out().test
    found = as_json("evaluate", models / "csv", logs / "log.csv", *options)
    assert found["model"] == asdict(evaluate(model, holdout, sampler=sampler))


def test_steps_alone_are_of_the_models_own_sampler(logs, tmp_path):
    model = DiffRec(["a", "b", "c"], dim=4, denoiser="conditional-mlp", sampler=DDIMSampler(num_steps=7, eta=0.5))
    model.save_pretrained(tmp_path)
    (answer,) = as_json("recommend", tmp_path, "--history", "a", "--steps", 2, "-k", 2)
    expected = model.recommend([["a"]], 2, sampler=DDIMSampler(num_steps=2, eta=0.5))[0]
    assert [tuple(row.values()) for row in answer["recommendations"]] == expected


def test_audit_says_what_the_library_says(logs, models):
    request = ("audit", models / "csv", logs / "log.csv", "--split", "test", "--steps", 3, "--seeds", 2)
    holdout = read_interactions(logs / "log.csv").sequences().leave_one_out().test
    expected = audit(DiffRec.from_pretrained(models / "csv"), holdout, seeds=2, steps=[3])
    assert as_json(*request) == {"split": "test", **asdict(expected)}
    tables = good(*request)
    assert all(heading in tables for heading in ("accuracy", "cross_entropy", "ddpm, 3 steps", "60 users"))
    assert all(legend in tables for _, legend in AUDITED.values())
    assert "network alone" in tables
    assert "(test, 1 user)\n" in good(*request, "--users", 1)


def test_audit_of_a_control_says_that_there_is_no_noise(logs, tmp_path):
    good("train", logs / "log.csv", "--out", tmp_path, *SMALL, "--control", "--quiet")
    told = good("audit", tmp_path, logs / "log.csv")
    assert "there is no noise to audit" in told
    assert told.count("\n") == 1
    assert set(as_json("audit", tmp_path, logs / "log.csv", "--seeds", 2)) > {"ranking", "timesteps", "chains"}


def test_audit_of_a_short_schedule(logs, tmp_path):
    good("train", logs / "log.csv", "--out", tmp_path, *SMALL, "--set", "schedule.num_timesteps=12")
    found = as_json("audit", tmp_path, logs / "log.csv", "--seeds", 2)
    assert [row["sampler"] for row in found["chains"]] == ["exact draws", "ddpm, 10 steps"]


@pytest.mark.parametrize(
    ("kind", "history", "ids"),
    [("csv", "item-001,item-004", ["item-001", "item-004"]), ("txt", " 101 ,104", [101, 104])],
)
def test_recommend_says_what_the_library_says(kind, history, ids, models):
    (answer,) = as_json("recommend", models / kind, "--history", history, "-k", 4)
    expected = DiffRec.from_pretrained(models / kind).recommend([ids], 4)[0]
    assert answer["history"] == ids
    assert [tuple(row.values()) for row in answer["recommendations"]] == expected
    assert list(answer["recommendations"][0]) == ["item", "score", "spread"]


def test_models_are_averaged_with_others(logs, models, tmp_path):
    good("train", logs / "log.csv", "--out", tmp_path, *SMALL, "--seed", 5)
    folders = [models / "csv", tmp_path]
    (answer,) = as_json("recommend", models / "csv", "--with", tmp_path, "--history", "item-001", "-k", 4)
    expected = Ensemble.from_pretrained(folders).recommend([["item-001"]], 4)[0]
    assert [tuple(row.values()) for row in answer["recommendations"]] == expected
    holdout = read_interactions(logs / "log.csv").sequences().leave_one_out().test
    found = as_json("evaluate", models / "csv", logs / "log.csv", "--with", tmp_path)
    ensemble = Ensemble.from_pretrained(folders)
    assert found["model"] == asdict(evaluate(ensemble, holdout))
    assert found["network_alone"] == asdict(evaluate(ensemble, holdout, memory=False))
    assert found["memory_alone"] == asdict(evaluate_memory(ensemble.memory, holdout))
    assert "2 models together" in good("evaluate", models / "csv", logs / "log.csv", "--with", tmp_path)
    shown = good("recommend", models / "csv", "--with", tmp_path, "--history", "item-001")
    assert "spread over models and draws" in " ".join(shown.split())
    for other, told in ((models / "csv", "twice"), (models / "txt", f"{models / 'csv'} is member 0")):
        code, _, error = diffrec("recommend", models / "csv", "--with", other, "--history", "item-001")
        assert code == 2
        assert told in error


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
    told = diffrec(*history, "-k", 3, *some)[2]
    assert told == (
        "after item-001,item-002: 2 of 3 items, because the others are in the history or excluded. "
        "--include-seen keeps those of the history.\n"
    )


def items(answer):
    return [row["item"] for row in answer[0]["recommendations"]]


def test_ids_are_shown_and_read_as_they_stand(tmp_path):
    """Digits that are text, brackets that are no markup, text too long for a line."""
    ids = ["007", "[bold]x[/x]", ":smile:", "n" * 100, "-3"]
    DiffRec(ids, dim=4, denoiser={"name": "conditional-mlp", "num_heads": 1}).save_pretrained(tmp_path)
    for one in ids:
        assert as_json("recommend", tmp_path, "--history", one, "-k", 1)[0]["history"] == [one]
    table = good("recommend", tmp_path, "--history", ":smile:,[bold]x[/x]", "-k", 5, "--include-seen")
    assert "after :smile:,[bold]x[/x]" in table
    for one in ids[:3]:
        assert re.search(rf"\d +{re.escape(one)} +0\.", table)
    assert table.count("n") - len("rank") + 3 >= 100
    assert "…" not in table


def test_info_tells_components_and_models_and_data(logs, models):
    listing = as_json("info")
    assert listing["version"] == __version__
    assert {"ddpm", "one-step"} <= set(listing["components"]["sampler"])
    assert all(name in good("info") for names in listing["components"].values() for name in names)
    facts = as_json("info", models / "csv")
    model = DiffRec.from_pretrained(models / "csv")
    assert facts.pop("items") == len(model.vocabulary)
    assert facts.pop("parameters") == sum(parameter.numel() for parameter in model.parameters())
    assert facts == model.config()
    assert as_json("info", logs / "log.csv") == asdict(read_interactions(logs / "log.csv").statistics())


def test_train_answers_in_json_and_again_when_started_again(logs, tmp_path):
    command = ("train", logs / "log.csv", "--out", tmp_path / "run", *SMALL)
    answer = as_json(*command)
    assert answer["out"] == str(tmp_path / "run")
    assert answer["epochs"] == 2
    assert {"hr@5", "ndcg@10"} < set(answer["validation"])
    assert as_json(*command) == answer
    code, told, progress = diffrec(*command)
    assert code == 0
    assert f"ndcg@10 {answer['validation']['ndcg@10']:.4f}" in told
    assert "it is finished" in progress
    assert "going on" not in progress
    assert "epoch " not in progress.replace("Best epoch", ""), "it trained again"


def test_quiet_is_quiet(logs, models, tmp_path):
    train = ("train", logs / "log.csv", "--out", tmp_path / "run", *SMALL, "--quiet", "--json")
    assert diffrec(*train)[2] == ""
    assert diffrec("evaluate", models / "csv", logs / "log.csv", "--quiet")[2] == ""


def test_set_changes_parts_and_settings(logs, tmp_path):
    changes = (
        "denoiser=causal-transformer", "schedule.num_timesteps=20", "head=linear", "sampler=ddpm", "seeds=2",
        "objective.distance=squared", "embedding.scale=learned", "training.epochs=1", "training.examples=last-target",
    )  # fmt: skip
    options = [option for change in changes for option in ("--set", change)]
    answer = as_json("train", logs / "log.csv", "--out", tmp_path, *SMALL[:4], "--cpu", *options)
    assert answer["epochs"] == 1
    facts = as_json("info", tmp_path)
    assert [facts[part]["name"] for part in ("denoiser", "head", "sampler")] == ["causal-transformer", "linear", "ddpm"]
    assert facts["schedule"]["num_timesteps"] == facts["timesteps"]["num_timesteps"] == 20
    assert (facts["denoiser"]["dim"], facts["denoiser"]["max_length"], facts["denoiser"]["dropout"]) == (16, 8, 0.5)
    assert (facts["objective"]["distance"], facts["embedding"]["scale"], facts["seeds"]) == ("squared", "learned", 2)


def test_the_header_names_every_part(logs, tmp_path):
    changes = ("objective=simplified", "negatives=popularity", "schedule=cosine", "denoiser=causal-transformer")
    options = [option for change in changes for option in ("--set", change)]
    header = diffrec("train", logs / "log.csv", "--out", tmp_path, *SMALL, *options)[2].split("epoch ")[0]
    assert all(len(line) <= 80 for line in header.splitlines())
    facts = as_json("info", tmp_path)
    for part in PARTS:
        assert re.search(rf"\s{part}={facts[part]['name']}(,|\n)", header)
    assert f"best: {facts['parameters']:,} parameters" in header


def test_a_control_is_the_plain_twin_of_what_the_options_describe(logs, tmp_path):
    options = (*SMALL, "--seed", 3, "--set", "head=linear", "--set", "schedule.num_timesteps=20")
    good("train", logs / "log.csv", "--out", tmp_path / "model", *options)
    code, _, progress = diffrec("train", logs / "log.csv", "--out", tmp_path / "twin", *options, "--control")
    assert code == 0
    assert "best, its control without noise: " in progress
    assert "denoiser=noiseless(conditional-mlp), " in progress
    model, twin = (DiffRec.from_pretrained(tmp_path / name) for name in ("model", "twin"))
    assert twin.config() == control(model).config()
    assert twin.config() != control(best(model.vocabulary)).config()


@pytest.mark.parametrize("change", [("--seed", 5), ("--set", "training.seed=5")], ids=str)
def test_a_seed_matters(change, logs, models, tmp_path):
    good("train", logs / "log.csv", "--out", tmp_path, *SMALL, *change)
    one, other = (DiffRec.from_pretrained(folder).embedding.weight for folder in (tmp_path, models / "csv"))
    assert not torch.equal(one, other)


def test_the_paper_is_a_preset(logs, tmp_path):
    good("train", logs / "log.txt", "--out", tmp_path, "--preset", "paper", *SMALL, "--batch-targets", 50)
    facts = as_json("info", tmp_path)
    assert facts["denoiser"]["name"] == "transformer"
    assert facts["denoiser"]["dropout"] == 0.3


def test_columns_cores_and_short_users(logs, tmp_path):
    names = ("--user", "who", "--item", "what", "--time", "when")
    assert as_json("info", logs / "renamed.csv", *names) == as_json("info", logs / "log.csv")
    assert as_json("info", logs / "log.csv", "--k-core", 6)["num_users"] < 60
    assert as_json("train", logs / "short.csv", "--out", tmp_path, *SMALL, "--short", "drop")["epochs"] == 2
    assert as_json("evaluate", tmp_path, logs / "short.csv", "--short", "drop")["model"]["num_users"] == 60


# The ways off it


TRAIN = {
    "no such file": ("nowhere.csv", [], "There is no file .*nowhere.csv"),
    "a folder": (".", [], "' is a folder"),
    "empty table": ("empty.csv", [], "empty.csv: expected a header and at least one row"),
    "empty sequences": ("empty.txt", [], "the file is empty"),
    "unknown suffix": ("log.xyz", [], "cannot tell the format of log.xyz"),
    "no such column": ("untimed.csv", [], r"\['time'\] are missing"),
    "other column": ("log.csv", ["--item", "book"], r"\['book'\] are missing"),
    "ragged": ("ragged.csv", [], "rows of equal width"),
    "an id missing": ("gap.csv", [], "item in row 2, counted from 1, is empty"),
    "a user without items": ("broken.txt", [], "line 2: user '4' has no items"),
    "one-item users": ("short.csv", [], r"1 of 61 have fewer \(first: 'one'\).*--k-core 3, --short drop, "),
    "one-item users alone": ("single.txt", ["--short", "drop"], "every user needs at least 3 items"),
    "wrong format": ("log.csv", ["--format", "movielens"], "line 1: expected user::item::rating::time"),
    "core too large": ("log.csv", ["--k-core", "1000"], r"Use a smaller k.*--k-core\."),
    "broken JSON": ("log.csv", ["--set", "training.epochs=[1,"], r"--set: \[1, is not JSON \("),
    "no threads": ("nowhere.csv", ["--threads", "0"], "--threads must be an integer >= 1 and <= 1024, got 0"),
    "no part of that name": ("log.csv", ["--set", "denoiser=diffusion"], "Unknown denoiser name: 'diffusion'. Known"),
    "no such part": (
        "log.csv", ["--set", "decoder=linear"], "--set decoder=linear: Unknown part: .* Did you mean 'denoiser'"
    ),
    "training mistyped": ("log.csv", ["--set", "trainig.epochs=5"], "Unknown part: .* Did you mean 'training'"),
    "no word on training": ("log.csv", ["--set", "epochs=5"], "Did you mean --set training.epochs=5"),
    "no value": ("log.csv", ["--set", "denoiser"], "--set takes PART=NAME"),
    "a seed without training": ("log.csv", ["--set", "seed=5"], "Did you mean --set training.seed=5"),
    "no name": ("log.csv", ["--set", "=5"], "Unknown part: ''"),
    "training without a setting": ("log.csv", ["--set", "training=5"], "--set takes PART=NAME"),
    "no such setting": ("log.csv", ["--set", "schedule.steps=5"], "config of schedule 'sqrt': 'steps'. Known:"),
    "no such training setting": ("log.csv", ["--set", "training.epoch=5"], "training setting: 'epoch'.* mean 'epochs'"),
    "not a number": ("log.csv", ["--set", "training.epochs=many"], "epochs must be an integer"),
    "out of range": ("log.csv", ["--set", "training.clip_norm=-1"], "clip_norm must be a finite number at least 0"),
    "parts that do not fit": ("log.csv", ["--set", "timesteps.num_timesteps=8"], "The parts do not fit"),
    "no epochs": ("log.csv", ["--epochs", "0"], "epochs must be an integer >= 1, got 0"),
    "dropout": ("log.csv", ["--dropout", "1.5"], "dropout"),
    "heads": ("log.csv", ["--set", "denoiser.num_heads=3"], "num_heads"),
    "max length": ("log.csv", ["--max-length", "1"], "max_length"),
    "no such metric": ("log.csv", ["--select-by", "mrr@10"], "select_by must be 'hr@K' or 'ndcg@K', .* got 'mrr@10'"),
    "seen items twice": (
        "log.csv", ["--include-seen", "--set", "training.exclude_seen=true"], "--include-seen and --set .* same setting"
    ),
    "nothing to validate": (
        "log.csv", ["--no-validation", "--short", "drop", "--include-seen"],
        "--no-validation leaves --short and --include-seen nothing to do",
    ),
    "patience for nothing": (
        "log.csv", ["--no-validation", "--set", "training.patience=5"], "patience=5 counts validations"
    ),
    "negative seed": ("log.csv", ["--seed", "-1"], "seed must be"),
}  # fmt: skip


def assert_one_clear_line(err, message, start="diffrec: "):
    assert "Traceback" not in err
    (line,) = err.splitlines()
    assert line.startswith(start)
    assert re.search(message, line)


@pytest.mark.parametrize("case", TRAIN)
def test_wrong_input_for_train_is_one_line_and_writes_nothing(case, logs, tmp_path):
    file, options, message = TRAIN[case]
    code, out, err = diffrec(
        "train", logs / file, "--out", tmp_path / "new" / "run", *SMALL[:2], "--cpu", "-q", *options
    )
    assert code == 2
    assert out == ""
    assert_one_clear_line(err, message)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("shorthand", "key"),
    [
        ("--dim", "embedding.dim"), ("--dim", "denoiser.dim"), ("--dim", "head.dim"),
        ("--max-length", "denoiser.max_length"), ("--dropout", "denoiser.dropout"), ("--epochs", "training.epochs"),
        ("--batch-targets", "training.batch_targets"), ("--learning-rate", "training.learning_rate"),
        ("--select-by", "training.select_by"), ("--set", "training.epochs"),
    ],
)  # fmt: skip
def test_a_setting_that_is_given_twice_is_refused(shorthand, key, logs, tmp_path):
    first = f"{key}=1" if shorthand == "--set" else 1
    code, out, err = diffrec(
        "train", logs / "log.csv", "--out", tmp_path / "run", shorthand, first, "--set", f"{key}=2"
    )
    assert (code, out) == (2, "")
    assert_one_clear_line(err, rf"{shorthand}.* and --set {key}=2 give the same setting\. Keep one")
    assert not list(tmp_path.iterdir())


OTHERS = {
    "unknown item": (["recommend", "{models}/csv", "--history", "item-001,nothing"], "1 unknown id .*'nothing'"),
    "digits for text": (["recommend", "{models}/csv", "--history", "5"], "unknown id .*'5'"),
    "text for digits": (["recommend", "{models}/txt", "--history", "item-001"], "unknown id .*'item-001'"),
    "no digits": (["recommend", "{models}/txt", "--history", "²,--5"], "2 unknown ids .*'²', '--5'"),
    "empty history": (["recommend", "{models}/csv", "--history", ""], "--history '' holds an empty item id"),
    "an id between commas": (
        ["recommend", "{models}/csv", "--history", "item-001,,item-002"], "holds an empty item id"
    ),
    "broken JSON": (
        ["recommend", "{models}/csv", "--history", "item-001", "--sampler", '{{"name": "ddpm"'],
        r'--sampler: \{"name": "ddpm" is not JSON \(',
    ),
    "k too large": (["recommend", "{models}/csv", "--history", "item-001", "-k", "41"], r"k must lie in 1\.\.40"),
    "k of none": (["recommend", "{models}/csv", "--history", "item-001", "-k", "0"], "k must be|k must lie in"),
    "k above the candidates": (
        ["recommend", "{models}/csv", "--history", "item-001", "-k", "2", "--candidates", "item-002"],
        r"k must lie in 1\.\.1",
    ),
    "unknown candidate": (
        ["recommend", "{models}/csv", "--history", "item-001", "--candidates", "x"],
        "candidates: .*'x'",
    ),
    "empty candidates": (
        ["recommend", "{models}/csv", "--history", "item-001", "--candidates", ""], "--candidates '' holds an empty",
    ),
    "no seeds": (["recommend", "{models}/csv", "--history", "item-001", "--seeds", "0"], "seeds"),
    "unknown sampler": (["evaluate", "{models}/csv", "{logs}/log.csv", "--sampler", "x"], "Unknown sampler name"),
    "steps of a sampler without": (
        ["evaluate", "{models}/csv", "{logs}/log.csv", "--sampler", "one-step", "--steps", "5"],
        r"--steps: the sampler 'one-step' has no number of steps\. Use --sampler with ddim, ddpm",
    ),
    "steps of a model's sampler without": (
        ["recommend", "{models}/csv", "--history", "item-001", "--steps", "5"], "the sampler 'one-step' has no number",
    ),
    "too many steps": (
        ["recommend", "{models}/csv", "--history", "item-001", "--sampler", "ddpm", "--steps", "1001"],
        "--steps must be at most num_timesteps=1000, the model's N, got 1001",
    ),
    "no steps": (
        ["evaluate", "{models}/csv", "{logs}/log.csv", "--sampler", "ddpm", "--steps", "0"],
        "--steps must be an integer >= 1, got 0",
    ),
    "steps twice": (
        ["evaluate", "{models}/csv", "{logs}/log.csv", "--steps", "5", "--sampler",
         '{{"name": "ddpm", "num_steps": 5}}'],
        "--steps=5 and the num_steps of --sampler give the same setting",
    ),
    "chains too long": (
        ["audit", "{models}/csv", "{logs}/log.csv", "--steps", "5", "--steps", "1001"],
        "--steps must be at most num_timesteps=1000, the model's N, got 1001",
    ),
    "a chain twice": (
        ["audit", "{models}/csv", "{logs}/log.csv", "--steps", "5", "--steps", "5"], r"--steps must differ, but \[5\]",
    ),
    "a chain of none": (
        ["audit", "{models}/csv", "{logs}/log.csv", "--steps", "0"], "each of --steps must be an integer >= 1, got 0",
    ),
    "no checkpoint": (["recommend", "{logs}", "--history", "item-001"], "holds no checkpoint: config.json is missing"),
    "no folder": (["evaluate", "{logs}/nowhere", "{logs}/log.csv"], "holds no checkpoint"),
    "other data": (
        ["evaluate", "{models}/csv", "{logs}/log.txt"],
        r"The model does not know all items of the holdout.* 100 is a int. Convert the ids",
    ),
    "no data": (["evaluate", "{models}/csv", "{logs}/nowhere.csv"], "There is no file"),
    "info of nothing": (["info", "{logs}/nowhere"], "There is no file"),
    "info of no model": (["info", "{logs}"], "holds no checkpoint"),
}  # fmt: skip


@pytest.mark.parametrize("case", OTHERS)
def test_wrong_input_is_one_line(case, logs, models):
    arguments, message = OTHERS[case]
    code, out, err = diffrec(*(argument.format(models=models, logs=logs) for argument in arguments))
    assert code == 2
    assert out == ""
    assert_one_clear_line(err, message)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "Usage: diffrec"),
        (("train",), "Missing argument 'data'"),
        (("train", "log.csv"), "Missing option '--out'"),
        (("train", "log.csv", "--out", "x", "--epoch", 3), "No such option"),
        (("train", "log.csv", "--out", "x", "--epochs", "many"), "Invalid value for '--epochs'"),
        (("train", "log.csv", "--out", "x", "--preset", "worst"), "Invalid value for '--preset'.*'best', 'paper'"),
        (("evaluate", "x", "log.csv", "--split", "train"), "Invalid value for '--split'"),
        (("recommend", "x"), "Missing option '--history'"),
        (("forecast",), "No such command 'forecast'"),
    ],
)
def test_wrong_options_are_told_by_the_parser(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = diffrec(*arguments)
    assert code == 2
    assert out == ""
    assert re.search(message, err)
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())


def test_another_run_in_the_folder_is_wrong_input(logs, models):
    before = {path.name: path.read_bytes() for path in (models / "csv").iterdir()}
    code, _, err = diffrec("train", logs / "log.txt", "--out", models / "csv", *SMALL)
    assert code == 2
    assert "going on" not in err
    assert_one_clear_line(err.splitlines()[-1], "holds a run with other settings, other data")
    assert {path.name: path.read_bytes() for path in (models / "csv").iterdir()} == before


@pytest.mark.parametrize("place", ["file", "file/run"])
def test_a_folder_that_cannot_be_is_told_in_one_line(place, logs, tmp_path):
    (tmp_path / "file").touch()
    code, out, err = diffrec("train", logs / "nowhere.csv", "--out", tmp_path / place, *SMALL, "-q")
    assert code == 2
    assert out == ""
    assert_one_clear_line(err, f"{tmp_path / 'file'} is a file; a run needs a folder")


def test_a_full_disk_is_the_machines_failure(logs, tmp_path):
    full = OSError(errno.ENOSPC, "No space left on device")
    with mock.patch("diffusers_rec.core.files.os.fsync", side_effect=full):
        code, out, err = diffrec("train", logs / "log.csv", "--out", tmp_path / "run", *SMALL, "-q")
    assert code == 1
    assert out == ""
    assert_one_clear_line(err, "No space left on device")


def test_an_interrupt_is_130(logs, tmp_path):
    with mock.patch("diffusers_rec.cli.main.read_interactions", side_effect=KeyboardInterrupt):
        code, out, err = diffrec("train", logs / "log.csv", "--out", tmp_path / "run", *SMALL)
    assert code == 130
    assert out == ""
    assert_one_clear_line(err.strip(), "goes on when the same command is started again", start="Interrupted")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MemoryError(), "MemoryError. A size is too large for this machine; lower it"),
        (RuntimeError("can't allocate memory\nstack"), "can't allocate memory. A size is too large"),
        (OverflowError("int too big"), "int too big. A size"),
    ],
)
def test_what_the_machine_cannot_hold_is_told_in_a_line(error, message, logs):
    with mock.patch("diffusers_rec.cli.main.read_interactions", side_effect=error):
        code, out, err = diffrec("info", logs / "log.csv")
    assert (code, out) == (1, "")
    assert_one_clear_line(err.strip(), message)


@pytest.mark.parametrize(
    "option", [("--dim", 10**12), ("--max-length", 10**15), ("--set", "denoiser.num_layers=1000000000"),
               ("--set", "schedule.num_timesteps=1000000000"), ("--set", "seeds=1000000000"), ("--threads", 10**8)]
)  # fmt: skip
def test_sizes_beyond_all_machines_are_told_in_a_line(option, logs, tmp_path):
    code, out, err = diffrec("train", logs / "log.csv", "--out", tmp_path / "run", "--quiet", *option)
    assert code in (1, 2)
    assert out == ""
    assert err.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("text", ["[" * 100_000, '{"name": ' * 100_000])
def test_json_that_is_nested_without_end_is_told_in_a_line(text, models, logs):
    for command in (
        ["evaluate", models / "csv", logs / "log.csv", "--sampler", text],
        ["train", logs / "log.csv", "--out", "nowhere", "--set", f"denoiser.num_layers={text}"],
        ["recommend", models / "csv", "--history", text],
    ):
        code, out, err = diffrec(*command)
        assert (code, out) == (2, "")
        assert err.startswith("diffrec: ")
        assert len(err) < 2000


def test_no_folder_is_not_the_working_folder(logs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, err = diffrec("train", logs / "log.csv", "--out", "", *SMALL)
    assert (code, out) == (2, "")
    assert_one_clear_line(err.strip(), "--out must be a path, got ''")
    assert not list(tmp_path.iterdir())


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


def test_a_warning_is_a_line(tmp_path):
    rows = [f"u{user},{(user + step) % 3},{step}" for user in range(30) for step in range(8)]
    (tmp_path / "log.csv").write_text("\n".join(["user,item,time", *rows]) + "\n")
    err = diffrec("train", tmp_path / "log.csv", "--out", tmp_path / "run", *SMALL, "--quiet")[2]
    told = [line for line in err.splitlines() if "in their own histories" in line]
    assert len(told) == 1
    assert told[0].startswith("diffrec: 30 of 30 validation targets")


def test_a_folder_that_vanishes_is_told_with_what_to_do(logs, tmp_path):
    out = tmp_path / "run"

    def vanish(*_):
        shutil.rmtree(out)

    with mock.patch("diffusers_rec.cli.main._print_epoch", side_effect=vanish):
        code, _, err = diffrec("train", logs / "log.csv", "--out", out, *SMALL)
    assert code == 1
    assert re.search(rf"diffrec: .*{out}.* could not be written .*The folder has vanished; make it anew", err)


def test_recommend_drops_unknown_ids_and_answers_empty_histories_on_request(models):
    asked = ["recommend", models / "csv", "--history", "item-001,nowhere", "--history", "nowhere"]
    assert "nowhere" in diffrec(*asked)[2]
    assert "holds no known item" in diffrec(*asked, "--unknown", "drop")[2]
    rows = as_json(*asked, "--unknown", "drop", "--empty", "popularity", "-k", 3, "--exclude", "item-002,nowhere")
    assert rows[0]["recommendations"] == as_json(
        "recommend", models / "csv", "--history", "item-001", "-k", 3, "--exclude", "item-002"
    )[0]["recommendations"]  # fmt: skip
    scores = [row["score"] for row in rows[1]["recommendations"]]
    assert len(scores) == 3
    assert scores == sorted(scores, reverse=True)
    assert as_json("recommend", models / "csv", "--history", "[]", "--empty", "popularity", "-k", 3)[0][
        "recommendations"
    ]


def test_a_bug_keeps_its_traceback(logs):
    with (
        mock.patch("diffusers_rec.cli.main.read_interactions", side_effect=ZeroDivisionError),
        pytest.raises(ZeroDivisionError),
    ):
        diffrec("info", logs / "log.csv")


# Help


@pytest.mark.parametrize("name", ["train", "evaluate", "audit", "recommend", "info"])
def test_help_tells_every_option(name):
    command = typer.main.get_command(app).commands[name]
    text = " ".join(good(name, "--help").split())
    assert command.help.split("\n")[0][:40] in text
    for parameter in command.params:
        shown = [option for option in (*parameter.opts, *parameter.secondary_opts) if option.startswith("--")]
        assert all(option in text for option in shown)
        assert " ".join(parameter.help.split()[:3]) in text
        assert len(parameter.help) > 3


def test_help_tells_every_command():
    text = good("--help")
    assert all(name in text for name in ("train", "evaluate", "audit", "recommend", "info"))


# In a process of its own


def process(*arguments, **settings):
    return subprocess.run(
        [sys.executable, *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False, **settings
    )


def test_python_dash_m():
    done = process("-m", "diffusers_rec", "info", "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["version"] == __version__
    assert done.stderr == ""


def test_exit_codes_reach_the_shell(logs):
    done = process("-m", "diffusers_rec", "info", logs / "nowhere.csv")
    assert done.returncode == 2
    assert done.stdout == ""
    assert_one_clear_line(done.stderr, "There is no file")


def test_without_typer_it_says_what_to_install():
    script = """if True:
        import runpy, sys
        class Blocked:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] == "typer":
                    raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        sys.meta_path.insert(0, Blocked())
        sys.argv = ["diffrec", "info"]
        runpy.run_module("diffusers_rec", run_name="__main__")
    """
    done = process("-c", script)
    assert done.returncode != 0
    assert done.stdout == ""
    assert_one_clear_line(done.stderr, r"needs typer, which is not installed.*pip install 'diffusers-rec\[cli\]'")


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_while_training_it_goes_on(sent, logs, tmp_path):
    command = ["train", logs / "log.csv", "--out", tmp_path / "run", *SMALL[:4], "--epochs", 30, "--cpu"]
    command = [*map(str, command), "--set", "training.patience=0", "--set", "training.precision=fp32"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": {**os.environ, "OMP_NUM_THREADS": "1"}}
    child = subprocess.Popen([sys.executable, "-m", "diffusers_rec", *command], text=True, **pipes)
    seen = []
    for line in child.stderr:
        if line.startswith("epoch   2") and not any(before.startswith("epoch   2") for before in seen):
            child.send_signal(sent)
        seen.append(line)
    out = child.stdout.read()
    assert child.wait(60) == 130
    assert out == ""
    assert "Traceback" not in "".join(seen)
    assert seen[-1].startswith("Interrupted")
    answer, progress = diffrec(*command, "--json")[1:]
    epochs = [int(line.split()[1]) for line in progress.splitlines() if line.startswith("epoch")]
    assert 3 <= epochs[0] < 30
    assert progress.count("going on where it stopped") == 1
    assert epochs[-1] == 30
    assert json.loads(answer) | {"out": ""} == as_json(*command[:3], tmp_path / "other", *command[4:]) | {"out": ""}


def test_the_next_command_reads_as_the_training_did(tmp_path):
    rows = [f"{user}\t{item}" for user in ("a", "NA") for item in ("'v", "w", "x", "y", "z")]
    (tmp_path / "log.csv").write_text("\n".join(["user\titem", *rows]) + "\n")
    reading = ("--time=", r"--separator=\t", "--quote=", "--missing=nan", "--missing=null")
    err = diffrec("train", tmp_path / "log.csv", "--out", tmp_path / "run", *SMALL, *reading)[2]
    (told,) = re.findall("Next: diffrec (.*)", err)
    assert set(reading) < set(shlex.split(told))
    assert diffrec(*shlex.split(told), "-q")[0] == 0


@pytest.mark.parametrize("name", ["csv", "txt"])
def test_a_log_comes_through_a_pipe(name, logs):
    format = {"csv": "csv", "txt": "sequences"}[name]
    command = [sys.executable, "-m", "diffusers_rec", "info", "/dev/stdin", "--format", format, "--json"]
    done = subprocess.run(command, input=(logs / f"log.{name}").read_bytes(), capture_output=True, check=True)
    assert json.loads(done.stdout) == as_json("info", logs / f"log.{name}")


def test_a_log_without_times_and_with_semicolons_is_read(tmp_path):
    (tmp_path / "log.csv").write_text("user;item\na;x\na;y\nb;x\n")
    code, out, _ = diffrec("info", tmp_path / "log.csv", "--separator", ";", "--time", "", "--json")
    assert code == 0
    assert json.loads(out)["num_actions"] == 3


def test_the_version_is_printed():
    assert diffrec("--version")[:2] == (0, f"{__version__}\n")
