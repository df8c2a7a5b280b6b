"""ONNX: :meth:`DiffRec.one_step <diffusers_rec.DiffRec.one_step>` in one file, and recommendations from such a file.

The file has four inputs, of any batch size, lengths and number of draws: ``items`` ``(B, L)``, ``lengths`` ``(B,)`` and
``excluded`` ``(B, E)``, int64, and ``noise`` ``(B, S, D)``. Its outputs are ``indices`` ``(B, k)`` and ``scores``
``(B, k)``. Two files beside it hold the item ids and the model's own noise. None of the three is pickled. A stack
without PyTorch runs the file itself; :class:`ExportedModel` runs it from ids to ids.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import warnings
from collections.abc import Iterable
from itertools import chain
from os import PathLike
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from diffusers_rec.core.entrances import explained, guarded
from diffusers_rec.core.errors import check_int, check_path, require_extra
from diffusers_rec.core.files import write_atomically
from diffusers_rec.data.vocabulary import Vocabulary
from diffusers_rec.recommenders.base import Recommendations, Unknown, drops
from diffusers_rec.recommenders.diffrec import DiffRec
from diffusers_rec.recommenders.one_step import OneStep
from diffusers_rec.recommenders.requests import Items, Requests
from diffusers_rec.recommenders.scoring import SamplerChoice

INPUTS, OUTPUTS = ("items", "lengths", "noise", "excluded"), ("indices", "scores")
"""Names of the inputs and outputs of the file."""

TOLERANCE = 1e-5
"""Largest difference of a score in onnxruntime."""

_ITEMS, _NOISE = ".items.jsonl", ".noise.npy"
_KNOWN = "diffusers_rec"
"""Key of the metadata of the file, JSON."""

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
    noise ``(S, D)`` of the model's own draws, to be repeated for each history; any standard Gaussian noise serves. The
    input ``excluded`` has indices of further items to leave out, padded with -1. Before anything is written,
    onnxruntime runs the file on histories of another number and length than it was traced with.

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
        FileNotFoundError: The folder does not exist.
        ImportError: onnx, onnxscript or onnxruntime is missing (extra ``onnx``).
    """
    file = _onnx_file(path)
    if not file.parent.is_dir():
        raise FileNotFoundError(f"There is no folder {file.parent}. Create it first.")
    for name in ("onnx", "onnxscript", "onnxruntime"):
        require_extra(name, "onnx")
    module = model.one_step(k, exclude_seen=exclude_seen, sampler=sampler).to("cpu")
    size = sum(part.nbytes for part in chain(module.parameters(), module.buffers()))
    if size > _MOST_BYTES:
        raise ValueError(f"export_onnx: one file holds 2 GiB at most, but the weights have {size / 2**30:.1f} GiB.")
    noise = io.BytesIO()
    np.save(noise, module.noise()[0].numpy(), allow_pickle=False)
    ids = "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in model.vocabulary.to_json())
    beside = {_ITEMS: ids.encode(), _NOISE: noise.getvalue()}
    known = {"history_length": module.history_length, "exclude_seen": module.exclude_seen}
    data = _serialized(module, {**known, **{suffix: _digest(content) for suffix, content in beside.items()}})
    _check(data, module)
    for suffix, content in {**beside, ".onnx": data}.items():
        write_atomically(file.with_suffix(suffix), content)
    return [file.with_suffix(suffix) for suffix in (".onnx", *beside)]


@guarded
class ExportedModel:
    """A model in onnxruntime: a file of :func:`export_onnx`, with the two files beside it.

    Args:
        path: The file, whose name ends in ``.onnx``.
        threads: Number of threads of a call; all cores when None.

    Attributes:
        vocabulary: Items that can be recommended.
        k: Largest number of items in a list, as exported.
        draws: Number of noise draws, those of the exported model.
        history_length: How many of the last items of a history are used.
        exclude_seen: Whether lists leave out the items of the history, as exported.

    Raises:
        FileNotFoundError: One of the three files is missing.
        ValueError: A path with another ending, files that do not belong together, or files of another program.
        ImportError: onnxruntime is missing (extra ``onnx``).
    """

    def __init__(self, path: str | PathLike[str], *, threads: int | None = None) -> None:
        file = _onnx_file(path)
        runtime = require_extra("onnxruntime", "onnx")
        settings = runtime.SessionOptions()
        settings.intra_op_num_threads = 0 if threads is None else check_int("threads", threads, minimum=1)
        for each in (file, file.with_suffix(_ITEMS), file.with_suffix(_NOISE)):
            if not each.is_file():
                raise FileNotFoundError(f"{each} is not a file. export_onnx writes NAME.onnx and two files beside it.")
        try:
            self._session = runtime.InferenceSession(str(file), settings)
        except Exception as error:  # of a class of its own for each reason
            raise ValueError(f"{file} cannot be read by onnxruntime ({error}). Export the model again.") from error
        known = json.loads(self._session.get_modelmeta().custom_metadata_map.get(_KNOWN, "{}"))
        beside = {suffix: file.with_suffix(suffix).read_bytes() for suffix in (_ITEMS, _NOISE)}
        for suffix, content in beside.items():
            if known.get(suffix) != _digest(content):
                raise ValueError(
                    f"{file.with_suffix(suffix)} is not the file that was exported with {file.name}. Export the model "
                    "again, and keep the three files together."
                )
        ids = beside[_ITEMS].decode().split("\n")[:-1]  # other line ends are part of ids
        self.vocabulary = Vocabulary.from_json([json.loads(line) for line in ids])
        self._noise = np.load(io.BytesIO(beside[_NOISE]), allow_pickle=False)
        self.history_length, self.exclude_seen = int(known["history_length"]), bool(known["exclude_seen"])
        self.draws = len(self._noise)
        self.k = int(self._session.get_outputs()[0].shape[1])
        fixed = self._session.get_inputs()[0].shape[1]
        self._width = fixed if isinstance(fixed, int) else 0

    def recommend(
        self,
        histories: Iterable[Items],
        k: int | None = None,
        *,
        exclude: Items | Iterable[Items] | None = None,
        unknown: Unknown = "error",
        seeds: int | None = None,
        batch_size: int = 256,
    ) -> Recommendations:
        """The k likeliest next items for each history, as :meth:`DiffRec.recommend <diffusers_rec.DiffRec.recommend>`.

        Args:
            histories: Raw item ids, oldest first.
            k: Number of items, at most :attr:`k`, which is used when None.
            exclude: Ids to leave out: one list for all histories, or a list of lists, one a history.
            unknown: Treatment of ids that the model does not know: ``"error"`` refuses the call, ``"drop"`` goes on
                without them.
            seeds: Number of noise draws to average, the first of those of the exported model; all :attr:`draws` when
                None.
            batch_size: Histories at once.

        Returns:
            Items and their probabilities. The standard deviations are not exported, and NaN.

        Raises:
            ValueError: An empty history, an unknown id unless the call allows it, or k or seeds out of range.
            TypeError: A history is a string, a set, or not iterable.
        """
        most = self.k if k is None else check_int("k", k, minimum=1)
        if most > self.k:
            raise ValueError(
                f"k must be at most {self.k}, as exported, got {most}. Export with k={most} for longer lists."
            )
        draws = self.draws if seeds is None else check_int("seeds", seeds, minimum=1, maximum=self.draws)
        requests = Requests.of(
            self.vocabulary, histories, exclude=exclude, exclude_seen=self.exclude_seen, drop=drops(unknown)
        )
        check_int("batch_size", batch_size, minimum=1)
        found = [self._run(part, self._noise[:draws]) for _, part in requests.batches(batch_size)]
        indices, probabilities = (np.concatenate(parts)[:, :most] for parts in zip(*found, strict=True))
        lists = [self.vocabulary.decode(row[row >= 0]) for row in indices]
        scores = torch.from_numpy(probabilities)
        return Recommendations(lists, scores, torch.full_like(scores, torch.nan))

    def _run(self, requests: Requests, noise: npt.NDArray[np.float32]) -> list[npt.NDArray[np.float32]]:
        history = requests.history(self.history_length)
        items, (excluded, _) = history.items.numpy(), requests.tensors(torch.device("cpu"))
        wide = np.pad(items, ((0, 0), (0, max(0, self._width - items.shape[1]))))
        repeated = np.broadcast_to(noise, (len(items), *noise.shape))
        barred = np.pad(excluded.numpy(), ((0, 0), (0, int(not excluded.shape[1]))), constant_values=-1)
        given = dict(zip(INPUTS, (wide, history.lengths.numpy(), repeated, barred), strict=True))
        found: list[npt.NDArray[np.float32]] = self._session.run(OUTPUTS, given)
        return found


def _onnx_file(path: str | PathLike[str]) -> Path:
    file = check_path("path", path)
    if file.suffix != ".onnx":
        raise ValueError(f"The path must end in .onnx, got {file}.")
    return file


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _serialized(module: OneStep, known: dict[str, object]) -> bytes:
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)  # they warn of libraries and of steps that no model here needs
    try:
        return _exported(module, known)
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _exported(module: OneStep, known: dict[str, object]) -> bytes:
    if torch.__version__ < "2.9.0a0":
        raise ValueError(f"export_onnx: expected PyTorch 2.9 or later, got {torch.__version__}. Upgrade PyTorch.")
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # about the exporter's own code
        program = torch.export.export(module, module.example(), dynamic_shapes=module.dynamic_shapes(), strict=False)
        exported = torch.onnx.export(program, dynamo=True, input_names=INPUTS, output_names=OUTPUTS, verbose=False)
    if exported is None:
        raise ValueError(f"export_onnx: PyTorch {torch.__version__} gives no ONNX program. Use another version.")
    exported.model.metadata_props[_KNOWN] = json.dumps(known)
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
    given = items, lengths, module.noise(5), items[:, -1:]
    session = require_extra("onnxruntime", "onnx").InferenceSession(data)
    found = session.run(["scores"], {name: part.numpy() for name, part in zip(INPUTS, given, strict=True)})[0]
    difference = float((torch.from_numpy(found) - module(*given)[1]).abs().max())
    if not difference <= TOLERANCE:
        raise ValueError(
            f"export_onnx: the scores of onnxruntime differ by {difference:.2g}, expected {TOLERANCE:.0e} at most. "
            "Use other versions of onnx, onnxscript and onnxruntime."
        )
