"""Draining: where async emitters wait for their consumers, since an event loop never blocks in an emission."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from crewbus import streams
from crewbus.dispatch import inside_async_handler
from crewbus.scopes import await_room

if TYPE_CHECKING:
    from crewbus.dispatch import AsyncHandlers, Subscriptions
    from crewbus.scopes import Host, Room, Run

T = TypeVar("T")


class Draining:
    """Waits, without blocking the loop, until what gets the events of a run has room."""

    def __init__(
        self,
        host: Host,
        subscriptions: Subscriptions,
        async_handlers: AsyncHandlers,
        catch_up: Callable[[Run], Awaitable[None]],
    ) -> None:
        self._host = host
        self._subscriptions = subscriptions
        self._async_handlers = async_handlers
        self._catch_up = catch_up
        """Waits for the store of a recorded run, if that has fallen behind."""
        host.drain = self.wait

    async def after(self, emit: Callable[[], T], caller: object) -> T:
        """Emit, wait for the current run, and return what the emission returned."""
        emitted = emit()
        await self.drain(caller)
        return emitted

    async def drain(self, caller: object) -> None:
        """As `wait`, for the current run."""
        here = self._host.current_scope()
        await self.wait(here.run if here is not None else None, caller)

    async def wait(self, run: Run | None, caller: object) -> None:
        """Wait for the consumers of a run, or of no run. ``caller``: the thread or task that asks for it."""
        import asyncio  # loaded: it runs this

        await asyncio.sleep(0)  # consumers get what was emitted
        if not inside_async_handler():
            queues: list[Room] = [*self._subscriptions.workers(), *self._async_handlers.full_queues()]
            for queue in queues:
                await await_room(queue, caller, run)
        if run is None:
            return
        buffers = [sink for around in run.reach() for sink in around.sinks if isinstance(sink, streams.Buffer)]
        for buffer in buffers:
            await await_room(buffer, caller, run, self._host)
        if not run.tree.stopped:
            await self._catch_up(run)
        run.check()
