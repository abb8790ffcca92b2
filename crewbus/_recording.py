"""Recording: the gate, the store behind it, and what is written and read through it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Final

from crewbus._calls import Calls
from crewbus._record import Record
from crewbus._serialization import Codec
from crewbus.abc import Store, StoredEvent
from crewbus.events import Envelope
from crewbus.exceptions import RecordingError, RunIdInUseError, RunNotFoundError

if TYPE_CHECKING:
    from crewbus._run import Run


DEFAULT_STORE: Final = "memory:"
"""Where a bus records that was told of no store."""


class Recording(Calls):
    """Nothing is kept until recording is armed, for the bus or for one run.

    A root run is recorded from its first event to its last, with the runs nested in it, or not at all: arming and
    disarming are for the runs that start afterwards.
    """

    def __init__(self, unscoped: str) -> None:
        super().__init__(unscoped)
        self._runs: dict[str, Run] = {}
        self._armed = False
        self._store: Store | None = None
        self._store_url: str | None = None
        self._codec: Codec | None = None
        self._opening = threading.RLock()

    @property
    def recording(self) -> bool:
        """Whether recording is armed for the runs of this bus that don't say otherwise."""
        return self._armed

    @property
    def store(self) -> Store:
        """Where this bus records; opened at first use. Raises `RecordingError` if none can be."""
        if self._store is None:
            with self._opening:
                if self._store is None:
                    self._store, self._store_url = self._open_store(DEFAULT_STORE), DEFAULT_STORE
        return self._store

    def enable_recording(self, store: Store | str | None = None) -> None:
        """Arm recording: root runs that start from now on are recorded, from their first event to their last.

        ``store``: a `Store`, or the URL of one; by default the one in use, or else one in memory. Arming what
        is armed changes nothing. Raises `RecordingError` if nothing would record, and if another store is
        given while recorded runs are live.
        """
        self._require_recorder()
        if store is not None and store not in (self._store, self._store_url):
            with self._registry:
                recorded = [run.id for run in self._runs.values() if run.recorded]
            if recorded:
                raise RecordingError(f"live runs record to another store until they end: {', '.join(recorded[:3])}")
            opened = self._open_store(store) if isinstance(store, str) else store
            self._store, self._store_url = opened, store if isinstance(store, str) else None
        _ = self.store
        self._armed = True

    def _refuse_recorded(self, run_id: str) -> None:
        """Raise `RunIdInUseError` if a run of that id is recorded."""
        if self._store is not None and self._store.root_of(run_id) is not None:
            raise RunIdInUseError(f"run {run_id} is recorded already: choose another id")

    def disable_recording(self) -> None:
        """Disarm recording: runs that start from now on are not recorded; live ones are, to their end."""
        self._armed = False

    def reset_recording(self) -> None:
        """Drop what is kept of finished runs; recording stays as it is. Raises `RecordingError` while a run is live."""
        if self._runs:
            raise RecordingError(f"{len(self._runs)} runs are live ({', '.join(list(self._runs)[:3])}): end them first")
        if self._store is not None:
            for root in self._store.roots():
                self._store.drop(root)

    def record_of(self, run_id: str) -> Record:
        """The record of a run, live or finished; raises `RunNotFoundError` if there is none."""
        root = self._store.root_of(run_id) if self._store is not None else None
        if root is None or self._store is None:
            raise RunNotFoundError(f"run {run_id} is not recorded: arm recording before it starts")
        return Record(self._store, run_id, root, self.decode)

    def _arms(self, wanted: bool | None) -> bool:
        armed = self._armed if wanted is None else wanted
        if armed:
            self._require_recorder()
            _ = self.store
        return armed

    def _require_recorder(self) -> None:
        if not self._recorders:
            raise RecordingError(
                "nothing would record: the plugin 'checkpoint_recorder' is blocked, and no other records"
            )

    def _open_store(self, url: str) -> Store:
        store = self.plugins.hook.crewbus_open_store(bus=self, url=url)
        if not isinstance(store, Store):
            raise RecordingError(f"no plugin opens the store {url!r}: install or unblock the one for its scheme")
        return store

    def encode(self, envelope: Envelope) -> StoredEvent:
        """What a recorder writes of an envelope; raises `UnserializableError` if it would not come back as it was."""
        name, version, data = self._coder().encode(envelope.event)
        source = envelope.source
        if source is not None and not isinstance(source, str):
            source = type(source).__qualname__
        assert envelope.run_id is not None
        return StoredEvent(
            envelope.run_id,
            envelope.seq,
            envelope.parent,
            envelope.at,
            source,
            envelope.attempt,
            name,
            version,
            data,
        )

    def decode(self, stored: StoredEvent) -> Envelope:
        """The envelope that was encoded; its source is a name. Raises `DecodeError`."""
        event = self._coder().decode(stored.name, stored.version, stored.data)
        return Envelope(
            event,
            stored.run_id,
            stored.seq,
            stored.parent,
            stored.at,
            stored.source,
            stored.attempt,
            replayed=True,
        )

    def _coder(self) -> Codec:
        if self._codec is None:
            with self._opening:
                if self._codec is None:
                    self._codec = Codec(lambda made: self.plugins.hook.crewbus_converter(bus=self, converter=made))
        return self._codec
