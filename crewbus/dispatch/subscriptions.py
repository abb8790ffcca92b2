"""Handlers: who subscribed to which event type, and the plan for each class of events that follows from it."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, overload

import attrs

from crewbus._util.callables import is_async, is_same, name_of
from crewbus.dispatch.async_handlers import Tasks
from crewbus.dispatch.background import Worker
from crewbus.events import FRAMES, Envelope, event_type_of
from crewbus.exceptions import BusClosedError, EventTypeError
from crewbus.plugins.flatten import Function, HookOwner, OwnedFunction

H = TypeVar("H", bound=Callable[[Envelope], Any])


@attrs.frozen(eq=False)
class Subscription:
    """A handler of an event type, as a plain call; or with the worker that tells it in the background."""

    event_type: type
    function: Callable[[Envelope], Any]
    call: Callable[[Envelope], Any]
    worker: Worker | None = None

    def is_of(self, event_type: type, function: Callable[..., Any]) -> bool:
        """Whether it subscribes ``function`` to that very type."""
        return self.event_type is event_type and is_same(self.function, function)


class Plan:
    """What becomes of the events of one class."""

    __slots__ = ("careful", "frame", "handlers", "heard", "ordered", "queues", "routers", "silent")

    def __init__(
        self,
        subscriptions: list[Subscription],
        frame: bool,
        observed: bool,
        redacted: bool,
        routers: tuple[OwnedFunction, ...],
        transported: bool,
    ) -> None:
        self.frame = frame
        """Whether it goes to streams."""
        self.handlers = tuple(one.call for one in subscriptions if one.worker is None)
        self.queues = tuple(one.worker for one in subscriptions if one.worker is not None)
        """What tells background handlers, and must be told in the order of the numbers."""
        queued = tuple((worker.push, HookOwner(worker.name, "bus.on")) for worker in self.queues)
        self.routers: tuple[OwnedFunction, ...] = (*routers, *queued) if frame else queued
        """All that must be told in the order of the numbers."""
        self.ordered = (frame and transported) or bool(self.queues)
        """Whether there is an order to keep even where no stream is attached and nothing recorded."""
        self.careful = redacted or self.ordered
        """Whether even an unwatched emission must go the long way."""
        self.heard = observed or bool(self.handlers)
        """Whether an observer or an inline handler is to be called."""
        self.silent = not (self.heard or self.queues or frame)
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
        self._observers: tuple[tuple[Function, HookOwner], ...] = ()
        """The plugins' functions that observe every event."""
        self._redactors: tuple[tuple[str, Function], ...] = ()
        """The plugins' functions that redact, by the plugin's name."""
        self._retired: list[Worker] = []
        """The workers of handlers that were taken off, as long as they have something to tell."""
        self._routers: tuple[OwnedFunction, ...] = ()
        """The plugins' functions that take every frame."""
        self._transports = False
        """Whether a plugin takes every frame, also where no stream is attached."""

    @overload
    def on(self, event_type: type, *, background: bool = False) -> Callable[[H], H]: ...
    @overload
    def on(self, event_type: type, handler: H, *, background: bool = False) -> H: ...
    def on(self, event_type: type, handler: H | None = None, *, background: bool = False) -> H | Callable[[H], H]:
        """Subscribe ``handler(envelope)`` to an event type and its subclasses; a decorator without ``handler``.

        Handlers run inline, in the order of their registration, in the emitter's thread and context.
        An ``async def`` handler runs as a task on the emitter's event loop, or on a background one where
        none runs. With ``background`` a handler of either kind has a thread of its own, which calls it in a copy of
        the emitter's context, one event after the other, those of a root run in the order of their numbers; when 1024
        are waiting for it, emitters wait. Subscribing the same handler to the same type again changes nothing. One
        that raises is reported by name, and nobody else notices. ``object`` stands for every event.
        """
        if not isinstance(event_type, type):
            raise EventTypeError(f"bus.on() takes an event class; got {event_type!r}")

        def subscribe(function: H) -> H:
            if not callable(function):
                raise EventTypeError(f"a handler is called with the envelope; {function!r} can't be called")
            with self._registry:
                known = next((s for s in self._subscriptions if s.is_of(event_type, function)), None)
                if known is not None and (known.worker is not None) is not background:
                    raise EventTypeError(
                        f"{name_of(function)} is subscribed to {event_type.__qualname__} already, and not with "
                        f"background={background}: call bus.off() first"
                    )
                if known is None:
                    self._subscriptions += (self._subscription(event_type, function, background),)
                    self._forget_plans()
            return function

        return subscribe if handler is None else subscribe(handler)

    def _subscription(self, event_type: type, function: Callable[[Envelope], Any], background: bool) -> Subscription:
        if not background:
            return Subscription(event_type, function, self._as_call(function, name_of(function), function))
        # Of one worker for each handler, so that what it hears of several types is in order too.
        workers = [*self._workers(), *self._retired]
        worker = next((one for one in workers if is_same(one.handler, function)), None)
        if worker is None:
            worker = Worker(function, self._tasks, self._blame_handler)
        worker.resume()
        self._retired = [one for one in self._retired if one is not worker]
        return Subscription(event_type, function, function, worker)

    def _workers(self) -> Iterable[Worker]:
        """The workers of background handlers."""
        return {one.worker for one in self._subscriptions if one.worker is not None}

    def off(self, event_type: type, handler: Callable[[Envelope], Any]) -> bool:
        """End a subscription; returns whether there was one. An emission under way may still reach it."""
        with self._registry:
            before = self._subscriptions
            self._subscriptions = tuple(s for s in before if not s.is_of(event_type, handler))
            self._forget_plans()
            gone = {s.worker for s in before if s.worker is not None}.difference(self._workers())
            self._retired = [worker for worker in self._retired if worker.is_busy()] + list(gone)
        for worker in gone:
            worker.finish()
        return len(self._subscriptions) < len(before)

    def _as_call(self, function: Callable[[Envelope], Any], name: str, culprit: Any) -> Callable[[Envelope], Any]:
        """``function`` as a plain call; where that leaves work to be done later, ``culprit`` is to blame for it."""
        if not is_async(function):
            return function
        schedule = self._tasks.schedule

        @functools.wraps(function)
        def call(envelope: Envelope) -> None:
            schedule(function, name, culprit, envelope)

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
            known = any(is_same(other.function, subscription.function) for other in found)
            if issubclass(kind, subscription.event_type) and not known:
                found.append(subscription)
        plans[kind] = plan = Plan(
            found,
            issubclass(kind, FRAMES),
            observed=bool(self._observers),
            redacted=bool(self._redactors),
            routers=self._routers,
            transported=self._transports,
        )
        if plan.silent:
            silent.add(kind)
        return plan

    def _blame_handler(self, handler: Any, error: BaseException, envelope: Any) -> BaseException | None:
        """Tell of a handler's or callback's fault: `Faults` knows whom."""
        raise NotImplementedError
