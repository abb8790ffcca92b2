"""The plugin ``checkpoint_recorder``: writes the events of armed runs to the bus's store."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from crewbus import hookimpl
from crewbus.events import Envelope
from crewbus.exceptions import FencedError
from crewbus.stores import Store, StoredEvent

if TYPE_CHECKING:
    from crewbus import Bus, Run


class CheckpointRecorder:
    """Keeps one log for each root run: opened by its first event, sealed when the last run in it has ended."""

    def __init__(self) -> None:
        self._logs: dict[str, tuple[Store, int]] = {}
        """Of each root run whose log is open: where it is, and the epoch to write with."""
        self._written: Store | None = None

    @hookimpl
    def crewbus_record(self, bus: Bus, run: Run, envelope: Envelope) -> None:
        """Encode the event and append it. Later changes of the event do not change the record."""
        root = run.root.id
        encoded = bus.recording.encode(envelope)
        log = self._logs.get(root)
        if log is None and run.epoch:
            self._continue(bus.store, root, run.epoch, encoded)
        elif log is None:
            self._begin(bus.store, root, encoded)
        else:
            store, epoch = log
            store.append(root, epoch, encoded)

    def _continue(self, store: Store, root: str, epoch: int, first: StoredEvent) -> None:
        """Record a resumed run, whose log the bus has taken."""
        self._written = store
        store.append(root, epoch, first)
        self._logs[root] = store, epoch

    def _begin(self, store: Store, root: str, first: StoredEvent) -> None:
        self._written = store
        epoch = store.open_log(root)
        try:
            store.append(root, epoch, first)
        except BaseException:
            # The run does not start, so there is no record of it either.
            store.finish(root, epoch)
            store.drop(root)
            raise
        self._logs[root] = store, epoch

    @hookimpl
    def crewbus_run_finish(self, run: Run) -> None:
        """Seal the log with the last run of its tree; or release it, if that is to be resumed."""
        log = self._logs.get(run.root.id) if run.over else None
        if log is not None:
            store, epoch = log
            try:
                with suppress(FencedError):  # the run itself raises it
                    _let_go(store, epoch, run.root)
            except Exception:
                self._logs.pop(run.root.id, None)
                raise
            self._logs.pop(run.root.id, None)  # not after an interrupt, since it is called again then

    @hookimpl
    def crewbus_after_fork(self) -> None:
        """Leave the logs to the parent."""
        self._logs.clear()
        self._written = None

    @hookimpl
    def crewbus_flush(self, bus: Bus, timeout: float | None) -> None:
        """Wait until the store has written everything. A store that was replaced was flushed then."""
        if self._written is not None and self._written is bus.store:
            self._written.flush(timeout)


def _let_go(store: Store, epoch: int, root: Run) -> None:
    if root.state != "suspended":
        store.finish(root.id, epoch)
    elif root.stop is None or root.stop.until is None:
        store.release(root.id, epoch)
    else:
        store.release(root.id, epoch, root.stop.until)
