from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch
from strategies import perturbed
from test_one_step import K, assert_ranks_as_the_model, model_of

from diffusers_rec import DiffRec, SyntheticWorld
from diffusers_rec.denoisers import Denoiser
from diffusers_rec.encoders import HistoryEncoder
from diffusers_rec.integrations import onnx as integration
from diffusers_rec.integrations.onnx import export_onnx
from diffusers_rec.presets import best, joint

EULER = {"name": "euler", "num_steps": 3}


def runtime(path):
    """The file as a function of tensors."""
    session = pytest.importorskip("onnxruntime").InferenceSession(path)

    def run(*tensors):
        given = dict(zip(("items", "lengths", "noise"), (part.numpy() for part in tensors), strict=True))
        return [torch.from_numpy(part) for part in session.run(["indices", "scores"], given)]

    return run


def trained_best(**settings):
    """The preset on the synthetic world, with its memory filled."""
    log = SyntheticWorld(40, num_groups=4).sample(60, min_length=4, max_length=12)
    model = perturbed(best(log.item_vocabulary, dim=16, max_length=10, **settings))
    return model.prepare(log.sequences()).eval()


@pytest.fixture(autouse=True)
def _needs_onnx():
    pytest.importorskip("onnxscript")
    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 9):
        pytest.skip("the exporter of PyTorch 2.9")


@pytest.mark.slow
def test_best_in_onnxruntime_ranks_as_the_model(tmp_path):
    model = trained_best()
    assert bool(model.memory.counts.any())
    files = export_onnx(model, tmp_path / "best.onnx", K)
    assert sorted(files) == sorted(tmp_path.iterdir())
    ids = [json.loads(line) for line in (tmp_path / "best.items.jsonl").read_text(encoding="utf-8").splitlines()]
    assert ids == list(model.vocabulary)
    noise = np.load(tmp_path / "best.noise.npy", allow_pickle=False)
    module = model.one_step(K)
    assert np.array_equal(noise, module.noise()[0].numpy())
    assert_ranks_as_the_model(runtime(files[0]), model, module)


@pytest.mark.slow
@pytest.mark.parametrize("name", Denoiser.names())
def test_every_denoiser_in_onnxruntime(name, tmp_path):
    model = model_of(name)
    path, *_ = export_onnx(model, tmp_path / "model.onnx", K)
    assert_ranks_as_the_model(runtime(path), model, model.one_step(K), sampler="one-step")


@pytest.mark.slow
@pytest.mark.parametrize("name", HistoryEncoder.names())
def test_every_encoder_in_onnxruntime(name, tmp_path):
    model = model_of({"name": "plain", "encoder": name})
    path, *_ = export_onnx(model, tmp_path / "model.onnx", K)
    assert_ranks_as_the_model(runtime(path), model, model.one_step(K))


@pytest.mark.slow
def test_a_chain_and_seen_items_in_onnxruntime(tmp_path):
    model = model_of("conditional-mlp", source="last-item")
    path, *_ = export_onnx(model, tmp_path / "model.onnx", K, exclude_seen=False, sampler=EULER)
    assert_ranks_as_the_model(runtime(path), model, model.one_step(K), exclude_seen=False, sampler=EULER)


@pytest.mark.slow
def test_joint_in_onnxruntime(tmp_path):
    model = perturbed(joint(range(30), dim=16, max_length=12, k=3)).eval()
    path, *_ = export_onnx(model, tmp_path / "model.onnx", K)
    assert_ranks_as_the_model(runtime(path), model, model.one_step(K), sampler="one-step")


def test_what_is_no_file_of_this_kind_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"path must end in \.onnx, got .*model\.pt"):
        export_onnx(DiffRec(["a", "b", "c"], dim=4), tmp_path / "model.pt")


def test_weights_beyond_one_file_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(integration, "_MOST_BYTES", 100)
    with pytest.raises(ValueError, match="one file holds 2 GiB at most"):
        export_onnx(DiffRec(["a", "b", "c"], dim=4), tmp_path / "model.onnx", 2)


def test_the_extra_is_named_where_it_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match=r"pip install 'diffusers-rec\[onnx\]'"):
        export_onnx(DiffRec(["a", "b", "c"], dim=4), tmp_path / "model.onnx", 2)
