"""Flattened dispatch calls what pluggy would call: the same functions, in the same order, with the same arguments.

For random sets of plugins the bus's own call of a hook is compared with pluggy's call of the same hook, guards
included: what was called and with what, what came of it, what was reported, what escaped. Both ways of the bus are
taken: the flattened one and, while someone watches, the one through pluggy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import pytest
from helpers import Noted, quiet_bus
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from plugin_helpers import Watcher, logged

import crewbus
from crewbus.plugins.isolation import raising_deferred

ARGUMENTS = {
    "crewbus_emit": ("bus", "run", "envelope"),
    "crewbus_record": ("bus", "run", "envelope"),
    "crewbus_stream_chunk": ("bus", "run", "envelope"),
    "crewbus_current_run": ("bus",),
    "crewbus_redact": ("bus", "run", "event"),
}
HOOKS = sorted(ARGUMENTS)
PLAIN = ("nothing", "return", "raise", "escape")
AROUND = ("pass", "replace", "raise before", "raise after", "escape after", "swallow")


class Escape(BaseException):
    """A BaseException that is no Exception."""


@attrs.frozen
class Member:
    """A plugin to be made: how its hookimpl is marked, which arguments it takes, and what it does."""

    kind: str
    order: str
    required: tuple[str, ...]
    optional: tuple[str, ...]
    does: str


@st.composite
def members(draw: st.DrawFn, hook: str) -> Member:
    kind = draw(st.sampled_from(["plain", "plain", "plain", "plain", "wrapper", "hookwrapper"]))
    taken = draw(st.lists(st.sampled_from(ARGUMENTS[hook]), unique=True))
    split = draw(st.integers(0, len(taken)))
    optional = [*taken[split:], *draw(st.lists(st.just("unheard_of"), max_size=1))]
    return Member(
        kind,
        draw(st.sampled_from(["", "", "tryfirst", "trylast"])),
        tuple(taken[:split]),
        tuple(draw(st.permutations(optional))),
        draw(st.sampled_from(PLAIN if kind == "plain" else AROUND)),
    )


@st.composite
def scenarios(draw: st.DrawFn, hook: str) -> tuple[list[Member], list[Any]]:
    first = draw(st.lists(members(hook), max_size=6))
    change = st.one_of(members(hook), st.integers(0, 9), st.sampled_from(["monitor", "trace"]))
    return first, draw(st.lists(change, max_size=4))


class Stage:
    """One bus, one hook, and a log of everything that is called."""

    def __init__(self, bus: crewbus.Bus, hook: str, run: crewbus.Run, other: crewbus.Run) -> None:
        self.bus, self.hook, self.run, self.other = bus, hook, run, other
        self.active = False
        self.log: list[Any] = []
        self.plugins: dict[str, Member] = {}
        self.made = 0
        self.watcher = Watcher()
        bus.plugins.register(self.watcher, "watcher")
        self.event: Any = None
        self.base: Any = None
        self.handled: list[crewbus.Envelope] = []
        bus.on(Noted, self.handled.append)

    # Making plugins

    def add(self, member: Member) -> None:
        name = f"p{self.made}"
        self.made += 1
        made = type("Member", (), {self.hook: self.implement(name, member)})()
        assert self.bus.plugins.register(made, name) == name
        self.plugins[name] = member

    def drop(self, index: int) -> None:
        if self.plugins:
            name = sorted(self.plugins)[index % len(self.plugins)]
            del self.plugins[name]
            assert self.bus.plugins.unregister(name) is not None

    def implement(self, name: str, member: Member) -> Callable[..., Any]:
        parameters = ["self", *member.required, *(f"{argument}=None" for argument in member.optional)]
        values = ", ".join(f"{argument}={argument}" for argument in (*member.required, *member.optional))
        body = {"plain": self.plain, "wrapper": self.around, "hookwrapper": self.around_old}[member.kind]
        call = f"body(name, does, dict({values}))"
        source = f"def hook({', '.join(parameters)}):\n    return (yield from {call})"
        if member.kind == "plain":
            source = source.replace(f"(yield from {call})", call)
        namespace: dict[str, Any] = {"body": body, "name": name, "does": member.does}
        exec(source, namespace)
        options = {option: True for option in (member.kind, member.order) if option not in ("plain", "")}
        return crewbus.hookimpl(**options)(namespace["hook"])

    def plain(self, name: str, does: str, arguments: dict[str, Any]) -> Any:
        if not self.active:
            return None
        self.note(name, "call", arguments)
        if does == "raise":
            raise ValueError(name)
        if does == "escape":
            raise Escape(name)
        return self.result(name) if does == "return" else None

    def around(self, name: str, does: str, arguments: dict[str, Any]) -> Any:
        if not self.active:
            return (yield)
        self.note(name, "before", arguments)
        if does == "raise before":
            raise ValueError(f"{name} before")
        try:
            result = yield
        except BaseException as error:
            self.note(name, "after", error)
            if does != "swallow":
                raise
            return self.nothing()
        self.note(name, "after", result)
        self.fail_after(name, does)
        return self.instead(name) if does == "replace" else result

    def around_old(self, name: str, does: str, arguments: dict[str, Any]) -> Any:
        if not self.active:
            yield
            return
        self.note(name, "before", arguments)
        if does == "raise before":
            raise ValueError(f"{name} before")
        outcome = yield
        error = outcome.exception
        self.note(name, "after", error if error is not None else outcome.get_result())
        self.fail_after(name, does)
        if error is not None and does == "swallow":
            outcome.force_result(self.nothing())
        elif error is None and does == "replace":
            outcome.force_result(self.instead(name))

    def fail_after(self, name: str, does: str) -> None:
        if does == "raise after":
            raise ValueError(f"{name} after")
        if does == "escape after":
            raise Escape(f"{name} after")

    def result(self, name: str) -> Any:
        if self.hook == "crewbus_current_run":
            return self.other if name[-1] in "02468" else self.run
        return Noted(f"by {name}") if self.hook == "crewbus_redact" else f"by {name}"

    def instead(self, name: str) -> Any:
        return self.result(name) if self.hook == "crewbus_current_run" else [self.result(name)]

    def nothing(self) -> Any:
        return None if self.hook == "crewbus_current_run" else []

    def note(self, name: str, what: str, value: Any) -> None:
        if isinstance(value, dict):
            value = tuple((argument, self.symbol(value[argument])) for argument in value)
        else:
            value = [self.symbol(item) for item in value] if isinstance(value, list) else self.symbol(value)
        self.log.append((name, what, value))

    def symbol(self, value: Any) -> Any:
        if value is self.bus:
            return "the bus"
        if isinstance(value, crewbus.Envelope):
            return f"envelope of {value.event}"
        if isinstance(value, crewbus.Run):
            return f"run {value.id}"
        return repr(value)

    # Calling

    def by_bus(self) -> Any:
        """What came of an emission: every call, every report, and the result."""
        if self.hook == "crewbus_current_run":
            return self.observe(lambda: self.bus.emit(self.event))
        return self.observe(lambda: self.run.emit(self.event))

    def by_pluggy(self) -> Any:
        """The same for pluggy's own call of the hook."""
        wrappers = [name for name in self.called() if self.plugins[name].kind != "plain"]

        def emission() -> crewbus.Envelope:
            try:
                run, event = self.reference()
            except Exception as error:
                if self.hook == "crewbus_record":
                    raise
                if self.hook == "crewbus_redact":
                    raise crewbus.RedactionError from error
                origin = ", ".join(wrappers)
                self.watcher.failures.append(crewbus.Failure("plugin", origin, error, self.hook))
                run, event = (None if self.hook == "crewbus_current_run" else self.run), self.event
            return crewbus.Envelope(event, run.id if run is not None else None, 0, None, 0.0)

        return self.observe(emission)

    def called(self) -> list[str]:
        impls = getattr(self.bus.plugins.hook, self.hook).get_hookimpls()
        return [impl.plugin_name for impl in reversed(impls) if impl.plugin_name in self.plugins]

    def reference(self) -> tuple[crewbus.Run | None, Any]:
        hook = getattr(self.bus.plugins.hook, self.hook)
        with raising_deferred():
            if self.hook == "crewbus_current_run":
                return hook(bus=self.bus), self.event
            if self.hook == "crewbus_redact":
                return self.run, self.redacted()
            envelope = crewbus.Envelope(self.event, self.run.id, 0, None, 0.0)
            before = self.base.calls
            hook(bus=self.bus, run=self.run, envelope=envelope)
            if self.hook == "crewbus_record" and self.base.calls == before:
                # A wrapper swallowed what kept all from being called.
                raise crewbus.RecordingError(f"run {self.run.id} is recorded, but no plugin records any more")
        return self.run, self.event

    def redacted(self) -> Any:
        """A chain: each redactor by itself, with the wrappers around it, on what the one before it returned."""
        pm, event = self.bus.plugins, self.event
        plain = [name for name in self.called() if self.plugins[name].kind == "plain"]
        for name in plain or [None]:
            others = [pm.get_plugin(other) for other in plain if other != name]
            results = pm.subset_hook_caller("crewbus_redact", others)(bus=self.bus, run=self.run, event=event)
            event = results[0] if results else event
        return event

    def observe(self, call: Callable[[], crewbus.Envelope | None]) -> Any:
        self.log, self.watcher.failures = [], []
        self.active = True
        try:
            envelope = call()
            outcome: Any = envelope and (envelope.run_id, repr(envelope.event))
        except crewbus.RedactionError as error:
            outcome = "RedactionError", repr(error.__cause__)
        except (Exception, Escape) as error:
            outcome = "raised", repr(error)
        finally:
            self.active = False
        reports = [(f.kind, f.name, f.hook, repr(f.error)) for f in self.watcher.failures]
        return self.log, reports, outcome


def watch(stage: Stage, how: str, seen: list[str]) -> Callable[[], None]:
    pm = stage.bus.plugins
    if how == "trace":
        pm.trace.root.setwriter(seen.append)
        return pm.enable_tracing()
    return pm.add_hookcall_monitoring(
        lambda name, impls, values: seen.append(name), lambda outcome, name, impls, values: None
    )


@pytest.mark.filterwarnings("ignore::pluggy.PluggyTeardownRaisedWarning")
@pytest.mark.parametrize("hook", HOOKS)
@settings(max_examples=60, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_the_bus_calls_what_pluggy_would_call(hook, data):
    first, changes = data.draw(scenarios(hook))
    with logged(), quiet_bus(blocked=["checkpoint_recorder"], unscoped="ignore") as bus:
        base = crewbus_base_recorder()
        bus.plugins.register(base, "base")
        run, other = bus.run(id="run", record=hook == "crewbus_record"), bus.run(id="other")
        run.start()
        other.start()
        stage = Stage(bus, hook, run, other)
        stage.base = base
        stage.event = crewbus.Chunk("text") if hook == "crewbus_stream_chunk" else Noted("text")
        for member in first:
            stage.add(member)
        assert stage.by_bus() == stage.by_pluggy()
        for change in changes:
            if isinstance(change, Member):
                stage.add(change)
            elif isinstance(change, int):
                stage.drop(change)
            else:
                seen: list[str] = []
                unwatch = watch(stage, change, seen)
                assert stage.by_bus() == stage.by_pluggy()
                if bus.plugins.hook.__dict__[hook].get_hookimpls() and hook != "crewbus_redact":
                    assert any(hook in line for line in seen)
                unwatch()
                seen.clear()
                assert stage.by_bus() == stage.by_pluggy()
            assert stage.by_bus() == stage.by_pluggy()
        run.finish()
        other.finish()


def crewbus_base_recorder() -> Any:
    """A recorder that keeps nothing: recording is armed only where something would record."""

    class Base:
        calls = 0

        @crewbus.hookimpl(trylast=True)
        def crewbus_record(self) -> None:
            self.calls += 1

    return Base()
