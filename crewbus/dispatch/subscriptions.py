"""Subscriptions: which handler wants which event type, and the plan for each class of events that follows."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from crewbus._util import identity_of, is_same, name_of, reentrant_lock
from crewbus.dispatch.async_handlers import HomeLoop
from crewbus.dispatch.background import Worker
from crewbus.dispatch.plan import Plan
from crewbus.events import FRAMES, Envelope, event_type_of
from crewbus.exceptions import BusClosedError, EventTypeError, text_of
from crewbus.scopes import Deferring, threads

if TYPE_CHECKING:
    from crewbus.dispatch.async_handlers import AsyncHandlers
    from crewbus.dispatch.faults import FaultReporter
    from crewbus.dispatch.hook_table import HookTable

Key = tuple[type, object]
"""An event type, and the identity of a handler."""

H = TypeVar("H", bound=Callable[[Envelope], Any])


ABSENT: Final[Any] = object()
"""Stands for a handler that was not given, as in a decorator."""


class Subscription:
    """A handler of an event type, called inline, or by a worker."""

    __slots__ = ("event_type", "function", "home", "worker")

    def __init__(self, event_type: type, function: Callable[[Envelope], Any], worker: Worker | None) -> None:
        self.event_type = event_type
        self.function = function
        self.home = HomeLoop()
        """The loop on which it is made."""
        self.worker = worker

    @property
    def key(self) -> Key:
        """What distinguishes it from all others of its bus."""
        return self.event_type, identity_of(self.function)


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
        self._all: dict[Key, Subscription] = {}
        """In the order in which they were made."""
        self._workers: dict[object, Worker] = {}
        """The workers of background handlers, by the identity of the handler."""
        self.after_fork()

    def after_fork(self) -> None:
        """In a forked child: take a new lock; no worker's thread survived."""
        self._lock = reentrant_lock()
        for worker in self._all_workers():
            worker.reset()

    # Subscribing

    def on(self, event_type: type, handler: H = ABSENT, background: bool = False) -> H | Callable[[H], H]:
        """See `Bus.on`."""
        _check_event_type(event_type)

        def subscribe(function: H) -> H:
            if not callable(function):
                raise EventTypeError(f"a handler is called with the envelope; {function!r} can't be called")
            with Deferring(self._lock), self._lock:
                self._add(event_type, function, background)
            return function

        return subscribe if handler is ABSENT else subscribe(handler)

    def _add(self, event_type: type, function: Callable[[Envelope], Any], background: bool) -> None:
        known = self._all.get((event_type, identity_of(function)))
        if known is not None and (known.worker is not None) is not background:
            raise EventTypeError(
                f"{name_of(function)} is subscribed to {event_type.__qualname__} already, and not with "
                f"background={background}: call bus.off() first"
            )
        if known is None:
            worker = self._worker_of(function) if background else None
            made = Subscription(event_type, function, worker)
            self._all[made.key] = made
            self._forget_plans_for(made)
            if self.notice is not None:
                self.notice(made)

    def _worker_of(self, function: Callable[[Envelope], Any]) -> Worker:
        # One worker for each handler, so that it gets the events of several types in order too.
        worker = self._workers.get(identity_of(function))
        if worker is None:
            retired = (one for one in self._retired if is_same(one.handler, function))
            worker = next(retired, None) or Worker(function, self._async_handlers, self._faults.report_culprit)
            worker.resume()
            self._retired = [one for one in self._retired if one is not worker]
            self._workers[identity_of(function)] = worker
        return worker

    def off(self, event_type: type, handler: Callable[[Envelope], Any]) -> bool:
        """See `Bus.off`."""
        with Deferring(self._lock), self._lock:
            gone = self._all.pop((event_type, identity_of(handler)), None)
            if gone is None:
                return False
            self._forget_plans_for(gone)
            unused = gone.worker
            if unused is not None and any(one.worker is unused for one in self._all.values()):
                unused = None
            if unused is not None:
                del self._workers[identity_of(handler)]
                self._retired = [*(worker for worker in self._retired if worker.is_busy()), unused]
        if unused is not None:
            unused.finish()
        return True

    def remove(self, subscription: Subscription) -> None:
        """End exactly this subscription, if it is still there."""
        if self._all.get(subscription.key) is subscription:
            self.off(subscription.event_type, subscription.function)

    def workers(self) -> list[Worker]:
        """The workers of background handlers."""
        with Deferring(self._lock), self._lock:
            return list(self._workers.values())

    def _all_workers(self) -> list[Worker]:
        return [*self.workers(), *self._retired]

    def serve_here(self) -> None:
        """Call the background handlers for which no thread can start in this thread, with all that is queued."""
        for worker in self._all_workers():
            worker.serve_here()

    # Plans

    def forget_plans(self) -> None:
        """Make all plans again when they are needed next."""
        with Deferring(self._lock), self._lock:
            self.plans.clear()
            self.no_effect.clear()

    def _forget_plans_for(self, subscription: Subscription) -> None:
        for kind in [kind for kind in self.plans if self._is_for(subscription, kind)]:
            del self.plans[kind]
            self.no_effect.discard(kind)

    def _is_for(self, subscription: Subscription, kind: type) -> bool:
        """Whether ``kind`` is the event type or a subclass. A metaclass that fails at that is reported."""
        try:
            return issubclass(kind, subscription.event_type)
        except Exception as error:
            threads.state.defer(partial(self._faults.report_culprit, subscription.function, error, None))
            return False

    def close(self) -> None:
        """Make no plan any more: what is emitted from now on raises `BusClosedError`."""
        with Deferring(self._lock), self._lock:
            self._closed = True
            self.forget_plans()

    def release(self) -> None:
        """Stop the workers, and keep no handler: a closed bus calls none."""
        for worker in self._all_workers():
            worker.stop()
        self._all, self._workers, self._retired = {}, {}, []

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
            for (_, handler), one in self._all.items():
                if self._is_for(one, kind):
                    found.setdefault(handler, one)
            plan = self._plan(kind, list(found.values()))
            self.plans[kind] = plan
            if plan.no_effect:
                self.no_effect.add(kind)
            return plan

    def _plan(self, kind: type, subscriptions: list[Subscription]) -> Plan:
        hooks = self._hooks
        return Plan(
            ((one.function, one.home) for one in subscriptions if one.worker is None),
            (one.worker for one in subscriptions if one.worker is not None),
            frame=issubclass(kind, FRAMES),
            observers=hooks.observers,
            routers=hooks.routers,
            transported=hooks.transports,
            redacted=bool(hooks.redaction.chain),
        )

    def closing_plan(self, *, observed: bool = False) -> Plan:
        """The plan for a terminal event that can't be recorded, or that comes when the bus is closed.

        The streams of its run get it, and the observers if it is ``observed``; nothing else does.
        """
        observers, routers = self._hooks.observers if observed else (), self._hooks.routers
        return Plan((), (), frame=True, observers=observers, routers=routers, transported=False, redacted=False)


def _check_event_type(event_type: Any) -> None:
    """Raise `EventTypeError` for what no event can be an instance of."""
    if not isinstance(event_type, type):
        raise EventTypeError(f"bus.on() takes an event class; got {event_type!r}")
    try:
        issubclass(object, event_type)
    except Exception as error:
        raise EventTypeError(f"{event_type!r} has no subclasses to look for: {text_of(error)}") from error
    if event_type is Any or getattr(event_type, "_is_protocol", False):
        raise EventTypeError(
            f"bus.on() delivers events by their class, and {event_type!r} has no instances of its own: "
            "subscribe to a base class of the events, or to object for all of them"
        )
