"""Suspending the runs of a bus that is closed: each is released for another process, as far as it got."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from crewbus._util import Wakeup, remaining, running_loop
from crewbus.exceptions import FlushError, Suspended
from crewbus.scopes import working_loops

if TYPE_CHECKING:
    from crewbus.bus.live_runs import LiveRuns
    from crewbus.scopes import Host, Run

REASON: Final = "the bus is closed"


class Suspension:
    """Suspends the recorded runs that are live on a bus, and waits for them."""

    def __init__(self, host: Host, live: LiveRuns) -> None:
        self._host = host
        self._live = live

    def refuse_to_block(self) -> None:
        """Raise `FlushError` if waiting would block the event loop that a run's work awaits on."""
        loop = running_loop()
        if loop is not None and any(loop in working_loops(run.tree) for run in self._unfinished()):
            raise FlushError("close() would block the loop that recorded runs await on: use 'await bus.aclose()'")

    def begin(self) -> bool:
        """Suspend them; returns whether there are any."""
        found = self._unfinished()
        for run in found:
            run.suspend(REASON)
        return bool(found)

    def wait(self, until: float | None) -> None:
        """Return when they are over, apart from the caller's own, or at ``until`` (monotonic)."""
        here = self._host.current_scope()
        own = here.run.root if here is not None and here.run is not None else None
        wakeup = Wakeup()
        self._live.listeners[wakeup] = wakeup.set
        try:
            # Those too that have started since.
            while self.begin() and self._unfinished() - {own} and wakeup.wait(remaining(until)):
                pass
        finally:
            del self._live.listeners[wakeup]

    def end(self, late: list[str]) -> None:
        """Release those that still run, as far as they got, and add their names to ``late``."""
        for run in self._unfinished():
            late.append(f"run {run.id}")
            self._live.give_up(run, Suspended(REASON))

    def _unfinished(self) -> set[Run]:
        """The recorded root runs that have not ended, or that are suspended while something in them is still live."""
        roots = {run.root for run in self._live.all() if run.recorded}
        return {root for root in roots if not root.ended or root.state in ("new", "suspended")}
