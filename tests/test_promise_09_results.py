"""Promise 9: what a handler, callback or work returns is awaited, or reported by name; never dropped."""

from __future__ import annotations

import asyncio
import functools
import typing
from unittest.mock import AsyncMock

import pytest
from helpers import TIMEOUT, Noted, in_thread, quiet_bus
from plugin_helpers import Observer, Watcher

import crewbus
from crewbus import Chunk


def on_a_loop(test):
    """Run an async test."""

    @functools.wraps(test)
    def run():
        asyncio.run(test())

    return run


class AsyncSink:
    """Keeps what it is called with, in the ways in which a callable may be async."""

    def __init__(self):
        self.got = []

    async def __call__(self, envelope):
        self.got.append(envelope.event.text)

    async def tagged(self, tag, envelope):
        self.got.append(envelope.event.text)


def decorated(function):
    @functools.wraps(function)
    def call(*args):
        return function(*args)

    return call


def mocked(sink):
    return AsyncMock(side_effect=lambda envelope: sink.got.append(envelope.event.text))


DISGUISES = {
    "object": lambda sink: sink,
    "partial of a method": lambda sink: functools.partial(sink.tagged, "tag"),
    "partial of an object": functools.partial,
    "lambda": lambda sink: lambda envelope: sink(envelope),
    "decorator": lambda sink: decorated(sink.__call__),
    "staticmethod": lambda sink: staticmethod(sink.__call__),
    "mock": mocked,
    "partial of a mock": lambda sink: functools.partial(mocked(sink)),
}


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("disguise", DISGUISES)
def test_a_handler_that_returns_an_awaitable_is_awaited(disguise, background):
    sink = AsyncSink()
    with quiet_bus() as bus:
        bus.on(Noted, DISGUISES[disguise](sink), background=background)
        bus.emit(Noted("one"))
        bus.emit(Noted("two"))
        bus.flush(TIMEOUT)
    assert sink.got == ["one", "two"]


@pytest.mark.parametrize("disguise", DISGUISES)
def test_a_callback_that_returns_an_awaitable_is_awaited(disguise):
    sink = AsyncSink()
    handler = DISGUISES[disguise](sink)
    with quiet_bus() as bus:
        with bus.call("model", callbacks=[lambda e: handler(e) if isinstance(e.event, Chunk) else None]):
            bus.chunk("x")
        bus.flush(TIMEOUT)
    assert sink.got == ["x"]


async def failing(envelope):
    raise ConnectionError("down")


@pytest.mark.parametrize("background", [False, True])
def test_the_fault_of_a_disguised_handler_is_reported_by_its_name(background):
    watcher = Watcher()
    handler = decorated(failing)
    with quiet_bus(plugins=[watcher]) as bus:
        bus.on(Noted, handler, background=background)
        bus.emit(Noted())
        bus.flush(TIMEOUT)
    (failure,) = watcher.failures
    assert (failure.kind, failure.name, str(failure.error)) == ("handler", f"{__name__}.failing", "down")


def test_an_observer_that_returns_an_awaitable_is_awaited_and_its_fault_is_the_plugins():
    watcher = Watcher()

    async def observe():
        raise ConnectionError("down")

    class Exporter:
        @crewbus.hookimpl
        def crewbus_emit(self):
            return observe()

    with quiet_bus(plugins=[watcher, ("exporter", Exporter())]) as bus:
        bus.emit(Noted())
        bus.flush(TIMEOUT)
    (failure,) = watcher.failures
    assert (failure.kind, failure.name, failure.hook) == ("plugin", "exporter", "crewbus_emit")


def generator(envelope):
    yield envelope


async def async_generator(envelope):
    yield envelope


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("handler", [generator, async_generator, lambda envelope: generator(envelope)])
def test_a_handler_that_returns_a_generator_is_reported(handler, background):
    watcher = Watcher()
    with quiet_bus(plugins=[watcher]) as bus:
        bus.on(Noted, handler, background=background)
        bus.emit(Noted())
        bus.flush(TIMEOUT)
    (failure,) = watcher.failures
    assert isinstance(failure.error, crewbus.TargetError)
    assert "returned a generator" in str(failure.error)


def test_a_callback_that_returns_a_generator_is_reported():
    watcher = Watcher()
    with quiet_bus(plugins=[watcher]) as bus, bus.call("model", callbacks=[generator]):
        pass
    assert [failure.kind for failure in watcher.failures] == ["callback"] * 2
    assert isinstance(watcher.failures[0].error, crewbus.TargetError)


def returns_a_generator():
    return generator(None)


async def returns_a_generator_later():
    return generator(None)


@pytest.mark.parametrize("function", [returns_a_generator, returns_a_generator_later])
def test_streamed_work_that_returns_a_generator_fails(function):
    with quiet_bus() as bus, pytest.raises(crewbus.TargetError, match="returned a generator"):
        with bus.stream(function) as stream:
            assert [type(frame.event) for frame in stream] == [crewbus.RunFailed]


def test_submitted_work_that_returns_a_generator_fails():
    with quiet_bus() as bus, pytest.raises(crewbus.TargetError, match="returned a generator"):
        bus.submit(returns_a_generator).result(TIMEOUT)


@on_a_loop
async def test_streamed_async_work_that_returns_a_generator_fails():
    async with crewbus.Bus(entry_points=False) as bus:
        stream = bus.stream(returns_a_generator_later)
        with pytest.raises(crewbus.TargetError, match="returned a generator"):
            await stream.aresult()


def test_an_awaitable_that_cannot_be_scheduled_is_closed_and_reported(monkeypatch, recwarn):
    watcher = Watcher()
    with quiet_bus(plugins=[watcher]) as bus:
        bus.on(Noted, failing)

        def refuse(*_):
            raise OSError("too many open files")

        with monkeypatch.context() as patched:
            patched.setattr("crewbus.dispatch.background_loop.BackgroundLoop.call", refuse)
            bus.emit(Noted())
        bus.flush(TIMEOUT)
    assert [str(failure.error) for failure in watcher.failures] == ["too many open files"]
    assert not [warning for warning in recwarn if "never awaited" in str(warning.message)]


# Where it is awaited


@on_a_loop
async def test_the_result_is_awaited_on_the_loop_of_the_subscription_if_the_emitter_has_none():
    here, loops = asyncio.get_running_loop(), []

    async def handler(envelope):
        loops.append(asyncio.get_running_loop())

    async with crewbus.Bus(entry_points=False) as bus:
        bus.on(Noted, handler)
        with bus.callbacks(handler):
            await asyncio.to_thread(bus.emit, Noted())
            with bus.call("model") as call:
                await asyncio.wrap_future(in_thread(call.emit, Noted()))
        await bus.aflush(TIMEOUT)
    assert len(loops) == 5  # twice the event, and start, event and end of the call for the callback
    assert set(loops) == {here}


def test_the_result_is_awaited_on_the_background_loop_once_the_loop_of_the_subscription_has_ended():
    loops = []

    async def handler(envelope):
        loops.append(asyncio.get_running_loop())

    async def subscribe(bus):
        bus.on(Noted, handler)
        return asyncio.get_running_loop()

    with quiet_bus() as bus:
        ended = asyncio.run(subscribe(bus))
        bus.emit(Noted())
        bus.flush(TIMEOUT)
    assert len(loops) == 1
    assert loops[0] is not ended


@on_a_loop
async def test_the_loop_of_the_emitter_is_preferred():
    loops = []

    async def handler(envelope):
        loops.append(asyncio.get_running_loop())

    async def emit(bus):
        bus.emit(Noted())
        await bus.aflush(TIMEOUT)
        return asyncio.get_running_loop()

    async with crewbus.Bus(entry_points=False) as bus:
        bus.on(Noted, handler)
        other = await asyncio.to_thread(asyncio.run, emit(bus))
    assert loops == [other]


@on_a_loop
async def test_a_task_that_a_handler_made_is_awaited_by_a_flush():
    done = []

    async def work(envelope):
        await asyncio.sleep(0)
        done.append(envelope.event.text)

    async with crewbus.Bus(entry_points=False) as bus:
        bus.on(Noted, lambda envelope: asyncio.create_task(work(envelope)))
        bus.emit(Noted("one"))
        await bus.aflush(TIMEOUT)
        assert done == ["one"]


# What can be subscribed to


class HasText(typing.Protocol):
    text: str


@typing.runtime_checkable
class HasMethod(typing.Protocol):
    def method(self) -> None: ...


class RefusingMeta(type):
    def __subclasscheck__(cls, other):
        raise TypeError("no subclass checks")


class Refusing(metaclass=RefusingMeta):
    pass


@pytest.mark.parametrize(
    "event_type", [HasText, HasMethod, Refusing, typing.Any, list[int], int | str, "Noted", Noted()]
)
def test_what_no_event_is_an_instance_of_cannot_be_subscribed_to(event_type):
    with quiet_bus() as bus:
        with pytest.raises(crewbus.EventTypeError):
            bus.on(event_type, print)
        with pytest.raises(crewbus.EventTypeError):
            bus.on(event_type)
        with bus.run("unrelated") as run:
            bus.emit(Noted())
    assert run.state == "finished"


@pytest.mark.parametrize("handler", [None, "print", 3])
def test_what_cannot_be_called_cannot_be_subscribed(handler):
    with quiet_bus() as bus, pytest.raises(crewbus.EventTypeError, match="can't be called"):
        bus.on(Noted, handler)


def test_a_base_class_that_fails_at_a_subclass_check_later_is_reported_and_harms_no_emitter():
    watcher = Watcher()
    broken = []

    class Fickle(type):
        def __subclasscheck__(cls, other):
            if broken:
                raise TypeError("no subclass checks any more")
            return super().__subclasscheck__(other)

    class Base(metaclass=Fickle):
        pass

    seen = Observer()
    with quiet_bus(plugins=[watcher, seen]) as bus:
        bus.on(Base, generator)
        broken.append(True)
        bus.emit(Noted("delivered"))
    assert [envelope.event.text for envelope in seen.envelopes] == ["delivered"]
    assert {str(failure.error) for failure in watcher.failures} == {"no subclass checks any more"}


# What subscriptions cost


def test_subscribing_and_unsubscribing_look_at_no_other_handler(monkeypatch):
    handlers = [lambda envelope, i=i: None for i in range(500)]
    compared = []
    with quiet_bus() as bus:
        for handler in handlers:
            bus.on(Noted, handler)
        monkeypatch.setattr("crewbus.dispatch.subscriptions.is_same", lambda *both: compared.append(both))
        bus.on(Noted, print)
        assert bus.off(Noted, print)
        assert bus.off(Noted, handlers[250])
        assert not bus.off(Noted, handlers[250])
    assert compared == []


def test_a_subscription_leaves_the_plans_of_other_events_as_they_are():
    with quiet_bus() as bus:
        bus.on(Noted, print)
        bus.emit(Noted())
        plan = bus._handlers.plans[Noted]
        bus.on(Chunk, print)
        assert bus._handlers.plans[Noted] is plan
        bus.off(Chunk, print)
        assert bus._handlers.plans[Noted] is plan
        bus.on(object, print)
        assert Noted not in bus._handlers.plans
