"""Pauses: how long a follower waits until it reads again."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final
from weakref import WeakSet, ref

from crewbus._util import Wakeup, in_worker
from crewbus.exceptions import CrewbusError

if TYPE_CHECKING:
    import asyncio

    from crewbus.stores import Store

FIRST: Final = 0.001
"""Seconds between two reads, doubled each time there is nothing new."""
SETTLED: Final = 0.05
"""From then on the store says when to read again. A follower waits this long even if that changes at once."""
SOONEST: Final = 0.5
LATEST: Final = 5.0
"""Seconds after which it reads again though nothing has changed, doubled likewise: its holder may have died."""

SHARE: Final = 0.0005
"""Seconds between two reads for each follower of this process: many of them together read no more often than a few."""

_followers: Final[WeakSet[Pauses]] = WeakSet()
"""Those that wait for a store to which others write too, or will."""
_gone: Final[deque[Callable[[], None]]] = deque()
"""What ends the watching for followers that were dropped: weakref callbacks take no lock."""


class Pauses:
    """The pauses of one follower. They are short at first; then its store ends them.

    A store that watches single logs ends all of them (`crewbus.Store.watches_logs`).
    """

    def __init__(self, store: Store, root_id: str) -> None:
        self._store = store
        self._root_id = root_id
        self._changed = Wakeup()
        self._event: asyncio.Event | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: Callable[[], None] | None = None
        """Ends the watching of the store; None: it is not watched."""
        self.begin()

    def begin(self) -> None:
        """A consumer begins to wait."""
        self._short, self._long = FIRST, SOONEST
        if not self._store.watches_logs:
            _followers.add(self)

    def short(self) -> float:
        """The seconds to wait in any case."""
        if self._is_told():
            return 0.0
        now, self._short = self._short, min(2 * self._short, SETTLED)
        return max(now, len(_followers) * SHARE)

    def _is_settled(self) -> bool:
        return self._store.watches_logs or self._short >= SETTLED

    def _is_told(self) -> bool:
        """Whether the store says all there is to say, so that nothing is looked for."""
        return self._store.watches_logs and self._stop is not None

    def _latest(self) -> float | None:
        if self._is_told():
            return None
        now, self._long = self._long, min(2 * self._long, LATEST)
        return now

    def wait(self, seconds: float | None) -> None:
        """Then wait until the store has changed, if it is time for that; at most ``seconds``."""
        if self._is_settled() and not self._watch():
            limits = [limit for limit in (self._latest(), seconds) if limit is not None]
            self._changed.wait(min(limits, default=None))

    async def wait_async(self) -> None:
        """As `wait`, for a task of an event loop."""
        import asyncio

        if not self._is_settled():
            return
        loop = asyncio.get_running_loop()
        if self._event is None or self._loop is not loop:
            self._event, self._loop = asyncio.Event(), loop
        if not await in_worker(self._watch):
            with suppress(TimeoutError):
                await asyncio.wait_for(self._event.wait(), self._latest())
        self._event.clear()

    def wake(self) -> None:
        """End the wait in progress, or else the next one. From any thread, and from a finaliser."""
        self._changed.set()
        event, loop = self._event, self._loop
        if event is not None and loop is not None:
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(event.set)

    def end(self) -> None:
        """Watch the store no more."""
        _followers.discard(self)
        stop, self._stop = self._stop, None
        if stop is not None:
            stop()

    def _watch(self) -> bool:
        """Watch the store. True: it was not watched so far, so something may have happened unseen."""
        while _gone:
            _gone.popleft()()
        if self._stop is not None:
            return False
        own = ref(self, lambda _: _gone.append(stop))

        def notify() -> None:
            pauses = own()
            if pauses is not None:
                pauses.wake()

        with suppress(CrewbusError):  # the store is closed: the next read says so
            stop = self._stop = self._store.watch_log(self._root_id, notify)
        return True
