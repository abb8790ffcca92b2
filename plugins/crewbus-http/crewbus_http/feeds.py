"""Feeds: what the followers of one run share. A run is read once, and encoded once, for all that follow it.

A feed keeps a window of the newest frames, of a bounded size, and reads on once one of its followers has taken all of
them. A follower that falls behind the window, or comes with a cursor that no feed holds, gets a feed of its own, which
ends where it meets an older one. So a slow follower costs a window, and the others do not wait for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

from crewbus import RunInterrupted

if TYPE_CHECKING:
    from crewbus import Stream
    from crewbus_http.frames import Encoder, Frame

__all__ = ["Feed", "Feeds", "Place"]

WINDOW: Final = 131_072
"""How many bytes of frames a feed keeps."""
BATCH: Final = 65_536
"""How many bytes a follower takes at once, and how far a feed reads ahead of the fastest one."""


class Feeds:
    """The feeds of a service. All its methods belong to one event loop."""

    def __init__(
        self,
        open_stream: Callable[[str, str], Awaitable[Stream]],
        encoder: Encoder,
        changed: Callable[[], Awaitable[None]],
    ) -> None:
        self.open_stream: Final = open_stream
        self.encoder: Final = encoder
        self.changed: Final = changed
        """Returns once the store may have changed."""
        self.closed = False
        self._by_run: dict[str, list[Feed]] = {}

    async def follow(self, run_id: str, after: str) -> Place:
        """The place of a new follower. Raises what `Bus.subscribe` does."""
        place = Place(self, run_id, after)
        try:
            await place.join()
        except BaseException:
            place.close()
            raise
        return place

    def find(self, run_id: str, cursor: str) -> Feed | None:
        """The oldest feed that has this cursor in its window."""
        for feed in self._by_run.get(run_id, ()):
            if cursor in feed.indexes:
                return feed
        return None

    def feed_at(self, run_id: str, cursor: str) -> Feed:
        """The feed for a follower at this cursor."""
        feed = self.find(run_id, cursor)
        if feed is None:
            feed = Feed(self, run_id, cursor)
            self._by_run.setdefault(run_id, []).append(feed)
            feed.begin()
        return feed

    def forget(self, feed: Feed) -> None:
        """A feed is over: nobody joins it any more."""
        feeds = self._by_run.get(feed.run_id, [])
        if feed in feeds:
            feeds.remove(feed)
            if not feeds:
                del self._by_run[feed.run_id]

    @property
    def size(self) -> int:
        """How many bytes of frames they keep."""
        return sum(feed.size for feeds in self._by_run.values() for feed in feeds)

    def close(self) -> None:
        """Let every follower go: each can come back with its cursor, to this server or another."""
        self.closed = True
        for feed in [feed for feeds in self._by_run.values() for feed in feeds]:
            feed.stop()


class Feed:
    """The frames of a run from a cursor on, for those who follow it."""

    def __init__(self, feeds: Feeds, run_id: str, after: str) -> None:
        self.run_id: Final = run_id
        self.first = self.end = 0
        """The numbers of the oldest frame in the window, and of the one to come."""
        self.indexes: dict[str, int] = {after: 0}
        """By cursor: the number of the frame that comes after it."""
        self.is_over = False
        """Whether no frame will come any more."""
        self.has_ended = False
        """Whether the run has ended, and its last frame is in the window."""
        self.failure: Exception | None = None
        self._feeds: Final = feeds
        self._window: list[Frame] = []
        self.size = 0
        """How many bytes of frames it keeps."""
        self._oldest = self._cursor = after
        self._places: set[Place] = set()
        self._ahead = 0
        """How many bytes it has read that no follower has taken."""
        self._room = asyncio.Event()
        self._is_telling = False
        self._opened: Final[asyncio.Future[None]] = asyncio.get_running_loop().create_future()
        self._task: asyncio.Task[None] | None = None

    # Followers

    def enter(self, place: Place) -> None:
        """A follower comes."""
        self._places.add(place)

    def leave(self, place: Place) -> None:
        """A follower goes. With the last one goes the feed."""
        self._places.discard(place)
        if not self._places:
            self.stop()

    async def opened(self) -> None:
        """Return once it reads. Raises what keeps it from that."""
        await asyncio.shield(self._opened)
        if self.failure is not None:
            raise self.failure

    def take(self, index: int) -> list[Frame]:
        """The frames from this number on; not all, if they are many."""
        window, at = self._window, index - self.first
        if self.end - index == 1:
            taken = [window[at]]
        else:
            taken, size = [], 0
            while at < len(window) and (size < BATCH or not taken):
                taken.append(window[at])
                size += len(window[at].data)
                at += 1
        if index + len(taken) == self.end:
            self._ahead = 0
            self._room.set()
        return taken

    # Reading

    def begin(self) -> None:
        """Read."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    def stop(self) -> None:
        """Read no more."""
        self._finish()
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        try:
            await self._read()
        except Exception as error:
            self.failure = error
        finally:
            self._finish()

    def _finish(self) -> None:
        self.is_over = True
        self._feeds.forget(self)
        if not self._opened.done():
            self._opened.set_result(None)
        self._tell()

    async def _read(self) -> None:
        while True:
            stream = await self._feeds.open_stream(self.run_id, self._cursor)
            if not self._opened.done():
                self._opened.set_result(None)
            async with stream:
                async for envelope in stream:
                    if isinstance(envelope.event, RunInterrupted):
                        break
                    cursor = stream.cursor
                    assert cursor is not None  # of a recorded run each frame has one
                    frame = self._feeds.encoder.frame(cursor, envelope)
                    self._add(frame)
                    if frame.ends:
                        self.has_ended = True
                        return
                    if self._has_met_another():
                        return
                    while self._ahead > BATCH:
                        self._room.clear()
                        await self._room.wait()
                else:  # the cursor was behind the last frame
                    self.has_ended = True
                    return
            await self._feeds.changed()  # its process has died: until another continues it

    def _add(self, frame: Frame) -> None:
        self._window.append(frame)
        self._cursor = frame.cursor
        self.end += 1
        self.indexes[frame.cursor] = self.end
        self.size += len(frame.data)
        self._ahead += len(frame.data)
        while self.size > WINDOW and len(self._window) > 1:
            self._drop_oldest()
        if not self._is_telling:  # once for all that is read at once
            self._is_telling = True
            asyncio.get_running_loop().call_soon(self._tell)

    def _drop_oldest(self) -> None:
        frame = self._window.pop(0)
        self.indexes.pop(self._oldest, None)
        self._oldest = frame.cursor
        self.first += 1
        self.size -= len(frame.data)

    def _has_met_another(self) -> bool:
        return self._feeds.find(self.run_id, self._cursor) is not self

    def _tell(self) -> None:
        self._is_telling = False
        for place in self._places:
            place.wake()


class Place:
    """Where one follower stands in the events of a run. It belongs to one task."""

    def __init__(self, feeds: Feeds, run_id: str, after: str) -> None:
        self.run_id: Final = run_id
        self.cursor = after
        """The cursor behind the frame that it took last."""
        self.has_ended = False
        """Whether it has taken the last frame of the run."""
        self.is_closed = False
        """Whether it gets no more frames: it was closed, or the server stops."""
        self._feeds = feeds
        self._feed: Feed | None = None
        self._index = 0
        self._woken: asyncio.Future[None] | None = None

    async def join(self) -> None:
        """Take a place in the feed that has its cursor. Raises what `Bus.subscribe` does."""
        before = self._feed
        while not self.is_closed:
            if self._feeds.closed:
                self.is_closed = True
                break
            feed = self._feed = self._feeds.feed_at(self.run_id, self.cursor)
            feed.enter(self)
            if before is not None and before is not feed:
                before.leave(self)
            before = feed
            await feed.opened()
            found = feed.indexes.get(self.cursor)
            if found is not None and (found < feed.end or feed.has_ended or not feed.is_over):
                self._index = found
                return

    def goes_on(self) -> bool:
        """Whether more may come."""
        return not (self.is_closed or self.has_ended)

    async def next(self, seconds: float) -> list[Frame]:
        """Wait at most ``seconds`` for frames; none: nothing came, or it `has_ended` or `is_closed`.

        Raises what keeps the record from being read.
        """
        until = asyncio.get_running_loop().time() + seconds
        while self.goes_on():
            feed = self._feed
            assert feed is not None
            if feed.first <= self._index < feed.end:
                frames = feed.take(self._index)
                self._index += len(frames)
                self.cursor = frames[-1].cursor
                self.has_ended = frames[-1].ends
                return frames
            if self._index < feed.first:  # it was too slow
                await self.join()
            elif not feed.is_over:
                if not await self._wait(until):
                    return []
            elif feed.has_ended:
                self.has_ended = True
            elif feed.failure is not None:
                raise feed.failure
            else:
                await self.join()
        return []

    async def _wait(self, until: float) -> bool:
        """Wait until it is woken; False: the time is up."""
        loop = asyncio.get_running_loop()
        if loop.time() >= until:
            return False
        self._woken = loop.create_future()
        timer = loop.call_at(until, self.wake)
        try:
            await self._woken
        finally:
            self._woken = None
            timer.cancel()
        return True

    def wake(self) -> None:
        """There is something to see."""
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(None)

    def close(self) -> None:
        """Leave. The run goes on."""
        self.is_closed = True
        feed, self._feed = self._feed, None
        if feed is not None:
            feed.leave(self)
        self.wake()
