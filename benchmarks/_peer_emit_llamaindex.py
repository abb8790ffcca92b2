# mypy: allow-subclassing-any, allow-untyped-decorators
"""LlamaIndex instrumentation: a dispatcher of its own with event handlers, emitting within a span."""

from __future__ import annotations

from typing import Any

from llama_index_instrumentation import get_dispatcher
from llama_index_instrumentation.base import BaseEvent
from llama_index_instrumentation.event_handlers import BaseEventHandler

from benchmarks._harness import Timed, per_call


class TaskFinished(BaseEvent):
    task: str
    output: str


class Ignoring(BaseEventHandler):
    def handle(self, event: BaseEvent, **_: Any) -> None:
        pass


def events(handlers: int, n: int) -> Timed:
    """The nanoseconds per event; the dispatcher hands it on to its parent's handler too, which is a null one."""
    dispatcher = get_dispatcher(f"benchmarks.of_{handlers}")
    for _ in range(handlers):
        dispatcher.add_event_handler(Ignoring())

    def emit(n: int) -> None:
        event = dispatcher.event
        for _ in range(n):
            event(TaskFinished(task="research", output="done"))

    @dispatcher.span
    def timed() -> float:
        return per_call(emit, n)()

    return lambda: float(timed())
