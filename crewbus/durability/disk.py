"""Waiting until what a run emitted is on disk, and until it is certain that this process holds the run."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from crewbus._util import Wakeup, call_on, in_worker, raise_first, running_loop, settle
from crewbus.scopes import Run
from crewbus.stores import Store

BEHIND: Final = 0.25
"""Seconds: a store with an event that has waited longer writes more slowly than is emitted."""


class Disk:
    """Waits for the store of a bus."""

    def __init__(self, store: Callable[[], Store]) -> None:
        self._store = store

    def wait(self, run: Run) -> None:
        """Return when all that was emitted in a recorded run is on disk; raise what kept it from being written."""
        if run.tree.recorded:
            self.wait_for(run.root.id)

    def wait_for(self, root_id: str) -> None:
        """As `wait`, for a root run by its id."""
        written, failures = Wakeup(), list[BaseException]()

        def notify(failure: BaseException | None) -> None:
            failures.extend([failure] if failure is not None else [])
            written.set()

        self._store().when_written(root_id, notify)
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

    async def catch_up(self, run: Run) -> None:
        """As `wait_async` if the store has fallen behind, else at once."""
        if run.tree.recorded and self._store().backlog().seconds > BEHIND:
            await self.wait_async(run)

    def confirm(self, run: Run) -> None:
        """Return when this process certainly holds a recorded run, so that a step's function may be called.

        The store is asked once for an id that was chosen, and then only while the lease may have ended. Raises
        `FencedError`, and `RunIdInUseError` if another process started the run first.
        """
        if self._is_confirmed(run):
            return
        self._store().confirm(run.root.id, run.epoch or 1)
        self._note(run)

    async def confirm_async(self, run: Run) -> None:
        """As `confirm`, without blocking the loop."""
        if self._is_confirmed(run):
            return
        if running_loop() is None:  # another kind of loop drives it
            self.confirm(run)
            return
        await in_worker(partial(self._store().confirm, run.root.id, run.epoch or 1))
        self._note(run)

    def _is_confirmed(self, run: Run) -> bool:
        log = run.tree.log
        return log is None or (log.claimed and self._store().has_lease(run.root.id, log.epoch or 1))

    @staticmethod
    def _note(run: Run) -> None:
        if run.tree.log is not None:
            run.tree.log.claimed = True
