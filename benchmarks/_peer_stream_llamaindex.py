# mypy: allow-subclassing-any, allow-untyped-decorators
"""LlamaIndex workflows: a workflow of one step, which writes events to its stream."""

from __future__ import annotations

from typing import Any

from workflows import Context, Workflow, step
from workflows.events import Event, StartEvent, StopEvent

from benchmarks._together import Clock, produce


class Begin(StartEvent):
    clock: Any
    count: int
    burst: int


class Text(Event):
    text: str


class Writing(Workflow):
    @step
    async def write(self, ctx: Context, begin: Begin) -> StopEvent:
        def emit(text: str) -> None:
            ctx.write_event_to_stream(Text(text=text))

        await produce(emit, begin.clock, begin.count, begin.burst)
        return StopEvent()


_workflow = Writing(timeout=None)


async def consume(clock: Clock, count: int, burst: int) -> None:
    running = _workflow.run(start_event=Begin(clock=clock, count=count, burst=burst))
    left = count
    async for event in running.stream_events():
        if isinstance(event, Text):
            left -= 1
            if not left:
                clock.done()
    await running
