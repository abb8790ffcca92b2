"""Promise 9: what is emitted while a fault is being reported does not go to what failed, so no fault feeds itself."""

from __future__ import annotations

import asyncio
import logging
from contextlib import contextmanager

import pytest
from helpers import TIMEOUT, Noted, quiet_bus

import crewbus
from crewbus import Chunk


@crewbus.event(name="tests.reports.LogLine")
class LogLine:
    text: str


@contextmanager
def bridged(bus, event=LogLine):
    """Have each line that crewbus logs emitted on the bus, as log exporters do."""

    class Bridge(logging.Handler):
        def emit(self, record):
            bus.emit(event(record.getMessage()))

    logger, handler = logging.getLogger("crewbus"), Bridge()
    before, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = before


class Exporter:
    """A handler that always fails, and counts how often it is called."""

    def __init__(self):
        self.calls = 0

    def __call__(self, envelope):
        self.calls += 1
        raise ConnectionError("the collector is down")

    async def later(self, envelope):
        await asyncio.sleep(0)
        self(envelope)


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("method", ["__call__", "later"])
def test_a_handler_that_fails_does_not_get_what_its_report_emits(background, method):
    exporter, seen = Exporter(), []
    with quiet_bus() as bus, bridged(bus):
        bus.on(LogLine, getattr(exporter, method), background=background)
        bus.on(LogLine, seen.append)
        bus.emit(LogLine("hello"))
        bus.flush(TIMEOUT)
        assert exporter.calls == 1
        assert len(seen) == 2
        bus.emit(LogLine("hello again"))
        bus.flush(TIMEOUT)
    assert exporter.calls == 2


@pytest.mark.parametrize("backgrounds", [(False, False), (True, False), (False, True), (True, True)])
def test_handlers_that_fail_do_not_feed_each_other(backgrounds):
    exporters = [Exporter() for _ in backgrounds]
    with quiet_bus() as bus, bridged(bus):
        for exporter, background in zip(exporters, backgrounds, strict=True):
            bus.on(LogLine, exporter, background=background)
        bus.emit(LogLine("hello"))
        for _ in range(5):
            bus.flush(TIMEOUT)
    assert [exporter.calls for exporter in exporters] == [2, 2]  # the event, and the report of the other's fault


def test_an_observer_that_fails_does_not_get_what_its_report_emits():
    calls = []

    class Failing:
        @crewbus.hookimpl
        def crewbus_emit(self, envelope):
            calls.append(envelope)
            raise ConnectionError("down")

    with quiet_bus(plugins=[Failing()]) as bus, bridged(bus):
        bus.emit(Noted())
        assert len(calls) == 1


def test_a_router_that_fails_under_the_lock_does_not_get_what_its_report_emits():
    calls = []

    class Failing:
        @crewbus.hookimpl
        def crewbus_stream_chunk(self, envelope):
            calls.append(type(envelope.event))
            raise ConnectionError("down")

    with quiet_bus(plugins=[Failing()]) as bus, bridged(bus, Chunk), bus.run():
        bus.subscribe(bus.runs[0].id)
        bus.chunk("x")
        assert len(calls) < 5


def test_a_callback_that_fails_does_not_get_what_its_report_emits():
    exporter = Exporter()
    with quiet_bus() as bus, bridged(bus), bus.call("model", callbacks=[exporter]):
        pass
    assert exporter.calls == 2


def test_a_plugin_that_emits_each_fault_does_not_keep_a_failing_handler_busy():
    exporter = Exporter()

    class Emitting:
        @crewbus.hookimpl
        def crewbus_plugin_error(self, bus, failure):
            bus.emit(Noted(str(failure.error)))

    with quiet_bus(plugins=[Emitting()]) as bus:
        bus.on(Noted, exporter, background=True)
        bus.emit(Noted("hello"))
        for _ in range(3):
            bus.flush(TIMEOUT)
    assert exporter.calls == 1
