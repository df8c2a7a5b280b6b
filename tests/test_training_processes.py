"""Several processes end alike, and accelerate's own settings change nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from training_runs import CONFIG, KINDS, as_json, uninterrupted

from diffusers_rec import DiffRec

HOSTILE = {
    "ACCELERATE_MIXED_PRECISION": "bf16",
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4",
    "ACCELERATE_DYNAMO_BACKEND": "EAGER",
    "ACCELERATE_TORCH_DEVICE": "meta",
}


@pytest.mark.parametrize(
    ("environment", "before"),
    [
        pytest.param(HOSTILE, "", id="variables"),
        pytest.param(
            {},
            "import accelerate; accelerate.Accelerator(mixed_precision='bf16', cpu=True)",
            id="an earlier accelerator",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_the_settings_alone_decide_how_it_trains(environment, before, tmp_path):
    script = f"{before}\nimport training_runs as t; t.train_and_write({str(tmp_path)!r}, 'causal, dropout, importance')"
    command, here = [sys.executable, "-c", script], Path(__file__).parent
    subprocess.run(command, cwd=here, env={**os.environ, **environment}, check=True, timeout=120)
    assert (tmp_path / "end-0.json").read_text() == as_json(uninterrupted())


def test_an_accelerator_may_come_after_a_training():
    script = (
        "import training_runs; training_runs.fit(epochs=1)\n"
        "import accelerate; assert accelerate.Accelerator(mixed_precision='bf16').mixed_precision == 'bf16'"
    )
    subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parent, check=True, timeout=120)


def launch(folder, lines):
    """Run lines of a script in two processes, and read what they wrote."""
    script = folder / "script.py"
    script.write_text("\n".join([f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})", *lines]))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "FutureWarning" not in done.stderr
    return [json.loads(path.read_text()) for path in sorted(folder.glob("end-*.json"))]


def launched(folder, kind):
    """How each of two processes ended."""
    return launch(folder, [f"import training_runs; training_runs.train_and_write({str(folder)!r}, {kind!r})"])


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_several_processes_end_alike(kind, tmp_path):
    ends = launched(tmp_path, kind)
    assert len(ends) == 2
    assert ends[0] == ends[1], "weights, timestep samplers, losses, best epoch"
    tensors, history, *_ = ends[0]
    alone = uninterrupted(kind)
    assert alone[0].keys() == tensors.keys()
    assert history[0]["recommendation"] == pytest.approx(alone[1][0]["recommendation"], rel=0.3), "half the steps"
    saved = DiffRec.from_pretrained(tmp_path / "run").state_dict()
    assert all(tensor.numpy().tobytes().hex() == tensors[name] for name, tensor in saved.items())
    assert launched(tmp_path, kind) == ends, "a finished run, started again"


@pytest.mark.slow
def test_processes_agree_on_the_metric_and_on_the_end(tmp_path):
    """Each has a score of its own, of which the first counts, and the second alone stops the run."""
    ends = launch(
        tmp_path,
        [
            "import os, training_runs",
            "rank = int(os.environ['RANK'])",
            "scores = [[0.1, 0.3, 0.2, 0.4], [0.9, 0.1, 0.5, 0.6]][rank]",
            "class Stop:",
            "    def on_epoch(self, run, record):",
            "        if rank == 1 and run.epoch == 3: run.stop()",
            "metric = lambda *_: scores.pop(0)",
            f"training_runs.train_and_write({str(tmp_path)!r}, metric=metric, callbacks=[Stop()], epochs=4)",
        ],
    )
    assert ends[0] == ends[1]
    _, history, best_epoch, best_score = ends[0]
    assert [row["validation_metric"] for row in history] == [0.1, 0.3, 0.2]
    assert (best_epoch, best_score) == (2, "0.3")


@pytest.mark.slow
def test_a_stop_by_one_process_validates_the_epoch_in_all(tmp_path):
    ends = launch(
        tmp_path,
        [
            "import os, training_runs",
            "class Stop:",
            "    def on_epoch(self, run, record):",
            "        if os.environ['RANK'] == '1' and run.epoch == 2: run.stop()",
            f"training_runs.train_and_write({str(tmp_path)!r}, callbacks=[Stop()], epochs=30, validate_every=20)",
        ],
    )
    assert ends[0] == ends[1]
    _, history, best_epoch, best_score = ends[0]
    assert (len(history), best_epoch) == (2, 2)
    assert best_score == repr(history[-1]["validation_ndcg@10"])


@pytest.mark.slow
def test_a_stop_at_once_by_one_process_ends_the_epoch_of_all(tmp_path):
    ends = launch(
        tmp_path,
        [
            "import os, training_runs",
            "class Stop:",
            "    def on_batch(self, run, losses):",
            "        if os.environ['RANK'] == '1' and run.batch == 2: run.stop(at_once=True)",
            f"training_runs.train_and_write({str(tmp_path)!r}, callbacks=[Stop()], epochs=3)",
        ],
    )
    assert ends[0] == ends[1]
    _, history, best_epoch, _ = ends[0]
    assert (len(history), best_epoch) == (1, 1)
    assert 3 * CONFIG.batch_targets < history[0]["targets"] <= 4 * CONFIG.batch_targets, "two batches of two processes"
