"""``diffrec train``: options, results, and resumed runs."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from dataclasses import asdict, replace

import pytest
import torch

from diffusers_rec import DiffRec, load_pretrained, read_interactions
from diffusers_rec.evaluation import evaluate, evaluate_memory, evaluate_popularity
from diffusers_rec.presets import best, control
from diffusers_rec.recommenders.diffrec import PARTS
from diffusers_rec.training import RECIPES, train

from .command import SMALL, as_json, diffrec, good, items


def test_a_model_without_a_memory_has_no_rows_for_one(logs, tmp_path):
    command = ("train", logs / "log.csv", "--out", tmp_path, *SMALL, "--set", "memory=none")
    assert set(as_json(*command)) == {
        "out", "best_epoch", "epochs", "select_by", "exclude_seen", "validation",
    }  # fmt: skip
    assert good(*command).count("\n") == 1
    assert set(as_json("evaluate", tmp_path, logs / "log.csv")) == {"split", "model", "popularity"}


def test_training_reports_the_share_of_the_memory(logs, tmp_path):
    answer = as_json("train", logs / "log.csv", "--out", tmp_path, *SMALL)
    holdout = read_interactions(logs / "log.csv").sequences().leave_one_out().validation
    model = DiffRec.from_pretrained(tmp_path)
    assert answer["model"]["excluding_seen"] == answer["validation"]
    assert answer["network_alone"]["excluding_seen"] == pytest.approx(
        evaluate(model, holdout, seeds=RECIPES["best"].validation_seeds, memory=False).metrics()
    )
    assert answer["memory_alone"] == asdict(evaluate_memory(model.memory, holdout))
    assert answer["popularity"] == asdict(evaluate_popularity(holdout.histories, holdout))


def test_the_epoch_is_chosen_by_any_metric_with_seen_items_or_without(logs, tmp_path):
    command = ("train", logs / "log.csv", "--out", tmp_path, *SMALL, "--select-by", "hr@3", "--include-seen")
    _, printed, progress = diffrec(*command)
    assert re.match(r"Best epoch [12] of 2 by validation hr@3 \(seen items included\): hr@3 0\.\d{4}, ", printed)
    assert len(re.findall(r"^epoch .* hr@3 0\.\d{4}", progress, re.MULTILINE)) == 2
    answer = as_json(*command)
    assert (answer["select_by"], answer["exclude_seen"]) == ("hr@3", False)
    holdout = read_interactions(logs / "log.csv").sequences().leave_one_out().validation
    report = evaluate(DiffRec.from_pretrained(tmp_path), holdout, ks=[3, 5, 10, 20], seeds=1)
    assert answer["validation"] == pytest.approx(report.metrics(exclude_seen=False))
    in_other_words = ("--set", "training.select_by=hr@3", "--set", "training.exclude_seen=false")
    assert as_json(*command[:-3], *in_other_words) == answer, "another run"


def test_a_recipe_that_keeps_seen_items_is_validated_so(logs, tmp_path):
    small = ("--dim", 16, "--max-length", 8, "--epochs", 1)
    answer = as_json("train", logs / "log.csv", "--out", tmp_path, *small, "--preset", "diffurec")
    assert answer["exclude_seen"] is False


def test_a_model_that_is_no_pipeline_is_trained_and_served(logs, tmp_path):
    command = ("train", logs / "log.csv", "--out", tmp_path, *SMALL, "--preset", "wang2023", "--learning-rate", 0.001)
    code, _, progress = diffrec(*command)
    assert code == 0
    assert "schedule=linear-variance, timesteps=importance" in progress
    answer = as_json("evaluate", tmp_path, logs / "log.csv", "--split", "validation")
    assert answer["model"]["excluding_seen"]["hr@20"] == as_json(*command)["validation"]["hr@20"]
    assert as_json("info", tmp_path)["model"] == "user-vector-diffusion"
    assert as_json("audit", tmp_path, logs / "log.csv")["ranking"][0]["xn"] == "as served"
    assert "zeroed noise" not in good("audit", tmp_path, logs / "log.csv"), "there is nothing to compare"
    item = load_pretrained(tmp_path).vocabulary.ids[0]
    assert "std over draws" not in good("recommend", tmp_path, "--history", item), "nothing is drawn"
    assert len(items(as_json("recommend", tmp_path, "--history", item, "-k", 3))) == 3
    for given, message in {
        ("train", logs / "log.csv", "--out", tmp_path / "other", "--preset", "flowcf", "--control"):
            "--control: a UserVectorFlow has no noise-free control",
        (*command, "--set", "schedule=sqrt"): "--set schedule: a UserVectorDiffusion is not composed of parts",
        ("recommend", tmp_path, "--history", item, "--steps", 2): "--sampler and --steps: a UserVectorDiffusion has",
        ("slate", tmp_path, "--history", item): "diffrec slate needs a DiffRec, but .* holds a UserVectorDiffusion",
        ("audit", tmp_path, logs / "log.csv", "--steps", 2): "--steps: this model is audited with its own sampler",
    }.items():  # fmt: skip
        code, _, error = diffrec(*given)
        assert code != 0
        assert re.search(message, " ".join(error.split())), error


def test_a_preset_has_the_settings_of_a_data_set(logs, tmp_path):
    small = ("--dim", 16, "--max-length", 8, "--epochs", 1, "--quiet")
    for name, steps in {"beauty": 30, "toys": 25}.items():
        folder = tmp_path / name
        good("train", logs / "log.csv", "--out", folder, *small, "--preset", "cddrec", "--settings", name)
        assert DiffRec.from_pretrained(folder).schedule.num_timesteps == steps


@pytest.mark.parametrize("option", ["--no-validation", "--final"])
def test_a_recipe_with_patience_trains_without_validation(option, logs, tmp_path):
    small = ("--dim", 16, "--max-length", 8, "--epochs", 1)
    code, printed, _ = diffrec("train", logs / "log.csv", "--out", tmp_path, *small, "--preset", "diffurec", option)
    assert code == 0
    assert "there was no validation" in printed


def test_training_without_validation_takes_every_item(logs, tmp_path):
    command = ("train", logs / "short.csv", "--out", tmp_path, *SMALL, "--no-validation")
    code, printed, progress = diffrec(*command)
    assert code == 0
    assert printed == "Kept epoch 2, the last: there was no validation\n"
    assert f"Next: diffrec recommend {tmp_path} --history" in progress
    assert as_json(*command) == {
        "out": str(tmp_path), "best_epoch": 2, "epochs": 2, "select_by": None, "exclude_seen": True, "validation": {},
    }  # fmt: skip
    sequences = read_interactions(logs / "short.csv").sequences()
    model = best(sequences.vocabulary, dim=16, max_length=8)
    train(model, sequences, config=replace(RECIPES["best"], epochs=2), device="cpu")
    saved = DiffRec.from_pretrained(tmp_path).state_dict()
    assert all(torch.equal(tensor, saved[name]) for name, tensor in model.state_dict().items())


def test_train_answers_in_json_and_again_when_started_again(logs, tmp_path):
    command = ("train", logs / "log.csv", "--out", tmp_path / "run", *SMALL)
    answer = as_json(*command)
    assert answer["out"] == str(tmp_path / "run")
    assert answer["epochs"] == 2
    assert {"hr@5", "ndcg@10"} < set(answer["validation"])
    assert as_json(*command) == answer
    code, printed, progress = diffrec(*command)
    assert code == 0
    assert f"ndcg@10 {answer['validation']['ndcg@10']:.4f}" in printed
    assert "it is finished" in progress
    assert "resuming" not in progress
    assert "epoch " not in progress.replace("Best epoch", ""), "it trained again"


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


def test_a_control_is_that_of_the_model_which_the_options_describe(logs, tmp_path):
    options = (*SMALL, "--seed", 3, "--set", "head=linear", "--set", "schedule.num_timesteps=20")
    good("train", logs / "log.csv", "--out", tmp_path / "model", *options)
    code, _, progress = diffrec("train", logs / "log.csv", "--out", tmp_path / "control", *options, "--control")
    assert code == 0
    assert "best, noise-free control: " in progress
    assert "denoiser=noiseless(conditional-mlp(" in " ".join(progress.split())
    model, without_noise = (DiffRec.from_pretrained(tmp_path / name) for name in ("model", "control"))
    model.calibration = without_noise.calibration = None  # fitted to each
    assert without_noise.config() == control(model).config()
    assert without_noise.config() != control(best(model.vocabulary)).config()


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


@pytest.mark.parametrize("sent", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_an_interrupted_training_resumes(sent, logs, tmp_path):
    command = ["train", logs / "log.csv", "--out", tmp_path / "run", *SMALL[:4], "--epochs", 12, "--cpu"]
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
    assert 3 <= epochs[0] < 12
    assert progress.count("resuming where it stopped") == 1
    assert epochs[-1] == 12
    assert json.loads(answer) | {"out": ""} == as_json(*command[:3], tmp_path / "other", *command[4:]) | {"out": ""}


def test_the_next_command_reads_as_the_training_did(tmp_path):
    rows = [f"{user}\t{item}" for user in ("a", "NA") for item in ("'v", "w", "x", "y", "z")]
    (tmp_path / "log.csv").write_text("\n".join(["user\titem", *rows]) + "\n")
    reading = ("--time=", r"--separator=\t", "--quote=", "--missing=nan", "--missing=null")
    err = diffrec("train", tmp_path / "log.csv", "--out", tmp_path / "run", *SMALL, *reading)[2]
    (following,) = re.findall("Next: diffrec (.*)", err)
    assert set(reading) < set(shlex.split(following))
    assert diffrec(*shlex.split(following), "-q")[0] == 0


def test_a_warning_is_a_line(tmp_path):
    rows = [f"u{user},{(user + step) % 3},{step}" for user in range(30) for step in range(8)]
    (tmp_path / "log.csv").write_text("\n".join(["user,item,time", *rows]) + "\n")
    err = diffrec("train", tmp_path / "log.csv", "--out", tmp_path / "run", *SMALL, "--quiet")[2]
    warnings = [line for line in err.splitlines() if "in their own histories" in line]
    assert len(warnings) == 1
    assert warnings[0].startswith("diffrec: 30 of 30 validation targets")


def test_a_run_is_tracked_in_its_folder(logs, tmp_path):
    command = ("train", logs / "log.csv", "--out", tmp_path / "run", *SMALL)
    as_json(*command, "--track", "tensorboard")
    assert list((tmp_path / "run" / "diffusers_rec").glob("events.out.tfevents.*"))
    assert "nothing to train" in diffrec(*command)[2], "the same run"
    code, _, error = diffrec(*command, "--track", "tensorbord")
    assert code != 0
    assert re.search(r"names among .*tensorboard.*'tensorbord'", error)
