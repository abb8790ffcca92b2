"""The events observed on a bus, for a test to inspect and to wait for."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from typing import Any, Final, TypeVar, overload

from crewbus import Bus, ConsumptionError, Envelope, EventTypeError, event_type_of, hookimpl
from crewbus._util import call_on, running_loop

E = TypeVar("E")

PATIENCE: Final = 10.0
"""Seconds that a test waits for events by default."""
_SHOWN: Final = 20  # events in a repr


class CapturedEvents(Sequence[Envelope]):
    """The envelopes observed on ``bus`` since this object was made, in order of arrival.

    It observes through a plugin, which `close` unregisters. It may be read from any thread.
    """

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._envelopes: list[Envelope] = []
        self._counts: Counter[type] = Counter()
        self._changed = threading.Condition()
        self._listeners: list[Callable[[], object]] = []
        self._tap = _Tap(self._take)
        bus.plugins.register(self._tap, "captured_events")

    def _take(self, envelope: Envelope) -> None:
        with self._changed:
            self._envelopes.append(envelope)
            self._counts[type(envelope.event)] += 1
            self._changed.notify_all()
            listeners = list(self._listeners)
        for listener in listeners:
            listener()

    def close(self) -> None:
        """Stop observing, and drop the captured envelopes."""
        self._bus.plugins.unregister(self._tap)
        self.clear()

    def clear(self) -> None:
        """Drop the envelopes captured so far."""
        with self._changed:
            self._envelopes.clear()
            self._counts.clear()

    # Captured so far

    def __len__(self) -> int:
        return len(self._envelopes)

    @overload
    def __getitem__(self, index: int) -> Envelope: ...
    @overload
    def __getitem__(self, index: slice) -> list[Envelope]: ...
    def __getitem__(self, index: int | slice) -> Envelope | list[Envelope]:
        return self._envelopes[index]

    def __repr__(self) -> str:
        more = ", ..." if len(self) > _SHOWN else ""
        return f"<captured events: {', '.join(islice(self.names, _SHOWN)) or 'none'}{more}>"

    @property
    def events(self) -> list[Any]:
        """The events, without their envelopes."""
        return [envelope.event for envelope in list(self._envelopes)]

    @property
    def names(self) -> list[str]:
        """The registered names of the events' types."""
        return [_name_of(type(event)) for event in self.events]

    def of(self, *types: type[E]) -> list[E]:
        """The events that are instances of one of ``types``."""
        for cls in types:
            _check(cls, "of() takes event classes")
        return [event for event in self.events if isinstance(event, types)]

    # Waiting

    def wait(self, cls: type[E], count: int = 1, timeout: float = PATIENCE) -> list[E]:
        """Block until ``count`` events of ``cls`` were captured, earlier ones included, and return all of them.

        Raises AssertionError, which names the events that were captured, after ``timeout`` seconds; `ConsumptionError`
        if it would block a running event loop: use ``await captured_events.wait_async(...)`` there.
        """
        _check(cls, "wait() takes an event class")
        with self._changed:
            if running_loop() is not None and self._count(cls) < count:
                raise ConsumptionError(
                    "captured_events.wait() would block the event loop that runs here: "
                    "use 'await captured_events.wait_async(...)'"
                )
            if not self._changed.wait_for(lambda: self._count(cls) >= count, timeout):
                raise self._missing(cls, count, timeout)
        return self.of(cls)

    async def wait_async(self, cls: type[E], count: int = 1, timeout: float = PATIENCE) -> list[E]:
        """Like `wait`, without blocking the event loop."""
        import asyncio

        _check(cls, "wait() takes an event class")
        loop, came = asyncio.get_running_loop(), asyncio.Event()
        listener = partial(call_on, loop, came.set)
        with self._changed:
            self._listeners.append(listener)
        try:
            async with asyncio.timeout(timeout):
                while self._count(cls) < count:
                    await came.wait()
                    came.clear()
        except TimeoutError:
            raise self._missing(cls, count, timeout) from None
        finally:
            with self._changed:
                self._listeners.remove(listener)
        return self.of(cls)

    def _count(self, cls: type) -> int:
        with self._changed:
            return sum(count for kind, count in self._counts.items() if issubclass(kind, cls))

    def _missing(self, cls: type, count: int, timeout: float) -> AssertionError:
        with self._changed:
            observed = ", ".join(f"{count} x {_name_of(kind)}" for kind, count in self._counts.items()) or "nothing"
            came = self._count(cls)
        return AssertionError(f"waited {timeout} s for {count} x {_name_of(cls)} and got {came}; observed: {observed}")


class _Tap:
    """The plugin: passes each envelope to a function."""

    def __init__(self, take: Callable[[Envelope], None]) -> None:
        self._take = take

    @hookimpl
    def crewbus_emit(self, envelope: Envelope) -> None:
        self._take(envelope)


def _check(cls: object, what: str) -> None:
    if not isinstance(cls, type):
        raise EventTypeError(f"captured_events.{what}; got {cls!r}")


def _name_of(cls: type) -> str:
    """The registered name of an event type, or the qualified name of a base class that is not registered."""
    try:
        return event_type_of(cls).name
    except EventTypeError:
        return cls.__qualname__
