"""Waiting: the one rule for who may wait, and the waits that are in progress.

A thread or task never waits for what only it could bring about. Each wait names what could end it, and which thread or
task waits. So the wait that would close a circle finds the circle, and does not begin.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, Protocol

from crewbus._util import Wakeup, call_on, running_loop
from crewbus.scopes.current import execution_id, handling, working
from crewbus.scopes.thread_state import threads

if TYPE_CHECKING:
    import asyncio

_RECHECK: Final = 0.5  # seconds after which a waiting thread looks again: a garbage-collected consumer wakes no thread

_waits: Final[dict[Wait, None]] = {}
"""The waits in progress, of all buses. No lock guards it: a single operation of a dict is atomic on every build."""

end_wait: Final = _waits.pop
"""``end_wait(wait, None)`` ends a wait. It is no Python function, whose beginning an interrupt could prevent."""


class Room(Protocol):
    """What emitters wait for: a consumer's buffer, or a handler's queue."""

    def releasers(self) -> Iterable[object]:
        """Which threads, tasks, deliveries or work could make room. Called without a lock."""

    def is_full(self, wake: Callable[[], object]) -> bool:
        """Whether there is no room; ``wake`` is then called once there may be some."""


class Place:
    """Identifies work, and all that happens in its context, while it runs. It keeps nothing of the work."""

    __slots__ = ("done", "outer")

    def __init__(self) -> None:
        self.done = False
        self.outer: Any = None
        """The work around it."""

    def leave(self) -> None:
        """The work is over."""
        self.done = True
        self.outer = None  # a chain of work must not keep its whole history


class Wait:
    """One wait of the current thread or task. It is registered before it looks for a reason, until `end_wait`.

    It ends when ``run`` is stopped or the bus of ``host`` begins to close, if they are given. A wait that must
    happen, such as for a result, begins with `begin` instead of asking `may_wait`.
    """

    __slots__ = ("_event", "_host", "_loop", "_releasers", "_run", "_waiters", "_wakeup")

    def __init__(
        self,
        releasers: Callable[[], Iterable[object]],
        run: Any = None,
        host: Any = None,
        *,
        blocks: bool = True,
        caller: object = None,
    ) -> None:
        self._releasers = releasers
        self._run = run
        self._host = host
        loop = running_loop()
        self._loop = None if blocks else loop
        self._waiters = {*_current(loop, blocks)} if caller is None else {caller, *_current(loop, blocks)}
        self._event: asyncio.Event | None = None
        self._wakeup = Wakeup() if blocks else None
        if not blocks:
            self._event = sys.modules["asyncio"].Event()

    def begin(self) -> None:
        """Begin a wait that must happen; emitters that wait for this thread or task check again whether they may."""
        _waits[self] = None
        reached = set(self._reached())
        if not self._waiters.isdisjoint(reached):
            for wait in list(_waits):
                if wait is not self and not wait._waiters.isdisjoint(reached):
                    wait.wake()

    def may_wait(self) -> bool:
        """Whether the current thread or task may wait here.

        It may not while it holds a lock of crewbus, nor block an event loop, nor once its run is stopped or the bus
        is closing, nor if whatever could end the wait waits for this thread or task.
        """
        return not threads.state.holds_lock() and self._is_free()

    def _is_free(self) -> bool:
        if self._loop is None and running_loop() is not None:
            return False
        if (self._host is not None and self._host.closing) or (self._run is not None and self._run.is_stopped()):
            return False
        return self._waiters.isdisjoint(self._reached())

    def _reached(self) -> Iterator[object]:
        """What could end this wait, what that waits for, and so on."""
        todo, seen = list(self._releasers()), set[object]()
        while todo:
            releaser = todo.pop()
            if releaser in seen:
                continue
            seen.add(releaser)
            yield releaser
            for wait in list(_waits):
                if releaser in wait._waiters and wait is not self:
                    todo += wait._releasers()

    def wake(self) -> None:
        """Make it check again, from any thread. Takes no lock."""
        if self._wakeup is not None:
            self._wakeup.set()
        elif self._loop is not None and self._event is not None:
            call_on(self._loop, self._event.set)

    def pause(self, seconds: float | None = None) -> bool:
        """Block until it is woken, or for a moment, or for ``seconds``; returns whether it was woken."""
        assert self._wakeup is not None
        return self._wakeup.wait(_RECHECK if seconds is None else seconds)

    async def apause(self, seconds: float | None = None) -> None:
        """Wait, without blocking the loop, until it is woken, or for ``seconds``."""
        import asyncio  # loaded: it runs this

        assert self._event is not None
        if seconds is None:
            await self._event.wait()
        else:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._event.wait(), seconds)
        self._event.clear()

    def is_of(self, run: Any, host: Any) -> bool:
        """Whether it ends when this run is stopped, or the bus of this host begins to close."""
        if host is not None:
            return self._host is host
        return self._run is not None and any(around is run for around in self._run.reach())


def can_wait(room: Room, run: Any = None, host: Any = None) -> bool:
    """Whether the current thread may wait for room once it holds no lock."""
    return Wait(room.releasers, run, host)._is_free()


def wait_for_room(room: Room, run: Any = None, host: Any = None) -> None:
    """Block the emitter while there is no room and it may wait."""
    wait = Wait(room.releasers, run, host)
    try:
        _waits[wait] = None
        while wait.may_wait() and room.is_full(wait.wake):
            while not wait.pause() and room.is_full(wait.wake):
                pass
    finally:
        end_wait(wait, None)


async def await_room(room: Room, caller: object, run: Any = None, host: Any = None) -> None:
    """As `wait_for_room`, without blocking the event loop. ``caller``: the thread or task that waits for this."""
    wait = Wait(room.releasers, run, host, blocks=False, caller=caller)
    try:
        _waits[wait] = None
        while wait.may_wait() and room.is_full(wait.wake):
            await wait.apause()
    finally:
        end_wait(wait, None)


def end_waits(*, run: Any = None, host: Any = None) -> None:
    """Wake what waits in ``run`` and inside it, which was stopped, or in the bus of ``host``, which is closing.

    It takes no lock, so that a finaliser may call it.
    """
    for wait in list(_waits):
        if wait.is_of(run, host):
            wait.wake()


def forget_waits() -> None:
    """In a forked child: the threads and tasks that waited are the parent's."""
    _waits.clear()


def _current(loop: asyncio.AbstractEventLoop | None, blocks: bool) -> Iterator[object]:
    """Who waits: the task or thread, and the handlers' deliveries and the owned work that it is part of."""
    yield execution_id()
    if blocks and loop is not None:
        yield threads.state
    yield from unfinished(handling.get())
    yield from unfinished(working.get())


def unfinished(one: Any) -> Iterator[object]:
    """``one`` and what is around it, as far as it goes on."""
    while one is not None:
        if not one.done:
            yield one
        one = one.outer
