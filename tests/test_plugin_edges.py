"""What pluggy ignores or reports unclearly: each is reported by name, and leaves nothing behind."""

from __future__ import annotations

import functools
import types
from contextlib import suppress
from typing import Any
from unittest.mock import MagicMock, Mock

import attrs
import pluggy
import pytest
from helpers import TIMEOUT, Noted, in_thread, in_threads, quiet_bus
from lifecycle_helpers import script
from plugin_helpers import Observer, Watcher, logged, plugin

import crewbus
from crewbus import PluginError, PluginWarning, hookimpl, hookspec


@pytest.fixture
def bus():
    with quiet_bus(unscoped="ignore") as bus:
        yield bus


def state(bus: crewbus.Bus) -> Any:
    """All that a registration changes: who there is, what each hook calls, which hooks there are."""
    pm = bus.plugins
    hooks = {name: [id(impl) for impl in caller.get_hookimpls()] for name, caller in vars(pm.hook).items()}
    return pm.list_name_plugin(), hooks, list(pm.infos()), pm.watched


def refused(bus: crewbus.Bus, member: Any, name: str | None = "acme") -> str:
    """Why ``member`` is refused; nothing is left of it, and the bus works as before."""
    before = state(bus)
    with pytest.raises(PluginError) as caught:
        bus.plugins.register(member, name)
    assert state(bus) == before
    observer = Observer()
    bus.plugins.register(observer, "observer after all")
    assert bus.emit(Noted("x")) in observer.envelopes
    bus.plugins.unregister(observer)
    return str(caught.value)


# What is no plugin


def a_function(envelope: crewbus.Envelope) -> None:
    """Not a plugin, marked or not."""


@pytest.mark.parametrize(
    ("member", "says"),
    [
        (None, "None is no plugin"),
        ("acme_plugin", "a str is no plugin"),
        (hookimpl(lambda envelope: None), "a function is no plugin"),
        (a_function, "a function is no plugin"),
        (len, "is no plugin"),
    ],
)
def test_what_is_no_plugin(bus, member, says):
    assert says in refused(bus, member)


@pytest.mark.parametrize("name", ["", " acme", "a,b", "two\nlines", "\x1b[31m", 42])
def test_odd_names(bus, name):
    assert "is no name for a plugin" in refused(bus, Observer(), name)


@pytest.mark.parametrize("name", ["acme", "Acme Exporter", "no:acme", "acme#2", "übung", "a.b:C"])
def test_other_names(bus, name):
    assert bus.plugins.register(Observer(), name) == name
    assert bus.plugins.has_plugin(name)


# Who is who


def test_a_name_that_is_taken_says_by_what(bus):
    bus.plugins.register(Observer(), "acme")
    assert "'acme' is registered already, a Observer" in refused(bus, Watcher())


def test_the_same_plugin_twice_says_as_what(bus):
    member = Observer()
    bus.plugins.register(member, "first")
    assert "'acme' is registered already, as 'first'" in refused(bus, member)


def test_plugins_that_are_equal_by_value_are_refused(bus):
    @attrs.frozen
    class Valued:
        number: int

    bus.plugins.register(Valued(1), "first")
    assert "equals what is registered already, as 'first'" in refused(bus, Valued(1))
    assert bus.plugins.register(Valued(2), "second") == "second"


class EqualToEverything(Observer):
    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 1


class NotComparable(EqualToEverything):
    def __eq__(self, other: object) -> bool:
        raise RuntimeError("not comparable")

    __hash__ = EqualToEverything.__hash__


@pytest.mark.parametrize("make", [EqualToEverything, NotComparable])
def test_a_plugin_that_equals_others_is_refused_rather_than_the_next_one(bus, make):
    assert "by identity" in refused(bus, make())
    assert bus.plugins.register(Observer(), "next") == "next"


# What would never be called


class Held:
    """Callable, and neither a function nor a method."""

    def __call__(self, envelope: crewbus.Envelope) -> None:
        raise AssertionError


def marked(envelope: Any) -> None:
    """A function to be marked."""


class OnProperty:
    @property
    @hookimpl
    def crewbus_emit(self):
        return lambda envelope: None


class OnCachedProperty:
    @functools.cached_property
    @hookimpl
    def crewbus_emit(self):
        return lambda envelope: None


@pytest.mark.parametrize(
    ("member", "kind"),
    [
        (plugin(crewbus_emit=hookimpl(functools.partial(marked))), "a partial"),
        (plugin(crewbus_emit=functools.partial(hookimpl(lambda envelope: None))), "a partial"),
        (plugin(crewbus_emit=hookimpl(Held())), "a Held"),
        (plugin(other_name=hookimpl(specname="crewbus_emit")(Held())), "a Held"),
        (OnProperty(), "a property"),
        (OnCachedProperty(), "a cached_property"),
    ],
)
def test_a_marked_thing_that_pluggy_passes_over(bus, member, kind):
    if isinstance(vars(member).get("crewbus_emit"), functools.partial):
        member.helper = functools.partial(marked)  # it is no hookimpl, so it is ignored
    says = refused(bus, member)
    assert "marked with @crewbus.hookimpl" in says
    assert kind in says


def test_a_helper_made_of_a_hookimpl_is_ignored(bus):
    member = Observer()
    member.tell = functools.partial(member.crewbus_emit, None)
    assert bus.plugins.register(member, "acme") == "acme"


def test_the_marker_of_another_project(bus):
    member = types.SimpleNamespace(crewbus_emit=pluggy.HookimplMarker("pytest")(lambda envelope: None))
    with pytest.warns(PluginWarning, match=r"'acme': crewbus_emit is not marked with @crewbus\.hookimpl"):
        crewbus.Bus([("acme", Wrapped(member))], entry_points=False).close()


class Wrapped:
    """Hashable, which a SimpleNamespace is not."""

    def __init__(self, space: types.SimpleNamespace) -> None:
        vars(self).update(vars(space))


def test_a_hookspec_in_the_place_of_a_hookimpl(bus):
    @hookspec
    def crewbus_emit(envelope):
        raise AssertionError

    module = types.ModuleType("acme")
    module.crewbus_emit = crewbus_emit
    with pytest.warns(PluginWarning, match="crewbus_emit is not marked"):
        bus.plugins.register(module)


def test_a_hookimpl_that_a_lazy_module_makes_is_pointed_out(bus):
    module = types.ModuleType("acme")
    module.__dir__ = lambda: ["crewbus_emit", "other"]
    module.__getattr__ = lambda name: hookimpl(lambda envelope: None)
    with pytest.warns(PluginWarning, match=r"'acme': crewbus_emit comes from the module's __getattr__"):
        assert bus.plugins.register(module) == "acme"


@pytest.mark.parametrize("make", [Mock, MagicMock])
def test_a_mock_implements_nothing(bus, make):
    mock = make()
    assert bus.plugins.register(mock, "mock") == "mock"
    bus.on(Noted, lambda envelope: None)
    assert bus.emit(Noted()) is not None
    assert [info.hooks for info in bus.plugins.infos() if info.name == "mock"] == [()]
    assert bus.plugins.unregister(mock) is mock


# What would be called wrongly


def test_an_unknown_argument_is_reported_with_the_nearest_and_all(bus):
    says = refused(bus, plugin(crewbus_emit=lambda envelop: None))
    assert "crewbus_emit asks for envelop; it may ask for bus, run, envelope: did you mean envelope?" in says


def test_an_unknown_hook_is_reported_with_the_nearest(bus):
    says = refused(bus, plugin(crewbus_stream_chunks=lambda envelope: None))
    assert "implements crewbus_stream_chunks, and there is no such hook: did you mean crewbus_stream_chunk?" in says


def test_what_every_object_has_is_not_taken_for_a_hookimpl_in_silence(bus):
    class Misplaced:
        @hookimpl(specname="crewbus_emit")
        def __repr__(self):
            return "what happened"

    assert "__repr__ is marked with @crewbus.hookimpl" in refused(bus, Misplaced())


def test_an_unknown_specname_is_reported_with_the_nearest(bus):
    member = plugin(watch=hookimpl(specname="crewbus_emits")(lambda envelope: None))
    assert "implements crewbus_emits, and there is no such hook: did you mean crewbus_emit?" in refused(bus, member)


@pytest.mark.parametrize(
    ("function", "which"),
    [
        (lambda *args: None, "*args"),
        (lambda **kwargs: None, "**kwargs"),
        (lambda bus, *, envelope: None, "envelope"),
        (lambda *, envelope=None: None, "envelope=None"),
        (lambda bus, *, nothing: None, "nothing"),
    ],
)
def test_arguments_that_hooks_never_pass(bus, function, which):
    says = refused(bus, plugin(crewbus_emit=function))
    assert f"crewbus_emit would never get {which}, since" in says
    assert "it may ask for bus, run, envelope" in says


@pytest.mark.parametrize("watched", [False, True])
def test_arguments_with_defaults_are_passed_on_every_path(bus, watched):
    got = []

    def crewbus_emit(bus, envelope=None, other=3, *, more=True):
        got.append((envelope, other, more))

    bus.plugins.register(plugin(crewbus_emit=crewbus_emit), "acme")
    unwatch = bus.plugins.add_hookcall_monitoring(lambda *_: None, lambda *_: None) if watched else None
    envelope = bus.emit(Noted())
    if unwatch is not None:
        unwatch()
    assert got == [(envelope, 3, True)]


def test_a_decorated_hookimpl_is_taken_for_what_it_decorates(bus):
    got = []

    def crewbus_emit(envelope):
        got.append(envelope)

    @functools.wraps(crewbus_emit)
    def around(*args, **kwargs):
        return crewbus_emit(*args, **kwargs)

    bus.plugins.register(plugin(crewbus_emit=around), "acme")
    assert bus.emit(Noted()) in got


def test_a_method_without_self(bus):
    class Forgetful:
        @hookimpl
        def crewbus_emit(envelope):  # noqa: N805 - the fault
            raise AssertionError

    assert "crewbus_emit is a method, whose 'envelope' would be the plugin: add self" in refused(bus, Forgetful())


def test_a_generator_that_is_no_wrapper(bus):
    def crewbus_emit(envelope):
        yield

    says = refused(bus, plugin(crewbus_emit=crewbus_emit))
    assert "crewbus_emit yields" in says
    assert "hookimpl(wrapper=True)" in says


def test_event_types_may_be_yielded(bus):
    class Yielded:
        pass

    def crewbus_event_types():
        yield Yielded

    bus.plugins.register(plugin(crewbus_event_types=crewbus_event_types), "acme")
    assert crewbus.event_type_of(Yielded).cls is Yielded


class Bound:
    seen: list[Any] = []  # noqa: RUF012 - shared on purpose

    @hookimpl
    @staticmethod
    def crewbus_emit(envelope):
        Bound.seen.append(("outer static", envelope))

    @staticmethod
    @hookimpl
    def crewbus_run_start(run):
        Bound.seen.append(("inner static", run))

    @hookimpl
    @classmethod
    def crewbus_run_finish(cls, run):
        cls.seen.append(("outer class", run))

    @classmethod
    @hookimpl
    def crewbus_close(cls, bus):
        cls.seen.append(("inner class", bus))


def test_static_and_class_methods_whichever_way_they_are_marked(bus):
    Bound.seen.clear()
    bus.plugins.register(Bound, "bound")
    with bus.run() as run:
        pass
    bus.plugins.unregister("bound")
    kinds = [kind for kind, _ in Bound.seen]
    assert kinds == ["inner static", "outer static", "outer static", "outer class", "inner class"]
    assert Bound.seen[0] == ("inner static", run)
    assert Bound.seen[-1] == ("inner class", bus)


def test_two_implementations_of_one_hook_in_one_plugin(bus):
    seen = []

    class Both:
        @hookimpl
        def crewbus_emit(self, envelope):
            seen.append("by its name")

        @hookimpl(specname="crewbus_emit", tryfirst=True)
        def watch(self, envelope):
            seen.append("by specname")

    bus.plugins.register(Both, "both")
    bus.emit(Noted())
    assert seen == ["by specname", "by its name"]
    bus.plugins.unregister("both")
    bus.emit(Noted())
    assert len(seen) == 2


class Twice:
    """Redacts in two functions."""

    @hookimpl
    def crewbus_redact(self, event):
        return self.without(event, "secret")

    @hookimpl(specname="crewbus_redact")
    def too(self, event):
        return self.without(event, "key")

    @staticmethod
    def without(event, word):
        return attrs.evolve(event, text=event.text.replace(word, "***")) if isinstance(event, crewbus.Chunk) else None


@pytest.mark.parametrize("watched", [False, True])
def test_two_redactors_of_one_plugin_both_redact(watched):
    with quiet_bus(plugins=[Twice], unscoped="ignore") as bus:
        unwatch = bus.plugins.add_hookcall_monitoring(lambda *_: None, lambda *_: None) if watched else None
        bus.on(crewbus.Chunk, lambda envelope: None)
        assert bus.chunk("a secret key").event.text == "a *** ***"
        if unwatch is not None:
            unwatch()


# Objects that don't want to be looked at


class NoDir(Observer):
    def __dir__(self):
        raise LookupError("not to be listed")


class Locked(Observer):
    locked = False

    def __getattribute__(self, name: str) -> Any:
        if object.__getattribute__(self, "locked") and not name.startswith("__"):
            raise LookupError(f"no {name} for you")
        return object.__getattribute__(self, name)


def locked() -> Any:
    member = Locked()
    member.locked = True
    return member


@pytest.mark.parametrize("make", [NoDir, locked])
def test_a_plugin_that_can_not_be_looked_at(bus, make):
    says = refused(bus, make())
    assert "'acme' can't be inspected" in says


class RaisingMeta(type):
    def __getattr__(cls, name: str) -> Any:
        raise LookupError(name)


def test_a_class_whose_attributes_raise(bus):
    class Hostile(Observer, metaclass=RaisingMeta):
        pass

    assert "'acme' can't be inspected: LookupError" in refused(bus, Hostile)


def test_a_class_whose_unused_attributes_raise(bus):
    class Guarded(Observer):
        @property
        def secret(self):
            raise KeyboardInterrupt

        def __getattr__(self, name):
            raise LookupError(name)

    member = Guarded()
    assert bus.plugins.register(member, "guarded") == "guarded"
    assert bus.emit(Noted()) in member.envelopes


# Hooks that plugins bring


class Spec:
    @hookspec(historic=True)
    def acme_began(self, at):
        """Reaches the plugins that are registered, and those that register later."""

    @hookspec
    def acme_ended(self, at):
        """A hook."""


def test_a_historic_call_reaches_plugins_that_register_later(bus):
    bus.plugins.add_hookspecs(Spec)
    bus.plugins.hook.acme_began.call_historic(kwargs={"at": 3})
    got = []
    bus.plugins.register(plugin(acme_began=lambda at: got.append(at)), "late")
    assert got == [3]


@pytest.mark.parametrize("error", [LookupError("not then"), KeyboardInterrupt()])
def test_a_plugin_that_fails_in_the_history_was_never_there(bus, error):
    bus.plugins.add_hookspecs(Spec)
    bus.plugins.hook.acme_began.call_historic(kwargs={"at": 3})

    def acme_began(at):
        raise error

    member = plugin(acme_began=acme_began, acme_ended=lambda at: 1, crewbus_emit=lambda envelope: 1 / 0)
    member.acme_ahead = hookimpl(optionalhook=True)(lambda: None)
    before = state(bus)
    with pytest.raises(PluginError if isinstance(error, Exception) else KeyboardInterrupt):
        bus.plugins.register(member, "acme")
    assert state(bus) == before
    got = []
    bus.plugins.register(plugin(acme_began=lambda at: got.append(at)), "acme")
    assert got == [3]


def test_a_wrapper_of_a_historic_hook_is_refused(bus):
    bus.plugins.add_hookspecs(Spec)

    @hookimpl(wrapper=True)
    def acme_began(at):
        return (yield)

    assert "historic" in refused(bus, plugin(acme_began=acme_began))


def test_a_hook_is_specified_once(bus):
    bus.plugins.add_hookspecs(Spec)
    before = state(bus)

    class More:
        @hookspec
        def acme_ended(self, at): ...

        @hookspec
        def acme_more(self, at): ...

    with pytest.raises(PluginError, match="specifies what is a hook already: acme_ended"):
        bus.plugins.add_hookspecs(More)
    assert state(bus) == before


def test_nothing_to_specify(bus):
    with pytest.raises(PluginError, match="did not find any 'crewbus' hooks"):
        bus.plugins.add_hookspecs(object)


def test_a_plugin_may_specify_hooks_and_others_implement_them_in_order(bus):
    bus.plugins.add_hookspecs(Spec)
    calls = []
    bus.plugins.register(plugin(acme_ended=lambda at: calls.append("one")), "one")
    bus.plugins.register(plugin(acme_ended=hookimpl(trylast=True)(lambda at: calls.append("last"))), "last")
    bus.plugins.register(plugin(acme_ended=lambda: calls.append("two")), "two")
    bus.plugins.hook.acme_ended(at=1)
    assert calls == ["two", "one", "last"]
    assert "acme_ended asks for when; it may ask for at" in refused(bus, plugin(acme_ended=lambda when: 1), "bad")


# Leaving


class Closing(Observer):
    def __init__(self) -> None:
        super().__init__()
        self.closed: list[crewbus.Bus] = []

    @hookimpl
    def crewbus_close(self, bus):
        self.closed.append(bus)


@pytest.mark.parametrize(
    "leave",
    [
        lambda bus, member: bus.plugins.unregister("acme"),
        lambda bus, member: bus.plugins.unregister(member),
        lambda bus, member: bus.plugins.unregister(name="acme"),
        lambda bus, member: bus.plugins.set_blocked("acme"),
    ],
    ids=["by name", "itself", "by keyword", "blocked"],
)
def test_whichever_way_a_plugin_leaves_it_releases_what_it_holds_once(bus, leave):
    member = Closing()
    bus.plugins.register(member, "acme")
    leave(bus, member)
    assert member.closed == [bus]
    assert bus.emit(Noted()) is None
    leave(bus, member)
    bus.close()
    assert member.closed == [bus]


def test_a_plugin_that_leaves_after_the_bus_is_closed_has_released_it_all(bus):
    member = Closing()
    bus.plugins.register(member, "acme")
    bus.close()
    bus.plugins.unregister(member)
    assert member.closed == [bus]


def test_a_plugin_that_could_not_be_configured_is_not_closed(bus):
    class Refusing(Closing):
        @hookimpl
        def crewbus_configure(self):
            raise LookupError("no")

    member = Refusing()
    assert "could not be configured: LookupError: no" in refused(bus, member)
    assert member.closed == []


def test_a_plugin_may_leave_while_it_is_configured(bus):
    class Shy(Closing):
        @hookimpl
        def crewbus_configure(self, bus):
            bus.plugins.unregister(self)

    shy = Shy()
    bus.plugins.register(shy, "shy")
    assert not bus.plugins.has_plugin("shy")
    assert shy.closed == [bus]

    class Refusing(Closing):
        @hookimpl
        def crewbus_configure(self):
            raise LookupError("no")

    later = Refusing()
    with pytest.raises(PluginError, match="LookupError: no"):
        bus.plugins.register(later, "shy")
    assert later.closed == [], "it is another one, and did not begin"


def test_threads_that_come_and_go_by_the_same_name_are_not_taken_for_each_other(bus):
    class Guest(Closing):
        def __init__(self, meanwhile=lambda: None) -> None:
            super().__init__()
            self.meanwhile = meanwhile
            self.configured = 0

        @hookimpl
        def crewbus_event_types(self):
            in_thread(self.meanwhile).result(TIMEOUT)

        @hookimpl
        def crewbus_configure(self):
            self.configured += 1

    def take_its_place():
        bus.plugins.unregister("guest")
        bus.plugins.register(second, "guest")

    first, second = Guest(take_its_place), Guest()
    bus.plugins.register(first, "guest")
    assert (first.configured, first.closed) == (1, [bus]), "it began, and so it ends"
    assert (second.configured, second.closed) == (1, [])
    bus.plugins.unregister("guest")
    assert second.closed == [bus]
    assert len(first.closed) == 1


def test_many_threads_register_and_unregister_at_once(bus):
    class Guest(Closing):
        @hookimpl
        def crewbus_configure(self, bus):
            self.closed.append("began")

    def come_and_go(i):
        for _ in range(100):
            guests.append(Guest())
            with suppress(PluginError):
                bus.plugins.register(guests[-1], "guest")
            bus.plugins.unregister("guest")

    guests: list[Guest] = []
    in_threads(4, come_and_go)
    assert not bus.plugins.has_plugin("guest")
    assert all(guest.closed in ([], ["began", bus]) for guest in guests)


def test_one_plugin_may_turn_another_out_before_it_begins_and_take_its_place():
    configured = []

    class Bouncer:
        @hookimpl
        def crewbus_configure(self, bus):
            bus.plugins.unregister("guest")
            bus.plugins.unregister("stranger")
            bus.plugins.register(plugin(crewbus_configure=lambda bus: configured.append("another")), "guest")

    def guest(name):
        return plugin(
            crewbus_configure=lambda bus: configured.append(name), crewbus_close=lambda: configured.append("closed")
        )

    given = [("bouncer", Bouncer), ("guest", guest("guest")), ("stranger", guest("stranger"))]
    with quiet_bus(plugins=given) as bus:
        assert configured == ["another"]
        assert not bus.plugins.has_plugin("stranger")


def test_unregistering_during_a_call_of_the_hook_ends_it_for_the_next(bus):
    calls = []

    class Last:
        @hookimpl(trylast=True)
        def crewbus_run_start(self, bus):
            calls.append("last")

    def crewbus_run_start(bus):
        calls.append("first")
        bus.plugins.unregister("last")

    bus.plugins.register(Last, "last")
    bus.plugins.register(plugin(crewbus_run_start=crewbus_run_start), "first")
    with bus.run():
        pass
    with bus.run():
        pass
    assert calls == ["first", "last", "first"]


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 0, 2], [1, 2, 0]])
def test_monitors_end_in_any_order(bus, order):
    bus.plugins.register(Observer(), "observer")
    seen: list[list[str]] = [[], [], []]

    def watch(number):
        return bus.plugins.add_hookcall_monitoring(
            lambda name, *_: seen[number].append(name), lambda _, name, *__: seen[number].append(f"after {name}")
        )

    ends = [watch(number) for number in range(3)]
    active = {0, 1, 2}
    for number in order:
        ends[number]()
        ends[number]()
        active.discard(number)
        for calls in seen:
            calls.clear()
        bus.emit(Noted())
        assert {number for number in range(3) if seen[number]} == active
        assert all(calls.count("after crewbus_emit") <= 1 for calls in seen)
        assert bus.plugins.watched is bool(active)


ENDLESS_OBSERVERS = """
import crewbus

@crewbus.event
class Again:
    pass

names = set()

class Watcher:
    @crewbus.hookimpl
    def crewbus_plugin_error(self, failure):
        names.add(failure.name)

class Endless:
    @crewbus.hookimpl
    def crewbus_emit(self, bus):
        bus.emit(Again())

given = [Watcher, ("one", Endless()), ("two", Endless())]
with crewbus.Bus(given, entry_points=False, unscoped="ignore") as bus:
    bus.plugins.add_hookcall_monitoring(lambda *_: None, lambda *_: None)
    assert bus.emit(Again()) is not None
    print(*sorted(names))
"""


def test_two_observers_that_emit_endlessly_end_while_calls_are_monitored():
    """Where one observer reaches the recursion limit, the other must not recurse again: that takes 2 ** depth calls."""
    done = script(ENDLESS_OBSERVERS)
    assert done.stdout.split() == ["one", "two"], done.stderr[-2000:]


# Default plugins


def test_a_blocked_or_replaced_default_plugin_is_not_imported():
    done = script("""
        import sys
        import crewbus

        class Mine:
            pass

        with crewbus.Bus([("callback_isolation", Mine)], entry_points=False, blocked=["checkpoint_recorder"]):
            print(*sorted(name for name in sys.modules if name.startswith("crewbus.builtin.")))
    """)
    assert done.stdout.split() == ["crewbus.builtin.memory_store", "crewbus.builtin.run_scope"], done.stderr[-2000:]


def test_an_added_plugin_is_configured_when_it_joins(bus):
    calls = []
    member = plugin(crewbus_configure=lambda bus: calls.append(bus))
    assert bus.plugins.add(member, "acme") == "acme"
    assert calls == []
    bus.plugins.join("acme", member)
    assert calls == [bus]


def test_an_added_plugin_that_can_not_join_is_unregistered(bus):
    before = state(bus)
    member = plugin(crewbus_configure=lambda bus: 1 / 0)
    bus.plugins.add(member, "acme")
    with pytest.raises(PluginError, match="could not be configured: ZeroDivisionError"):
        bus.plugins.join("acme", member)
    assert state(bus) == before


# A constructor that fails


def test_a_constructor_that_fails_closes_what_was_configured():
    good, later = Closing(), Closing()

    class Arms(Closing):
        @hookimpl
        def crewbus_configure(self, bus):
            bus.enable_recording(crewbus.MemoryStore())
            bus.on(Noted, asynchronous)
            bus.emit(Noted())

    async def asynchronous(envelope):
        handled.append(envelope)

    handled: list[crewbus.Envelope] = []
    arms = Arms()
    with pytest.raises(PluginError, match="'refuses'"):
        crewbus.Bus(
            [
                ("good", good),
                ("arms", arms),
                ("refuses", plugin(crewbus_configure=lambda bus: 1 / 0)),
                ("later", later),
            ],
            entry_points=False,
            strict=True,
            unscoped="ignore",
        )
    assert len(good.closed) == len(arms.closed) == 1
    assert good.closed[0].closed
    assert good.closed[0] not in crewbus.bus.bus.live_buses
    assert len(handled) == 1
    assert later.closed == []


def test_a_constructor_that_is_interrupted_closes_what_was_configured():
    good = Closing()

    def crewbus_configure(bus):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        crewbus.Bus([("good", good), ("bad", plugin(crewbus_configure=crewbus_configure))], entry_points=False)
    assert [bus.closed for bus in good.closed] == [True]


def test_a_constructor_that_fails_inside_a_handler_closes_too(bus):
    good, errors = Closing(), []

    def handler(envelope):
        try:
            crewbus.Bus([("good", good)], entry_points=False, requires=["nobody"])
        except PluginError as error:
            errors.append(error)

    class Configured(Closing):
        @hookimpl
        def crewbus_configure(self, bus):
            raise KeyboardInterrupt

    bus.on(Noted, handler)
    with logged():
        bus.emit(Noted())
    assert len(errors) == 1
    assert good.closed == []  # it was not configured yet

    def again(envelope):
        with pytest.raises(KeyboardInterrupt):
            crewbus.Bus([("good", good), ("bad", Configured)], entry_points=False)

    bus.off(Noted, handler)
    bus.on(Noted, again)
    bus.emit(Noted())
    assert [one.closed for one in good.closed] == [True]


@pytest.mark.parametrize("background", [False, True])
@pytest.mark.parametrize("error", [LookupError, KeyboardInterrupt])
def test_handlers_of_a_refused_plugin_are_not_left_subscribed(bus, background, error):
    heard, others = [], []
    hear = heard.append

    def crewbus_configure(bus):
        bus.on(Noted, hear, background=background)
        bus.on(crewbus.RunStarted, others.append)  # which was there before
        with quiet_bus() as elsewhere:
            elsewhere.on(Noted, others.append)
        in_thread(bus.on, crewbus.RunFinished, others.append).result(TIMEOUT)  # which is not the plugin's
        raise error("no")

    bus.on(Noted, others.append)
    bus.on(crewbus.RunStarted, others.append)
    with pytest.raises((PluginError, KeyboardInterrupt)):
        bus.plugins.register(plugin(crewbus_configure=crewbus_configure), "acme")
    with bus.run():
        bus.emit(Noted())
    bus.flush(TIMEOUT)
    assert heard == []
    assert [type(envelope.event) for envelope in others] == [crewbus.RunStarted, Noted, crewbus.RunFinished]
    bus.on(Noted, hear)  # with background or without
    bus.emit(Noted())
    assert len(heard) == 1


def test_handlers_of_a_plugin_that_serves_are_left_where_another_is_refused(bus):
    heard = []
    bus.plugins.register(plugin(crewbus_configure=lambda bus: bus.on(Noted, heard.append)), "good")
    with pytest.raises(PluginError):
        bus.plugins.register(plugin(crewbus_configure=lambda bus: 1 / 0), "bad")
    bus.emit(Noted())
    assert len(heard) == 1


def test_no_plugin_joins_a_closed_bus(bus):
    member = Closing()
    bus.close()
    before = state(bus)
    with pytest.raises(crewbus.BusClosedError, match="this bus is closed: 'acme' can't join it"):
        bus.plugins.register(member, "acme")
    assert state(bus) == before


def test_one_that_is_configured_while_the_bus_is_closed_releases_what_it_holds(bus):
    class Slow(Closing):
        @hookimpl
        def crewbus_configure(self, bus):
            in_thread(bus.close).result(TIMEOUT)
            self.closed.clear()  # what it closed before it had anything

    member = Slow()
    with pytest.raises(PluginError, match="BusClosedError: the bus was closed meanwhile"):
        bus.plugins.register(member, "acme")
    assert member.closed == [bus]
    assert not bus.plugins.has_plugin("acme")


def test_types_of_a_refused_plugin_are_not_left_registered():
    class Mine:
        pass

    known = crewbus.event(name="tests.edges.Known")(type("Known", (), {"__annotations__": {}}))
    for brought in ([Mine, known, 42], [Mine]):
        member = plugin(crewbus_event_types=lambda brought=brought: brought, crewbus_configure=lambda: 1 / 0)
        with quiet_bus() as bus, pytest.raises(crewbus.PluginError):
            bus.plugins.register(member, "acme")
        with pytest.raises(crewbus.UnregisteredEventError):
            crewbus.event_type_of(Mine)
        assert crewbus.event_type_of(known).name == "tests.edges.Known"
        assert not [found for found in crewbus.event_types() if found.cls is Mine]
