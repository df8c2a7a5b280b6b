from __future__ import annotations

import json
import shutil
import sys

import numpy as np
import pytest
import torch
from strategies import gaussian, perturbed, seeded
from test_one_step import K, assert_ranks_as_the_model, model_of

from diffusers_rec import Calibration, DiffRec, SyntheticWorld, Vocabulary
from diffusers_rec.denoisers import Denoiser
from diffusers_rec.encoders import HistoryEncoder
from diffusers_rec.integrations import onnx as integration
from diffusers_rec.integrations.onnx import INPUTS, ExportedModel, export_onnx
from diffusers_rec.presets import best, joint

EULER = {"name": "euler", "num_steps": 3}


def runtime(path):
    """The file as a function of tensors."""
    session = pytest.importorskip("onnxruntime").InferenceSession(path)

    def run(*tensors):
        given = dict(zip(INPUTS, (part.numpy() for part in tensors), strict=True))
        return [torch.from_numpy(part) for part in session.run(["indices", "scores"], given)]

    return run


def trained_best(**settings):
    """The preset on the synthetic world, with its memory filled."""
    log = SyntheticWorld(40, num_groups=4).sample(60, min_length=4, max_length=12)
    model = perturbed(best(log.item_vocabulary, dim=16, max_length=10, **settings))
    return model.prepare(log.sequences()).eval()


@pytest.fixture(autouse=True, scope="module")
def _needs_onnx():
    pytest.importorskip("onnxscript")
    if torch.__version__ < "2.9":
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


ODD = ["line\u2028end", 'quoted "id"', "\u0085", "new\nline"]


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A model and its file, of eight items a list; made once, because an export takes seconds."""
    pytest.importorskip("onnxscript")
    ids = Vocabulary([*ODD, *(f"item-{number}" for number in range(36))])
    model = perturbed(best(ids, dim=16, max_length=10)).eval()
    model.memory.counts.copy_(gaussian(40, 40).abs())
    model.memory.items.copy_(torch.randint(40, (40, 40), generator=seeded(1)))
    model.calibration = Calibration(temperature=1.3, memory=0.4, popularity=0.1, seen=0.02)
    return model, export_onnx(model, tmp_path_factory.mktemp("best") / "best.onnx", 8)[0]


def test_an_exported_model_gives_the_lists_of_the_model(exported):
    model, path = exported
    served = ExportedModel(path, threads=1)
    ids = list(model.vocabulary)
    histories = [ids[:3], ids[5:30], ids[9:10], ids[2:9]]
    assert (served.k, served.draws, served.history_length) == (8, model.seeds, model.history_length)
    one, each = ids[20:24], [ids[30:31], ids[:2], [], ids[33:36]]
    for settings in ({}, {"k": 3}, {"seeds": 1}, {"batch_size": 2}, {"exclude": one}, {"exclude": each}):
        own = model.recommend(histories, **{"k": 8} | settings)
        found = served.recommend(histories, **settings)
        assert found.items == own.items
        torch.testing.assert_close(found.scores, own.scores, atol=1e-5, rtol=0)
        assert bool(found.std.isnan().all())
    assert served.recommend([["?", ids[0]]], unknown="drop").items == served.recommend([ids[:1]]).items


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"histories": [[]]}, r"histories\[0\] is empty"),
        ({"histories": [["?"]]}, r"histories\[0\]: .*'\?'"),
        ({"k": 9}, "k must be at most 8, as exported, got 9. Export with k=9"),
        ({"k": 0}, "k must .*got 0"),
        ({"seeds": 0}, "seeds must .*got 0"),
        ({"seeds": 99}, "seeds must .*got 99"),
        ({"batch_size": 0}, "batch_size must .*got 0"),
        ({"unknown": "ignore"}, "unknown must .*got 'ignore'"),
    ],
)
def test_an_exported_model_explains_what_it_cannot_do(arguments, message, exported):
    model, path = exported
    with pytest.raises(ValueError, match=message):
        ExportedModel(path).recommend(**{"histories": [list(model.vocabulary)[:2]]} | arguments)


def test_files_that_are_missing_or_of_two_exports_are_refused(exported, tmp_path):
    _, path = exported
    copied = shutil.copytree(path.parent, tmp_path / "copy") / path.name
    items, noise = copied.with_suffix(".items.jsonl"), copied.with_suffix(".noise.npy")
    lines = items.read_bytes().split(b"\n")
    items.write_bytes(b"\n".join([*lines[1:-1], lines[0], b""]))  # as those of another model of as many items
    with pytest.raises(ValueError, match=r"best\.items\.jsonl is not the file that was exported with best\.onnx"):
        ExportedModel(copied)
    items.write_bytes(b"\n".join(lines))
    np.save(noise, np.load(noise) + 1)
    with pytest.raises(ValueError, match=r"best\.noise\.npy is not the file that was exported with best\.onnx"):
        ExportedModel(copied)
    noise.unlink()
    with pytest.raises(FileNotFoundError, match=r"best\.noise\.npy is not a file"):
        ExportedModel(copied)
    with pytest.raises(ValueError, match=r"must end in \.onnx, got .*copy"):
        ExportedModel(copied.parent)
    shutil.copy(path.with_suffix(".noise.npy"), noise)
    copied.write_text("no graph")
    with pytest.raises(ValueError, match=r"best\.onnx cannot be read by onnxruntime"):
        ExportedModel(copied)


def test_what_cannot_be_written_is_refused_before_the_export(tmp_path):
    model = best(Vocabulary([("a", 1), ("b", 2), ("c", 3)]), dim=8, max_length=4)
    with pytest.raises(TypeError, match="only str and int ids"):
        export_onnx(model, tmp_path / "m.onnx", 2)
    with pytest.raises(FileNotFoundError, match=r"no folder .*missing"):
        export_onnx(best(range(3), dim=8, max_length=4), tmp_path / "missing" / "m.onnx", 2)
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_a_calibrated_model_without_a_memory_in_onnxruntime(tmp_path):
    model = best(range(30), dim=8, max_length=6).replace(memory="none").eval()
    model.calibration = Calibration(temperature=1.3, popularity=0.1, seen=0.02)
    served = ExportedModel(export_onnx(model, tmp_path / "m.onnx", 4)[0])
    histories = [[1], [2, 3], [4, 5, 6, 7, 8, 9, 10]]
    own, found = model.recommend(histories, 4), served.recommend(histories)
    assert found.items == own.items
    torch.testing.assert_close(found.scores, own.scores, atol=1e-5, rtol=0)


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
    histories = [[1, 2, 3], [4]]  # shorter than a file of fixed length takes
    assert ExportedModel(path).recommend(histories).items == model.recommend(histories, K, sampler="one-step").items


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
