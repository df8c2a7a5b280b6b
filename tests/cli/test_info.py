"""``diffrec info``, and the ways to read a log."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict

import pytest

from diffusers_rec import DiffRec, __version__, read_interactions

from .command import as_json, diffrec, good


def test_info_describes_components_and_models_and_data(logs, models):
    listing = as_json("info")
    assert listing["version"] == __version__
    assert {"ddpm", "one-step"} <= set(listing["components"]["sampler"])
    assert {"squared", "cross-entropy"} <= set(listing["components"]["term"])
    printed = good("info")
    assert all(name in printed for names in listing["components"].values() for name in names)
    facts = as_json("info", models / "csv")
    model = DiffRec.from_pretrained(models / "csv")
    assert facts.pop("items") == len(model.vocabulary)
    assert facts.pop("parameters") == sum(parameter.numel() for parameter in model.parameters())
    assert facts == model.config()
    assert "temperature=" in good("info", models / "csv")
    assert as_json("info", logs / "log.csv") == asdict(read_interactions(logs / "log.csv").statistics())


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
