"""A server: recommendations over HTTP in batches, and a new model without a pause. `python server.py runs/tea`, then

curl localhost:8000/recommend --json '{"history": ["tea", "milk"], "k": 3, "exclude": ["jam"]}'
curl -X POST localhost:8000/reload    # after another model.save_pretrained("runs/tea")
"""

import asyncio
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import uvicorn
from fastapi import FastAPI, HTTPException, Request, Response
from pydantic import BaseModel, Field, StrictInt, StrictStr

from diffusers_rec import load_pretrained


class Query(BaseModel, extra="forbid"):  # noqa: D101
    history: list[StrictInt | StrictStr] = Field(min_length=1, max_length=1_000)
    k: int = Field(10, ge=1, le=100)
    exclude: list[StrictInt | StrictStr] = Field([], max_length=1_000)


def create_app(folder: str | Path, most: int = 64, wait: float = 0.002, max_bytes: int = 100_000) -> FastAPI:
    """Up to `most` requests are answered together; the first of them waits `wait` seconds for others."""
    queue, models, reloading = asyncio.Queue(), [load_pretrained(Path(folder))], asyncio.Lock()

    async def work():
        while batch := [await queue.get()]:
            await asyncio.sleep(wait)
            batch += [queue.get_nowait() for _ in range(min(queue.qsize(), most - 1))]
            for model in {model for model, *_ in batch}:  # two of them while a new one takes over
                part = [(query, answer) for own, query, answer in batch if own is model]
                rows, k, out = zip(*((each.history, each.k, each.exclude) for each, _ in part), strict=True)
                how = {"k": min(max(k), len(model.vocabulary)), "exclude": out, "unknown": "drop"}
                (found,) = await asyncio.gather(asyncio.to_thread(model.recommend, rows, **how), return_exceptions=True)
                for row, (_, answer) in enumerate(part):
                    if not answer.done():  # else its client has gone
                        answer.set_exception(found) if isinstance(found, Exception) else answer.set_result(found[row])

    @asynccontextmanager
    async def lifespan(_):
        worker = asyncio.create_task(work())
        yield
        worker.cancel()

    app = FastAPI(lifespan=lifespan)

    @app.middleware("http")
    async def limit(request: Request, call_next):
        if "transfer-encoding" in request.headers or int(request.headers.get("content-length", 0)) > max_bytes:
            return Response(f"Send at most {max_bytes} bytes, with their content-length.", 413)
        return await call_next(request)

    @app.get("/health")
    async def health():
        return {"status": "ok", "items": len(models[0].vocabulary), "waiting": queue.qsize()}

    @app.post("/recommend")
    async def recommend(query: Query):
        model, answer = models[0], asyncio.get_running_loop().create_future()
        if unknown := [each for each in query.history if each not in model.vocabulary]:
            raise HTTPException(422, f"Unknown ids: {unknown[:5]}. Leave them out.")
        queue.put_nowait((model, query, answer))
        return [{"item": item, "score": score} for item, score, _ in (await answer)[: query.k]]

    @app.post("/reload")
    async def reload():
        async with reloading:  # otherwise a slow reload could end last and install an older model
            models[0] = await asyncio.to_thread(load_pretrained, Path(folder))  # after an error, the older one is kept
        return await health()

    return app


if __name__ == "__main__":
    uvicorn.run(create_app(sys.argv[1]), limit_concurrency=1_000)
