"""Ways to damage bytes, the header of a safetensors file and JSON values; each returns what it did, in words."""

from __future__ import annotations

import copy
import json
import random
import struct
from collections.abc import Callable
from typing import Any

Files = dict[str, bytes]
HUGE = 10**9
SWAPS = {"F32": "I32", "I32": "F32", "F64": "I64", "I64": "F64", "BF16": "F16", "F16": "I16", "U8": "I8"}


def nested(depth: int) -> Any:
    value: Any = 0
    for _ in range(depth):
        value = [value]
    return value


VALUES: list[Any] = [
    HUGE, 10**400, -1, 0, 1.5, True, None, "x", "", [], {}, [None], {"name": "x"}, {"name": None}, [HUGE], [0, 0],
    float("nan"), float("inf"), 1e308, nested(400),
]  # fmt: skip


def damage_bytes(files: Files, generator: random.Random) -> str:
    """Flip, cut, insert, delete or repeat bytes of one file, or let two files change places."""
    name = generator.choice(sorted(files))
    data = bytearray(files[name])
    at = generator.randrange(len(data))
    size = generator.choice([1, 4, 100])
    kind = generator.choice(["flip a bit", "cut", "insert", "delete", "repeat", "zero", "empty", "swap", "double"])
    if kind == "swap":
        other = generator.choice(sorted(files))
        files[name], files[other] = files[other], files[name]
        return f"{name} and {other} have changed places"
    if kind == "flip a bit":
        data[at] ^= 1 << generator.randrange(8)
    elif kind == "cut":
        del data[at:]
    elif kind == "insert":
        data[at:at] = generator.randbytes(size)
    elif kind == "delete":
        del data[at : at + size]
    elif kind == "repeat":
        data[at:at] = data[at : at + size]
    elif kind == "zero":
        data[at : at + size] = bytes(len(data[at : at + size]))
    elif kind == "empty":
        data.clear()
    else:
        data *= 2
    files[name] = bytes(data)
    return f"{kind} at byte {at} (size {size}) of {name}"


def parsed(data: bytes) -> tuple[dict[str, Any], bytearray]:
    """The header of a safetensors file and the bytes behind it."""
    (size,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + size]), bytearray(data[8 + size :])


def joined(header: dict[str, Any], body: bytes) -> bytes:
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + body


def damage_header(data: bytes, generator: random.Random, *, only: str = "") -> tuple[str, bytes]:
    """Edit entries of the header, or make a tensor of the body not finite; ``only`` begins the kinds to choose from."""
    header, body = parsed(data)
    names = sorted(name for name in header if name != "__metadata__")
    name, other = generator.sample(names, 2)
    entry = header[name]
    kind = generator.choice([kind for kind in HEADER_EDITS if kind.startswith(only)])
    HEADER_EDITS[kind](header, body, name, other, generator)
    return f"{kind}: {name} {entry} (beside {other})", joined(header, bytes(body))


def _relabel(header: Any, body: bytearray, name: str, other: str, generator: random.Random) -> None:
    header[name] = {**header[name], "dtype": SWAPS.get(header[name]["dtype"], "F64")}


def _relabel_all(header: Any, body: bytearray, name: str, other: str, generator: random.Random) -> None:
    for each in [each for each in header if each != "__metadata__"]:
        _relabel(header, body, each, other, generator)


def _narrow(header: Any, body: bytearray, name: str, other: str, generator: random.Random) -> None:
    *rows, last = header[name]["shape"] or [1]
    header[name] = {**header[name], "dtype": "BF16", "shape": [*rows, 2 * last]}


def _flatten(header: Any, body: bytearray, name: str, other: str, generator: random.Random) -> None:
    size = 1
    for axis in header[name]["shape"]:
        size *= axis
    header[name] = {**header[name], "shape": [size]}


def _transpose(header: Any, body: bytearray, name: str, other: str, generator: random.Random) -> None:
    header[name] = {**header[name], "shape": header[name]["shape"][::-1]}


def _enlarge(header: Any, body: bytearray, name: str, other: str, generator: random.Random) -> None:
    header[name] = {**header[name], "shape": [HUGE, *header[name]["shape"][1:]]}


def _rename(header: Any, body: bytearray, name: str, other: str, generator: random.Random) -> None:
    header[generator.choice(["x", "", name + ".x", "__class__"])] = header.pop(name)


def _exchange(header: Any, body: bytearray, name: str, other: str, generator: random.Random) -> None:
    header[name], header[other] = header[other], header[name]


def _drop(header: Any, body: bytearray, name: str, other: str, generator: random.Random) -> None:
    last = max((each for each in header if each != "__metadata__"), key=lambda each: header[each]["data_offsets"][1])
    start, _ = header.pop(last)["data_offsets"]
    del body[start:]


def _add(header: Any, body: bytearray, name: str, other: str, generator: random.Random) -> None:
    header["added"] = {"dtype": "F32", "shape": [2], "data_offsets": [len(body), len(body) + 8]}
    body += bytes(8)


def _shift(header: Any, body: bytearray, name: str, other: str, generator: random.Random) -> None:
    start, stop = header[name]["data_offsets"]
    by = generator.choice([-4, 4, HUGE])
    header[name] = {**header[name], "data_offsets": [start + by, stop + by]}


def _not_finite(header: Any, body: bytearray, name: str, other: str, generator: random.Random) -> None:
    start, stop = header[name]["data_offsets"]
    body[start:stop] = (b"\xff\xff" if generator.random() < 0.5 else b"\x80\x7f") * ((stop - start) // 2)


def _odd_value(header: Any, body: bytearray, name: str, other: str, generator: random.Random) -> None:
    key = generator.choice(["dtype", "shape", "data_offsets"])
    header[name] = {**header[name], key: generator.choice(VALUES)}


HEADER_EDITS: dict[str, Callable[[Any, bytearray, str, str, random.Random], None]] = {
    "relabel the dtype": _relabel,
    "relabel all dtypes": _relabel_all,
    "relabel as bfloat16, twice as wide": _narrow,
    "flatten the shape": _flatten,
    "transpose the shape": _transpose,
    "enlarge the shape": _enlarge,
    "rename": _rename,
    "exchange names": _exchange,
    "drop the last tensor": _drop,
    "add a tensor": _add,
    "shift offsets": _shift,
    "not finite": _not_finite,
    "odd value in the header": _odd_value,
}


def damage_json(value: Any, generator: random.Random) -> tuple[str, Any]:
    """Replace, remove, rename or add one value somewhere in a JSON value, or replace all values under one key."""
    value = copy.deepcopy(value)
    places = _places(value)
    holder, key = generator.choice(places)
    kind = generator.choice(["replace", "replace", "everywhere", "remove", "rename", "add"])
    what = f"{kind} {key!r} (was {str(holder[key])[:60]})"
    if kind == "remove":
        del holder[key]
    elif kind == "rename" and isinstance(holder, dict):
        holder[f"{key}x"] = holder.pop(key)
    elif kind == "add" and isinstance(holder, dict):
        holder["unknown"] = 1
    else:
        new = generator.choice([HUGE, holder[key] * 10**6] * 3 + VALUES if _whole(holder[key]) else VALUES)
        what += f" by {str(new)[:60]}"
        for other, name in places if kind == "everywhere" else [(holder, key)]:
            if name == key:
                other[name] = new
    return what, value


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every holder in a JSON value and each of its keys or indices."""
    keys = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    return [(value, key) for key in keys] + [place for key in keys for place in _places(value[key])]
