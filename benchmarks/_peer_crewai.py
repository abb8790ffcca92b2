# mypy: allow-subclassing-any, allow-untyped-decorators, allow-any-generics
"""crewAI: its bus within a flow, as after each kickoff; and a flow's stream.

Its own listeners, which write to the console, are off: crewAI does less here than out of the box.
"""

from __future__ import annotations

import os

from benchmarks._quiet import QUIET

os.environ.update(QUIET)

from collections.abc import Callable
from typing import Any

from crewai.events.base_events import BaseEvent
from crewai.events.event_bus import crewai_event_bus
from crewai.events.types.llm_events import LLMStreamChunkEvent
from crewai.flow.flow import Flow, start

from benchmarks._harness import Timed, per_call
from benchmarks._together import Clock, produce


class TaskFinished(BaseEvent):
    type: str = "benchmark_task_finished"
    task: str
    output: str


def _task_finished() -> TaskFinished:
    return TaskFinished(task="research", output="done")


def _text(text: str = "Hello") -> LLMStreamChunkEvent:
    return LLMStreamChunkEvent(chunk=text, call_id="benchmark")


class Emitting(Flow):
    make: Any
    n: int

    @start()
    def emit(self) -> float:
        """The nanoseconds per event until all handlers have run, which a pool of threads does (but for chunks)."""

        def loop(n: int) -> None:
            emit, make = crewai_event_bus.emit, self.make
            for _ in range(n):
                emit(self, make())
            crewai_event_bus.flush()

        return per_call(loop, self.n)()


def _emitting(kind: type[BaseEvent], make: Callable[[], BaseEvent], handlers: int, n: int) -> Timed:
    def timed() -> float:
        with crewai_event_bus.scoped_handlers():
            for _ in range(handlers):
                crewai_event_bus.on(kind)(lambda _source, _event: None)
            return float(Emitting(make=make, n=n).kickoff())

    return timed


def events(handlers: int, n: int) -> Timed:
    """The nanoseconds per event of a class of our own."""
    return _emitting(TaskFinished, _task_finished, handlers, n)


def chunks(handlers: int, n: int) -> Timed:
    """The nanoseconds per chunk of a model's, for which crewAI calls handlers at once."""
    return _emitting(LLMStreamChunkEvent, _text, handlers, n)


class Streaming(Flow):
    clock: Any
    count: int
    burst: int

    @start()
    async def write(self) -> None:
        def emit(text: str) -> None:
            crewai_event_bus.emit(self, _text(text))

        await produce(emit, self.clock, self.count, self.burst)


async def consume(clock: Clock, count: int, burst: int) -> None:
    left = count
    async for _ in Streaming(clock=clock, count=count, burst=burst).astream().llm:
        left -= 1
        if not left:
            clock.done()


def quiet(timed: Timed) -> Timed:
    """The same without crewAI's own listeners: the one for chunks copies the whole text at each of them."""

    def without() -> float:
        with crewai_event_bus.scoped_handlers():
            return timed()

    return without
