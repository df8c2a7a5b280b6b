"""``diffrec evaluate``, and the options that it shares with ``recommend``."""

from __future__ import annotations

from dataclasses import asdict

import polars as pl
import pytest

from diffusers_rec import DDIMSampler, DDPMSampler, DiffRec, Ensemble, read_interactions
from diffusers_rec.evaluation import evaluate, evaluate_memory, evaluate_popularity

from .command import SMALL, as_json, assert_one_clear_line, diffrec, good


@pytest.mark.parametrize("kind", ["csv", "txt"])
@pytest.mark.parametrize("split", ["test", "validation"])
def test_evaluate_reports_what_the_library_reports(kind, split, logs, models):
    parts = read_interactions(logs / f"log.{kind}").sequences().leave_one_out()
    holdout = getattr(parts, split)
    answer = as_json("evaluate", models / kind, logs / f"log.{kind}", "--split", split)
    model = DiffRec.from_pretrained(models / kind)
    assert answer["split"] == split
    assert answer["model"] == asdict(evaluate(model, holdout, probabilities=True))
    assert answer["network_alone"] == asdict(evaluate(model, holdout, memory=False))
    assert answer["memory_alone"] == asdict(evaluate_memory(model.memory, holdout))
    assert answer["network_alone"] != answer["model"] != answer["memory_alone"]
    assert answer["popularity"] == asdict(evaluate_popularity(holdout.histories, holdout))
    other = as_json(
        "evaluate",
        models / kind,
        logs / f"log.{kind}",
        "--split",
        split,
        "--seeds",
        1,
        "--sampler",
        "ddpm",
        "--steps",
        20,
    )
    assert other["model"] == asdict(
        evaluate(model, holdout, seeds=1, sampler=DDPMSampler(num_steps=20), probabilities=True)
    )


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
    assert found["model"] == asdict(evaluate(model, holdout, sampler=sampler, probabilities=True))


def test_models_are_averaged_with_others(logs, models, tmp_path):
    good("train", logs / "log.csv", "--out", tmp_path, *SMALL, "--seed", 5)
    folders = [models / "csv", tmp_path]
    (answer,) = as_json("recommend", models / "csv", "--with", tmp_path, "--history", "item-001", "-k", 4)
    expected = Ensemble.from_pretrained(folders).recommend([["item-001"]], 4)[0]
    assert [tuple(row.values()) for row in answer["recommendations"]] == expected
    holdout = read_interactions(logs / "log.csv").sequences().leave_one_out().test
    found = as_json("evaluate", models / "csv", logs / "log.csv", "--with", tmp_path)
    ensemble = Ensemble.from_pretrained(folders)
    assert found["model"] == asdict(evaluate(ensemble, holdout, probabilities=True))
    assert found["network_alone"] == asdict(evaluate(ensemble, holdout, memory=False))
    assert "memory_alone" not in found  # an ensemble has no memory of its own
    assert "ensemble of 2 models" in good("evaluate", models / "csv", logs / "log.csv", "--with", tmp_path)
    shown = good("recommend", models / "csv", "--with", tmp_path, "--history", "item-001")
    assert "std over models and draws" in " ".join(shown.split())
    for other, message in ((models / "csv", "twice"), (models / "txt", f"{models / 'csv'} is member 0")):
        code, _, error = diffrec("recommend", models / "csv", "--with", other, "--history", "item-001")
        assert code == 2
        assert message in error


def test_metrics_are_chosen_and_ranks_written(logs, models, tmp_path):
    command = ("evaluate", models / "csv", logs / "log.csv")
    holdout = read_interactions(logs / "log.csv").sequences().leave_one_out().test
    report = evaluate(DiffRec.from_pretrained(models / "csv"), holdout)
    for suffix in ("csv", "parquet"):
        file = tmp_path / f"ranks.{suffix}"
        answer = as_json(*command, "--metric", "mrr", "--metric", "recall@3", "--ranks", file)
        assert answer["model"]["excluding_seen"] == report.metrics(["mrr", "recall@3"])
        assert set(answer["popularity"]["including_seen"]) == {"mrr", "recall@3"}
        frame = (pl.read_csv if suffix == "csv" else pl.read_parquet)(file)
        assert frame.equals(report.ranks.to_frame())
    shown = good(*command, "--metric", "mrr")
    assert "mrr" in shown
    assert "ndcg" not in shown
    for options, message in (
        (("--metric", "map@5"), "A metric must be 'hr@K'"),
        (("--ranks", tmp_path / "ranks.txt"), r"--ranks must end in \.csv or \.parquet"),
        (("--ranks", tmp_path / "no" / "ranks.csv"), "there is no folder"),
    ):
        code, out, err = diffrec(*command, *options)
        assert (code, out) == (2, "")
        assert_one_clear_line(err, message)
