"""``diffrec audit``."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from diffusers_rec import DiffRec, read_interactions
from diffusers_rec.cli.audit import TABLES
from diffusers_rec.evaluation import audit

from .command import SMALL, as_json, good


def test_audit_reports_what_the_library_reports(logs, models):
    request = ("audit", models / "csv", logs / "log.csv", "--split", "test", "--steps", 3, "--seeds", 2)
    holdout = read_interactions(logs / "log.csv").sequences().leave_one_out().test
    expected = audit(DiffRec.from_pretrained(models / "csv"), holdout, seeds=2, steps=[3])
    assert as_json(*request) == {"split": "test", **asdict(expected)}
    tables = good(*request)
    assert all(heading in tables for heading in ("accuracy", "cross_entropy", "ddpm, 3 steps", "60 users"))
    assert all(legend in tables for _, legend in TABLES.values())
    assert "network alone" in tables
    assert "(test, 1 user)\n" in good(*request, "--users", 1)


@pytest.mark.parametrize(
    ("given", "what"),
    [
        ([*SMALL, "--control"], "noise-free control"),
        (["--preset", "sasrec", "--epochs", 1], "system without diffusion"),
    ],
)
def test_audit_reports_that_there_is_no_noise(given, what, logs, tmp_path):
    good("train", logs / "log.csv", "--out", tmp_path, *given, "--quiet")
    printed = good("audit", tmp_path, logs / "log.csv")
    assert f"is a {what}: its denoiser receives no noise, so there is no noise to audit" in printed
    assert printed.count("\n") == 1
    assert set(as_json("audit", tmp_path, logs / "log.csv", "--seeds", 2)) > {"ranking", "timesteps", "chains"}


def test_audit_of_a_short_schedule(logs, tmp_path):
    good("train", logs / "log.csv", "--out", tmp_path, *SMALL, "--set", "schedule.num_timesteps=12")
    found = as_json("audit", tmp_path, logs / "log.csv", "--seeds", 2)
    assert [row["sampler"] for row in found["chains"]] == ["exact draws", "ddpm, 10 steps"]
