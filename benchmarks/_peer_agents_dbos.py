"""DBOS with SQLite: a workflow for each agent, which writes each chunk to a durable stream, and a reader of it."""

# mypy: allow-untyped-calls
from __future__ import annotations

import asyncio
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from dbos import DBOS

from benchmarks._agents import Crowd, Found, Meter
from benchmarks._peer_dbos import launched

KEY = "text"
POLLED = 0.1
"""Seconds between two looks of a reader; a reader looks once a second by default."""

_meters: list[Meter] = []


async def _agent() -> None:
    await _meters[0].agent(partial(DBOS.write_stream_async, KEY))


_workflow: Any = DBOS.workflow()(_agent)


def recorded(crowd: Crowd) -> Found:
    """Each chunk is on disk before the agent goes on, and read again from there."""

    async def together() -> Found:
        _meters[:] = [meter] = [Meter(crowd)]

        async def one() -> None:
            handle = await DBOS.start_workflow_async(_workflow)
            left = crowd.chunks
            async for text in DBOS.read_stream_async(handle.workflow_id, KEY, polling_interval_sec=POLLED):
                meter.came(text)
                left -= 1
                if not left:
                    break
            await handle.get_result()

        await asyncio.gather(*(one() for _ in range(crowd.agents)))
        return meter.found

    with tempfile.TemporaryDirectory() as folder, launched(Path(folder, "dbos.db")):
        return asyncio.run(together())
