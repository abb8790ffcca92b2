"""Events: their declaration and registry; handlers: who gets which, in which order, and where."""

from __future__ import annotations

import asyncio
import dataclasses
import doctest
import functools
import importlib
import pkgutil
import threading
from collections.abc import Iterator
from typing import Any

import attrs
import pytest
from lifecycle_helpers import PATIENCE, Caller

import crewbus
from crewbus.events import event_type_of, find_event_type


@crewbus.event
class Base:
    text: str


@crewbus.event
class Derived(Base):
    number: int = 0


@crewbus.event
class Unrelated:
    text: str = ""


class Unregistered(Base):
    """Inherits from an event type, and is none."""


@pytest.fixture
def bus() -> Iterator[crewbus.Bus]:
    with crewbus.Bus(entry_points=False, unscoped="ignore") as bus:
        yield bus


# Declaring


def test_event_makes_an_attrs_class_and_registers_it() -> None:
    assert attrs.has(Base)
    assert Base("x") == Base(text="x")
    assert repr(Base("x")) == "Base(text='x')"
    assert not hasattr(Base("x"), "__dict__")
    registered = event_type_of(Base)
    assert registered.name == f"{__name__}.Base"
    assert (registered.cls, registered.version) == (Base, 1)
    assert find_event_type(f"{__name__}.Base") is registered
    assert registered in crewbus.event_types()


def test_event_takes_name_version_and_frozen() -> None:
    @crewbus.event(name="test_events.Named", version=3, frozen=True)
    class Named:
        size: int

    registered = find_event_type("test_events.Named")
    assert registered is not None
    assert (registered.cls, registered.version) == (Named, 3)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        Named(1).size = 2
    assert hash(Named(1)) == hash(Named(1))


def test_event_with_empty_parentheses() -> None:
    @crewbus.event()
    class Plain:
        size: int = 1

    changed = Plain()
    changed.size = 2
    assert changed == Plain(2)
    assert event_type_of(Plain).name == f"{__name__}.test_event_with_empty_parentheses.<locals>.Plain"


def test_event_keeps_attrs_features() -> None:
    @crewbus.event
    class Rich:
        words: list[str] = attrs.field(factory=list, converter=list)
        size: int = attrs.field(default=0, validator=attrs.validators.ge(0))

        @property
        def count(self) -> int:
            return len(self.words)

    assert Rich("ab").count == 2
    with pytest.raises(ValueError, match="size"):
        Rich(size=-1)


def test_event_leaves_an_attrs_class_as_it_is() -> None:
    @attrs.define(slots=False, eq=False)
    class Ready:
        text: str

    assert crewbus.event(Ready) is Ready
    assert Ready("x") != Ready("x")
    assert event_type_of(Ready).cls is Ready


def test_an_attrs_class_is_not_mistaken_for_its_subclass() -> None:
    @crewbus.event
    class Child(Base):
        more: int

    assert Child("x", 1).more == 1
    assert [field.name for field in attrs.fields(Child)] == ["text", "more"]
    assert event_type_of(Base).cls is Base


@pytest.mark.parametrize(
    "wrong", ["acme.Name", 3, Base("instance"), lambda: None], ids=lambda thing: type(thing).__name__
)
def test_event_rejects_what_is_not_a_class(wrong: Any) -> None:
    with pytest.raises(crewbus.EventTypeError, match="class"):
        crewbus.event(wrong)
    with pytest.raises(crewbus.EventTypeError, match="class"):
        crewbus.event(name="x")(wrong)
    with pytest.raises(crewbus.EventTypeError, match="class"):
        crewbus.register_event(wrong)
    assert find_event_type("x") is None


def test_a_class_defined_again_replaces_the_earlier_one() -> None:
    def define(default: int) -> type:
        @crewbus.event(name="test_events.Again")
        class Again:
            size: int = default

        return Again

    first, second = define(1), define(2)
    registered = find_event_type("test_events.Again")
    assert registered is not None
    assert registered.cls is second is not first
    assert event_type_of(first).name == "test_events.Again"


def test_a_name_of_another_class_is_rejected() -> None:
    class Other:
        pass

    with pytest.raises(crewbus.EventTypeError, match=r"Base.*Other.*name="):
        crewbus.register_event(Other, name=f"{__name__}.Base")
    with pytest.raises(crewbus.EventTypeError, match=r"crewbus\.Chunk"):
        crewbus.event(name="crewbus.Chunk")(Other)
    assert find_event_type("crewbus.Chunk") is event_type_of(crewbus.Chunk)
    with pytest.raises(crewbus.UnregisteredEventError):
        event_type_of(Other)


def test_structure_without_unstructure_is_rejected() -> None:
    class Half:
        pass

    for pair in ({"structure": Half}, {"unstructure": vars}):
        with pytest.raises(crewbus.EventTypeError, match="both"):
            crewbus.register_event(Half, **pair)
    with pytest.raises(crewbus.EventTypeError, match="version"):
        crewbus.register_event(Half, version=0)
    with pytest.raises(crewbus.UnregisteredEventError):
        event_type_of(Half)


def test_the_bus_own_events_are_registered() -> None:
    own = ["RunStarted", "RunFinished", "RunFailed", "RunCancelled", "Chunk", "Retracted", "Dropped"]
    assert {f"crewbus.{name}" for name in own} <= {registered.name for registered in crewbus.event_types()}
    assert crewbus.Chunk("x") == crewbus.Chunk("x", kind="text")


# Emitting


@pytest.mark.parametrize(
    "thing", ["text", 1, None, Unregistered("x"), object()], ids=lambda thing: type(thing).__name__
)
def test_objects_that_are_no_events_are_rejected_everywhere(bus: crewbus.Bus, thing: Any) -> None:
    heard: list[crewbus.Envelope] = []
    bus.on(object, heard.append)
    emitters = [lambda: bus.emit(thing)]
    with bus.run() as run:
        emitters += [lambda: bus.emit(thing), lambda: run.emit(thing), lambda: crewbus.emit(thing)]
        heard.clear()
        for emit in emitters:
            with pytest.raises(crewbus.UnregisteredEventError, match=r"register_event\(\w+\)"):
                emit()
        assert heard == []
        after = bus.emit(Base("after"))
        assert after is not None
        assert after.seq == 1


def test_foreign_classes_are_registered_at_any_time(bus: crewbus.Bus) -> None:
    class Foreign:
        pass

    heard: list[crewbus.Envelope] = []
    bus.on(Foreign, heard.append)
    with pytest.raises(crewbus.UnregisteredEventError):
        bus.emit(Foreign())
    assert crewbus.register_event(Foreign) is Foreign
    bus.emit(Foreign())
    assert len(heard) == 1


def test_an_envelope_has_the_run_and_the_time(bus: crewbus.Bus) -> None:
    event, source = Base("x"), object()
    with bus.run(id="outer"), bus.run(id="run") as run:
        envelope = bus.emit(event, source=source)
    assert envelope is not None
    assert envelope.event is event
    assert envelope.source is source
    assert (envelope.run_id, envelope.seq, envelope.id) == ("run", 2, "run:2")
    assert (envelope.parent, envelope.attempt, envelope.replayed) == (run.start_id, 1, False)
    assert run.start_id == "run:1"


def test_outside_runs_without_listeners_there_is_no_envelope(bus: crewbus.Bus) -> None:
    assert bus.emit(Base("x")) is None
    bus.on(Base, lambda envelope: None)
    first, second = bus.emit(Base("x")), bus.emit(Base("x"))
    assert first is not None
    assert second is not None
    assert (first.run_id, first.parent) == (None, None)
    assert second.seq > first.seq
    assert first.id == f"unscoped:{first.seq}"


# Handlers


def test_handlers_get_their_type_and_its_subclasses(bus: crewbus.Bus) -> None:
    heard: list[tuple[str, str]] = []
    for kind in (object, Base, Derived, Unrelated):
        bus.on(kind, lambda envelope, kind=kind: heard.append((kind.__name__, type(envelope.event).__name__)))
    bus.emit(Base("x"))
    bus.emit(Derived("x"))
    bus.emit(Unrelated())
    assert heard == [
        ("object", "Base"),
        ("Base", "Base"),
        ("object", "Derived"),
        ("Base", "Derived"),
        ("Derived", "Derived"),
        ("object", "Unrelated"),
        ("Unrelated", "Unrelated"),
    ]


def test_handlers_may_name_a_class_that_is_no_event_type(bus: crewbus.Bus) -> None:
    heard: list[str] = []
    bus.on(crewbus.RunEnded, lambda envelope: heard.append(type(envelope.event).__name__))
    with bus.run():
        pass
    with pytest.raises(ValueError, match="x"), bus.run():
        raise ValueError("x")
    assert heard == ["RunFinished", "RunFailed"]


def test_handlers_run_in_the_order_of_their_registration(bus: crewbus.Bus) -> None:
    order: list[int] = []
    kinds = [Base, object, Derived, Base, object]
    for number, kind in enumerate(kinds):
        bus.on(kind, lambda envelope, number=number: order.append(number))
    with bus.run():
        order.clear()
        bus.emit(Derived("x"))
        assert order == [0, 1, 2, 3, 4]


def test_handlers_run_inline_in_the_emitters_thread_and_context(bus: crewbus.Bus) -> None:
    seen: list[tuple[int, crewbus.Run | None]] = []
    bus.on(Base, lambda envelope: seen.append((threading.get_ident(), crewbus.current_run())))
    with bus.run() as run:
        bus.emit(Base("x"))
        assert seen == [(threading.get_ident(), run)]


def test_what_a_handler_emits_is_delivered_depth_first(bus: crewbus.Bus) -> None:
    order: list[str] = []

    @bus.on(Base)
    def beget(envelope: crewbus.Envelope) -> None:
        order.append(f"first {envelope.event.text}")
        if len(envelope.event.text) < 3:
            bus.emit(Base(envelope.event.text + "x"))

    bus.on(Base, lambda envelope: order.append(f"second {envelope.event.text}"))
    with bus.run():
        bus.emit(Base("x"))
    assert order == ["first x", "first xx", "first xxx", "second xxx", "second xx", "second x"]


def test_on_is_a_decorator_that_returns_the_function(bus: crewbus.Bus) -> None:
    def handle(envelope: crewbus.Envelope) -> None:
        pass

    async def handle_later(envelope: crewbus.Envelope) -> None:
        pass

    for function in (handle, handle_later):
        assert bus.on(Base)(function) is function
        assert bus.on(Unrelated, function) is function


def test_the_same_handler_is_subscribed_once(bus: crewbus.Bus) -> None:
    calls: list[str] = []

    def handle(envelope: crewbus.Envelope) -> None:
        calls.append(envelope.event.text)

    for _ in range(3):
        bus.on(Base, handle)
    bus.emit(Base("x"))
    assert calls == ["x"]
    assert bus.off(Base, handle)
    bus.emit(Base("y"))
    assert calls == ["x"]
    assert not bus.off(Base, handle)


def test_a_handler_of_several_types_is_called_once_per_event(bus: crewbus.Bus) -> None:
    calls: list[str] = []

    @bus.on(object)
    @bus.on(Derived)
    @bus.on(Base)
    def handle(envelope: crewbus.Envelope) -> None:
        calls.append(envelope.event.text)

    bus.emit(Derived("x"))
    assert calls == ["x"]
    assert bus.off(Base, handle)
    bus.emit(Derived("y"))
    assert calls == ["x", "y"]
    assert bus.off(Derived, handle)
    assert bus.off(object, handle)
    bus.emit(Derived("z"))
    assert calls == ["x", "y"]


def test_off_returns_whether_there_was_a_subscription(bus: crewbus.Bus) -> None:
    def handle(envelope: crewbus.Envelope) -> None:
        pass

    bus.on(Base, handle)
    assert not bus.off(Derived, handle)
    assert not bus.off(Base, lambda envelope: None)
    assert bus.off(Base, handle)


class Collector:
    def __init__(self) -> None:
        self.heard: list[str] = []

    def handle(self, envelope: crewbus.Envelope) -> None:
        self.heard.append(envelope.event.text)

    async def handle_later(self, envelope: crewbus.Envelope) -> None:
        self.handle(envelope)


class CallableCollector(Collector):
    def __call__(self, envelope: crewbus.Envelope) -> None:
        self.handle(envelope)


class AsyncCallableCollector(Collector):
    async def __call__(self, envelope: crewbus.Envelope) -> None:
        self.handle(envelope)


@attrs.define
class EqualCollector:
    """Compares by value, and so has no hash."""

    heard: list[str] = attrs.field(factory=list)

    def __call__(self, envelope: crewbus.Envelope) -> None:
        self.heard.append(envelope.event.text)


def test_bound_methods_are_handlers(bus: crewbus.Bus) -> None:
    first, second = Collector(), Collector()
    for collector in (first, second, first):
        bus.on(Base, collector.handle)
        bus.on(Base, collector.handle_later)
    bus.emit(Base("x"))
    bus.flush(PATIENCE)
    assert first.heard == second.heard == ["x", "x"]
    assert bus.off(Base, first.handle)
    assert bus.off(Base, first.handle_later)
    bus.emit(Base("y"))
    bus.flush(PATIENCE)
    assert first.heard == ["x", "x"]
    assert second.heard == ["x", "x", "y", "y"]


@pytest.mark.parametrize("kind", [CallableCollector, AsyncCallableCollector, EqualCollector])
def test_callable_objects_are_handlers(bus: crewbus.Bus, kind: type) -> None:
    collector = kind()
    assert bus.on(Base, collector) is collector
    bus.on(Base, collector)
    bus.emit(Base("x"))
    bus.flush(PATIENCE)
    assert collector.heard == ["x"]
    assert bus.off(Base, collector)


def test_equal_objects_are_not_the_same_handler(bus: crewbus.Bus) -> None:
    first, second = EqualCollector(), EqualCollector()
    bus.on(Base, first)
    bus.on(Base, second)
    bus.emit(Base("x"))
    assert first.heard == second.heard == ["x"]


def test_partials_and_builtins_are_handlers(bus: crewbus.Bus) -> None:
    heard: list[Any] = []
    collected: list[crewbus.Envelope] = []

    def note(label: str, envelope: crewbus.Envelope) -> None:
        heard.append((label, envelope.event.text))

    async def note_later(label: str, envelope: crewbus.Envelope) -> None:
        note(label, envelope)

    bus.on(Base, functools.partial(note, "sync"))
    bus.on(Base, functools.partial(note_later, "async"))
    bus.on(Base, collected.append)
    bus.on(Base, collected.append)
    bus.emit(Base("x"))
    bus.flush(PATIENCE)
    assert heard == [("sync", "x"), ("async", "x")]
    assert len(collected) == 1


@pytest.mark.parametrize("wrong", [None, "text", 3])
def test_a_handler_must_be_callable(bus: crewbus.Bus, wrong: Any) -> None:
    with pytest.raises(crewbus.EventTypeError, match="called"):
        bus.on(Base)(wrong)


@pytest.mark.parametrize(
    "wrong", [None, "text", Base("x"), lambda envelope: None], ids=lambda thing: type(thing).__name__
)
def test_a_subscription_needs_a_class(bus: crewbus.Bus, wrong: Any) -> None:
    with pytest.raises(crewbus.EventTypeError, match="class"):
        bus.on(wrong)


def test_subscriptions_may_change_while_emitting(bus: crewbus.Bus) -> None:
    calls: list[str] = []

    def late(envelope: crewbus.Envelope) -> None:
        calls.append("late")

    @bus.on(Base)
    def once(envelope: crewbus.Envelope) -> None:
        calls.append("once")
        bus.off(Base, once)
        bus.on(Base, late)

    bus.emit(Base("x"))
    assert calls == ["once"]
    bus.emit(Base("x"))
    assert calls == ["once", "late"]


def test_subscriptions_from_many_threads_all_count(bus: crewbus.Bus) -> None:
    calls: list[int] = []
    barrier = threading.Barrier(16)

    def subscribe(number: int) -> None:
        barrier.wait(PATIENCE)
        for turn in range(20):
            bus.on(Base, functools.partial(lambda key, envelope: calls.append(key), number * 100 + turn))
            bus.emit(Unrelated())

    for caller in [Caller(subscribe, number) for number in range(16)]:
        caller.outcome()
    bus.emit(Base("x"))
    assert sorted(calls) == sorted(number * 100 + turn for number in range(16) for turn in range(20))


def test_two_buses_share_nothing(bus: crewbus.Bus) -> None:
    heard: list[str] = []
    with crewbus.Bus(entry_points=False, unscoped="ignore") as other:
        bus.on(Base, lambda envelope: heard.append("one"))
        other.on(Base, lambda envelope: heard.append("two"))
        with bus.run() as run:
            envelope = other.emit(Base("x"))
            assert envelope is not None
            assert envelope.run_id is None
            bus.emit(Base("x"))
            assert other.runs == []
            assert crewbus.current_run(other) is None
            assert crewbus.current_run(bus) is run
    assert heard == ["two", "one"]


# Async handlers


def test_async_handlers_run_on_the_emitters_loop(bus: crewbus.Bus) -> None:
    seen: list[tuple[asyncio.AbstractEventLoop, int, crewbus.Run | None]] = []

    @bus.on(Base)
    async def handle(envelope: crewbus.Envelope) -> None:
        await asyncio.sleep(0)
        seen.append((asyncio.get_running_loop(), threading.get_ident(), crewbus.current_run()))

    async def main() -> None:
        async with bus.run() as run:
            bus.emit(Base("x"))
            assert seen == []
            await bus.aflush(PATIENCE)
            assert seen == [(asyncio.get_running_loop(), threading.get_ident(), run)]

    asyncio.run(main())


def test_async_handlers_run_on_a_background_loop_where_none_runs(bus: crewbus.Bus) -> None:
    seen: list[tuple[asyncio.AbstractEventLoop, int, crewbus.Run | None]] = []

    @bus.on(Base)
    async def handle(envelope: crewbus.Envelope) -> None:
        seen.append((asyncio.get_running_loop(), threading.get_ident(), crewbus.current_run()))

    with bus.run() as run:
        bus.emit(Base("x"))
        bus.emit(Base("y"))
        bus.flush(PATIENCE)
    assert len(seen) == 2
    assert seen[0] == seen[1]
    assert seen[0][1] != threading.get_ident()
    assert seen[0][2] is run


def test_async_handlers_begin_in_the_order_of_the_events(bus: crewbus.Bus) -> None:
    order: list[str] = []

    async def first(envelope: crewbus.Envelope) -> None:
        order.append(f"{envelope.event.text} first")
        await asyncio.sleep(0)

    async def second(envelope: crewbus.Envelope) -> None:
        order.append(f"{envelope.event.text} second")

    bus.on(Base, first)
    bus.on(Base, second)
    for text in "abc":
        bus.emit(Base(text))
    bus.flush(PATIENCE)
    assert order == [f"{text} {which}" for text in "abc" for which in ("first", "second")]


def test_what_an_async_handler_sets_does_not_leak_back(bus: crewbus.Bus) -> None:
    from contextvars import ContextVar

    variable: ContextVar[str] = ContextVar("variable", default="unset")
    seen: list[str] = []

    @bus.on(Base)
    async def handle(envelope: crewbus.Envelope) -> None:
        seen.append(variable.get())
        variable.set("by the handler")

    async def main() -> None:
        variable.set("by the emitter")
        bus.emit(Base("x"))
        await bus.aflush(PATIENCE)
        assert variable.get() == "by the emitter"

    asyncio.run(main())
    assert seen == ["by the emitter"]


# The registry under threads, and the examples in the documentation


def test_registering_from_many_threads(bus: crewbus.Bus) -> None:
    barrier = threading.Barrier(8)

    def register(number: int) -> list[str]:
        barrier.wait(PATIENCE)
        names = []
        for turn in range(20):
            cls = dataclasses.make_dataclass(f"Made{number}x{turn}", [("size", int)])
            crewbus.register_event(cls, name=f"test_events.made.{number}.{turn}")
            assert len(list(crewbus.event_types())) > turn
            bus.emit(cls(1))
            names.append(f"test_events.made.{number}.{turn}")
        return names

    names = [name for caller in [Caller(register, number) for number in range(8)] for name in caller.outcome()]
    assert all(find_event_type(name) is not None for name in names)


def modules() -> list[str]:
    found = [info.name for info in pkgutil.walk_packages(crewbus.__path__, "crewbus.")]
    return ["crewbus", *(name for name in found if not name.endswith("__main__"))]


def test_the_docstring_examples_of_events() -> None:
    results = {name: doctest.testmod(importlib.import_module(name)) for name in modules()}
    assert {name: result.failed for name, result in results.items() if result.failed} == {}
    assert sum(result.attempted for result in results.values()) > 0


# Families of event types


class Family:
    """Stands for a class of a framework: neither attrs nor a dataclass."""

    def __init__(self, **fields: Any) -> None:
        self.fields = fields

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and vars(other) == vars(self)

    __hash__ = None  # type: ignore[assignment]


class Known(Family):
    """Defined before its base is registered."""


@pytest.fixture
def family() -> type:
    crewbus.register_event(
        Family,
        name="tests.Family",
        version=2,
        structure=lambda data, cls: cls(**data),
        unstructure=lambda event: event.fields,
        subclasses=True,
    )
    return Family


def test_a_family_is_registered_with_its_subclasses_also_later_ones(family: type, bus: crewbus.Bus) -> None:
    class Later(Known):
        """Defined after."""

    heard: list[Any] = []
    bus.on(Family, lambda envelope: heard.append(envelope.event))
    sent = [Family(a=1), Known(b=2), Later(c=3)]
    with bus.run(record=True) as run:
        for event in sent:
            bus.emit(event)
    assert heard == sent
    assert [envelope.event for envelope in bus.record_of(run.id)][1:-1] == sent
    assert (event_type_of(Known).name, event_type_of(Known).version) == (f"{__name__}.Known", 2)


def test_a_reader_finds_subclasses_that_were_never_emitted(family: type) -> None:
    class Unseen(Family):
        pass

    name = f"{Unseen.__module__}.{Unseen.__qualname__}"
    found = find_event_type(name)
    assert found is not None
    assert found.cls is Unseen
    assert found.structure is not None
    assert found.structure({"x": 1}) == Unseen(x=1)
    assert find_event_type("tests.nobody") is None


def test_a_member_may_be_registered_on_its_own(family: type) -> None:
    class Special(Family):
        pass

    crewbus.register_event(Special, name="tests.Special", structure=lambda data: Special(), unstructure=lambda event: 0)
    assert event_type_of(Special).name == "tests.Special"


def test_a_family_of_attrs_classes_needs_no_functions(bus: crewbus.Bus) -> None:
    @attrs.define
    class Base:
        x: int

    crewbus.register_event(Base, subclasses=True)

    @attrs.define
    class Child(Base):
        y: str = ""

    with bus.run(record=True) as run:
        bus.emit(Child(1, "z"))
    assert [envelope.event for envelope in bus.record_of(run.id)][1] == Child(1, "z")


def test_a_reader_finds_the_slotted_class_and_not_the_one_it_was_made_from(bus: crewbus.Bus) -> None:
    @attrs.define
    class Root:
        x: int

    crewbus.register_event(Root, subclasses=True)

    @attrs.define(slots=True)
    class Slotted(Root):
        y: int = 0

    found = find_event_type(f"{Slotted.__module__}.{Slotted.__qualname__}")
    assert found is not None
    assert found.cls is Slotted
