"""Export to ONNX: :meth:`DiffRec.one_step <diffusers_rec.DiffRec.one_step>` in one file, for stacks without PyTorch.

The file has three inputs, of any batch size, length and number of draws: ``items`` ``(B, L)`` and ``lengths`` ``(B,)``,
int64, and ``noise`` ``(B, S, D)``. Its outputs are ``indices`` ``(B, k)`` and ``scores`` ``(B, k)``. Two files beside
it hold the item ids and the model's own noise. None of the three is pickled.
"""

from __future__ import annotations

import io
import json
import logging
import warnings
from itertools import chain
from os import PathLike
from pathlib import Path

import numpy as np
import torch

from diffusers_rec.core.entrances import explained
from diffusers_rec.core.errors import check_path, require_extra
from diffusers_rec.core.files import write_atomically
from diffusers_rec.recommenders.diffrec import DiffRec
from diffusers_rec.recommenders.one_step import OneStep
from diffusers_rec.recommenders.scoring import SamplerChoice

INPUTS, OUTPUTS = ("items", "lengths", "noise"), ("indices", "scores")
"""Names of the inputs and outputs of the file."""

TOLERANCE = 1e-5
"""Largest difference of a score in onnxruntime."""

_MOST_BYTES = 2**31 - 2**24  # protobuf's limit, less the graph


@explained
def export_onnx(
    model: DiffRec,
    path: str | PathLike[str],
    k: int = 10,
    *,
    exclude_seen: bool = True,
    sampler: SamplerChoice | None = None,
) -> list[Path]:
    """Write a model as ``NAME.onnx``, with ``NAME.items.jsonl`` and ``NAME.noise.npy`` beside it.

    A line of ``NAME.items.jsonl`` is the id of one item as JSON, in the order of the indices. ``NAME.noise.npy`` is the
    noise ``(S, D)`` of the model's own draws, to be repeated for each history; any standard Gaussian noise serves.
    Before anything is written, onnxruntime runs the file on histories of another number and length than it was traced
    with.

    Args:
        model: Model.
        path: File, whose name ends in ``.onnx``. Existing files are replaced.
        k: Number of items.
        exclude_seen: Whether to leave out the items of the history.
        sampler: As in :meth:`DiffRec.one_step <diffusers_rec.DiffRec.one_step>`.

    Returns:
        The three files.

    Raises:
        ValueError: As :meth:`DiffRec.one_step <diffusers_rec.DiffRec.one_step>`; a path with another ending; weights of
            more than 2 GiB; or answers of onnxruntime that differ.
        ImportError: onnx, onnxscript or onnxruntime is missing (extra ``onnx``).
    """
    file = check_path("path", path)
    if file.suffix != ".onnx":
        raise ValueError(f"export_onnx: path must end in .onnx, got {file}.")
    for name in ("onnx", "onnxscript", "onnxruntime"):
        require_extra(name, "onnx")
    module = model.one_step(k, exclude_seen=exclude_seen, sampler=sampler).to("cpu")
    size = sum(part.nbytes for part in chain(module.parameters(), module.buffers()))
    if size > _MOST_BYTES:
        raise ValueError(f"export_onnx: one file holds 2 GiB at most, but the weights have {size / 2**30:.1f} GiB.")
    data = _serialized(module)
    _check(data, module)
    noise = io.BytesIO()
    np.save(noise, module.noise()[0].numpy(), allow_pickle=False)
    ids = "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in model.vocabulary)
    files = {".onnx": data, ".items.jsonl": ids.encode(), ".noise.npy": noise.getvalue()}
    for suffix, content in files.items():
        write_atomically(file.with_suffix(suffix), content)
    return [file.with_suffix(suffix) for suffix in files]


def _serialized(module: OneStep) -> bytes:
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it warns of libraries that no model here needs
    try:
        return _exported(module)
    finally:
        logger.setLevel(level)


def _exported(module: OneStep) -> bytes:
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # about the exporter's own code
        program = torch.export.export(module, module.example(), dynamic_shapes=module.dynamic_shapes(), strict=False)
        exported = torch.onnx.export(program, dynamo=True, input_names=INPUTS, output_names=OUTPUTS, verbose=False)
    if exported is None:
        raise ValueError("export_onnx: this version of PyTorch gives no ONNX program. Use PyTorch 2.9 or later.")
    data: bytes = exported.model_proto.SerializeToString()
    return data


def _check(data: bytes, module: OneStep) -> None:
    """Compare onnxruntime with the module.

    Raises:
        ValueError: They differ.
    """
    length = module.history_length
    items = torch.arange(5 * length).reshape(5, length) % module.num_items
    lengths = torch.arange(5) % length + 1
    given = items, lengths, module.noise(5)
    session = require_extra("onnxruntime", "onnx").InferenceSession(data)
    found = session.run(["scores"], {name: part.numpy() for name, part in zip(INPUTS, given, strict=True)})[0]
    difference = float((torch.from_numpy(found) - module(*given)[1]).abs().max())
    if not difference <= TOLERANCE:
        raise ValueError(
            f"export_onnx: the scores of onnxruntime differ by {difference:.2g}, expected {TOLERANCE:.0e} at most. "
            "Use other versions of onnx, onnxscript and onnxruntime."
        )
