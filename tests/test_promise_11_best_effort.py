"""Promise 11: a best-effort plugin delays flushing and closing by its share of the time, and raises nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from threading import Event
from typing import Any

import pytest
from helpers import TIMEOUT, quiet_bus
from plugin_helpers import Watcher, logged

import crewbus

SOON = 0.2
"""Seconds: a limit that what never ends reaches."""


class Exporter:
    """Never ends, or fails, in a hook."""

    crewbus_best_effort = True

    def __init__(self) -> None:
        self.go_on = Event()
        self.error: Exception | None = None
        self.calls: list[str] = []
        self.timeouts: list[float | None] = []

    @crewbus.hookimpl(tryfirst=True)
    def crewbus_flush(self, timeout: float | None) -> None:
        self.timeouts.append(timeout)
        self.work("flush")

    @crewbus.hookimpl(tryfirst=True)
    def crewbus_close(self) -> None:
        self.work("close")

    def work(self, hook: str) -> None:
        self.calls.append(hook)
        if self.error is not None:
            raise self.error
        assert self.go_on.wait(TIMEOUT)


class Other:
    def __init__(self, calls: list[str]) -> None:
        self.calls = calls

    @crewbus.hookimpl
    def crewbus_flush(self) -> None:
        self.calls.append("other flush")

    @crewbus.hookimpl
    def crewbus_close(self) -> None:
        self.calls.append("other close")


def aclose(bus: crewbus.Bus) -> None:
    asyncio.run(bus.aclose(SOON))


@pytest.mark.parametrize("close", [lambda bus: bus.close(SOON), aclose], ids=["close", "aclose"])
def test_promise_11_a_best_effort_plugin_that_never_ends_does_not_keep_the_bus_open(
    close: Callable[[crewbus.Bus], None],
) -> None:
    exporter, watcher = Exporter(), Watcher()
    with logged():
        bus = crewbus.Bus(plugins=[("exporter", exporter), Other(exporter.calls), watcher], entry_points=False)
        close(bus)
    assert bus.closed
    assert exporter.calls == ["other flush", "flush", "other close"]  # and its close is not called while it flushes
    assert {(one.name, type(one.error)) for one in watcher.failures} == {("exporter", TimeoutError)}
    assert [one.hook for one in watcher.failures] == ["crewbus_flush", "crewbus_close"]
    exporter.go_on.set()


def test_promise_11_flush_does_not_wait_for_it_longer_than_its_share() -> None:
    one, other, watcher = Exporter(), Exporter(), Watcher()
    with logged(), quiet_bus(plugins=[("one", one), ("other", other), watcher]) as bus:
        bus.flush(SOON)
        assert [failure.name for failure in watcher.failures] == ["one", "other"]
        assert sum(exporter.timeouts[0] or 0 for exporter in (one, other)) <= 2 * SOON
        for exporter in (one, other):
            exporter.go_on.set()
    assert one.calls == other.calls == ["flush", "flush", "close"]


def test_promise_11_what_it_raises_is_reported_and_reaches_nobody() -> None:
    exporter, watcher = Exporter(), Watcher()
    exporter.error = ConnectionError("the receiver is down")
    with logged(), quiet_bus(plugins=[("exporter", exporter), watcher]) as bus:
        bus.flush()
    assert exporter.calls == ["flush", "flush", "close"]
    assert [(one.name, one.hook, type(one.error)) for one in watcher.failures] == [
        ("exporter", hook, ConnectionError) for hook in ("crewbus_flush", "crewbus_flush", "crewbus_close")
    ]


def test_promise_11_the_others_are_called_as_ever_and_raise() -> None:
    class Fails:
        @crewbus.hookimpl
        def crewbus_flush(self) -> None:
            raise OSError("full")

    exporter, calls = Exporter(), list[str]()
    exporter.go_on.set()
    with quiet_bus(plugins=[exporter, Other(calls), ("fails", Fails())]) as bus:
        with pytest.raises(OSError, match="full"):
            bus.flush()
        assert exporter.calls == ["flush"]
        assert calls == ["other flush"]
        bus.plugins.unregister(name="fails")


def test_promise_11_a_flush_that_waits_for_an_earlier_one_flushes_again() -> None:
    exporter = Exporter()
    with logged(), quiet_bus(plugins=[exporter]) as bus:
        bus.flush(SOON)
        exporter.go_on.set()
        bus.flush()
        assert exporter.calls == ["flush", "flush"]


def test_promise_11_where_no_thread_can_start_it_is_called_at_once(monkeypatch: Any) -> None:
    def refuse(*_: Any) -> None:
        raise RuntimeError("can't start new thread")

    exporter = Exporter()
    exporter.go_on.set()
    monkeypatch.setattr("crewbus.bus.release.start_daemon", refuse)
    with quiet_bus(plugins=[exporter]) as bus:
        bus.flush()
    assert exporter.calls == ["flush", "flush", "close"]
