"""Streams that follow the run of their id if there is one already, and otherwise own it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

from crewbus._util import deadline, in_worker, remaining, running_loop
from crewbus.events import Envelope
from crewbus.exceptions import CrewbusError, RunIdInUseError, RunNotFoundError
from crewbus.scopes import Run
from crewbus.streams.buffer import Buffer
from crewbus.streams.owned import OwnedStream
from crewbus.streams.stream import FrameSource
from crewbus.work import OwnedTask

if TYPE_CHECKING:
    import asyncio

__all__ = ["AttachingStream", "Existing"]

T = TypeVar("T")


class Existing(Protocol):
    """The run that has the id already, if there is one."""

    def claim(self) -> bool:
        """Take the id, unless a run has it; returns whether this stream owns the run. It asks the store."""

    def give_back(self, claimed: bool) -> None:
        """Undo `claim`, which returned ``claimed``, as far as that can be undone: the run is there to be resumed."""

    def follow(self) -> FrameSource:
        """Its frames, from its start.

        Raises `RunNotFoundError` if it is not recorded, and `RunIdInUseError` if it is not what was asked for.
        """

    def result(self, timeout: float | None) -> Any:
        """Wait for its result; see `Bus.result`."""

    async def aresult(self) -> Any:
        """As `result`, without blocking the loop."""


class AttachingStream(OwnedStream[T]):
    """An owned stream, unless its run exists already: then it follows that, and leaving it cancels nothing."""

    __slots__ = ("_claimed", "_existing", "_relay")

    def __init__(
        self,
        run: Run,
        task: OwnedTask,
        buffer: Buffer,
        grace: float,
        discard: Callable[[BaseException], object],
        existing: Existing,
    ) -> None:
        super().__init__(run, task, buffer, grace, discard)
        self._existing = existing
        self._claimed: bool | None = None
        self.source = self._relay = _Relay(buffer)

    @property
    def attached(self) -> bool:
        """Whether it follows a run that existed already."""
        return self._relay.switched

    def _begin(self) -> None:
        if self._claimed is None and not self._buffer.closed:
            if running_loop() is not None:  # the store is asked in a worker: see `_abegin`
                return
            self._claimed = self._existing.claim()
        self._begin_claimed()

    async def _abegin(self) -> None:
        if self._claimed is None and not self._buffer.closed:
            self._claimed = await in_worker(self._existing.claim, self._existing.give_back)
        self._begin_claimed()

    def _begin_claimed(self) -> None:
        if self.attached:
            return
        try:
            if self._claimed is not False:
                super()._begin()
                return
        except RunIdInUseError as error:  # nothing is recorded, or in this tree, so the store did not know
            in_use = error
        else:
            in_use = RunIdInUseError(f"run {self.run_id} is live, and not recorded: nobody can attach to it")
        try:
            self._relay.switch(self._existing.follow())
        except RunNotFoundError:
            raise in_use from None

    def result(self, timeout: float | None = None) -> T:
        """As of an owned stream; once attached, the result of the run that existed: see `Bus.result`."""
        until = deadline(timeout)
        self._begin()
        if not self.attached:
            return super().result(remaining(until))
        return self._existing.result(remaining(until))  # type: ignore[no-any-return]

    async def aresult(self) -> T:
        """As `result`, without blocking the loop."""
        await self._abegin()
        if not self.attached:
            return await super().aresult()
        return await self._existing.aresult()  # type: ignore[no-any-return]

    async def __aenter__(self) -> Self:
        await self._abegin()
        return self

    async def __anext__(self) -> Envelope:
        if self._claimed is None:
            await self._abegin()
        return await super().__anext__()

    def _raise_unasked(self, error: BaseException | None) -> None:
        if not self.attached:
            super()._raise_unasked(error)

    def close(self) -> None:
        """Leave the stream; the run is cancelled only if this stream owns it."""
        self._relay.close()
        super().close()

    async def aclose(self) -> None:
        """As `close`, without blocking the loop."""
        self._relay.close()
        await super().aclose()


class _Relay:
    """The frames of the stream's own buffer, or those of the run that existed already."""

    def __init__(self, own: Buffer) -> None:
        self._now: FrameSource = own
        self._loop: asyncio.AbstractEventLoop | None = None
        self.switched = False

    def switch(self, source: FrameSource) -> None:
        """Go on with the run that exists."""
        if self._loop is not None:
            source.follow(self._loop)
        self._now, self.switched = source, True

    @property
    def failure(self) -> CrewbusError | None:
        return self._now.failure

    @property
    def closed(self) -> bool:
        return self._now.closed

    @property
    def record(self) -> tuple[float, int] | None:
        return self._now.record

    @property
    def after(self) -> str | None:
        return self._now.after

    def take(self, deadline: float | None = None) -> list[Envelope]:
        return self._now.take(deadline)

    def poll(self) -> list[Envelope] | asyncio.Future[None]:
        return self._now.poll()

    def follow(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._now.follow(loop)

    def close(self) -> None:
        self._now.close()

    def abandon(self) -> None:
        self._now.abandon()
