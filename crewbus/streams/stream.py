"""Streams: one consumer's ordered view of one run, watched or owned."""

from __future__ import annotations

import threading
import warnings
from collections.abc import AsyncIterator, Iterator, Mapping
from contextvars import copy_context
from operator import length_hint
from types import TracebackType
from typing import Final, Generic, Self, TypeVar, cast

import attrs

from crewbus._util.deadlines import deadline, remaining
from crewbus._util.loops import running_loop
from crewbus._util.warn import external_stacklevel
from crewbus.durability.run_log import Durability
from crewbus.events import Envelope
from crewbus.exceptions import (
    Cancelled,
    ConsumptionError,
    GraceWarning,
    ResultTimeoutError,
    RunCancelledError,
    RunError,
)
from crewbus.scopes.run import Run
from crewbus.streams.buffer import Buffer, Slow
from crewbus.streams.follower import Cursor, Follower
from crewbus.streams.transcript import Transcript
from crewbus.work.owned import Work

__all__ = ["OwnedStream", "Slow", "Stream", "StreamOptions"]

T = TypeVar("T")

_NOTHING: Final[list[Envelope]] = []  # one for all streams that have given nothing yet

Source = Buffer | Follower
"""What a stream takes from."""


@attrs.frozen(kw_only=True)
class StreamOptions:
    """How a stream and its run are made, where the defaults don't fit."""

    name: str | None = None
    """The run's name; by default the module and qualified name of what is streamed."""
    id: str | None = None
    """The run's id; by default a fresh one."""
    tags: Mapping[str, str] | None = None
    """The run's tags."""
    record: bool | None = None
    """Whether to arm this run's recording; None: as the bus is."""
    durability: Durability | None = None
    """When an emission of the recorded run returns: see `Bus.enable_recording`; None: as the bus says."""
    resume: str | None = None
    """The id of a recorded run to resume, in the place of a new one: see `Bus.resume`."""
    at: str | None = None
    """The checkpoint to resume it from; None: its end."""
    bound: int = 1024
    """How many frames may wait for the consumer."""
    slow: Slow = "block"
    """What becomes of frames beyond that: the emitter waits (``block``), adjacent text is put together
    (``coalesce``), frames are left out and counted (``drop``), or the stream fails (``fail``)."""
    grace: float = 5.0
    """How many seconds to wait for the work to end when the consumer leaves early."""


class Stream:
    """The frames of one run, in order, for one consumer: chunks, retractions, and last the terminal event.

    Consumed with ``for`` or with ``async for``: the first use decides. A second loop goes on where the first
    was left. It is a context manager of both kinds, and leaving it releases all it holds.
    """

    __slots__ = ("__weakref__", "_batch", "_buffer", "_given", "_mode", "_transcript", "run_id")

    def __init__(self, run_id: str, buffer: Source) -> None:
        self.run_id = run_id
        self._buffer = buffer
        self._batch: Iterator[Envelope] = iter(())
        self._given = _NOTHING
        self._mode: str | None = None
        self._transcript = Transcript()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of run {self.run_id}>"

    def __del__(self) -> None:
        buffer = getattr(self, "_buffer", None)
        if buffer is not None:
            buffer.abandon()

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
            self._buffer.follow(loop)
        self._mode = mode
        self._begin()

    def __iter__(self) -> Self:
        self._use("for")
        return self

    def __next__(self) -> Envelope:
        for envelope in self._batch:
            return envelope
        batch = self._more()
        if not batch:
            raise StopIteration
        self._batch = iter(batch)
        return next(self._batch)

    def __aiter__(self) -> Self:
        self._use("async for")
        return self

    async def __anext__(self) -> Envelope:
        for envelope in self._batch:
            return envelope
        if self._mode is None:
            self._use("async for")
        poll = self._buffer.poll
        found = poll()
        while not isinstance(found, list):
            await found
            found = poll()
        if not found:
            self._finish()
            raise StopAsyncIteration
        self._transcript.add(found)
        self._given = found
        if len(found) > 1:
            self._batch = iter(found)
            next(self._batch)
        return found[0]

    @property
    def cursor(self) -> str | None:
        """Where its consumer stands: what to give as ``after=`` to `Bus.subscribe`, in whichever process, to go on.

        None where the run is not recorded, or nothing was consumed yet.
        """
        epoch = self._buffer.epoch
        given = len(self._given) - length_hint(self._batch)
        if epoch is None or given == 0 or self._given[given - 1].seq < 0:
            return None
        return str(Cursor(self._given[given - 1].seq, epoch, self._transcript.floor))

    def batches(self) -> Batches:
        """Iterate, with ``for`` or ``async for``, over lists of the frames that are there, at once."""
        return Batches(self)

    def _more(self) -> list[Envelope]:
        if self._mode is None:
            self._use("for")
        return self._took(self._buffer.take())

    def _took(self, batch: list[Envelope]) -> list[Envelope]:
        if batch:
            self._transcript.add(batch)
            self._given = batch
        else:
            self._finish()
        return batch

    def _finish(self) -> None:
        if self._buffer.failure is not None:
            raise self._buffer.failure

    def _begin(self) -> None:
        """Start what must be started before there is anything to wait for."""

    def text(self) -> str:
        """The text so far of a stream that is being consumed; of one that isn't, all of it, once the run has ended.

        What was retracted is not in it. Raises `ConsumptionError` where it would have to wait on a running loop.
        """
        if self._mode is None:
            for _ in self.batches():
                pass
        return self._transcript.text()

    # Leaving

    def close(self) -> None:
        """Leave the stream: nothing more is kept for it. The run goes on."""
        self._buffer.close()

    async def aclose(self) -> None:
        """As `close`."""
        self._buffer.close()

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


class Batches:
    """The frames of a stream in lists: what is there, at once."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def __iter__(self) -> Iterator[list[Envelope]]:
        stream = self._stream
        stream._use("for")
        if rest := list(stream._batch):
            yield rest
        while batch := stream._more():
            yield batch

    async def __aiter__(self) -> AsyncIterator[list[Envelope]]:
        stream = self._stream
        stream._use("async for")
        if rest := list(stream._batch):
            yield rest
        while True:
            found = stream._buffer.poll()
            if not isinstance(found, list):
                await found
            elif stream._took(found):
                yield found
            else:
                return


class OwnedStream(Stream, Generic[T]):
    """A stream that owns its run: the work starts when the stream is entered, iterated or asked for its result.

    A failure of the work ends the iteration with its frame; `result` raises it, and so does leaving the
    ``with`` if nobody asked. Leaving early cancels the run and waits up to ``grace`` seconds for the work to end.
    """

    __slots__ = ("_asked", "_begun", "_grace", "_run", "_work")

    def __init__(self, run: Run, work: Work, buffer: Buffer, grace: float) -> None:
        super().__init__(run.id, buffer)
        self._run = run
        self._work = work
        self._grace = grace
        self._begun = False
        self._asked = False

    @property
    def run(self) -> Run:
        """The run that this stream owns."""
        return self._run

    def __del__(self) -> None:
        super().__del__()
        if getattr(self, "_begun", False) and not self._run.ended:
            self._run.mark_cancelled("its stream was dropped")

    def _begin(self) -> None:
        if self._begun or self._buffer.closed:
            return
        context = copy_context()
        self._run.start(cast(Buffer, self._buffer))
        self.run_id = self._run.id
        self._begun = True
        self._work.begin(context)

    # The result

    def result(self, timeout: float | None = None) -> T:
        """What the work returned, waiting for it; frames that nobody consumed are discarded.

        Raises what the work raised, `RunCancelledError` if the run was cancelled, `ResultTimeoutError`
        after ``timeout`` seconds, and `ConsumptionError` where it would block a running loop.
        """
        self._ask()
        until = deadline(timeout)
        if running_loop() is not None:
            if not self._work.settled:
                raise ConsumptionError("result() would block the event loop that runs here: use 'await aresult()'")
        else:
            if self._is_mine():
                while batch := self._buffer.take(until):
                    self._transcript.add(batch)
            if not self._work.wait(remaining(until)):
                raise ResultTimeoutError(f"run {self.run_id} has no result after {timeout} s; it goes on")
        return self._outcome()

    async def aresult(self) -> T:
        """As `result`, without blocking the loop."""
        self._ask()
        if self._is_mine():
            await self._discard()
        await self._work.wait_async(None)
        return self._outcome()

    async def _discard(self) -> None:
        loop = running_loop()
        assert loop is not None
        self._buffer.follow(loop)
        while True:
            found = self._buffer.poll()
            if not isinstance(found, list):
                await found
            elif found:
                self._transcript.add(found)
            else:
                return

    def _ask(self) -> None:
        self._asked = True
        self._begin()
        if not self._begun:
            raise RunError(f"the stream of run {self.run_id} was closed before its work began: it has no result")

    def _is_mine(self) -> bool:
        return self._mode is None or self._buffer.thread == threading.get_ident()

    def _outcome(self) -> T:
        error = self._work.error
        if error is None:
            return cast(T, self._work.result)
        if isinstance(error, Exception):
            raise error
        reason = self._run.cancel_reason or type(error).__name__
        raise RunCancelledError(f"run {self.run_id} was cancelled: {reason}") from error

    # Leaving

    def close(self) -> None:
        """Leave the stream: cancel the run if it goes on, and wait up to ``grace`` seconds for its work to end."""
        if self._begun and not self._work.over and running_loop() is not None:
            raise ConsumptionError("closing would block the event loop that runs here: use 'async with' or 'aclose()'")
        if self._cut() and not self._work.wait(self._grace):
            self._overdue()

    async def aclose(self) -> None:
        """As `close`, without blocking the loop."""
        if not self._cut():
            return
        try:
            over = await self._work.wait_async(self._grace)
        except BaseException:
            self._run.bus._give_up(self._run, Cancelled("its consumer left the stream"))
            raise
        if not over:
            self._overdue()

    def _cut(self) -> bool:
        self._buffer.close()
        if not self._begun or self._work.over:
            return False
        if not self._run.ended:
            self._run.cancel("its consumer left the stream")
            self._work.interrupt()
        return True

    def _overdue(self) -> None:
        self._run.bus._give_up(self._run, Cancelled("its consumer left the stream"))
        warnings.warn(
            f"{self._work.name} of run {self.run_id} still runs {self._grace} s after its stream was left; "
            "what it emits is discarded",
            GraceWarning,
            stacklevel=external_stacklevel(),
        )

    def _raise_unasked(self, error: BaseException | None) -> None:
        failure = self._work.error
        if error is None and not self._asked and self._run.state == "failed" and failure is not None:
            self._asked = True
            raise failure

    def __enter__(self) -> Self:
        if running_loop() is not None:
            raise ConsumptionError("'with' would block the event loop that runs here: use 'async with'")
        self._begin()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        self._raise_unasked(error)

    async def __aenter__(self) -> Self:
        self._begin()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
        self._raise_unasked(error)
