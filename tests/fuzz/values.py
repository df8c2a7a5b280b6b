"""Bad values: a grammar of what callers pass by mistake, some of it made from the valid value that it replaces."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import world

PLAIN: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "True": lambda: True,
    "-1": lambda: -1,
    "0": lambda: 0,
    "1": lambda: 1,
    "1.5": lambda: 1.5,
    "nan": lambda: float("nan"),
    "inf": lambda: float("inf"),
    "-inf": lambda: float("-inf"),
    "2**63": lambda: 2**63,
    "10**400": lambda: 10**400,
    "1j": lambda: 1j,
    "''": lambda: "",
    "'x'": lambda: "x",
    "'\\0'": lambda: "\0",
    "b'x'": lambda: b"x",
    "Path('x')": lambda: Path("x"),
    "[]": list,
    "()": tuple,
    "{}": dict,
    "set()": set,
    "[None]": lambda: [None],
    "[[]]": lambda: [[]],
    "[[None]]": lambda: [[None]],
    "[[['i0']]]": lambda: [[["i0"]]],
    "[['unknown']]": lambda: [["unknown"]],
    "['i0']": lambda: ["i0"],
    "[-1]": lambda: [-1],
    "[nan]": lambda: [float("nan")],
    "[True]": lambda: [True],
    "[0, 0]": lambda: [0, 0],
    "[2**63]": lambda: [2**63],
    "{'name': 'x'}": lambda: {"name": "x"},
    "{'name': None}": lambda: {"name": None},
    "{'name': []}": lambda: {"name": []},
    "{'name': 'sqrt', 'x': 1}": lambda: {"name": "sqrt", "x": 1},
    "{1: 2}": lambda: {1: 2},
    "{'losses': 1, 'seen': 1}": lambda: {"losses": 1, "seen": 1},
    "object()": object,
    "lambda": lambda: lambda *_: None,
    "int": lambda: int,
    "iterator": lambda: iter([["i0"]]),
    "range(3)": lambda: range(3),
    "slice": lambda: slice(None),
    "tensor()": lambda: torch.tensor(1.0),
    "tensor of no rows": lambda: torch.zeros(0),
    "tensor (3,)": lambda: torch.zeros(3),
    "tensor of nan": lambda: torch.full((2, 4), float("nan")),
    "complex tensor": lambda: torch.zeros(2, 4, dtype=torch.complex64),
    "bool tensor": lambda: torch.ones(2, 1, dtype=torch.bool),
    "meta tensor": lambda: torch.zeros(2, 4, device="meta"),
    "array of no rows": lambda: np.zeros(0),
    "array of objects": lambda: np.array([None, object()], dtype=object),
    "array of text": lambda: np.array(["i0", "i1"]),
    "array of dates": lambda: np.array(["2020-01-01", "NaT"], dtype="datetime64[D]"),
    "0-d array": lambda: np.array(1),
    "the Sequences": world.sequences,
    "the Holdout": world.holdout,
    "the Interactions": world.log,
    "the Vocabulary": world.vocabulary,
    "another Vocabulary": lambda: world.vocabulary(5),
    "the model": world.model,
    "a model of other items": lambda: world.model(items=world.vocabulary(5)),
    "the head": world.head,
    "the embedding": world.embedding,
    "a wider embedding": lambda: world.embedding(dim=6),
    "the schedule": world.schedule,
    "a memory": world.memory,
    "the batch": world.batch,
    "a generator": world.generator,
    "two generators": lambda: [world.generator(), world.generator()],
}

OF_TENSOR: dict[str, Callable[[Tensor], Any]] = {
    "its first 0 rows": lambda x: x[:0],
    "its first row": lambda x: x[:1],
    "without its last column": lambda x: x[..., :-1],
    "one axis more": lambda x: x[None],
    "one axis less": lambda x: x[0],
    "as float64": lambda x: x.double(),
    "as float16": lambda x: x.half(),
    "as int32": lambda x: x.int(),
    "as int64": lambda x: x.long(),
    "as bool": lambda x: x.bool(),
    "minus 10**6": lambda x: x - 10**6,
    "plus 10**6": lambda x: x + 10**6,
    "times nan": lambda x: x * float("nan"),
    "times inf": lambda x: x * float("inf"),
    "as an array": lambda x: x.numpy(),
    "as a list": lambda x: x.tolist(),
    "sparse": lambda x: x.to_sparse(),
}

OF_ARRAY: dict[str, Callable[[np.ndarray[Any, Any]], Any]] = {
    "its first 0 rows": lambda x: x[:0],
    "its first row": lambda x: x[:1],
    "one axis more": lambda x: x[None],
    "as float64": lambda x: x.astype(float),
    "as int32": lambda x: x.astype(np.int32),
    "as objects": lambda x: x.astype(object),
    "minus 10**6": lambda x: x - 10**6,
    "plus 10**6": lambda x: x + 10**6,
    "as a tensor": torch.from_numpy,
    "as a list": lambda x: x.tolist(),
}

OF_LIST: dict[str, Callable[[Any], Any]] = {
    "twice over": lambda x: [*x, *x],
    "with None behind": lambda x: [*x, None],
    "with an object behind": lambda x: [*x, object()],
    "with nan behind": lambda x: [*x, float("nan")],
    "in a list": lambda x: [x],
}

OF_MAPPING: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "a key more": lambda x: {**x, "x": 1},
    "a key less": lambda x: dict(list(x.items())[1:]),
    "a value None": lambda x: {**x, next(reversed(x)): None},
    "a value {}": lambda x: {**x, next(reversed(x)): {}},
    "a value 2**63": lambda x: {**x, next(reversed(x)): 2**63},
    "as pairs": lambda x: list(x.items()),
}


def bad_value(valid: Any, generator: random.Random) -> tuple[str, Any]:
    """A bad value for the place of a valid one, and words for it; one in two is made from the valid one."""
    made_from = _made_from(valid)
    if made_from and generator.random() < 0.5:
        words, make = generator.choice(list(made_from.items()))
        return words, make(valid)
    words, make = generator.choice(list(PLAIN.items()))
    return words, make()


def _made_from(valid: Any) -> Mapping[str, Callable[[Any], Any]]:
    for cls, ways in ((Tensor, OF_TENSOR), (np.ndarray, OF_ARRAY), (list | tuple, OF_LIST), (Mapping, OF_MAPPING)):
        if isinstance(valid, cls):
            return ways
    return {}
