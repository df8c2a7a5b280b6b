"""A verified file comes back bit for bit, or is refused; nothing else is overwritten by one."""

from __future__ import annotations

import json
import struct

import pytest
import torch
from safetensors.torch import save_file

from diffusers_rec.core.verified import read_verified, write_verified

TENSORS = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor([True, False]), "c": torch.tensor(3)}


def edit_header(path, change):
    """Change the header of a safetensors file, and nothing of its data."""
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    change(header)
    edited = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(edited)) + edited + data[8 + size :])


def test_what_was_written_comes_back(tmp_path):
    for _ in range(2):  # the second replaces the first
        write_verified(tmp_path / "file", {"kind": "x"}, TENSORS)
    metadata, tensors = read_verified(tmp_path / "file")
    assert metadata["kind"] == "x"
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[name], tensor) and tensors[name].dtype == tensor.dtype
               for name, tensor in TENSORS.items())  # fmt: skip


@pytest.mark.parametrize("dtype", ["I32", "U32"])
def test_a_tensor_of_another_type_with_the_same_bytes_is_noticed(dtype, tmp_path):
    write_verified(tmp_path / "file", {}, TENSORS)
    edit_header(tmp_path / "file", lambda header: header["a"].update(dtype=dtype))
    with pytest.raises(ValueError, match="does not match its sha256"):
        read_verified(tmp_path / "file")


@pytest.mark.parametrize("damage", ["cut", "empty", "byte", "metadata", "text"])
def test_a_damaged_file_is_refused(damage, tmp_path):
    path = tmp_path / "file"
    write_verified(path, {"kind": "x"}, TENSORS)
    data = path.read_bytes()
    middle = len(data) // 2
    damaged = {
        "cut": data[:middle],
        "empty": b"",
        "byte": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
        "metadata": data.replace(b'"kind":"x"', b'"kind":"y"'),
        "text": b"not a file of tensors, but long enough to be one",
    }[damage]
    assert damaged != data
    path.write_bytes(damaged)
    with pytest.raises(ValueError, match=r"\S"):
        read_verified(path)


@pytest.mark.parametrize("found", ["text", "safetensors"])
def test_a_file_of_somebody_else_is_not_overwritten(found, tmp_path):
    path = tmp_path / "file"
    if found == "text":
        path.write_text("not yours")
    else:
        save_file(TENSORS, path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="was not written by this library and is not overwritten"):
        write_verified(path, {}, TENSORS)
    assert path.read_bytes() == before


def test_a_file_of_an_older_version_is_named_as_such(tmp_path):
    write_verified(tmp_path / "file", {}, TENSORS)
    edit_header(tmp_path / "file", lambda header: header["__metadata__"].pop("format"))
    with pytest.raises(ValueError, match="another version of this library wrote it"):
        read_verified(tmp_path / "file")
