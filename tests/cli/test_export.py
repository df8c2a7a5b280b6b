"""``diffrec export``."""

from __future__ import annotations

import json

import pytest
import torch

from diffusers_rec import DiffRec

from .command import assert_one_clear_line, diffrec, good


@pytest.mark.slow
def test_export_writes_what_recommend_ranks(models, tmp_path):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    out = good("export", models / "csv", "--to", tmp_path / "m.onnx", "-k", 4)
    assert out.split() == [str(tmp_path / name) for name in ("m.onnx", "m.items.jsonl", "m.noise.npy")]
    model = DiffRec.from_pretrained(models / "csv")
    ids = [json.loads(line) for line in (tmp_path / "m.items.jsonl").read_text().splitlines()]
    history = ["item-001", "item-004"]
    items = torch.tensor([[ids.index(each) for each in history]])
    given = {"items": items, "lengths": torch.tensor([2]), "noise": model.one_step(4).noise()}
    session = runtime.InferenceSession(tmp_path / "m.onnx")
    indices, _ = session.run(None, {name: part.numpy() for name, part in given.items()})
    assert [ids[index] for index in indices[0]] == model.recommend([history], 4).items[0]


def test_a_name_without_the_ending_is_refused(models, tmp_path):
    code, _, err = diffrec("export", models / "csv", "--to", tmp_path / "m.pt")
    assert code == 2
    assert_one_clear_line(err, r"must end in \.onnx")
