"""The example server answers as the model does, refuses what is too much, and changes its model without a pause."""

from __future__ import annotations

import asyncio
import runpy
import threading
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import diffusers_rec
from diffusers_rec import DiffRec

for name in ("fastapi", "uvicorn"):
    pytest.importorskip(name, reason="needs the extra server")
httpx = pytest.importorskip("httpx", reason="needs the extra test")

SERVER = Path(__file__).parents[1] / "examples" / "server.py"
ITEMS = [f"i{v}" for v in range(30)]


def build(items=ITEMS, seed=0):
    schedule = {"name": "cosine", "num_timesteps": 6}
    return DiffRec(items, dim=8, max_length=6, schedule=schedule, denoiser="conditional-mlp", seeds=2, seed=seed).eval()


@pytest.fixture
def folder(tmp_path):
    build().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@asynccontextmanager
async def serving(folder, **options):
    """A client of the running server, and the models that it serves, of which the first is the current one."""
    app = runpy.run_path(str(SERVER))["create_app"](str(folder), **options)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://s") as client:
        yield client


async def ask(client, history, **options):
    return await client.post("/recommend", json={"history": history, **options})


def expected(model, history, k=10, exclude=()):
    return model.recommend([history], k, exclude=[list(exclude)])[0]


def assert_answers(response, rows):
    """Items are equal; another batch changes the last digits of the scores."""
    assert response.status_code == 200, response.text
    found = response.json()
    assert [row["item"] for row in found] == [item for item, *_ in rows]
    assert [row["score"] for row in found] == pytest.approx([score for _, score, _ in rows], rel=1e-4)


def test_it_answers_as_the_model(folder):
    async def run():
        async with serving(folder) as client:
            assert (await client.get("/health")).json() == {"status": "ok", "items": 30, "waiting": 0}
            assert_answers(await ask(client, ["i1", "i2"]), expected(build(), ["i1", "i2"]))
            response = await ask(client, ["i3"], k=2, exclude=["i4", "i5"])
            assert_answers(response, expected(build(), ["i3"], 2, ["i4", "i5"]))
            assert len((await ask(client, ["i3"], k=100)).json()) == 29

    asyncio.run(run())


def test_an_excluded_id_that_the_model_does_not_know_changes_nothing(folder):
    async def run():
        async with serving(folder) as client:
            response = await ask(client, ["i3"], exclude=["i4", "discontinued"])
            assert_answers(response, expected(build(), ["i3"], exclude=["i4"]))
            assert (await ask(client, ["discontinued"])).status_code == 422

    asyncio.run(run())


def test_requests_at_once_are_answered_together_and_as_alone(folder, monkeypatch):
    sizes, original = [], DiffRec.recommend

    def counted(self, histories, *args, **options):
        sizes.append(len(histories))
        return original(self, histories, *args, **options)

    monkeypatch.setattr(DiffRec, "recommend", counted)
    histories = [ITEMS[start : start + 1 + start % 5] for start in range(25)]

    async def run():
        async with serving(folder, most=8, wait=0.05) as client:
            return await asyncio.gather(*(ask(client, h, k=1 + n % 7) for n, h in enumerate(histories)))

    responses = asyncio.run(run())
    assert sum(sizes) == 25
    assert max(sizes) == 8
    for number, (response, history) in enumerate(zip(responses, histories, strict=True)):
        assert_answers(response, expected(build(), history, 1 + number % 7))


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"history": ["new", "i1"]}, r"Unknown ids: ['new']. Leave them out."),
        ({"history": ["i1"], "kk": 3}, "Extra inputs are not permitted"),
        ({"history": []}, "at least 1 item"),
        ({"history": ["i1"] * 1001}, "at most 1000 items"),
        ({"history": ["i1"], "exclude": ["i1"] * 1001}, "at most 1000 items"),
        ({"history": "i1"}, "valid list"),
        ({"history": [True]}, "valid"),
        ({"history": [["i1"]]}, "valid"),
        ({"history": ["i1"], "k": 0}, "greater than or equal to 1"),
        ({"history": ["i1"], "k": 101}, "less than or equal to 100"),
        ({}, "required"),
    ],
)
def test_what_it_cannot_answer_is_refused(query, message, folder):
    async def run():
        async with serving(folder) as client:
            response = await client.post("/recommend", json=query)
            assert response.status_code == 422
            assert message in str(response.json())

    asyncio.run(run())


def test_large_bodies_are_refused_before_they_are_read(folder):
    async def chunks():
        raise AssertionError("the body is read")
        yield b""

    async def run():
        async with serving(folder, max_bytes=100) as client:
            for content, headers in ((b"x" * 101, {}), (chunks(), {"transfer-encoding": "chunked"})):
                response = await client.post("/recommend", content=content, headers=headers)
                assert response.status_code == 413
                assert "at most 100 bytes" in response.text

    asyncio.run(run())


def test_a_new_model_takes_over_without_a_pause(folder):
    other, ids = build([*ITEMS[::-1], "new"], seed=3), ["i1", "i2", "i3"]

    async def run():
        async with serving(folder, wait=0.001) as client:

            async def traffic(stop):
                found = []
                while not stop.is_set():
                    found += await asyncio.gather(*(ask(client, [raw]) for raw in ids))
                return found

            stop = asyncio.Event()
            users = asyncio.create_task(traffic(stop))
            await asyncio.sleep(0.1)
            other.save_pretrained(folder)
            assert (await client.post("/reload")).json()["items"] == 31
            assert_answers(await ask(client, ["new"]), expected(other, ["new"]))
            stop.set()
            return await users

    responses = asyncio.run(run())
    allowed = [[item for item, *_ in expected(model, [raw])] for model in (build(), other) for raw in ids]
    seen = {tuple(row["item"] for row in response.json()) for response in responses}
    assert {response.status_code for response in responses} == {200}
    assert seen == {tuple(items) for items in allowed}


def test_of_two_reloads_the_later_model_remains(folder, monkeypatch):
    original, begun, may_end = diffusers_rec.load_pretrained, threading.Event(), threading.Event()

    def slow_at_first(where):
        model = original(where)
        if not begun.is_set():
            begun.set()
            may_end.wait(10)
        return model

    async def run():
        async with serving(folder) as client:
            begun.clear()
            first = asyncio.create_task(client.post("/reload"))
            await asyncio.to_thread(begun.wait, 10)
            build([*ITEMS, "new"]).save_pretrained(folder)
            second = asyncio.create_task(client.post("/reload"))
            await asyncio.wait([second], timeout=0.5)
            may_end.set()
            await asyncio.gather(first, second)
            return (await client.get("/health")).json()

    begun.set()  # the first model, before the server runs
    monkeypatch.setattr(diffusers_rec, "load_pretrained", slow_at_first)
    assert asyncio.run(run())["items"] == 31


def test_the_name_of_a_repository_is_a_missing_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="user/model holds no checkpoint"):
        runpy.run_path(str(SERVER))["create_app"]("user/model")


def test_after_a_failure_the_older_model_answers(folder, monkeypatch):
    original = DiffRec.recommend

    async def run():
        async with serving(folder) as client:
            config = (folder / "config.json").read_text()
            (folder / "config.json").write_text(config[:40])
            assert (await client.post("/reload")).status_code == 500
            with monkeypatch.context() as patch:
                patch.setattr(DiffRec, "recommend", lambda *_, **__: 1 / 0)
                assert (await ask(client, ["i1"])).status_code == 500
            assert DiffRec.recommend is original
            assert_answers(await ask(client, ["i1"]), expected(build(), ["i1"]))

    asyncio.run(run())


def test_it_is_short():
    assert len([line for line in SERVER.read_text().splitlines() if line.strip()]) <= 60
