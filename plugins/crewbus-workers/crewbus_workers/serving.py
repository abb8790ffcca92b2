"""Workers: they claim the runs that can begin or continue, and execute them."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from crewbus import CrewbusError, InputError
from crewbus_workers.checks import is_count
from crewbus_workers.execution import Execution
from crewbus_workers.limits import Limits, checked_limits, claim_for, queues_by_limits
from crewbus_workers.queue import DEFAULT_QUEUE
from crewbus_workers.wakeup import Wakeup

if TYPE_CHECKING:
    from crewbus import Bus
    from crewbus.stores import Claimed

__all__ = ["Worker", "worker"]

log: Final = logging.getLogger("crewbus.workers")

INTERVAL: Final = 1.0
"""How many seconds a worker waits at most until it asks again: for runs that are due, or whose holder has died."""
SHORTEST: Final = 0.03
LONGEST: Final = 0.25
"""How many seconds pass at least and at most after a claim in vain, while the store changes all the time."""
SHARE: Final = 3
"""How many times as long as the claim took: so asking takes a quarter of a worker's time at most."""


def worker(
    bus: Bus,
    *,
    queues: Iterable[str] | Mapping[str, Limits] = (DEFAULT_QUEUE,),
    concurrency: int = 10,
    grace: float = 10.0,
) -> Worker:
    """A worker for the registered workflows: ``with worker(bus): ...``, or ``async with``, or ``await worker.serve()``.

    It executes the runs of these ``queues`` that are queued, suspended and due, or whose process died, the oldest
    first; at most ``concurrency`` at once, each held by one worker of one process. Each begins in an empty context,
    whichever worker executes it: ContextVars that the program around the worker has set are not seen. Async
    workflows run on the loop of the worker, which with ``with`` is one in a thread of its own; sync ones run each
    in a thread of its own. Leaving suspends what still runs, so that another worker continues it, and waits
    ``grace`` seconds for it. Raises `InputError`.
    """
    if not is_count(concurrency):
        raise InputError(f"concurrency= is a number of runs, at least 1; got {concurrency!r}")
    return Worker(bus, checked_limits(queues), concurrency, grace)


class Worker:
    """Made by `worker`."""

    def __init__(self, bus: Bus, queues: Mapping[str, Limits], concurrency: int, grace: float) -> None:
        self.bus: Final = bus
        self.queues: Final = queues
        self.concurrency: Final = concurrency
        self.grace: Final = grace
        self.ended: Final[dict[str, int]] = {}
        """How many executions have ended, by the state that they left their run in."""
        self.active: Final[dict[str, Execution]] = {}
        """What is executed now, by the run's id."""
        self._stopping = threading.Event()
        self._look: Wakeup | None = None
        """Set when there may be something to claim; None: it does not serve."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._own: asyncio.Task[None] | threading.Thread | None = None

    def __repr__(self) -> str:
        return f"<Worker of {', '.join(self.queues)}: {len(self.active)} of {self.concurrency} active>"

    # Serving

    async def serve(self) -> None:
        """Execute runs until `stop` is called; then suspend what still runs."""
        look = self._look = Wakeup()
        unwatch = await asyncio.to_thread(self.bus.store.watch_work, look.set)
        try:
            await self._claim_until_stopped(look)
        finally:
            unwatch()
            await self._suspend()
            self._look = None

    def stop(self) -> None:
        """Claim nothing more, and have `serve` suspend what still runs and return. From any thread."""
        self._stopping.set()
        look = self._look
        if look is not None:
            look.set()

    async def _claim_until_stopped(self, look: Wakeup) -> None:
        again = 0.0
        while not self._stopping.is_set():
            look.clear()
            if len(self.active) < self.concurrency:
                begun = time.monotonic()
                if await self._claim():
                    continue
                ended = time.monotonic()
                again = ended + min(max(SHORTEST, SHARE * (ended - begun)), LONGEST)
            await look.wait(INTERVAL)
            while not self._stopping.is_set() and (rest := again - time.monotonic()) > 0:
                look.clear()
                await look.wait(rest)

    async def _claim(self) -> int:
        """Claim as many runs as there is room for, and begin them; returns how many."""
        found = 0
        for limits, names in queues_by_limits(self.queues):
            room = self.concurrency - len(self.active)
            if room <= 0 or self._stopping.is_set():
                break
            try:
                claimed = await asyncio.to_thread(self.bus.store.claim, claim_for(names, limits, room))
            except CrewbusError as error:
                log.warning("the store answers no claim, which is repeated: %s", error)
                break
            for one in claimed:
                self._begin(one)
            found += len(claimed)
        return found

    def _begin(self, claimed: Claimed) -> None:
        execution = self.active[claimed.root_id] = Execution(self.bus, claimed, self.grace)
        if self._stopping.is_set():
            execution.suspend()
        # An empty context, as in any other process: what a run sees does not depend on which worker continues it. And
        # if the worker itself serves inside a run, the run that it executes is not nested in that.
        task = asyncio.get_running_loop().create_task(self._execute(execution), context=contextvars.Context())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _execute(self, execution: Execution) -> None:
        try:
            state = await execution.perform()
        finally:
            self.active.pop(execution.run_id, None)
            if self._look is not None:
                self._look.set()
        self.ended[state] = self.ended.get(state, 0) + 1

    async def _suspend(self) -> None:
        for execution in list(self.active.values()):
            execution.suspend()
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=self.grace)
        for task in set(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(set(self._tasks))

    # Inside a program

    async def __aenter__(self) -> Self:
        self._own = asyncio.get_running_loop().create_task(self.serve(), context=contextvars.Context())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        assert isinstance(self._own, asyncio.Task)
        await self._own

    def __enter__(self) -> Self:
        begun: Future[None] = Future()
        self._own = threading.Thread(target=self._serve_in_thread, args=[begun], name="crewbus worker", daemon=True)
        self._own.start()
        begun.result()
        return self

    def _serve_in_thread(self, begun: Future[None]) -> None:
        async def serve() -> None:
            begun.set_result(None)
            await self.serve()

        asyncio.run(serve())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        assert isinstance(self._own, threading.Thread)
        self._own.join()
