"""The plugin ``slow_alarm``: says so when a consumer falls behind, to a logger and with an event of its own."""

from __future__ import annotations

import logging
from contextvars import Context
from weakref import WeakKeyDictionary

import attrs

from crewbus import Bus, Failure, Run, Sink, SlowConsumer, hookimpl

FULL = 0.75  # which part of its buffer waits for a consumer that falls behind


@attrs.define
class FellBehind:
    """A stream's consumer, or a background handler, is slower than what it is told of."""

    consumer: str
    what: str


class SlowAlarm:
    """Tells of each stream, once each: that its buffer fills up, that frames are left out, that it was failed."""

    def __init__(self) -> None:
        self._told = WeakKeyDictionary[Run, dict[Sink, set[str]]]()

    @hookimpl
    def crewbus_event_types(self) -> list[type]:
        return [FellBehind]

    @hookimpl
    def crewbus_emit(self, bus: Bus, run: Run | None) -> None:
        while run is not None:
            told = self._told.setdefault(run, {})
            for sink in {*run.sinks, *told}:  # one that was failed is no more among the run's
                if (what := _trouble(sink)) and what not in told.setdefault(sink, set()):
                    told[sink].add(what)
                    _tell(bus, f"a stream of run {run.id}", what)
            run = run.parent

    @hookimpl
    def crewbus_plugin_error(self, bus: Bus, failure: Failure) -> None:
        if isinstance(failure.error, SlowConsumer):
            _tell(bus, f"{failure.kind} {failure.name}", str(failure.error))


def _trouble(sink: Sink) -> str:
    if sink.failure is not None or sink.left_out:
        return str(sink.failure or "frames are left out")
    return "its buffer is nearly full" if sink.waiting >= FULL * sink.bound else ""


def _tell(bus: Bus, consumer: str, what: str) -> None:
    logging.getLogger("crewbus.slow_alarm").warning("%s falls behind: %s", consumer, what)
    Context().run(bus.emit, FellBehind(consumer, what))  # outside any run: it is no part of the record
