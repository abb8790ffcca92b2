"""Waiting until what a run emitted is on disk."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

from crewbus._util import call_on, raise_first, running_loop, settle
from crewbus.scopes import Run
from crewbus.stores import Store


class Disk:
    """Waits for the store of a bus."""

    def __init__(self, store: Callable[[], Store]) -> None:
        self._store = store

    def wait(self, run: Run) -> None:
        """Return when all that was emitted in a recorded run is on disk; raise what kept it from being written."""
        if not run.tree.recorded:
            return
        # A bare lock: an interrupt that hits an Event can leave it held, and the notifying thread would wait for ever.
        gate, failures = threading.Lock(), list[BaseException]()
        gate.acquire()

        def notify(failure: BaseException | None) -> None:
            failures.extend([failure] if failure is not None else [])
            gate.release()

        self._store().when_written(run.root.id, notify)
        gate.acquire()
        raise_first(failures)

    async def wait_async(self, run: Run) -> None:
        """As `wait`, without blocking the loop."""
        loop = running_loop()
        if loop is None:  # another kind of loop drives it
            self.wait(run)
            return
        if not run.tree.recorded:
            return
        future, failures = loop.create_future(), list[BaseException]()

        def notify(failure: BaseException | None) -> None:
            failures.extend([failure] if failure is not None else [])
            call_on(loop, partial(settle, future))

        self._store().when_written(run.root.id, notify)
        await future
        raise_first(failures)
