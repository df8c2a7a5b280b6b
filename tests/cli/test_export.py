"""``diffrec export``."""

from __future__ import annotations

import pytest

from diffusers_rec import DiffRec
from diffusers_rec.integrations.onnx import ExportedModel

from .command import assert_one_clear_line, diffrec, good


@pytest.mark.slow
def test_export_writes_what_recommend_ranks(models, tmp_path):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    out = good("export", models / "csv", "--to", tmp_path / "m.onnx", "-k", 4)
    assert out.split() == [str(tmp_path / name) for name in ("m.onnx", "m.items.jsonl", "m.noise.npy")]
    model, served = DiffRec.from_pretrained(models / "csv"), ExportedModel(tmp_path / "m.onnx")
    history = ["item-001", "item-004"]
    assert served.recommend([history]).items == model.recommend([history], 4).items


def test_a_name_without_the_ending_is_refused(models, tmp_path):
    code, _, err = diffrec("export", models / "csv", "--to", tmp_path / "m.pt")
    assert code == 2
    assert_one_clear_line(err, r"must end in \.onnx")
