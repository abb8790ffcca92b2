"""An agent behind an API: started in the background, streamed, cancelled, answered by a person.

pip install crewbus-http crewbus-sqlite
export CREWBUS_STORE=sqlite:///service.db
crewbus worker examples/service.py &
crewbus serve examples/service.py --write

curl localhost:8000/workflows/newsroom/runs -H 'Idempotency-Key: order-7' --json '{"arguments": {"topic": "tides"}}'
curl -N localhost:8000/runs/order-7/events
curl localhost:8000/runs/order-7/messages --json '{"channel": "answer", "payload": "yes"}'
curl localhost:8000/runs/order-7/result?wait=30
curl localhost:8000/runs/order-7/cancel --json '{"reason": "the customer left"}'

For others than this computer: crewbus serve ... --host 0.0.0.0 --authorize examples/service.py:authorize
"""

from __future__ import annotations

import asyncio
import os
import secrets
from typing import TYPE_CHECKING

import crewbus
from crewbus_workers import areceive, workflow

if TYPE_CHECKING:
    from starlette.requests import Request


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


def authorize(request: Request, action: str, run: crewbus.RunInfo | None) -> bool:
    """Who knows the token may do everything but fork; ``run`` could say whose it is, by its tags."""
    given, token = request.headers.get("authorization", ""), os.environ["SERVICE_TOKEN"]
    return secrets.compare_digest(given.encode(), f"Bearer {token}".encode()) and action != "fork"
