"""Waiting until what a run emitted is on disk."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from crewbus._util import Wakeup, call_on, raise_first, running_loop, settle
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
        written, failures = Wakeup(), list[BaseException]()

        def notify(failure: BaseException | None) -> None:
            failures.extend([failure] if failure is not None else [])
            written.set()

        self._store().when_written(run.root.id, notify)
        written.wait()
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
