"""Plugins: how they join and leave, in which order they are called, what blocking and replacing does."""

from __future__ import annotations

import ast
import asyncio
import sys
import threading
import types
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs
import cattrs
import pytest
from helpers import TIMEOUT, Done, Noted, in_thread, in_threads, quiet_bus
from plugin_helpers import Observer, Watcher, logged, plugin

import crewbus
from crewbus import Chunk, PluginError, PluginWarning, RunFinished, RunStarted, hookimpl


class Plain:
    """No event, until a plugin names it."""

    def __init__(self, text: str = "") -> None:
        self.text = text


@crewbus.event(name="tests.plugins.Priced")
class Priced:
    amount: complex


def names(bus: crewbus.Bus) -> list[str]:
    return [name for name, _ in bus.plugins.list_name_plugin()]


def calls_to(calls: list[str], name: str, **options: bool) -> Any:
    """A plugin whose observer notes its name."""
    return plugin(crewbus_emit=hookimpl(**options)(lambda: calls.append(name)))


@pytest.fixture
def bus() -> Iterator[crewbus.Bus]:
    with quiet_bus(unscoped="ignore") as bus:
        yield bus


# Order and arguments


def test_the_last_registered_is_called_first(bus):
    calls = []
    for name in ("first", "second", "third"):
        bus.plugins.register(calls_to(calls, name), name)
    bus.emit(Noted())
    assert calls == ["third", "second", "first"]


def test_tryfirst_and_trylast(bus):
    calls = []
    bus.plugins.register(calls_to(calls, "tryfirst", tryfirst=True))
    bus.plugins.register(calls_to(calls, "trylast", trylast=True))
    bus.plugins.register(calls_to(calls, "one"))
    bus.plugins.register(calls_to(calls, "trylast too", trylast=True))
    bus.plugins.register(calls_to(calls, "two"))
    bus.emit(Noted())
    assert calls == ["tryfirst", "two", "one", "trylast", "trylast too"]


def test_arguments_are_passed_by_name(bus):
    got = {}

    class Picky:
        @hookimpl
        def crewbus_emit(self, envelope, bus):
            got["swapped"] = (envelope, bus)

    bus.plugins.register(Picky())
    bus.plugins.register(plugin(crewbus_emit=lambda: got.update(none=())), "none")
    bus.plugins.register(
        plugin(crewbus_emit=lambda run, envelope=None, other=3: got.update(some=(run, envelope, other))), "some"
    )
    with bus.run() as run:
        envelope = bus.emit(Noted())
    assert got["swapped"][1] is bus
    assert got["none"] == ()
    assert got["some"][0] is run
    assert got["some"][2] == 3
    assert got["swapped"][0] is got["some"][1]
    assert got["some"][1].seq == envelope.seq + 1  # the terminal event was the last


def test_firstresult_ends_with_the_first_answer(bus):
    asked = []

    def opens(name, answer):
        def crewbus_open_store(url):
            asked.append(name)
            return answer

        bus.plugins.register(plugin(crewbus_open_store=crewbus_open_store), name)

    store = crewbus.MemoryStore()
    opens("never asked", crewbus.MemoryStore())
    opens("answers", store)
    opens("passes", None)
    bus.enable_recording("some:")
    assert asked == ["passes", "answers"]
    assert bus.store is store


def test_a_hookimpl_may_have_another_name(bus):
    seen = []

    class Named:
        @hookimpl(specname="crewbus_emit")
        def watch(self, envelope):
            seen.append(envelope)

    bus.plugins.register(Named(), "named")
    assert bus.emit(Noted()) in seen
    assert [info.hooks for info in bus.plugins.infos() if info.name == "named"] == [("crewbus_emit",)]


def test_an_optional_hook_may_be_unknown(bus):
    class Ahead:
        @hookimpl(optionalhook=True)
        def crewbus_of_tomorrow(self):
            pass

    assert bus.plugins.register(Ahead(), "ahead") == "ahead"
    with pytest.raises(PluginError, match="crewbus_of_tomorrow"):
        bus.plugins.register(plugin(crewbus_of_tomorrow=lambda: None), "behind")


# Wrappers and watching


@pytest.mark.parametrize("style", ["wrapper", "hookwrapper"])
def test_wrappers_stand_around_all_observers(bus, style):
    calls = []

    @hookimpl(**{style: True})
    def around(envelope):
        calls.append(f"before {envelope.event.text}")
        yield
        calls.append("after")

    bus.plugins.register(plugin(crewbus_emit=around), "around")
    bus.plugins.register(calls_to(calls, "one"))
    bus.plugins.register(calls_to(calls, "two"))
    bus.emit(Noted("x"))
    assert calls == ["before x", "two", "one", "after"]
    bus.plugins.unregister("around")
    bus.emit(Noted("y"))
    assert calls[4:] == ["two", "one"]


def test_a_wrapper_around_the_streams_sees_each_frame(bus):
    seen = []

    @hookimpl(wrapper=True)
    def around(envelope):
        seen.append(type(envelope.event))
        return (yield)

    bus.plugins.register(plugin(crewbus_stream_chunk=around), "around")
    with bus.stream(lambda: bus.chunk("a")) as stream:
        assert [type(frame.event) for frame in stream] == [Chunk, RunFinished]
    assert seen == [Chunk, RunFinished]


def test_a_wrapper_may_replace_the_run_in_scope(bus):
    with bus.run() as outer, bus.run() as inner:

        @hookimpl(wrapper=True)
        def around():
            found = yield
            return found.parent if found is not None else None

        bus.plugins.register(plugin(crewbus_current_run=around), "around")
        assert bus.emit(Noted()).run_id == outer.id
        bus.plugins.unregister("around")
        assert bus.emit(Noted()).run_id == inner.id


def test_a_wrapper_alone_redacts_too(bus):
    """What a redactor keeps from the sinks must not depend on how it is written."""

    @hookimpl(wrapper=True)
    def around(event):
        yield
        return [Noted("redacted")] if type(event) is Noted else []

    bus.plugins.register(plugin(crewbus_redact=around), "around")
    assert bus.emit(Noted("secret")) is None
    bus.on(Noted, lambda envelope: None)
    assert bus.emit(Noted("secret")).event.text == "redacted"


def test_a_monitor_sees_every_call_until_it_leaves(bus):
    seen, calls = [], []
    bus.plugins.register(calls_to(calls, "one"))

    def before(name, impls, values):
        seen.append(("before", name))

    def after(outcome, name, impls, values):
        seen.append(("after", name))

    with bus.run():
        bus.emit(Noted())
        assert seen == []
        unwatch = bus.plugins.add_hookcall_monitoring(before, after)
        assert bus.plugins.watched
        bus.emit(Noted())
        unwatch()
        assert not bus.plugins.watched
        count = len(seen)
        bus.emit(Noted())
    assert seen.count(("before", "crewbus_emit")) == seen.count(("after", "crewbus_emit")) == 1
    assert ("before", "crewbus_current_run") in seen
    assert len(seen) == count
    assert len(calls) == 5


def test_tracing_writes_every_call(bus):
    lines = []
    bus.plugins.trace.root.setwriter(lines.append)
    bus.plugins.register(Observer(), "observer")
    end = bus.plugins.enable_tracing()
    bus.emit(Noted("traced"))
    end()
    count = len(lines)
    bus.emit(Noted("again"))
    assert any("crewbus_emit" in line and "traced" in line for line in lines)
    assert len(lines) == count


def test_ending_a_monitor_twice_does_not_end_another(bus):
    bus.plugins.register(Observer(), "observer")
    first = bus.plugins.add_hookcall_monitoring(lambda *_: None, lambda *_: None)
    first()
    first()
    seen = []
    second = bus.plugins.add_hookcall_monitoring(lambda name, impls, values: seen.append(name), lambda *_: None)
    bus.emit(Noted())
    second()
    assert "crewbus_emit" in seen


# Joining and leaving while emitting


def test_plugins_join_and_leave_while_another_thread_emits(bus):
    """None of what is emitted is lost to the observer that stays; the other gets each event once or not at all."""
    stays, comes, stop = Observer(), Observer(), threading.Event()
    bus.plugins.register(stays, "stays")

    def emit():
        count = 0
        with bus.run() as run:
            while not stop.is_set() or count < 200:
                run.emit(Noted(str(count)))
                count += 1
        return count

    future = in_thread(emit)
    try:
        for _ in range(100):
            bus.plugins.register(comes, "comes")
            assert bus.plugins.unregister("comes") is comes
    finally:
        stop.set()
    count = future.result(TIMEOUT)
    assert [event.text for event in stays.events if type(event) is Noted] == [str(i) for i in range(count)]
    numbers = [envelope.seq for envelope in comes.envelopes]
    assert numbers == sorted(set(numbers))


def test_plugins_join_and_leave_from_many_threads(bus):
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)

    def join(i):
        for _ in range(20):
            member = Observer()
            assert bus.plugins.register(member, f"member {i}") == f"member {i}"
            assert bus.plugins.has_plugin(f"member {i}")
            assert bus.plugins.unregister(member) is member
        return i

    before = names(bus)
    try:
        assert in_threads(8, join) == list(range(8))
    finally:
        sys.setswitchinterval(interval)
    assert names(bus) == before
    assert bus.plugins.hook.crewbus_emit.get_hookimpls() == []


def test_an_observer_may_register_and_unregister(bus):
    observer, calls = Observer(), []

    def change(bus):
        calls.append("change")
        bus.plugins.unregister("change")
        bus.plugins.register(observer, "observer")

    bus.plugins.register(plugin(crewbus_emit=change), "change")
    bus.emit(Noted("1"))
    bus.emit(Noted("2"))
    assert calls == ["change"]
    assert [event.text for event in observer.events] == ["2"]


def test_an_observer_that_joins_makes_a_silent_event_heard(bus):
    assert bus.emit(Noted()) is None
    observer = Observer()
    bus.plugins.register(observer)
    assert bus.emit(Noted()) in observer.envelopes
    bus.plugins.unregister(observer)
    assert bus.emit(Noted()) is None


def test_unregistering_what_is_not_there(bus):
    assert bus.plugins.unregister("nobody") is None
    assert bus.plugins.unregister(Observer()) is None


def test_a_plugin_may_join_again_after_it_left(bus):
    observer = Observer()
    for number in range(3):
        bus.plugins.register(observer, "observer")
        bus.emit(Noted())
        assert len(observer.envelopes) == number + 1
        assert bus.plugins.unregister("observer") is observer


# Plugins of every form


def test_a_module_as_a_plugin():
    module = types.ModuleType("acme_plugin")
    seen = []

    @hookimpl
    def crewbus_emit(envelope):
        seen.append(envelope)

    module.crewbus_emit = crewbus_emit
    with quiet_bus(plugins=[module], unscoped="ignore") as bus:
        assert bus.plugins.has_plugin("acme_plugin")
        assert bus.emit(Noted()) in seen


def test_a_class_as_a_plugin_is_instantiated_for_each_bus():
    class Counting:
        made: list[Any] = []  # noqa: RUF012 - shared on purpose

        def __init__(self) -> None:
            self.made.append(self)

        @hookimpl
        def crewbus_emit(self):
            pass

    with quiet_bus(plugins=[("counting", Counting)]) as one, quiet_bus(plugins=[("counting", Counting)]) as two:
        assert Counting.made == [one.plugins.get_plugin("counting"), two.plugins.get_plugin("counting")]
        assert Counting.made[0] is not Counting.made[1]


def test_an_object_is_named_after_its_class_and_made_unique(bus):
    assert [bus.plugins.register(Observer()) for _ in range(3)] == ["Observer", "Observer#2", "Observer#3"]


def test_one_plugin_may_serve_many_buses():
    observer = Observer()
    with quiet_bus(plugins=[observer], unscoped="ignore") as one, quiet_bus(plugins=[observer]) as two:
        first = one.emit(Noted())
        two.plugins.unregister(observer)
        second = one.emit(Noted())
    assert [e for e in observer.envelopes if type(e.event) is Noted] == [first, second]


def test_a_plugin_is_configured_once_for_each_bus():
    calls = []
    member = plugin(crewbus_configure=lambda bus: calls.append(bus))
    with quiet_bus(plugins=[("member", member)]) as bus:
        assert calls == [bus]
        bus.plugins.register(Observer(), "other")
        assert calls == [bus]
        bus.plugins.unregister("member")
        bus.plugins.register(member, "member")
        assert calls == [bus, bus]


def test_a_plugin_is_configured_when_the_bus_is_complete():
    """So that it can see who else is there, and use what they bring."""
    seen = {}

    def crewbus_configure(bus):
        seen["plugins"] = set(names(bus))
        bus.enable_recording("late:")

    first = plugin(crewbus_configure=crewbus_configure)
    last = plugin(crewbus_open_store=lambda url: crewbus.MemoryStore() if url == "late:" else None)
    with quiet_bus(plugins=[("first", first), ("last", last)]) as bus:
        assert seen["plugins"] >= {"first", "last", "run_scope", "checkpoint_recorder", "memory_store"}
        assert bus.recording.armed


# Refused


def unknown_hook() -> Any:
    return plugin(crewbus_emitt=lambda envelope: None)


def unknown_argument() -> Any:
    return plugin(crewbus_emit=lambda envelop, bus: None)


def coroutine_function() -> Any:
    async def crewbus_emit(envelope):
        pass

    return plugin(crewbus_emit=crewbus_emit)


def async_generator() -> Any:
    @hookimpl(wrapper=True)
    async def crewbus_emit(envelope):
        yield

    return plugin(crewbus_emit=crewbus_emit)


def no_generator() -> Any:
    return plugin(crewbus_emit=hookimpl(wrapper=True)(lambda envelope: None))


def both_wrappers() -> Any:
    @hookimpl(wrapper=True, hookwrapper=True)
    def crewbus_emit(envelope):
        yield

    return plugin(crewbus_emit=crewbus_emit)


def failing_configure() -> Any:
    def crewbus_configure(bus):
        raise LookupError("no configuration")

    return plugin(crewbus_configure=crewbus_configure)


class FailingInit:
    def __init__(self) -> None:
        raise LookupError("no init")


class NeedsArguments:
    def __init__(self, url: str) -> None:
        self.url = url


REFUSED = [
    (unknown_hook, ["crewbus_emitt", "did you mean crewbus_emit?"]),
    (unknown_argument, ["crewbus_emit", "envelop", "bus, run, envelope"]),
    (coroutine_function, ["crewbus_emit", "async def", "plain function"]),
    (async_generator, ["crewbus_emit", "async def", "plain function"]),
    (no_generator, ["crewbus_emit", "not a generator"]),
    (both_wrappers, ["mutually exclusive"]),
    (failing_configure, ["could not be configured", "LookupError", "no configuration"]),
    (lambda: FailingInit, ["FailingInit()", "LookupError", "no init"]),
    (lambda: NeedsArguments, ["NeedsArguments()", "url"]),
]
IDS = [
    "unknown hook", "unknown argument", "async def", "async generator", "no generator", "both wrappers",
    "failing configure", "failing init", "init with arguments",
]  # fmt: skip


@pytest.mark.parametrize(("make", "says"), REFUSED, ids=IDS)
def test_a_refused_plugin_leaves_no_trace(bus, make, says):
    observer = Observer()
    bus.plugins.register(observer, "observer")
    before, infos = names(bus), list(bus.plugins.infos())
    hooks = {hook: getattr(bus.plugins.hook, hook).get_hookimpls() for hook in vars(bus.plugins.hook)}
    member = make()
    for attribute in ("crewbus_record", "crewbus_run_start", "crewbus_flush"):  # good ones beside the bad one
        if not isinstance(member, type):
            setattr(member, attribute, hookimpl(lambda: 1 / 0))
    with pytest.raises(PluginError, match="'acme'") as caught:
        bus.plugins.register(member, "acme")
    for words in says:
        assert words in str(caught.value)
    assert names(bus) == before
    assert list(bus.plugins.infos()) == infos
    assert hooks == {hook: getattr(bus.plugins.hook, hook).get_hookimpls() for hook in vars(bus.plugins.hook)}
    bus.enable_recording()
    with bus.run():
        envelope = bus.emit(Noted())
    bus.flush(TIMEOUT)
    assert envelope in observer.envelopes
    assert bus.plugins.register(Observer(), "acme") == "acme"


@pytest.mark.parametrize(("make", "says"), REFUSED, ids=IDS)
def test_a_bad_plugin_is_skipped_with_a_warning_or_refused_when_strict(make, says):
    after = Observer()
    with pytest.warns(PluginWarning, match="'acme'") as caught:
        bus = crewbus.Bus([("acme", make()), after], entry_points=False, unscoped="ignore")
    with bus:
        (warning,) = caught
        for words in says:
            assert words in str(warning.message)
        assert warning.filename == __file__
        (info,) = [info for info in bus.plugins.infos() if info.name == "acme"]
        assert info.status == "broken"
        assert all(words in info.reason for words in says)
        assert bus.emit(Noted()) in after.envelopes
    with pytest.raises(PluginError, match="'acme'"):
        crewbus.Bus([("acme", make())], entry_points=False, strict=True)


def test_a_name_is_given_once(bus):
    first, second = Observer(), Observer()
    bus.plugins.register(first, "acme")
    with pytest.raises(PluginError, match="'acme'"):
        bus.plugins.register(second, "acme")
    with pytest.raises(PluginError, match="'other'"):
        bus.plugins.register(first, "other")
    bus.emit(Noted())
    assert len(first.envelopes) == 1
    assert second.envelopes == []
    assert "other" not in names(bus)


def test_a_forgotten_marker_is_pointed_out(bus):
    class Unmarked:
        def crewbus_emit(self, envelope):
            raise AssertionError

    with pytest.warns(PluginWarning, match=r"'acme'.*crewbus_emit.*hookimpl") as caught:
        bus.plugins.register(Unmarked(), "acme")
    assert caught[0].filename == __file__
    bus.on(Noted, lambda envelope: None)
    assert bus.emit(Noted()) is not None


# Blocked


def test_a_blocked_plugin_is_listed_and_does_nothing():
    observer = Observer()
    with quiet_bus(plugins=[("acme", observer)], blocked=["acme"], unscoped="ignore") as bus:
        bus.emit(Noted())
        (info,) = [info for info in bus.plugins.infos() if info.name == "acme"]
        assert (info.status, info.reason, info.hooks) == ("blocked", "blocked by name", ())
        assert bus.plugins.register(Observer(), "acme") is None
    assert observer.envelopes == []


def test_one_name_may_be_blocked_as_a_string():
    with quiet_bus(blocked="run_scope") as bus:
        assert "run_scope" not in [info.name for info in bus.plugins.infos() if info.status == "loaded"]


def test_a_plugin_blocked_later_leaves(bus):
    observer = Observer()
    bus.plugins.register(observer, "acme")
    bus.plugins.set_blocked("acme")
    bus.emit(Noted())
    assert observer.envelopes == []
    assert bus.plugins.register(observer, "acme") is None
    assert bus.plugins.unblock("acme")
    assert bus.plugins.register(observer, "acme") == "acme"


def test_without_run_scope_context_says_nothing_and_the_rest_works():
    with quiet_bus(blocked=["run_scope"], unscoped="ignore") as bus:
        handled, observer = [], Observer()
        bus.on(Noted, handled.append)
        bus.plugins.register(observer)
        bus.enable_recording()
        with bus.run() as run:
            unscoped = bus.emit(Noted("by the bus"))
            scoped = run.emit(Noted("by the run"))
            assert run.chunk("x").run_id == run.id
            with bus.run() as inner:
                assert inner.parent is None
        assert unscoped.run_id is None
        assert scoped.run_id == run.id
        assert handled == [unscoped, scoped]
        assert {unscoped, scoped} <= set(observer.envelopes)
        assert [type(e.event) for e in bus.record_of(run.id)] == [RunStarted, Noted, Chunk, RunFinished]
        bus.flush(TIMEOUT)


def test_without_run_scope_streams_get_no_frames_and_end():
    with quiet_bus(blocked=["run_scope"], unscoped="ignore") as bus:

        def work():
            bus.chunk("a")
            return 42

        with bus.stream(work) as stream:
            assert list(stream) == []
            assert stream.result(TIMEOUT) == 42

        async def main():
            async with bus.stream(work) as stream:
                return [frame async for frame in stream], await stream.aresult()

        assert asyncio.run(main()) == ([], 42)


def test_without_checkpoint_recorder_nothing_can_be_recorded_and_the_rest_works():
    with quiet_bus(blocked=["checkpoint_recorder"]) as bus:
        with pytest.raises(crewbus.RecordingError, match="nothing records"):
            bus.enable_recording()
        assert not bus.recording.armed
        with pytest.raises(crewbus.RecordingError, match="nothing records"), bus.run(record=True):
            raise AssertionError
        assert bus.runs == []
        with bus.stream(lambda: bus.chunk("a")) as stream:
            assert [type(frame.event) for frame in stream] == [Chunk, RunFinished]
        with pytest.raises(crewbus.RunNotFoundError):
            bus.record_of(stream.run_id)
        bus.flush(TIMEOUT)


def test_without_checkpoint_recorder_another_may_record():
    taken = []
    recorder = plugin(crewbus_record=lambda envelope: taken.append(type(envelope.event)))
    with quiet_bus(plugins=[("mine", recorder)], blocked=["checkpoint_recorder"]) as bus:
        with bus.run():
            bus.emit(Noted())
        assert taken == []
        bus.enable_recording()
        with bus.run():
            bus.emit(Noted())
            bus.chunk("x")
        assert taken == [RunStarted, Noted, Chunk, RunFinished]


def test_without_memory_store_its_urls_open_nothing_and_the_rest_works():
    with quiet_bus(blocked=["memory_store"]) as bus:
        with pytest.raises(crewbus.RecordingError, match="memory:"):
            bus.enable_recording()
        assert not bus.recording.armed
        bus.enable_recording(crewbus.MemoryStore())
        with bus.stream(lambda: bus.chunk("a") and None) as stream:
            assert [type(frame.event) for frame in stream] == [Chunk, RunFinished]
        assert len(list(bus.record_of(stream.run_id))) == 3


def test_without_any_plugin_handlers_and_runs_work():
    with quiet_bus(blocked=["run_scope", "checkpoint_recorder", "memory_store"], unscoped="ignore") as bus:
        handled = []
        bus.on(object, handled.append)
        with bus.run() as run:
            bus.emit(Noted())
            run.emit(Done())
        assert [type(e.event) for e in handled] == [RunStarted, Noted, Done, RunFinished]


# Replaced


def test_a_plugin_takes_the_place_of_a_built_in_one_by_its_name():
    taken = []

    class Recorder:
        @hookimpl
        def crewbus_record(self, envelope):
            taken.append(type(envelope.event))

    with quiet_bus(plugins=[("checkpoint_recorder", Recorder)]) as bus:
        assert names(bus).count("checkpoint_recorder") == 1
        assert isinstance(bus.plugins.get_plugin("checkpoint_recorder"), Recorder)
        bus.enable_recording()
        with bus.run() as run:
            pass
        assert taken == [RunStarted, RunFinished]
        with pytest.raises(crewbus.RunNotFoundError):
            bus.record_of(run.id)


def test_a_module_takes_the_place_of_a_built_in_one_by_its_name():
    module = types.ModuleType("memory_store")
    store = crewbus.MemoryStore()
    module.crewbus_open_store = hookimpl(lambda url: store)
    with quiet_bus(plugins=[module]) as bus:
        bus.enable_recording()
        assert bus.store is store


def test_a_built_in_plugin_stays_where_its_replacement_is_broken():
    with pytest.warns(PluginWarning, match="'run_scope'"):
        bus = crewbus.Bus([("run_scope", FailingInit)], entry_points=False)
    with bus:
        with bus.run() as run:
            assert bus.emit(Noted()).run_id == run.id


def test_a_replaced_router_gets_the_frames_of_attached_streams():
    """An implementation that asks for attached streams only is passed over while none is."""
    routed = []

    class Router:
        @hookimpl
        def crewbus_current_run(self, bus):
            return crewbus.current_run(bus)

        @hookimpl
        def crewbus_stream_chunk(self, run, envelope):
            routed.append(envelope.event)
            for sink in run.sinks:
                sink.push(run, envelope)

        crewbus_stream_chunk.attached_streams_only = True

    with quiet_bus(plugins=[("run_scope", Router)]) as bus:
        with bus.run() as run:
            bus.chunk("no stream")
            stream = bus.subscribe(run.id)
            bus.chunk("a stream")
        assert [type(frame.event) for frame in stream] == [Chunk, RunFinished]
    assert routed[0] == Chunk("a stream")


# Each hook


def test_event_types_that_a_plugin_brings_are_registered():
    class Local(Plain):
        pass

    with quiet_bus(unscoped="ignore") as bus:
        with pytest.raises(crewbus.UnregisteredEventError):
            bus.emit(Local())
        bus.plugins.register(plugin(crewbus_event_types=lambda: [Local, Noted]), "acme")
        handled = []
        bus.on(Plain, handled.append)
        assert bus.emit(Local("x")) is handled[0]
        bus.plugins.register(plugin(crewbus_event_types=lambda: None), "none")


def test_a_registered_event_type_is_left_as_it_is():
    @crewbus.event(name="tests.plugins.Named", version=3)
    class Named:
        pass

    with quiet_bus(plugins=[plugin(crewbus_event_types=lambda: [Named])]):
        (known,) = [known for known in crewbus.event_types() if known.cls is Named]
        assert (known.name, known.version) == ("tests.plugins.Named", 3)


def test_a_converter_writes_and_reads_what_cattrs_does_not_know():
    def crewbus_converter(converter):
        assert isinstance(converter, cattrs.Converter)
        converter.register_unstructure_hook(complex, lambda value: [value.real, value.imag])
        converter.register_structure_hook(complex, lambda value, _: complex(*value))

    with quiet_bus(plugins=[("acme", plugin(crewbus_converter=crewbus_converter))]) as bus:
        bus.enable_recording()
        with bus.run() as run:
            bus.emit(Priced(1 + 2j))
        assert [e.event for e in bus.record_of(run.id) if type(e.event) is Priced] == [Priced(1 + 2j)]


def test_a_failing_converter_reaches_the_first_emission_that_is_recorded():
    def crewbus_converter(converter):
        raise LookupError("no hooks")

    with quiet_bus(plugins=[("acme", plugin(crewbus_converter=crewbus_converter))]) as bus:
        bus.enable_recording()
        with pytest.raises(LookupError, match="no hooks"), bus.run():
            raise AssertionError
        assert bus.runs == []


def appending(word: str, seen: list[Any], **options: bool) -> Any:
    @hookimpl(**options)
    def crewbus_redact(event):
        if type(event) is not Noted:
            return None
        seen.append(event)
        return attrs.evolve(event, text=f"{event.text} {word}")

    return plugin(crewbus_redact=crewbus_redact)


@pytest.mark.parametrize("watched", [False, True])
def test_redactors_are_a_chain_in_order(bus, watched):
    seen, handled = [], []
    for member in (appending("one", seen), appending("two", seen), appending("last", seen, trylast=True)):
        bus.plugins.register(member)
    bus.plugins.register(appending("first", seen, tryfirst=True))
    bus.plugins.register(plugin(crewbus_redact=lambda: None), "none")
    bus.on(Noted, handled.append)
    unwatch = bus.plugins.add_hookcall_monitoring(lambda *_: None, lambda *_: None) if watched else None
    original = Noted("x")
    with bus.run():
        envelope = bus.emit(original)
    if unwatch is not None:
        unwatch()
    assert envelope.event.text == "x first two one last"
    assert handled == [envelope]
    assert original.text == "x"
    assert [event.text for event in seen] == ["x", "x first", "x first two", "x first two one"]


def test_redaction_stands_ahead_of_every_sink(bus):
    """Recorder, streams, transports, observers, handlers: each sees what the redactor leaves, and nothing else."""
    handled, transported, observer = [], [], Observer()

    def crewbus_redact(event):
        if isinstance(event, Chunk):
            return Chunk(event.text.replace("secret", "***"))
        if isinstance(event, Noted):
            return Noted("***")
        if isinstance(event, RunStarted):
            return attrs.evolve(event, tags={})
        if isinstance(event, crewbus.RunFailed):
            return attrs.evolve(event, message="***")
        return None

    bus.plugins.register(observer, "observer")
    bus.plugins.register(plugin(crewbus_stream_chunk=lambda envelope: transported.append(envelope)), "transport")
    bus.plugins.register(plugin(crewbus_redact=crewbus_redact), "redactor")
    bus.on(object, handled.append)
    bus.enable_recording()

    def work():
        bus.chunk("a secret")
        bus.emit(Noted("secret"))
        crewbus.current_run().chunk("secret!")
        raise LookupError("secret")

    stream = bus.stream(work, options=crewbus.StreamOptions(tags={"key": "secret"}))
    frames = list(stream)
    with pytest.raises(LookupError):
        stream.result(TIMEOUT)
    record = list(bus.record_of(stream.run_id))
    assert [frame.event for frame in frames[:2]] == [Chunk("a ***"), Chunk("***!")]
    assert frames[2].event.message == "***"
    assert [type(e.event) for e in record] == [RunStarted, Chunk, Noted, Chunk, crewbus.RunFailed]
    assert [e.event for e in handled] == observer.events == [e.event for e in record]
    assert [e.event for e in transported] == [frame.event for frame in frames]
    for sink in (frames, record, handled, observer.envelopes, transported):
        assert "secret" not in repr(sink)


def test_a_failing_redactor_fails_closed(bus):
    handled = []
    bus.on(object, handled.append)

    def crewbus_redact(event):
        if isinstance(event, Noted):
            raise LookupError("no rules")

    bus.plugins.register(plugin(crewbus_redact=crewbus_redact), "acme")
    with bus.run() as run:
        with pytest.raises(crewbus.RedactionError, match=r"'acme'.*Noted.*LookupError: no rules") as caught:
            bus.emit(Noted("secret"))
        assert isinstance(caught.value.__cause__, LookupError)
        with pytest.raises(crewbus.RedactionError):
            run.emit(Done("secret"))
        assert bus.chunk("x").seq == 1
    with pytest.raises(crewbus.RedactionError):
        bus.emit(Noted("outside"))
    assert [type(e.event) for e in handled] == [RunStarted, Chunk, RunFinished]


def test_a_run_whose_start_can_not_be_redacted_does_not_start(bus):
    def crewbus_redact(event):
        if isinstance(event, RunStarted):
            raise LookupError("no rules")

    bus.plugins.register(plugin(crewbus_redact=crewbus_redact), "acme")
    with pytest.raises(crewbus.RedactionError, match="'acme'"), bus.run(id="run"):
        raise AssertionError
    assert bus.runs == []
    bus.plugins.unregister("acme")
    with bus.run(id="run"):
        pass


def test_a_redactor_learns_the_run(bus):
    runs = []
    bus.plugins.register(plugin(crewbus_redact=lambda bus, run, event: runs.append(run)), "acme")
    bus.on(Noted, lambda envelope: None)
    bus.emit(Noted())
    with bus.run() as run:
        bus.emit(Noted())
    assert runs == [None, run, run, run]


def test_another_notion_of_scope(bus):
    """A third party's answer comes first, and holds for nested runs, chunks and streams."""
    chosen: list[crewbus.Run | None] = [None]
    bus.plugins.register(plugin(crewbus_current_run=lambda bus: chosen[0]), "acme")
    with bus.run() as outer:
        with bus.run(id="inner") as inner:
            stream = bus.subscribe("inner")
            assert bus.emit(Noted()).run_id == inner.id
            chosen[0] = outer
            assert bus.emit(Noted()).run_id == outer.id
            assert bus.chunk("to the outer").run_id == outer.id
            with bus.run() as third:
                assert third.parent is outer
            chosen[0] = inner
            bus.chunk("to the inner")
            chosen[0] = None
    assert [frame.event for frame in stream][:-1] == [Chunk("to the inner")]


def test_another_notion_of_scope_alone():
    chosen: list[crewbus.Run | None] = [None]
    scope = plugin(crewbus_current_run=lambda: chosen[0])
    with quiet_bus(plugins=[("acme", scope)], blocked=["run_scope"], unscoped="ignore") as bus:
        bus.on(Noted, lambda envelope: None)
        with bus.run() as run:
            assert bus.emit(Noted()).run_id is None
            chosen[0] = run
            assert bus.emit(Noted()).run_id == run.id
        assert bus.emit(Noted()).run_id is None  # it has ended


@pytest.mark.parametrize("attached", [False, True])
def test_a_transport_gets_every_frame_in_order(bus, attached):
    """From 64 threads, whether or not a stream is attached; in order of the numbers, within the root run."""
    frames: dict[str, list[crewbus.Envelope]] = {}
    bus.plugins.register(
        plugin(crewbus_stream_chunk=lambda run, envelope: frames.setdefault(run.root.id, []).append(envelope)), "acme"
    )
    with bus.run(id="root") as run:
        stream = bus.subscribe("root", bound=100_000) if attached else None

        def emit(i):
            for number in range(50):
                run.chunk(f"{i}.{number}")
                run.emit(Noted())  # no frame

        in_threads(64, emit)
    seen = frames.pop("root")
    assert frames == {}
    numbers = [envelope.seq for envelope in seen]
    assert numbers == sorted(set(numbers))
    assert type(seen[-1].event) is RunFinished
    texts = [envelope.event.text for envelope in seen[:-1]]
    assert sorted(texts) == sorted(f"{i}.{number}" for i in range(64) for number in range(50))
    for i in range(64):
        assert [text for text in texts if text.startswith(f"{i}.")] == [f"{i}.{number}" for number in range(50)]
    if stream is not None:
        assert list(stream) == seen


def test_a_transport_gets_the_frames_of_nested_runs_and_every_terminal_event(bus):
    frames = []
    bus.plugins.register(
        plugin(crewbus_stream_chunk=lambda run, envelope: frames.append((run.name, envelope.event))), "acme"
    )
    with bus.run("outer"):
        bus.chunk("a")
        with bus.run("inner"):
            bus.chunk("b")
        bus.emit(crewbus.Retracted(0, "again"))
    assert frames == [
        ("outer", Chunk("a")),
        ("inner", Chunk("b")),
        ("inner", RunFinished()),
        ("outer", crewbus.Retracted(0, "again")),
        ("outer", RunFinished()),
    ]


def test_run_start_and_finish(bus):
    calls = []

    class Follower:
        @hookimpl
        def crewbus_run_start(self, bus, run):
            calls.append(("start", run.name, run in bus.runs))

        @hookimpl
        def crewbus_run_finish(self, bus, run):
            calls.append(("finish", run.name, run.state, run in bus.runs))

        @hookimpl
        def crewbus_emit(self, run, envelope):
            calls.append((type(envelope.event).__name__, run.name))

    bus.plugins.register(Follower())
    with pytest.raises(LookupError), bus.run("outer"), bus.run("inner"):
        raise LookupError
    assert calls == [
        ("start", "outer", True),
        ("RunStarted", "outer"),
        ("start", "inner", True),
        ("RunStarted", "inner"),
        ("RunFailed", "inner"),
        ("finish", "inner", "failed", False),
        ("RunFailed", "outer"),
        ("finish", "outer", "failed", False),
    ]


def test_a_run_that_could_not_start_is_finished_too(bus):
    calls = []
    bus.plugins.register(plugin(crewbus_run_start=lambda run: calls.append("start")), "start")
    bus.plugins.register(plugin(crewbus_run_finish=lambda run: calls.append("finish")), "finish")
    bus.on(RunStarted, lambda envelope: sys.exit(3))
    with pytest.raises(SystemExit), bus.run():
        raise AssertionError
    assert calls == ["start", "finish"]


def test_flush_gives_the_time_that_is_left(bus):
    timeouts = []
    bus.plugins.register(plugin(crewbus_flush=lambda bus, timeout: timeouts.append(timeout)), "acme")
    bus.flush()
    bus.flush(TIMEOUT)
    asyncio.run(bus.aflush(TIMEOUT))
    assert timeouts[0] is None
    assert all(0 < timeout <= TIMEOUT for timeout in timeouts[1:])
    assert len(timeouts) == 3


def test_flush_comes_after_the_handlers(bus):
    calls = []

    async def handler(envelope):
        await asyncio.sleep(0)
        calls.append("handler")

    bus.on(Noted, handler)
    bus.plugins.register(plugin(crewbus_flush=lambda: calls.append("flush")), "acme")
    bus.emit(Noted())
    bus.flush(TIMEOUT)
    assert calls == ["handler", "flush"]


def test_close_is_called_once_after_everything_was_flushed():
    calls = []

    class Closing:
        @hookimpl
        def crewbus_flush(self):
            calls.append("flush")

        @hookimpl
        def crewbus_close(self, bus):
            calls.append(("close", bus.closed))

    bus = crewbus.Bus([Closing], entry_points=False)
    with bus:
        pass
    bus.close()
    asyncio.run(bus.aclose())
    assert calls == ["flush", ("close", True)]


def test_close_is_called_once_when_two_threads_close():
    calls, both = [], threading.Barrier(2)

    class Closing:
        @hookimpl
        def crewbus_flush(self):
            with suppress(threading.BrokenBarrierError):  # as it should be: the other does not flush too
                both.wait(0.2)

        @hookimpl
        def crewbus_close(self):
            calls.append("close")

    bus = crewbus.Bus([Closing], entry_points=False)
    for future in [in_thread(bus.close), in_thread(bus.close)]:
        future.result(TIMEOUT)
    assert calls == ["close"]


def test_a_blocked_or_absent_reporter_leaves_the_log(bus):
    bus.on(Noted, lambda envelope: 1 / 0)
    with logged() as messages:
        bus.emit(Noted())
    assert len(messages) == 1
    assert "ZeroDivisionError" in messages[0]
    watcher = Watcher()
    bus.plugins.register(watcher)
    with logged():
        bus.emit(Noted())
    assert len(watcher.failures) == 1


# What is listed


def test_infos_say_what_became_of_each_plugin():
    class Acme:
        @hookimpl
        def crewbus_emit(self):
            pass

        @hookimpl
        def crewbus_close(self):
            pass

    with pytest.warns(PluginWarning):
        bus = crewbus.Bus([("acme", Acme), ("bad", FailingInit)], entry_points=False, blocked=["memory_store"])
    with bus:
        infos = {info.name: info for info in bus.plugins.infos()}
    assert set(infos) == {
        "acme",
        "bad",
        "callback_isolation",
        "checkpoint_recorder",
        "memory_store",
        "run_scope",
    }
    assert infos["acme"] == crewbus.PluginInfo("acme", "loaded", hooks=("crewbus_close", "crewbus_emit"))
    assert infos["memory_store"] == crewbus.PluginInfo("memory_store", "blocked", reason="blocked by name")
    assert infos["bad"].status == "broken"
    assert infos["run_scope"].hooks == ("crewbus_current_run", "crewbus_stream_chunk")
    assert infos["checkpoint_recorder"].hooks == (
        "crewbus_after_fork",
        "crewbus_flush",
        "crewbus_record",
        "crewbus_run_finish",
    )


def test_a_plugin_that_was_broken_and_joins_later_is_listed_once():
    with pytest.warns(PluginWarning):
        bus = crewbus.Bus([("acme", FailingInit)], entry_points=False)
    with bus:
        bus.plugins.register(Observer(), "acme")
        assert [info.status for info in bus.plugins.infos() if info.name == "acme"] == ["loaded"]


# The built-in plugins are written as a third party's are


PACKAGE = Path(crewbus.__file__).parent
BUILTIN = sorted(path for path in (PACKAGE / "builtin").glob("*.py") if path.name != "__init__.py")


def imports(path: Path) -> Iterator[tuple[str, str | None]]:
    """Each module that is imported, with the name taken from it; those for annotations too."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (("." * node.level + (node.module or ""), alias.name) for alias in node.names)


@pytest.mark.parametrize("path", BUILTIN, ids=lambda path: path.stem)
def test_a_built_in_plugin_imports_public_names_only(path):
    ours = [(module, name) for module, name in imports(path) if module.partition(".")[0] in ("crewbus", "")]
    assert ours
    for module, name in ours:
        assert not module.startswith("."), f"{module}: a relative import"
        assert not any(part.startswith("_") for part in module.split(".")), f"{module} is private"
        assert module == "crewbus" or module in {"crewbus.stores", "crewbus.events", "crewbus.exceptions"}
        assert name is not None
        if module == "crewbus":
            assert name in crewbus.__all__
        else:
            assert name in sys.modules[module].__all__


@pytest.mark.parametrize("path", BUILTIN, ids=lambda path: path.stem)
def test_a_built_in_plugin_touches_nothing_private(path):
    """Nor does it reach for private attributes of what it is given."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            owner = node.value
            assert isinstance(owner, ast.Name), ast.unparse(node)
            assert owner.id == "self", ast.unparse(node)


def test_every_built_in_plugin_is_looked_at():
    assert {"checkpoint_recorder", "memory_store", "run_scope"} <= {path.stem for path in BUILTIN}


def test_a_plugin_that_is_unregistered_releases_what_it_holds(bus):
    """Once, and no more when the bus is closed; a fault of it is reported by name."""
    closed = []

    class Holding:
        @crewbus.hookimpl
        def crewbus_close(self, bus):
            closed.append(bus)

    class Failing:
        @crewbus.hookimpl
        def crewbus_close(self):
            raise LookupError("it was gone")

    watcher = Watcher()
    bus.plugins.register(watcher)
    bus.plugins.register(Holding, "holding")
    bus.plugins.register(Failing, "failing")
    with logged():
        bus.plugins.unregister("holding")
        bus.plugins.unregister("failing")
    assert closed == [bus]
    assert watcher.names == ["failing"]
    bus.close()
    assert closed == [bus]


def test_a_runs_name_is_a_string(bus):
    with pytest.raises(crewbus.RunError, match="a string"):
        bus.run(["newsroom"])
