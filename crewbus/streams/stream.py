"""Streams: one consumer's ordered view of one run."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from operator import length_hint
from types import TracebackType
from typing import TYPE_CHECKING, Final, Protocol, Self

from crewbus import records
from crewbus._util import running_loop
from crewbus.events import Envelope
from crewbus.exceptions import ConsumptionError
from crewbus.streams.cursor import Cursor, record_name
from crewbus.streams.transcript import Transcript

if TYPE_CHECKING:
    import asyncio

    from crewbus.exceptions import CrewbusError

__all__ = ["FrameSource", "Stream"]

CLOSED_BUS: Final = "a process that closed its bus"
"""What `RunInterrupted` names as the holder of a run that was live when its bus was closed."""
INHERITED: Final = (
    "the process was forked, and this stream and its run continue in the parent only: subscribe to a run of this one"
)
SECOND_CONSUMER: Final = "another thread or task waits on this stream; a stream has one consumer: subscribe() for each"
# One of each for all streams that have returned no frame yet.
_NOTHING: Final[list[Envelope]] = []
_EXHAUSTED: Final[Iterator[Envelope]] = iter(_NOTHING)
next(_EXHAUSTED, None)


class FrameSource(Protocol):
    """Where a stream takes its frames from: a buffer, or a follower of a record."""

    @property
    def failure(self) -> CrewbusError | None:
        """Why no more frames come before the end of the run; None: they do."""

    @property
    def closed(self) -> bool:
        """Whether it takes no more frames, because the consumer left or failed."""

    @property
    def record(self) -> tuple[float, int] | None:
        """When the record of the root run began, and the epoch; None: it is not recorded."""

    @property
    def after(self) -> str | None:
        """The cursor from which it continues; None: it began with what was emitted next."""

    def take(self, deadline: float | None = None) -> list[Envelope]:
        """Wait for at least one frame; empty at the end, or once ``deadline`` (monotonic) has passed."""

    def poll(self) -> list[Envelope] | asyncio.Future[None]:
        """As `take`, for an asyncio task: the frames, or a future of its loop to await before the next call."""

    def follow(self, loop: asyncio.AbstractEventLoop) -> None:
        """Name the running ``loop`` on which the consumer calls `poll`."""

    def close(self) -> None:
        """Take no more frames, and keep none."""

    def abandon(self) -> None:
        """As `close`, for a finaliser, which takes no lock."""


class Stream:
    """The frames of one run, in order, for one consumer: chunks, retractions, and last the terminal event.

    Consume it with ``for`` or ``async for``: the first use decides. A second loop continues where the first stopped.
    It is a context manager of both kinds, and leaving it releases all it holds.
    """

    __slots__ = ("__weakref__", "_batch", "_mode", "_taken", "_taking", "_transcript", "run_id", "source")

    def __init__(self, run_id: str, source: FrameSource) -> None:
        self.run_id = run_id
        self.source = source
        """Where it takes its frames from."""
        self._batch = _EXHAUSTED
        """Those of `_taken` that the consumer has not been given."""
        self._taken = _NOTHING
        """The frames that were taken from the source last."""
        self._taking = threading.Lock()
        """Held by the thread that waits for frames."""
        self._mode: str | None = None
        self._transcript: Transcript | None = None
        """The text of the frames that were taken; None: there were none."""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of run {self.run_id}>"

    def _repr_html_(self) -> str:
        return records.stream_html("stream of", "", self.run_id, self._text_so_far().shown())

    def __del__(self) -> None:
        source = getattr(self, "source", None)
        if source is not None:
            source.abandon()

    def __reduce__(self) -> str:
        # What copies and pickles a stream would otherwise share its source with it, and end it when it is dropped.
        raise ConsumptionError("a stream has one consumer and can't be copied or pickled: subscribe() for each")

    # Iteration

    def _use(self, mode: str) -> None:
        loop = running_loop()
        if self._mode not in (None, mode):
            raise ConsumptionError(f"this stream is consumed with {self._mode!r}; {mode!r} can't join in")
        if mode == "for" and loop is not None:
            raise ConsumptionError("'for' would block the event loop that runs here: use 'async for'")
        if mode == "async for":
            if loop is None:
                raise ConsumptionError("'async for' needs a running asyncio event loop")
            self.source.follow(loop)
        self._mode = mode
        self._begin()

    def __iter__(self) -> Iterator[Envelope]:
        self._use("for")
        return iter(self.__next__, None)  # without `close`, which `yield from` would call ahead of the `with` block

    def __next__(self) -> Envelope:
        for envelope in self._batch:
            return envelope
        first = self._take()
        if first is None:
            raise StopIteration
        return first

    def __aiter__(self) -> Self:
        self._use("async for")
        return self

    async def __anext__(self) -> Envelope:
        for envelope in self._batch:
            return envelope
        if self._mode is None:
            self._use("async for")
        poll = self.source.poll
        found = poll()
        while not isinstance(found, list):
            await found
            found = poll()
        if not found:
            self._raise_failure()
            raise StopAsyncIteration
        (self._transcript or self._text_so_far()).add(found)
        self._taken = found
        if len(found) > 1:
            self._batch = iter(found)
            next(self._batch)
        return found[0]

    @property
    def cursor(self) -> str | None:
        """Where the consumer stands: pass it as ``after=`` to `Bus.subscribe`, in any process, to continue from there.

        Until the first frame it is the cursor that the stream was given. None if it was given none and nothing was
        consumed yet, and if the run is not recorded.
        """
        record = self.source.record
        given = len(self._taken) - length_hint(self._batch)
        if record is None or given == 0 or self._taken[given - 1].seq < 0:
            return self.source.after
        name = record_name(self.run_id, record[0])
        return str(Cursor(self._taken[given - 1].seq, record[1], name, self._text_so_far().floor))

    def _text_so_far(self) -> Transcript:
        if self._transcript is None:
            self._transcript = Transcript()
        return self._transcript

    def _take(self) -> Envelope | None:
        """Wait for frames, and return the first; None at the end."""
        if not self._taking.acquire(blocking=False):
            raise ConsumptionError(SECOND_CONSUMER)
        try:
            for envelope in self._batch:  # taken by another thread meanwhile
                return envelope
            if self._mode is None:
                self._use("for")
            taken = self.source.take()
            if not taken:
                self._raise_failure()
                return None
            self._text_so_far().add(taken)
            self._taken, batch = taken, iter(taken)
            first = next(batch)
            self._batch = batch
            return first
        finally:
            self._taking.release()

    def _raise_failure(self) -> None:
        if self.source.failure is not None:
            raise self.source.failure

    def _begin(self) -> None:
        """Start what must run before there is anything to wait for."""

    def text(self) -> str:
        """The text consumed so far; if nothing was consumed yet, all of it, once the run has ended.

        Retracted text is not in it. Raises `ConsumptionError` if frames were dropped, so that it would have gaps, and
        if it would have to wait on a running loop.
        """
        if self._mode is None:
            while self._take() is not None:
                self._batch = _EXHAUSTED
        return self._text_so_far().text()

    # Leaving

    def close(self) -> None:
        """Leave the stream: it takes and keeps nothing more. The run continues."""
        self.source.close()

    async def aclose(self) -> None:
        """As `close`."""
        self.source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
