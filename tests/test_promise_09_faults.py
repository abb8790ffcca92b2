"""Promise 9: a fault affects only the code that raised it, and is reported by name."""

from __future__ import annotations

import asyncio
import functools
import logging
import subprocess
import sys
import threading
from typing import Any

import attrs
import pytest
from helpers import TIMEOUT, Done, Noted, in_thread, quiet_bus
from plugin_helpers import Observer, Watcher, logged, plugin

import crewbus
from crewbus import Chunk, RunFinished, StreamOptions


@crewbus.event(name="tests.faults.Mutable")
class Mutable:
    items: list[str]


class UnreadableError(Exception):
    """An exception that can be neither shown nor compared."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("not comparable")

    __hash__ = None


class EscapeError(BaseException):
    """A BaseException that is no Exception."""


EXCEPTIONS = [
    ValueError("plain"),
    UnreadableError(),
    StopIteration(3),
    StopAsyncIteration(),
    RecursionError("deep"),
    MemoryError(),
    ExceptionGroup("several", [ValueError("one"), TypeError("two")]),
    crewbus.CrewbusError("ours"),
    UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"),
    Warning("a warning"),
]
ESCAPES = [KeyboardInterrupt(), SystemExit(3), GeneratorExit(), EscapeError("out"), asyncio.CancelledError()]


def kind(error: BaseException) -> str:
    return type(error).__name__


def raising(error: BaseException) -> Any:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise error

    return fail


def fails(envelope: crewbus.Envelope) -> None:
    raise ValueError("a handler")


@pytest.fixture(params=["flattened", "through pluggy"])
def bus(request):
    """A bus, once with its own dispatch and once with every hook called through pluggy."""
    with quiet_bus(unscoped="ignore") as bus:
        unwatch = None
        if request.param == "through pluggy":
            unwatch = bus.plugins.add_hookcall_monitoring(lambda *_: None, lambda *_: None)
        yield bus
        if unwatch is not None:
            unwatch()


@pytest.fixture
def watcher(bus):
    watcher = Watcher()
    bus.plugins.register(watcher, "watcher")
    return watcher


# Handlers


@pytest.mark.parametrize("error", EXCEPTIONS, ids=kind)
def test_promise_09_a_handler_that_raises_an_exception(bus, watcher, error):
    before, after = [], []
    bus.on(Noted, before.append)
    bus.on(Noted, handler := raising(error))
    bus.on(Noted, after.append)
    with logged() as messages, bus.run():
        envelope = bus.emit(Noted("x"))
    assert before == after == [envelope]
    (failure,) = watcher.failures
    assert failure.kind == "handler"
    assert failure.name == f"{__name__}.{handler.__qualname__}"
    assert failure.error is error
    assert failure.envelope is envelope
    (message,) = messages
    assert failure.name in message
    assert kind(error) in message


@pytest.mark.parametrize("error", ESCAPES, ids=kind)
def test_promise_09_a_base_exception_of_a_handler_propagates_after_its_siblings(bus, watcher, error):
    before, after = [], []
    bus.on(Noted, before.append)
    bus.on(Noted, raising(error))
    bus.on(Noted, after.append)
    run = bus.run()
    run.start()
    with pytest.raises(type(error)) as caught:
        run.emit(Noted("x"))
    assert caught.value is error
    assert len(before) == len(after) == 1
    run.finish()
    assert run.state == "finished"
    assert watcher.failures == []


def test_promise_09_the_first_of_several_base_exceptions_propagates(bus):
    calls = []

    def interrupt(envelope):
        calls.append("interrupt")
        raise KeyboardInterrupt

    def leave(envelope):
        calls.append("leave")
        raise SystemExit

    bus.on(Noted, interrupt)
    bus.on(Noted, leave)
    with pytest.raises(KeyboardInterrupt):
        bus.emit(Noted())
    assert calls == ["interrupt", "leave"]


def test_promise_09_a_handler_that_emits_its_own_event_endlessly(bus, watcher):
    calls = []

    def again(envelope):
        calls.append(envelope.seq)
        bus.emit(Noted())

    sibling = []
    bus.on(Done, sibling.append)
    bus.on(Noted, again)
    with logged() as messages, bus.run():
        envelope = bus.emit(Done("outer"))
    assert sibling == [envelope]
    assert len(calls) > 10
    assert {failure.name for failure in watcher.failures} == {f"{__name__}.{again.__qualname__}"}
    assert all(type(failure.error) is RecursionError for failure in watcher.failures)
    assert any(again.__qualname__ in message for message in messages)


TWO_ENDLESS_HANDLERS = """
import crewbus

@crewbus.event
class Again:
    pass

names = []

class Watcher:
    @crewbus.hookimpl
    def crewbus_plugin_error(self, failure):
        names.append(failure.name)

with crewbus.Bus([Watcher], entry_points=False, unscoped="ignore") as bus:
    def one(envelope):
        bus.emit(Again())

    def two(envelope):
        bus.emit(Again())

    bus.on(Again, one)
    bus.on(Again, two)
    assert bus.emit(Again()) is not None
    print(*sorted(set(names)))
"""


def test_promise_09_two_handlers_that_emit_their_own_event_endlessly():
    """At the bottom of the one recursion the other must not begin another: that would take 2 ** depth calls."""
    done = subprocess.run(
        [sys.executable, "-c", TWO_ENDLESS_HANDLERS], capture_output=True, text=True, timeout=TIMEOUT, check=False
    )
    assert done.stdout.split() == ["__main__.one", "__main__.two"], done.stderr[-2000:]


def test_promise_09_handlers_that_subscribe_and_unsubscribe_while_handling(bus, watcher):
    calls = []

    def late(envelope):
        calls.append("late")

    def gone(envelope):
        calls.append("gone")

    def change(envelope):
        calls.append("change")
        bus.off(Noted, gone)
        bus.off(Noted, change)
        bus.on(Noted, late)

    bus.on(Noted, change)
    bus.on(Noted, gone)
    bus.emit(Noted())
    assert calls == ["change", "gone"]  # an emission under way goes to those who were there when it began
    bus.emit(Noted())
    assert calls == ["change", "gone", "late"]
    assert watcher.failures == []


def test_promise_09_a_handler_that_registers_and_unregisters_plugins_while_handling(bus, watcher):
    observer = Observer()

    def change(envelope):
        if not bus.plugins.has_plugin("observer"):
            bus.plugins.register(observer, "observer")
        else:
            bus.plugins.unregister("observer")

    bus.on(Noted, change)
    first, second, third = bus.emit(Noted("1")), bus.emit(Noted("2")), bus.emit(Noted("3"))
    assert observer.envelopes == [second]
    assert None not in (first, third)
    assert watcher.failures == []


def test_promise_09_a_handler_that_registers_a_bad_plugin(bus, watcher):
    def join(envelope):
        bus.plugins.register(plugin(crewbus_emit=lambda nothing: None), "bad")

    sibling = []
    bus.on(Noted, join)
    bus.on(Noted, sibling.append)
    with logged():
        envelope = bus.emit(Noted())
    assert sibling == [envelope]
    assert isinstance(watcher.failures[0].error, crewbus.PluginError)
    assert not bus.plugins.has_plugin("bad")


def test_promise_09_a_handler_that_changes_the_event_changes_no_record(bus):
    bus.enable_recording()

    def change(envelope):
        envelope.event.items.append("changed")

    bus.on(Mutable, change)
    with bus.run() as run:
        bus.emit(Mutable(["said"]))
    assert [e.event.items for e in bus.record_of(run.id) if type(e.event) is Mutable] == [["said"]]


def test_promise_09_handlers_of_every_shape_are_named(bus, watcher):
    class Callable:
        def __call__(self, envelope):
            raise ValueError("an object")

        def method(self, envelope):
            raise ValueError("a method")

        @staticmethod
        def static(envelope):
            raise ValueError("a static method")

    def partially(first, envelope):
        raise ValueError("a partial")

    here = f"{__name__}.test_promise_09_handlers_of_every_shape_are_named.<locals>"
    partial = functools.partial(partially, 1)
    handlers = {
        f"{here}.Callable": Callable(),
        f"{here}.Callable.method": Callable().method,
        f"{here}.Callable.static": Callable.static,
        f"{here}.partially": partial,
        f"{here}.<lambda>": lambda envelope: 1 / 0,
        f"{__name__}.fails": fails,
    }
    for handler in handlers.values():
        bus.on(Noted, handler)
    with logged():
        assert bus.emit(Noted()) is not None
    assert watcher.names == list(handlers)


def test_promise_09_async_callables_and_partials_are_named(bus, watcher):
    class Callable:
        async def __call__(self, envelope):
            raise ValueError("an object")

    async def partially(first, envelope):
        raise ValueError("a partial")

    bus.on(Noted, Callable())
    bus.on(Noted, functools.partial(partially, 1))
    with logged():
        bus.emit(Noted())
        bus.flush(TIMEOUT)
    here = f"{__name__}.test_promise_09_async_callables_and_partials_are_named.<locals>"
    assert sorted(watcher.names) == [f"{here}.Callable", f"{here}.partially"]


@attrs.define
class Unhashable:
    """Callable, and not hashable: what attrs and dataclasses make of a class with a comparison."""

    seen: list[Any]

    def __call__(self, envelope: crewbus.Envelope) -> None:
        self.seen.append(envelope)


def test_promise_09_a_handler_that_is_not_hashable(bus):
    handler, sibling = Unhashable([]), []
    bus.on(Noted, handler)
    bus.on(Noted, sibling.append)
    envelope = bus.emit(Noted())
    assert handler.seen == sibling == [envelope]
    assert bus.off(Noted, handler)


class EqualToAll:
    """Callable, and equal to everything."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def __call__(self, envelope: crewbus.Envelope) -> None:
        self.seen.append(envelope)

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 1


def test_promise_09_a_handler_equal_to_everything_replaces_no_other(bus):
    first, second, sibling = EqualToAll(), EqualToAll(), []
    for handler in (first, second, sibling.append):
        bus.on(Noted, handler)
    envelope = bus.emit(Noted())
    assert first.seen == second.seen == sibling == [envelope]


class RaisingQualname:
    """Callable, with a name that can't be looked at."""

    def __call__(self, envelope: crewbus.Envelope) -> None:
        raise ValueError("called")

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name) if name == "__qualname__" else AttributeError(name)


def test_promise_09_a_handler_whose_name_raises(bus, watcher):
    sibling = []
    handler = RaisingQualname()
    bus.on(Noted, handler)
    bus.on(Noted, sibling.append)
    with logged():
        envelope = bus.emit(Noted())
    assert sibling == [envelope]
    assert watcher.names == [f"{__name__}.RaisingQualname"]


def test_promise_09_a_failing_handler_of_a_terminal_event(bus, watcher):
    """The run ends, its stream too, and the error that ended it is the one that the caller sees."""
    bus.on(crewbus.RunEnded, fails)

    def work():
        bus.chunk("a")
        raise LookupError("the work")

    with logged(), bus.stream(work) as stream:
        frames = [type(envelope.event) for envelope in stream]
        with pytest.raises(LookupError, match="the work"):
            stream.result(TIMEOUT)
    assert frames == [Chunk, crewbus.RunFailed]
    assert watcher.names == [f"{__name__}.fails"]
    assert bus.runs == []


def test_promise_09_a_base_exception_at_the_terminal_event_still_ends_the_run(bus):
    bus.on(RunFinished, raising(SystemExit(1)))
    with pytest.raises(SystemExit), bus.run() as run:
        pass
    assert run.state == "finished"
    assert bus.runs == []


# Async handlers


def test_promise_09_an_async_handler_that_raises_on_the_running_loop(bus, watcher):
    sibling = []

    async def handler(envelope):
        await asyncio.sleep(0)
        raise ValueError("async")

    async def main():
        bus.on(Noted, handler)
        bus.on(Noted, sibling.append)
        async with bus.run():
            envelope = bus.emit(Noted())
            await bus.aflush(TIMEOUT)
        return envelope

    with logged():
        envelope = asyncio.run(main())
    assert sibling == [envelope]
    assert watcher.names == [f"{__name__}.{handler.__qualname__}"]
    assert watcher.failures[0].envelope is envelope


@pytest.mark.parametrize("error", [*EXCEPTIONS, *ESCAPES], ids=kind)
def test_promise_09_an_async_handler_that_raises_on_the_background_loop(bus, watcher, error):
    done = []

    async def handler(envelope):
        raise error

    async def sibling(envelope):
        done.append(envelope)

    bus.on(Noted, handler)
    bus.on(Noted, sibling)
    with logged():
        envelopes = [bus.emit(Noted("1"))]
        bus.flush(TIMEOUT)
        envelopes.append(bus.emit(Noted("2")))
        bus.flush(TIMEOUT)
    assert done == envelopes
    assert watcher.names == [f"{__name__}.{handler.__qualname__}"] * 2


def test_promise_09_a_base_exception_of_an_async_handler_on_the_running_loop_is_reported(bus, watcher):
    """asyncio lets no such exception out of a task: unless it is reported, it would be lost."""

    async def handler(envelope):
        raise EscapeError

    async def main():
        bus.on(Noted, handler)
        bus.emit(Noted())
        await bus.aflush(TIMEOUT)

    with logged():
        asyncio.run(main())
    assert watcher.names == [f"{__name__}.{handler.__qualname__}"]


def test_promise_09_an_async_handler_that_is_cancelled(bus, watcher):
    """It is reported by name, since the event was not handled; its siblings run, and a flush does not wait for it."""
    done, started = [], []

    async def handler(envelope):
        started.append(asyncio.current_task())
        await asyncio.Event().wait()

    async def sibling(envelope):
        done.append(envelope)

    async def main():
        bus.on(Noted, handler)
        bus.on(Noted, sibling)
        envelope = bus.emit(Noted())
        while not started:
            await asyncio.sleep(0)
        started[0].cancel()
        await bus.aflush(TIMEOUT)
        assert started[0].cancelled()
        return envelope

    with logged():
        assert asyncio.run(main()) in done
    assert watcher.names == [f"{__name__}.{handler.__qualname__}"]
    assert isinstance(watcher.failures[0].error, asyncio.CancelledError)


# Observers


@pytest.mark.parametrize("error", EXCEPTIONS, ids=kind)
def test_promise_09_an_observer_that_raises_an_exception(bus, watcher, error):
    handled, observer = [], Observer()
    bus.on(Noted, handled.append)
    bus.plugins.register(observer, "before")
    bus.plugins.register(plugin(crewbus_emit=raising_with_envelope(error)), "hostile")
    bus.plugins.register(last := Observer(), "after")
    with logged() as messages:
        envelope = bus.emit(Noted())
    assert handled == observer.envelopes == last.envelopes == [envelope]
    (failure,) = watcher.failures
    assert (failure.kind, failure.name, failure.hook) == ("plugin", "hostile", "crewbus_emit")
    assert failure.distribution is None
    assert failure.error is error
    assert failure.envelope is envelope
    (message,) = messages
    assert message.startswith("plugin hostile in crewbus_emit raised " + kind(error))


def raising_with_envelope(error: BaseException) -> Any:
    def observe(envelope):
        raise error

    return observe


def test_promise_09_the_envelope_is_reported_whatever_arguments_the_observer_takes(bus, watcher):
    def no_arguments():
        raise ValueError

    def by_default(envelope=None):
        raise ValueError

    bus.plugins.register(plugin(crewbus_emit=no_arguments), "no_arguments")
    bus.plugins.register(plugin(crewbus_emit=by_default), "by_default")
    with logged():
        envelope = bus.emit(Noted())
        if envelope is None:
            envelope = bus.emit(Noted())
    assert [(f.name, f.envelope) for f in watcher.failures] == [("by_default", envelope), ("no_arguments", envelope)]


@pytest.mark.parametrize("error", ESCAPES, ids=kind)
@pytest.mark.parametrize("hook", ["crewbus_emit", "crewbus_stream_chunk"])
def test_promise_09_a_base_exception_of_an_observer_propagates_after_its_siblings(bus, watcher, error, hook):
    calls = []
    run = bus.run()
    run.start()
    bus.plugins.register(plugin(**{hook: lambda: calls.append("first")}), "first")
    bus.plugins.register(plugin(**{hook: raising_plainly(error)}), "hostile")
    bus.plugins.register(plugin(**{hook: lambda: calls.append("last")}), "last")
    with pytest.raises(type(error)) as caught:
        run.chunk("x")
    assert caught.value is error
    assert calls == ["last", "first"]
    with pytest.raises(type(error)):
        run.finish()
    assert calls == ["last", "first"] * 2
    assert watcher.failures == []
    assert run.state == "finished"
    assert bus.runs == []


def raising_plainly(error: BaseException) -> Any:
    def fail():
        raise error

    return fail


@pytest.mark.parametrize(
    "hook", ["crewbus_run_start", "crewbus_run_finish", "crewbus_stream_chunk", "crewbus_current_run"]
)
def test_promise_09_other_hooks_are_contained_too(bus, watcher, hook):
    calls = []
    bus.plugins.register(plugin(**{hook: lambda: calls.append("first")}), "first")
    bus.plugins.register(plugin(**{hook: raising_plainly(ValueError(hook))}), "hostile")
    bus.plugins.register(plugin(**{hook: lambda: calls.append("last")}), "last")
    with logged() as messages, bus.run() as run:
        envelope = bus.chunk("x")
    assert envelope.run_id == run.id
    assert calls[:2] == ["last", "first"]
    assert watcher.failures
    assert {(f.kind, f.name, f.hook) for f in watcher.failures} == {("plugin", "hostile", hook)}
    assert all("plugin hostile" in message and hook in message for message in messages)
    assert run.state == "finished"
    assert bus.runs == []


def test_promise_09_a_failing_transport_does_not_keep_frames_from_a_stream(bus, watcher):
    bus.plugins.register(plugin(crewbus_stream_chunk=raising_plainly(ValueError("transport"))), "hostile")
    with logged(), bus.stream(lambda: bus.chunk("a")) as stream:
        frames = [type(envelope.event) for envelope in stream]
    assert frames == [Chunk, RunFinished]
    assert set(watcher.names) == {"hostile"}


@pytest.mark.parametrize("hook", ["crewbus_emit", "crewbus_stream_chunk", "crewbus_run_start", "crewbus_run_finish"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_promise_09_what_a_wrapper_raises_is_reported(bus, watcher, hook, when):
    @crewbus.hookimpl(wrapper=True)
    def around():
        if when == "before":
            raise ValueError("before")
        yield
        raise ValueError("after")

    handled = []
    bus.on(Chunk, handled.append)
    bus.plugins.register(plugin(**{hook: around}), "hostile")
    with logged(), bus.run() as run:
        envelope = bus.chunk("x")
    assert handled == [envelope]
    assert run.state == "finished"
    assert bus.runs == []
    assert {(f.kind, f.name, f.hook) for f in watcher.failures} == {("plugin", "hostile", hook)}


def test_promise_09_what_a_wrapper_raises_at_the_close_is_reported():
    watcher, closed = Watcher(), []

    @crewbus.hookimpl(wrapper=True)
    def around():
        yield
        raise ValueError("after")

    bus = crewbus.Bus([watcher], entry_points=False)
    bus.plugins.register(plugin(crewbus_close=around), "hostile")
    bus.plugins.register(plugin(crewbus_close=lambda: closed.append(1)), "sibling")
    with logged():
        bus.close()
    assert closed == [1]
    assert watcher.names == ["hostile"]


def test_promise_09_a_wrapper_that_raises_does_not_lose_a_base_exception(bus, watcher):
    @crewbus.hookimpl(wrapper=True)
    def around():
        yield
        raise ValueError("after")

    bus.plugins.register(plugin(crewbus_emit=raising_plainly(SystemExit(3))), "leaving")
    bus.plugins.register(plugin(crewbus_emit=around), "hostile")
    with logged(), pytest.raises(SystemExit):
        bus.emit(Noted())
    assert bus.plugins.unregister("leaving") is not None


def test_promise_09_a_monitor_that_raises_changes_nothing_for_the_emitter():
    watcher, handled = Watcher(), []
    with quiet_bus(plugins=[watcher, Observer()], unscoped="ignore") as bus:
        bus.on(Noted, handled.append)

        def before(name, impls, values):
            if name == "crewbus_emit":
                raise ValueError("a monitor")

        unwatch = bus.plugins.add_hookcall_monitoring(before, lambda *_: None)
        with logged():
            envelope = bus.emit(Noted())
        unwatch()
        assert handled == [envelope]
        assert [(f.hook, str(f.error)) for f in watcher.failures] == [("crewbus_emit", "a monitor")]


def test_promise_09_an_observer_that_emits_endlessly(bus, watcher):
    def observe(bus, envelope):
        if type(envelope.event) is Noted:
            bus.emit(Noted())

    bus.plugins.register(plugin(crewbus_emit=observe), "hostile")
    handled = []
    bus.on(Done, handled.append)
    with logged(), bus.run():
        bus.emit(Noted())
        envelope = bus.emit(Done())
    assert handled == [envelope]
    assert "hostile" in watcher.names


def test_promise_09_an_observer_that_unregisters_itself_and_others(bus, watcher):
    calls = []

    def observe():
        calls.append("hostile")
        bus.plugins.unregister("hostile")
        bus.plugins.unregister("sibling")

    bus.plugins.register(plugin(crewbus_emit=lambda: calls.append("sibling")), "sibling")
    bus.plugins.register(plugin(crewbus_emit=observe), "hostile")
    bus.emit(Noted())
    assert calls == ["hostile", "sibling"]
    bus.emit(Noted())
    assert calls == ["hostile", "sibling"]
    assert watcher.failures == []


# Reporting


@pytest.mark.parametrize("error", [*EXCEPTIONS, *ESCAPES], ids=kind)
def test_promise_09_a_crewbus_plugin_error_that_raises(bus, error):
    """The fault is logged, the other reporters hear of it, and the siblings of the faulty handler run."""
    watcher, handled = Watcher(), []
    bus.plugins.register(watcher, "watcher")
    bus.plugins.register(plugin(crewbus_plugin_error=raising_plainly(error)), "hostile")
    bus.on(Noted, fails)
    bus.on(Noted, handled.append)
    escapes = not isinstance(error, Exception)
    with logged() as messages:
        if escapes:
            with pytest.raises(type(error)):
                bus.emit(Noted())
        else:
            bus.emit(Noted())
    assert len(handled) == 1
    assert watcher.names == [f"{__name__}.fails"]
    assert f"handler {__name__}.fails raised ValueError" in messages[0]
    if not escapes:
        assert any("hostile" in message for message in messages[1:])


def test_promise_09_a_crewbus_plugin_error_that_emits_what_fails_again(bus):
    reports = []

    def report(bus, failure):
        reports.append(failure.name)
        if len(reports) < 5:
            bus.emit(Noted("again"))

    bus.plugins.register(plugin(crewbus_plugin_error=report), "hostile")
    bus.on(Noted, fails)
    with logged():
        assert bus.emit(Noted()) is not None
    assert reports == [f"{__name__}.fails"]  # what is emitted meanwhile does not go to the handler that failed


class HostileLogging(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        raise OSError("no space left")


def test_promise_09_a_logging_handler_that_raises(bus, watcher):
    """The plugins hear of the fault all the same."""
    logger, hostile, handled = logging.getLogger("crewbus"), HostileLogging(), []
    bus.on(Noted, fails)
    bus.on(Noted, handled.append)
    with logged():
        logger.addHandler(hostile)
        try:
            envelope = bus.emit(Noted())
        finally:
            logger.removeHandler(hostile)
    assert handled == [envelope]
    assert watcher.names == [f"{__name__}.fails"]


def test_promise_09_a_failure_can_be_shown_whatever_its_error():
    failure = crewbus.Failure("handler", "some.handler", UnreadableError())
    assert "some.handler raised UnreadableError" in str(failure)


# Closing


@pytest.mark.parametrize("error", EXCEPTIONS, ids=kind)
def test_promise_09_faults_while_the_bus_closes(error):
    watcher, closed = Watcher(), []
    bus = crewbus.Bus([watcher], entry_points=False)
    bus.plugins.register(plugin(crewbus_close=lambda: closed.append("first")), "first")
    bus.plugins.register(plugin(crewbus_close=raising_plainly(error)), "hostile")
    bus.plugins.register(plugin(crewbus_close=lambda: closed.append("last")), "last")

    async def late(envelope):
        raise error

    bus.on(Noted, late)
    with logged():
        bus.emit(Noted())
        bus.close()
    assert bus.closed
    assert closed == ["last", "first"]
    assert watcher.names == [f"{__name__}.{late.__qualname__}", "hostile"]


def test_promise_09_a_base_exception_at_the_close_propagates_when_all_is_closed():
    class Store(crewbus.MemoryStore):
        closed = False

        def close(self) -> None:
            self.closed = True

    bus, store, closed = crewbus.Bus(entry_points=False), Store(), []
    bus.enable_recording(store)
    bus.plugins.register(plugin(crewbus_close=lambda: closed.append(1)), "sibling")
    bus.plugins.register(plugin(crewbus_close=raising_plainly(SystemExit(3))), "hostile")
    with pytest.raises(SystemExit):
        bus.close()
    assert bus.closed
    assert closed == [1]
    assert store.closed


def test_promise_09_a_handler_that_closes_the_bus(bus, watcher):
    handled = []
    bus.on(Noted, lambda envelope: bus.close())
    bus.on(Noted, handled.append)
    with logged():
        envelope = bus.emit(Noted())
    assert handled == [envelope]
    assert not bus.closed
    assert isinstance(watcher.failures[0].error, crewbus.FlushError)


def test_promise_09_a_failing_flush_is_raised_after_its_siblings(bus):
    calls = []
    bus.plugins.register(plugin(crewbus_flush=lambda: calls.append("first")), "first")
    bus.plugins.register(plugin(crewbus_flush=raising_plainly(OSError("disk"))), "hostile")
    bus.plugins.register(plugin(crewbus_flush=lambda: calls.append("last")), "last")
    with pytest.raises(OSError, match="disk"):
        bus.flush(TIMEOUT)
    assert calls == ["last", "first"]
    with pytest.raises(OSError, match="disk"):
        asyncio.run(bus.aflush(TIMEOUT))
    assert calls == ["last", "first"] * 2
    bus.plugins.unregister("hostile")


# Recorders and redactors: not contained, and nothing half done


def test_promise_09_a_failing_recorder_reaches_the_emitter_and_the_run_continues(bus, watcher):
    """Its number is given to the next event; the other recorder has no gap."""
    taken, handled = [], []

    def refuse(envelope):
        if type(envelope.event) is Noted:
            raise OSError("disk")

    with quiet_bus(blocked=["checkpoint_recorder"]) as bus:
        bus.plugins.register(plugin(crewbus_record=refuse), "hostile")
        bus.on(Noted, handled.append)
        bus.enable_recording()
        with bus.run():
            with pytest.raises(OSError, match="disk"):
                bus.emit(Noted())
            done = bus.emit(Done())
            taken.append(done.seq)
    assert handled == [] or handled == [done]
    assert taken == [1]


def test_promise_09_a_number_that_one_recorder_took_is_not_given_again(bus):
    taken = []
    bus.plugins.register(plugin(crewbus_record=lambda envelope: taken.append((envelope.seq, envelope.event))), "keeps")
    bus.plugins.register(tries_first(lambda envelope: refuse_noted(envelope)), "hostile")
    bus.plugins.register(tries_last(lambda envelope: refuse_noted(envelope)), "hostile too")
    bus.enable_recording()
    with bus.run() as run:
        with pytest.raises(OSError, match="disk"):
            bus.emit(Noted())
        bus.emit(Chunk("x"))
    numbers = [seq for seq, _ in taken]
    assert numbers == list(range(len(numbers)))
    assert [type(event) for _, event in taken] == [crewbus.RunStarted, Noted, Chunk, RunFinished]
    assert [type(e.event) for e in bus.record_of(run.id)] == [crewbus.RunStarted, Noted, Chunk, RunFinished]


def refuse_noted(envelope: crewbus.Envelope) -> None:
    if type(envelope.event) is Noted:
        raise OSError("disk")


def tries_first(function: Any) -> Any:
    return plugin(crewbus_record=crewbus.hookimpl(tryfirst=True)(function))


def tries_last(function: Any) -> Any:
    return plugin(crewbus_record=crewbus.hookimpl(trylast=True)(function))


@pytest.mark.parametrize("error", [*EXCEPTIONS, *ESCAPES], ids=kind)
def test_promise_09_a_recorder_failing_at_the_end_does_not_keep_the_run_from_ending(bus, error):
    def refuse(envelope):
        if isinstance(envelope.event, crewbus.RunEnded):
            raise error

    bus.plugins.register(plugin(crewbus_record=refuse), "hostile")
    bus.enable_recording()
    stream = None
    with pytest.raises(type(error)), bus.run(id="run") as run:
        stream = bus.subscribe("run")
    assert run.state == "finished"
    assert bus.runs == []
    assert [type(envelope.event) for envelope in stream] == [RunFinished]


@pytest.mark.parametrize("error", [*EXCEPTIONS, *ESCAPES], ids=kind)
def test_promise_09_a_redactor_that_fails_lets_nothing_through(bus, error):
    observer, handled = Observer(), []

    def redact(event):
        if type(event) is Noted:
            raise error

    bus.plugins.register(observer, "observer")
    bus.plugins.register(plugin(crewbus_redact=redact), "hostile")
    bus.on(Noted, handled.append)
    bus.enable_recording()
    with bus.run() as run:
        if isinstance(error, Exception):
            with pytest.raises(crewbus.RedactionError, match="'hostile'"):
                bus.emit(Noted("secret"))
        else:
            with pytest.raises(type(error)):
                bus.emit(Noted("secret"))
    kept = [type(envelope.event) for envelope in bus.record_of(run.id)]
    assert kept == [crewbus.RunStarted, RunFinished]
    assert [type(event) for event in observer.events] == kept
    assert handled == []


@pytest.mark.parametrize("error", [*EXCEPTIONS, *ESCAPES], ids=kind)
def test_promise_09_a_redactor_failing_at_the_end_does_not_keep_the_run_from_ending(bus, error):
    """The terminal event goes out without what was to be redacted."""

    def redact(event):
        if isinstance(event, crewbus.RunEnded):
            raise error

    observer = Observer()
    bus.plugins.register(observer, "observer")
    bus.plugins.register(plugin(crewbus_redact=redact), "hostile")
    stream = None
    with pytest.raises(BaseException) as caught:  # noqa: PT011 - which one depends on the parameter
        with bus.run(id="run") as run:
            stream = bus.subscribe("run")
            raise LookupError("secret")
    assert isinstance(caught.value, (crewbus.RedactionError, type(error)))
    assert run.state == "failed"
    assert bus.runs == []
    (frame,) = stream
    assert type(frame.event) is crewbus.RunFailed
    assert "secret" not in frame.event.message
    assert "secret" not in repr(observer.events)


# Junk


@attrs.define
class Unregistered:
    """No event type."""


JUNK = [42, "junk", object(), int, [1], {}, lambda: None, Unregistered()]


@pytest.mark.parametrize("junk", JUNK, ids=lambda junk: type(junk).__name__)
@pytest.mark.parametrize("hook", ["crewbus_emit", "crewbus_stream_chunk", "crewbus_run_start", "crewbus_run_finish"])
def test_promise_09_what_an_observer_returns_is_ignored(bus, watcher, hook, junk):
    handled = []
    bus.on(Chunk, handled.append)
    bus.plugins.register(plugin(**{hook: lambda: junk}), "hostile")
    with bus.run():
        envelope = bus.chunk("x")
    assert handled == [envelope]
    assert watcher.failures == []


@pytest.mark.parametrize("junk", JUNK, ids=lambda junk: type(junk).__name__)
def test_promise_09_a_current_run_that_is_none(bus, watcher, junk):
    """What is no run is a fault of the plugin, not of the emitter; the next plugin is asked, unless pluggy asks."""
    bus.plugins.register(plugin(crewbus_current_run=lambda: junk), "hostile")
    handled = []
    bus.on(Noted, handled.append)
    with logged(), bus.run() as run:
        envelope = bus.emit(Noted())
    assert handled == [envelope]
    if bus.plugins.watched:
        assert {f.hook for f in watcher.failures} == {"crewbus_current_run"}
    else:
        assert envelope.run_id == run.id
        assert {(f.name, f.hook) for f in watcher.failures} == {("hostile", "crewbus_current_run")}


@pytest.mark.parametrize("junk", JUNK, ids=lambda junk: type(junk).__name__)
def test_promise_09_a_redactor_that_returns_no_event(bus, junk):
    """It fails closed and is named, and runs end all the same."""

    def redact(event):
        return junk if isinstance(event, (Noted, crewbus.RunEnded)) else None

    bus.plugins.register(plugin(crewbus_redact=redact), "hostile")
    handled = []
    bus.on(object, handled.append)
    run = bus.run()
    run.start()
    with pytest.raises(crewbus.RedactionError, match="'hostile'"):
        run.emit(Noted())
    with pytest.raises(crewbus.RedactionError, match="'hostile'"):
        run.finish()
    assert run.state == "finished"
    assert bus.runs == []
    assert [type(envelope.event) for envelope in handled] == [crewbus.RunStarted, RunFinished]


def test_promise_09_a_redactor_can_not_turn_a_terminal_event_into_another(bus):
    """What ends a run must end its streams."""

    def redact(event):
        return Chunk("not the end") if isinstance(event, crewbus.RunEnded) else None

    bus.plugins.register(plugin(crewbus_redact=redact), "hostile")
    with pytest.raises(crewbus.RedactionError, match="'hostile'"), bus.run(id="run"):
        stream = bus.subscribe("run")
    assert [type(envelope.event) for envelope in stream] == [RunFinished]


@pytest.mark.parametrize("junk", JUNK, ids=lambda junk: type(junk).__name__)
def test_promise_09_a_store_that_is_none(bus, junk):
    bus.plugins.register(plugin(crewbus_open_store=lambda url: junk if url == "junk:" else None), "hostile")
    with pytest.raises(crewbus.RecordingError):
        bus.enable_recording("junk:")
    assert not bus.recording.armed
    bus.enable_recording()
    with bus.run() as run:
        pass
    assert len(list(bus.record_of(run.id))) == 2


@pytest.mark.parametrize("junk", [42, "junk", object(), [1], {"junk"}], ids=lambda junk: type(junk).__name__)
def test_promise_09_event_types_that_are_none(bus, junk):
    with pytest.raises(crewbus.PluginError, match="'hostile'"):
        bus.plugins.register(plugin(crewbus_event_types=lambda: junk), "hostile")
    assert not bus.plugins.has_plugin("hostile")


# Hostile plugin objects


class Slotted:
    __slots__ = ("seen",)

    def __init__(self) -> None:
        self.seen: list[Any] = []

    @crewbus.hookimpl
    def crewbus_emit(self, envelope):
        self.seen.append(envelope)


class RaisingProperties(Observer):
    @property
    def crewbus_record(self):
        raise RuntimeError("looked at")

    @property
    def something(self):
        raise KeyboardInterrupt


class Inventive(Observer):
    """Has every attribute that it is asked for."""

    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: 1 / 0


class Advertising(Inventive):
    """Says that it has hooks that it only makes up."""

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), "crewbus_record", "crewbus_nothing"]


@attrs.define
class Comparable:
    """Not hashable, and equal to its likes: what attrs and dataclasses make by default."""

    envelopes: list[Any] = attrs.field(factory=list)

    @crewbus.hookimpl
    def crewbus_emit(self, envelope):
        self.envelopes.append(envelope)

    @crewbus.hookimpl
    def crewbus_redact(self, event):
        return None


class RaisingComparison(Observer):
    def __eq__(self, other: object) -> bool:
        raise RuntimeError("not comparable")

    def __hash__(self) -> int:
        raise RuntimeError("not hashable")


class EqualToEverything(Observer):
    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None


class FalsePlugin(Observer):
    def __bool__(self) -> bool:
        raise RuntimeError("neither true nor false")

    def __len__(self) -> int:
        return 0


def seen_by(member: Any) -> list[Any]:
    return member.seen if isinstance(member, Slotted) else member.envelopes


@pytest.mark.parametrize(
    "make", [Slotted, RaisingProperties, Inventive, Advertising, FalsePlugin], ids=lambda cls: cls.__name__
)
def test_promise_09_plugins_of_every_kind_work(bus, watcher, make):
    hostile, sibling = make(), Observer()
    assert bus.plugins.register(hostile, "hostile") == "hostile"
    assert bus.plugins.register(sibling, "sibling") == "sibling"
    with bus.run():
        envelope = bus.emit(Noted())
    assert envelope in seen_by(hostile)
    assert envelope in sibling.envelopes
    assert "hostile" in [info.name for info in bus.plugins.infos()]
    assert bus.plugins.unregister(hostile) is hostile
    assert not bus.plugins.has_plugin("hostile")
    assert watcher.failures == []


@pytest.mark.parametrize("make", [Inventive, Slotted], ids=lambda cls: cls.__name__)
def test_promise_09_a_plugin_without_a_name_is_named_after_its_class(bus, make):
    assert bus.plugins.register(make()) == make.__qualname__


@pytest.mark.parametrize("make", [RaisingComparison, EqualToEverything, Comparable], ids=lambda cls: cls.__name__)
def test_promise_09_a_plugin_with_a_hostile_comparison(bus, watcher, make):
    """It joins or is refused by name; either way its siblings are what they were."""
    before = [name for name, _ in bus.plugins.list_name_plugin()]
    hostile, sibling = make(), Observer()
    try:
        bus.plugins.register(hostile, "hostile")
    except crewbus.PluginError as error:
        assert "'hostile'" in str(error)
        assert [name for name, _ in bus.plugins.list_name_plugin()] == before
    bus.plugins.register(sibling, "sibling")
    with bus.run():
        envelope = bus.emit(Noted())
    assert envelope in sibling.envelopes
    bus.plugins.unregister("hostile")
    assert bus.plugins.unregister("sibling") is sibling
    assert [name for name, _ in bus.plugins.list_name_plugin()] == before


class RaisingName(Observer):
    @property
    def __name__(self) -> str:
        raise RuntimeError("no name")


class OddName(Observer):
    __name__ = 42


@pytest.mark.parametrize("make", [RaisingName, OddName], ids=lambda cls: cls.__name__)
def test_promise_09_a_plugin_whose_name_is_hostile(make):
    with quiet_bus(plugins=[make()]) as bus:
        assert bus.plugins.has_plugin(make.__qualname__)


@pytest.mark.parametrize("error", EXCEPTIONS, ids=kind)
@pytest.mark.parametrize("where", ["made", "configured", "asked for its types"])
def test_promise_09_a_plugin_that_fails_to_join_is_skipped_by_name(where, error):
    class Hostile(Observer):
        def __init__(self) -> None:
            super().__init__()
            if where == "made":
                raise error

        @crewbus.hookimpl
        def crewbus_configure(self):
            if where == "configured":
                raise error

        @crewbus.hookimpl
        def crewbus_event_types(self):
            if where == "asked for its types":
                raise error
            return []

    sibling = Observer()
    with pytest.warns(crewbus.PluginWarning, match="'hostile'"):
        bus = crewbus.Bus([("hostile", Hostile), sibling], entry_points=False, unscoped="ignore")
    with bus:
        bus.emit(Noted())
        assert len(sibling.envelopes) == 1
        infos = {info.name: info for info in bus.plugins.infos()}
        assert infos["hostile"].status == "broken"
        assert kind(error) in infos["hostile"].reason
    with pytest.raises(crewbus.PluginError, match="'hostile'"):
        crewbus.Bus([("hostile", Hostile)], entry_points=False, strict=True)


def test_promise_09_a_base_exception_while_a_plugin_joins_leaves_nothing(bus):
    before = [name for name, _ in bus.plugins.list_name_plugin()]
    with pytest.raises(KeyboardInterrupt):
        bus.plugins.register(plugin(crewbus_configure=raising_plainly(KeyboardInterrupt())), "hostile")
    assert [name for name, _ in bus.plugins.list_name_plugin()] == before


# Many at once


def test_promise_09_each_of_many_threads_emitting_gets_its_envelope(bus, watcher):
    """All observers and handlers fail, in 16 threads at once; each emitter gets what it emitted."""
    bus.on(Noted, fails)
    bus.plugins.register(plugin(crewbus_emit=raising_plainly(ValueError("observer"))), "hostile")
    barrier = threading.Barrier(16)

    def emit(name):
        barrier.wait(TIMEOUT)
        with bus.run():
            return [bus.emit(Noted(f"{name}.{i}")).event.text for i in range(20)]

    with logged():
        futures = [in_thread(emit, name) for name in range(16)]
        for name, future in enumerate(futures):
            assert future.result(TIMEOUT) == [f"{name}.{i}" for i in range(20)]
    handlers = [failure for failure in watcher.failures if failure.kind == "handler"]
    assert len(handlers) == 16 * 20
    assert len(watcher.failures) - len(handlers) == 16 * (20 + 2)


def test_promise_09_a_failing_consumer_of_one_stream_affects_no_other(bus):
    """A slow stream that fails takes neither the emitter nor the other stream with it."""
    with bus.run(id="run") as run:
        failed = bus.subscribe("run", bound=1, slow="fail")
        well = bus.subscribe("run")
        for i in range(10):
            assert run.chunk(str(i)) is not None
    with pytest.raises(crewbus.SlowConsumer):
        list(failed)
    assert [frame.event.text for frame in list(well)[:-1]] == [str(i) for i in range(10)]


def test_promise_09_the_options_of_a_stream_carry_no_fault_over(bus):
    """Work that fails in one stream fails that one alone."""

    def work(number):
        bus.chunk(str(number))
        if number == 1:
            raise LookupError(number)
        return number

    streams = [bus.stream(work, number, options=StreamOptions(name=str(number))) for number in range(3)]
    results = []
    for stream in streams:
        try:
            results.append(stream.result(TIMEOUT))
        except LookupError as error:
            results.append(error)
    assert results[0] == 0
    assert isinstance(results[1], LookupError)
    assert results[2] == 2
