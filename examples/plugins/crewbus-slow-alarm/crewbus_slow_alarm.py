"""The plugin ``slow_alarm``: reports consumers that fall behind, to a logger and as events."""

from __future__ import annotations

import logging
from contextvars import Context
from weakref import WeakKeyDictionary

import attrs

from crewbus import Bus, Failure, Run, Sink, SlowConsumer, hookimpl

FULL = 0.75  # the part of a buffer that is filled when its consumer has fallen behind


@attrs.define
class FellBehind:
    """A stream's consumer, or a background handler, is slower than the events arrive."""

    consumer: str
    what: str


class SlowAlarm:
    """Reports each stream once when its buffer fills up, once when frames are dropped, once when it failed."""

    def __init__(self) -> None:
        self._reported = WeakKeyDictionary[Run, dict[Sink, set[str]]]()

    @hookimpl
    def crewbus_event_types(self) -> list[type]:
        return [FellBehind]

    @hookimpl
    def crewbus_emit(self, bus: Bus, run: Run | None) -> None:
        while run is not None:
            reported = self._reported.setdefault(run, {})
            for sink in {*run.sinks, *reported}:  # a failed sink is no longer among the run's
                if (what := _trouble(sink)) and what not in reported.setdefault(sink, set()):
                    reported[sink].add(what)
                    _report(bus, f"a stream of run {run.id}", what)
            run = run.parent

    @hookimpl
    def crewbus_plugin_error(self, bus: Bus, failure: Failure) -> None:
        if isinstance(failure.error, SlowConsumer):
            _report(bus, f"{failure.kind} {failure.name}", str(failure.error))


def _trouble(sink: Sink) -> str:
    if sink.failure is not None or sink.left_out:
        return str(sink.failure or "frames are dropped")
    return "its buffer is nearly full" if sink.waiting >= FULL * sink.bound else ""


def _report(bus: Bus, consumer: str, what: str) -> None:
    logging.getLogger("crewbus.slow_alarm").warning("%s falls behind: %s", consumer, what)
    Context().run(bus.emit, FellBehind(consumer, what))  # outside any run, so that it is not recorded
