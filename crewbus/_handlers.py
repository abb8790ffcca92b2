"""Handlers: who subscribed to which event type, and the plan for each class of events that follows from it."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from types import BuiltinMethodType, MethodType
from typing import Any, TypeVar, overload

import attrs

from crewbus._callables import is_async, name_of
from crewbus._flatten import Blame, Function
from crewbus._tasks import Tasks
from crewbus.events import FRAMES, Envelope, event_type_of
from crewbus.exceptions import BusClosedError, EventTypeError

H = TypeVar("H", bound=Callable[[Envelope], Any])


@attrs.define(eq=False)
class Subscription:
    """A handler of an event type, as a plain call."""

    event_type: type
    function: Callable[[Envelope], Any]
    call: Callable[[Envelope], Any]


class Plan:
    """What becomes of the events of one class."""

    __slots__ = ("careful", "frame", "handlers", "heard", "silent")

    def __init__(self, handlers: tuple[Subscription, ...], observed: bool, frame: bool, careful: bool) -> None:
        self.handlers = tuple(handler.call for handler in handlers)
        self.frame = frame
        self.careful = careful
        """Whether even an unwatched emission must go the long way: redactors, transports."""
        self.heard = observed or bool(handlers)
        """Whether an observer or handler is to be called."""
        self.silent = not self.heard and not frame
        """Whether nothing at all comes of it outside a run."""


class Handlers:
    """The subscriptions of a bus. What else decides over a plan, `Dispatch` says."""

    def __init__(self) -> None:
        self.closed = False
        self._registry = threading.RLock()
        self._subscriptions: tuple[Subscription, ...] = ()
        self._plans: dict[type, Plan] = {}
        self._silent: set[type] = set()
        """The classes whose plan is silent."""
        self._tasks = Tasks(self._blame_handler)
        self._observers: tuple[tuple[Function, Blame], ...] = ()
        """The plugins' functions that observe every event."""
        self._redactors: tuple[tuple[str, Function], ...] = ()
        """The plugins' functions that redact, by the plugin's name."""
        self._transports = False
        """Whether a plugin takes every frame, also where no stream is attached."""

    @overload
    def on(self, event_type: type) -> Callable[[H], H]: ...
    @overload
    def on(self, event_type: type, handler: H) -> H: ...
    def on(self, event_type: type, handler: H | None = None) -> H | Callable[[H], H]:
        """Subscribe ``handler(envelope)`` to an event type and its subclasses; a decorator without ``handler``.

        Handlers run inline, in the order of their registration, in the emitter's thread and context.
        An ``async def`` handler runs as a task on the emitter's event loop, or on a background one where
        none runs. Subscribing the same handler to the same type again changes nothing. One that
        raises is reported by name, and nobody else notices. ``object`` stands for every event.
        """
        if not isinstance(event_type, type):
            raise EventTypeError(f"bus.on() takes an event class; got {event_type!r}")

        def subscribe(function: H) -> H:
            if not callable(function):
                raise EventTypeError(f"a handler is called with the envelope; {function!r} can't be called")
            with self._registry:
                if not any(s.event_type is event_type and _same(s.function, function) for s in self._subscriptions):
                    self._subscriptions += (Subscription(event_type, function, self._as_call(function)),)
                    self._forget_plans()
            return function

        return subscribe if handler is None else subscribe(handler)

    def off(self, event_type: type, handler: Callable[[Envelope], Any]) -> bool:
        """End a subscription; returns whether there was one. An emission under way may still reach it."""
        with self._registry:
            before = self._subscriptions
            self._subscriptions = tuple(
                s for s in before if not (s.event_type is event_type and _same(s.function, handler))
            )
            self._forget_plans()
            return len(self._subscriptions) < len(before)

    def _as_call(self, function: Callable[[Envelope], Any]) -> Callable[[Envelope], Any]:
        if not is_async(function):
            return function
        name, schedule = name_of(function), self._tasks.schedule

        @functools.wraps(function)
        def call(envelope: Envelope) -> None:
            schedule(function, name, envelope)

        return call

    def _forget_plans(self) -> None:
        """Have all plans made anew. Others take their place, so that what is being made is stored nowhere."""
        self._plans, self._silent = {}, set()

    def _plan_of(self, event: Any) -> Plan:
        return self._plans.get(type(event)) or self._plan(type(event))

    def _plan(self, kind: type) -> Plan:
        plans, silent = self._plans, self._silent
        if self.closed:
            raise BusClosedError(f"this bus is closed: {kind.__qualname__} was not emitted")
        event_type_of(kind)
        found: list[Subscription] = []
        for subscription in self._subscriptions:
            known = any(_same(other.function, subscription.function) for other in found)
            if issubclass(kind, subscription.event_type) and not known:
                found.append(subscription)
        frame = issubclass(kind, FRAMES)
        plans[kind] = plan = Plan(
            tuple(found),
            observed=bool(self._observers),
            frame=frame,
            careful=bool(self._redactors) or (frame and self._transports),
        )
        if plan.silent:
            silent.add(kind)
        return plan

    def _blame_handler(self, handler: Callable[..., Any], error: BaseException, envelope: Any) -> BaseException | None:
        """Tell of a handler's fault: `Faults` knows whom."""
        raise NotImplementedError


def _same(one: Any, other: Any) -> bool:
    # Not by ==, which a handler may define as it likes; bound methods are made anew at each access.
    if isinstance(one, MethodType) and isinstance(other, MethodType):
        return one.__self__ is other.__self__ and one.__func__ is other.__func__
    if isinstance(one, BuiltinMethodType) and isinstance(other, BuiltinMethodType):
        return one == other  # which compares what they are bound to by identity
    return one is other
