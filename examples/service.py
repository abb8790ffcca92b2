"""An agent behind an API, with crewbus-workers: started in the background, streamed, cancelled, answered by a person.

pip install crewbus-sqlite crewbus-workers fastapi uvicorn
export CREWBUS_STORE=sqlite:///service.db
crewbus worker examples/service.py &
uvicorn --app-dir examples service:app --workers 2 --timeout-graceful-shutdown 3

curl -X POST localhost:8000/runs -H 'Idempotency-Key: order-7' --json '{"text": "tides"}'
curl -N localhost:8000/runs/order-7/events
curl -X POST localhost:8000/runs/order-7/answers --json '{"text": "yes"}'
curl localhost:8000/runs/order-7
curl -X DELETE localhost:8000/runs/order-7
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

import attrs
from fastapi import FastAPI, Header, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel

import crewbus
from crewbus_workers import areceive, enqueue, send, workflow

HEARTBEAT = 15.0


@crewbus.step(retries=3, backoff=0.5)
async def write(topic: str, part: int) -> str:
    """Stands for a call of a model: a step, so that no part is paid for twice."""
    for word in (topic, "part", str(part)):
        crewbus.chunk(f"{word} ")
        await asyncio.sleep(0.05)
    return f"{topic} {part}"


@workflow(name="newsroom")
async def newsroom(topic: str) -> str:
    """The agent: it writes, asks a person, and publishes or not."""
    parts = [await write(topic, part) for part in range(3)]
    crewbus.chunk("Publish?")
    answer = await areceive("answer", timeout=7 * 86_400)
    return "; ".join(parts) if answer == "yes" else "(withdrawn)"


class Body(BaseModel):
    text: str


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with crewbus.Bus() as app.state.bus:
        app.state.bus.enable_recording()
        yield


app = FastAPI(lifespan=lifespan)


@app.exception_handler(crewbus.RunError)
@app.exception_handler(crewbus.InputError)
@app.exception_handler(crewbus.RunEndedError)
async def refuse(_: Request, error: Exception) -> Response:
    """Answer what the caller got wrong."""
    return JSONResponse({"detail": str(error)}, 404 if isinstance(error, crewbus.RunNotFoundError) else 409)


@app.post("/runs", status_code=202)
def start(request: Request, body: Body, idempotency_key: Annotated[str | None, Header()] = None) -> dict[str, str]:
    """Queue a run. The same key starts one run, however often the request comes."""
    return {"run": enqueue(request.app.state.bus, "newsroom", body.text, id=idempotency_key, attach=True)}


@app.get("/runs/{run_id}")
def look(request: Request, run_id: str) -> dict[str, Any]:
    """The state of a run, and its result once it has finished."""
    info = request.app.state.bus.records.info(run_id)
    result = request.app.state.bus.result(run_id) if info.state == "finished" else None
    return {"run": run_id, "state": info.state, "result": result, "error": info.error}


@app.get("/runs/{run_id}/events")
async def follow(request: Request, run_id: str, last_event_id: Annotated[str, Header()] = "start") -> Response:
    """The frames of a run as server-sent events, from where this client has lost them, across workers and deploys."""
    stream = await request.app.state.bus.asubscribe(run_id, after=last_event_id)
    return StreamingResponse(events(stream), media_type="text/event-stream")


async def events(stream: crewbus.Stream) -> AsyncIterator[str]:
    """Frames with their cursors, and a comment when nothing has come for a while."""
    async with stream:
        while True:
            try:
                frame = await asyncio.wait_for(anext(stream, None), HEARTBEAT)
            except TimeoutError:
                yield ": still here\n\n"
                continue
            # When its worker has died, the client returns with its cursor, and another worker continues the run.
            if frame is None or isinstance(frame.event, crewbus.RunInterrupted):
                return
            data = json.dumps({"seq": frame.seq, "parent": frame.parent, **attrs.asdict(frame.event)})
            yield f"event: {type(frame.event).__name__}\nid: {stream.cursor}\ndata: {data}\n\n"


@app.delete("/runs/{run_id}")
async def cancel(request: Request, run_id: str) -> dict[str, str]:
    """Cancel a run, whichever worker executes it; the answer is the state in which it was."""
    return {"was": await request.app.state.bus.acancel(run_id, "asked by a client")}


@app.post("/runs/{run_id}/answers", status_code=202)
def answer(request: Request, run_id: str, body: Body, idempotency_key: Annotated[str | None, Header()] = None) -> None:
    """Answer the question that the run asks."""
    send(request.app.state.bus, run_id, "answer", body.text, key=idempotency_key)
