"""Serving over HTTP: the example server under load, with and without batches of requests that come at once.

Both servers of ``examples/server.py`` run in processes of their own, on the loopback address, and are loaded in turn.
Each client sends its next request when the last one is answered. Every answer is compared with that of the model alone:
it must contain the same items with the same scores, up to the rounding of other batches. Memory is the server's
resident size, after a warm-up and after each row.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import plots
from benchmarks.data import BEAUTY_ITEMS
from benchmarks.harness import Results, argument_parser, at_least, parse
from benchmarks.models import untrained
from diffusers_rec import Recommender

CLIENTS = (1, 16, 64)
SERVERS = {"batches": 64, "single": 1}
"""Most requests in a batch."""
ROUNDS, K, QUERIES, ROUNDING = 4, 10, 200, 1e-4

draw = partial(
    plots.lines,
    x="clients",
    panels={"requests_per_second": "requests per second", "p50_ms": "median, ms", "p99_ms": "99th percentile, ms"},
    by="server",
)

Answer = tuple[float, int, list[dict[str, Any]]]
"""Seconds, number of the query, and rows."""


def main(argv: Sequence[str] | None = None) -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--seconds", type=at_least(1), default=40, help="of load for each row; two minutes a server")
    options = parse(parser, argv)
    results = Results("load", options)
    items, seconds = (1_000, 4) if options.quick else (BEAUTY_ITEMS, options.seconds)
    model = untrained("conditional-mlp", num_items=items, dim=64, seed=options.seed)
    generator = np.random.default_rng(options.seed)
    histories = [generator.integers(items, size=generator.integers(1, 50)).tolist() for _ in range(QUERIES)]
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        with (
            server(folder, SERVERS["batches"], options) as batches,
            server(folder, SERVERS["single"], options) as single,
        ):
            measure(results, model, histories, {"batches": batches, "single": single}, seconds)
    results.write(draw)


def measure(
    results: Results,
    model: Recommender,
    histories: list[list[int]],
    servers: dict[str, tuple[int, int]],
    seconds: float,
) -> None:
    """Load servers, given by their processes and ports, for so many seconds at each number of clients."""
    expected = [serial(model, history) for history in histories]
    for _, port in servers.values():
        asyncio.run(load(port, histories, max(CLIENTS), seconds))  # until the allocator holds what it needs
    before = {name: resident_mb(process) for name, (process, _) in servers.items()}
    speeds: dict[tuple[str, int], list[float]] = {}
    for clients in CLIENTS:
        answers: dict[str, list[Answer]] = {name: [] for name in servers}
        for _ in range(ROUNDS):
            for name, (_, port) in servers.items():
                started = time.perf_counter()
                some = asyncio.run(load(port, histories, clients, seconds / ROUNDS))
                answers[name] += some
                speeds.setdefault((name, clients), []).append(len(some) / (time.perf_counter() - started))
        for name, found in answers.items():
            p50, p99 = np.percentile([spent for spent, *_ in found], [50, 99]) * 1e3
            results.add(
                {
                    "server": name,
                    "clients": clients,
                    "items": len(model.vocabulary),
                    "seconds": seconds,
                    "requests": len(found),
                    "requests_per_second": float(np.mean(speeds[name, clients])),
                    "p50_ms": float(p50),
                    "p99_ms": float(p99),
                    "equal": float(np.mean([is_equal(rows, expected[query]) for _, query, rows in found])),
                    "start_mb": before[name],
                    "end_mb": resident_mb(servers[name][0]),
                    "load_average": os.getloadavg()[0],
                }
            )
    most = max(CLIENTS)
    ratio = np.median(np.divide(speeds["batches", most], speeds["single", most]))
    results.ratio(f"batches_vs_single_{most}_clients", float(ratio))
    results.ratio("equal_answers", min(row["equal"] for row in results.rows), ">= 1")
    results.ratio("memory_end_vs_start", max(row["end_mb"] / row["start_mb"] for row in results.rows), "<= 1.05")


async def load(port: int, histories: list[list[int]], clients: int, seconds: float) -> list[Answer]:
    """The answers to so many clients, each of which asks without a pause."""
    end = time.perf_counter() + seconds
    found = await asyncio.gather(*(client(port, histories, number, end) for number in range(clients)))
    return [answer for some in found for answer in some]


async def client(port: int, histories: list[list[int]], number: int, end: float) -> list[Answer]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    found: list[Answer] = []
    while time.perf_counter() < end:
        query = (number * 7919 + len(found)) % len(histories)
        body = json.dumps({"history": histories[query], "k": K}).encode()
        head = f"POST /recommend HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
        started = time.perf_counter()
        writer.write(f"{head}\r\n\r\n".encode() + body)
        status, *fields = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        length = next(int(field.split(":")[1]) for field in fields if field.lower().startswith("content-length"))
        answer = await reader.readexactly(length)
        spent = time.perf_counter() - started
        if status.split()[1] != "200":
            raise ValueError(f"The server answered {status}: {answer.decode()}")
        found.append((spent, query, json.loads(answer)))
    writer.close()
    return found


def serial(model: Recommender, history: list[int]) -> dict[int, float]:
    """The score of each item in the model's own list, asked alone; twice as long as an answer, for ties at its end."""
    return {item: score for item, score, _ in model.recommend([history], 2 * K)[0]}


def is_equal(rows: list[dict[str, Any]], expected: dict[int, float]) -> bool:
    """Whether an answer is the model's list, except for rounding and for items whose scores are equal up to that."""
    items, scores = {row["item"] for row in rows}, np.array([row["score"] for row in rows])
    own = np.array([expected.get(row["item"], np.nan) for row in rows])
    listed = len(rows) == len(items) == K and np.allclose(scores, own, rtol=ROUNDING, atol=0)
    least = list(expected.values())[K - 1]
    return bool(listed and (np.diff(scores) <= 0).all() and scores[-1] >= least * (1 - ROUNDING))


@contextmanager
def server(folder: str, most: int, options: argparse.Namespace) -> Iterator[tuple[int, int]]:
    """The process and the port of a running server."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = (
        f"import torch, uvicorn; from server import create_app; torch.set_num_threads({options.threads}); "
        f"uvicorn.run(create_app({folder!r}, most={most}), port={port}, log_level='warning')"
    )
    examples = Path(__file__).parents[1] / "examples"
    process = subprocess.Popen([sys.executable, "-c", script], cwd=examples)
    try:
        wait_for(process, port)
        yield process.pid, port
    finally:
        process.terminate()
        process.wait()


def wait_for(process: subprocess.Popen[bytes], port: int, seconds: float = 60) -> None:
    end = time.perf_counter() + seconds
    while process.poll() is None and time.perf_counter() < end:
        with socket.socket() as probe:
            if not probe.connect_ex(("127.0.0.1", port)):
                return
        time.sleep(0.1)
    raise ValueError("The server did not start. It needs the extra: pip install 'diffusers-rec[server]'")


def resident_mb(process: int) -> float:
    """Resident size of a process on Linux, in MB."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    main()
