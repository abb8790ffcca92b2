"""Subscriptions: which handler wants which event type, and the plan for each class of events that follows."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import attrs

from crewbus._util import identity_of, is_same, name_of
from crewbus.dispatch.background import Worker
from crewbus.dispatch.plan import Plan
from crewbus.events import FRAMES, Envelope, event_type_of
from crewbus.exceptions import BusClosedError, EventTypeError
from crewbus.scopes import Deferring

if TYPE_CHECKING:
    from crewbus.dispatch.async_handlers import AsyncHandlers
    from crewbus.dispatch.faults import FaultReporter
    from crewbus.dispatch.hook_table import HookTable

H = TypeVar("H", bound=Callable[[Envelope], Any])


@attrs.frozen(eq=False)
class Subscription:
    """A handler of an event type: as the call that is made inline, or with the worker that calls it."""

    event_type: type
    function: Callable[[Envelope], Any]
    call: Callable[[Envelope], Any]
    worker: Worker | None = None

    def is_of(self, event_type: type, function: Callable[..., Any]) -> bool:
        """Whether it subscribes ``function`` to exactly that type."""
        return self.event_type is event_type and is_same(self.function, function)


class Subscriptions:
    """The handlers of a bus, and the plans that its dispatcher follows."""

    def __init__(self, hooks: HookTable, async_handlers: AsyncHandlers, faults: FaultReporter) -> None:
        self._hooks = hooks
        self._async_handlers = async_handlers
        self._faults = faults
        self._closed = False
        self._retired: list[Worker] = []
        """The workers of handlers that were unsubscribed, as long as they have something to deliver."""
        self.plans: dict[type, Plan] = {}
        """By class of event; always this one dictionary, so that the dispatcher may keep it."""
        self.no_effect: set[type] = set()
        """The classes whose plan has no effect outside a run."""
        self.notice: Callable[[Subscription], None] | None = None
        """Called with each subscription that is made."""
        self._all: tuple[Subscription, ...] = ()
        self.after_fork()

    def after_fork(self) -> None:
        """In a forked child: take a new lock; no worker's thread survived."""
        self._lock = threading.RLock()
        for worker in self.workers():
            worker.reset()

    # Subscribing

    def on(self, event_type: type, handler: H | None, background: bool) -> H | Callable[[H], H]:
        """See `Bus.on`."""
        if not isinstance(event_type, type):
            raise EventTypeError(f"bus.on() takes an event class; got {event_type!r}")

        def subscribe(function: H) -> H:
            if not callable(function):
                raise EventTypeError(f"a handler is called with the envelope; {function!r} can't be called")
            with Deferring(self._lock), self._lock:
                self._add(event_type, function, background)
            return function

        return subscribe if handler is None else subscribe(handler)

    def _add(self, event_type: type, function: Callable[[Envelope], Any], background: bool) -> None:
        known = next((one for one in self._all if one.is_of(event_type, function)), None)
        if known is not None and (known.worker is not None) is not background:
            raise EventTypeError(
                f"{name_of(function)} is subscribed to {event_type.__qualname__} already, and not with "
                f"background={background}: call bus.off() first"
            )
        if known is None:
            made = self._made(event_type, function, background)
            self._all += (made,)
            self.forget_plans()
            if self.notice is not None:
                self.notice(made)

    def _made(self, event_type: type, function: Callable[[Envelope], Any], background: bool) -> Subscription:
        if not background:
            call = self._async_handlers.as_call(function, name_of(function), function)
            return Subscription(event_type, function, call)
        # One worker for each handler, so that it gets the events of several types in order too.
        workers = [*self.workers(), *self._retired]
        worker = next((one for one in workers if is_same(one.handler, function)), None)
        if worker is None:
            worker = Worker(function, self._async_handlers, self._faults.report_handler)
        worker.resume()
        self._retired = [one for one in self._retired if one is not worker]
        return Subscription(event_type, function, function, worker)

    def off(self, event_type: type, handler: Callable[[Envelope], Any]) -> bool:
        """See `Bus.off`."""
        with Deferring(self._lock), self._lock:
            before = self._all
            self._all = tuple(one for one in before if not one.is_of(event_type, handler))
            self.forget_plans()
            gone = {one.worker for one in before if one.worker is not None}.difference(self.workers())
            self._retired = [worker for worker in self._retired if worker.is_busy()] + list(gone)
        for worker in gone:
            worker.finish()
        return len(self._all) < len(before)

    def remove(self, subscription: Subscription) -> None:
        """End exactly this subscription, if it is still there."""
        if subscription in self._all:
            self.off(subscription.event_type, subscription.function)

    def workers(self) -> set[Worker]:
        """The workers of background handlers."""
        return {one.worker for one in self._all if one.worker is not None}

    # Plans

    def forget_plans(self) -> None:
        """Make all plans again when they are needed next."""
        with Deferring(self._lock), self._lock:
            self.plans.clear()
            self.no_effect.clear()

    def close(self) -> None:
        """Make no plan any more: what is emitted from now on raises `BusClosedError`."""
        with Deferring(self._lock), self._lock:
            self._closed = True
            self.forget_plans()

    def release(self) -> None:
        """Stop the workers, and keep no handler: a closed bus calls none."""
        for worker in [*self.workers(), *self._retired]:
            worker.stop()
        self._all, self._retired = (), []

    def plan_of(self, event: Any) -> Plan:
        """The plan for the class of ``event``. Raises `UnregisteredEventError` and `BusClosedError`."""
        return self.plans.get(type(event)) or self.plan_for(type(event))

    def plan_for(self, kind: type) -> Plan:
        """Make the plan for a class of events. Raises `UnregisteredEventError` and `BusClosedError`."""
        with Deferring(self._lock), self._lock:
            if self._closed:
                raise BusClosedError(f"this bus is closed: {kind.__qualname__} was not emitted")
            event_type_of(kind)
            found: dict[object, Subscription] = {}
            for one in self._all:
                if issubclass(kind, one.event_type):
                    found.setdefault(identity_of(one.function), one)
            plan = self._plan(kind, list(found.values()))
            self.plans[kind] = plan
            if plan.no_effect:
                self.no_effect.add(kind)
            return plan

    def _plan(self, kind: type, subscriptions: list[Subscription]) -> Plan:
        hooks = self._hooks
        return Plan(
            (one.call for one in subscriptions if one.worker is None),
            (one.worker for one in subscriptions if one.worker is not None),
            frame=issubclass(kind, FRAMES),
            observers=hooks.observers,
            routers=hooks.routers,
            transported=hooks.transports,
            redacted=bool(hooks.redaction.chain),
        )

    def closing_plan(self) -> Plan:
        """The plan for the terminal event of a run on a closed bus: its streams get it, and nothing else does."""
        return Plan((), (), frame=True, observers=(), routers=self._hooks.routers, transported=False, redacted=False)
