"""Recording: the gate, the store behind it, and what is written and read through it."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from contextlib import suppress
from itertools import count
from typing import TYPE_CHECKING, Final, Literal, get_args

import attrs

from crewbus.dispatch.callback_delivery import Calls
from crewbus.durability.run_log import Durability, checked
from crewbus.durability.tracked import Tracked
from crewbus.events import Envelope, Truncated
from crewbus.events.entities import entities
from crewbus.exceptions import (
    CrewbusError,
    EventTypeError,
    InputError,
    OversizedEventError,
    RecordingError,
    RunIdInUseError,
)
from crewbus.records.record import Record
from crewbus.serialization.codec import Codec
from crewbus.stores import LANDMARKS, Store, StoredEvent
from crewbus.stores.users import store_refs

if TYPE_CHECKING:
    from crewbus.scopes.run import Run

STORE: Final = "CREWBUS_STORE"
"""The environment variable that names the URL of the store of a bus that was told of none."""
DEFAULT_STORE: Final = "memory:"
"""Where it records otherwise."""
MAX_EVENT_BYTES: Final = 16 * 1024 * 1024
"""How many bytes the JSON of one event may have, unless told otherwise."""
_SHOWN: Final = 1024
"""How many bytes are kept of an event that is truncated."""

Oversized = Literal["refuse", "truncate"]
"""What becomes of an event that is larger than the bound."""


@attrs.frozen
class Terms:
    """How the runs that start from now on are recorded."""

    durability: Durability = "async"
    checkpoint_on: tuple[type, ...] = ()
    max_event_bytes: int = MAX_EVENT_BYTES
    oversized: Oversized = "refuse"


class Recording(Calls):
    """Nothing is kept until recording is armed, for the bus or for one run.

    A root run is recorded from its first event to its last, with the runs nested in it, or not at all: arming and
    disarming are for the runs that start afterwards.
    """

    def __init__(self, unscoped: str) -> None:
        super().__init__(unscoped)
        self._runs: dict[str, Run] = {}
        self._armed = False
        self._terms = Terms()
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
                    url = os.environ.get(STORE) or DEFAULT_STORE
                    opened = self._open_store(url)
                    store_refs.acquire(opened)
                    self._store, self._store_url = opened, url
        return self._store

    def use_store(self, store: Store | str) -> None:
        """Record to ``store``, a `Store` or the URL of one, and read from it, without arming anything.

        The one in use before is flushed, and closed with the last bus that used it. Raises `RecordingError` if none can
        be opened, if that one can't be flushed, and if another is given while recorded runs are live.
        """
        if store in (self._store, self._store_url):
            return
        with self._registry:
            recorded = [run.id for run in self._runs.values() if run.recorded]
        if recorded:
            raise RecordingError(f"live runs record to another store until they end: {', '.join(recorded[:3])}")
        opened = self._open_store(store) if isinstance(store, str) else store
        before = self._store
        if before is not None:
            before.flush()
            self._store = None
            store_refs.release(before)
        self._store, self._store_url = opened, store if isinstance(store, str) else None
        store_refs.acquire(opened)

    def enable_recording(
        self,
        store: Store | str | None = None,
        *,
        durability: Durability = "async",
        checkpoint_on: Iterable[type] = (),
        max_event_bytes: int = MAX_EVENT_BYTES,
        oversized: Oversized = "refuse",
    ) -> None:
        """Arm recording: root runs that start from now on are recorded, from their first event to their last.

        ``store``: a `Store`, or the URL of one; by default the one in use, or else the one that the environment
        variable ``CREWBUS_STORE`` names, or else one in memory. ``durability``: "async", an emission returns while the
        event is on its way to the store; "sync", it is on disk. ``checkpoint_on``: event types after each of which a
        checkpoint is saved, under the type's name. ``max_event_bytes`` bounds the JSON of one event: what is larger is
        refused (`OversizedEventError`), or with ``oversized="truncate"`` recorded as a `Truncated`, unless a run is
        resumed by it. Raises `RecordingError` if nothing would record, and if another store is given while recorded
        runs are live.
        """
        self._require_recorder()
        terms = Terms(checked(durability) or "async", tuple(checkpoint_on), max_event_bytes, oversized)
        if oversized not in get_args(Oversized):
            raise InputError(f"oversized={oversized!r}: choose 'refuse' or 'truncate'")
        if max_event_bytes < _SHOWN:
            raise InputError(f"max_event_bytes={max_event_bytes}: at least {_SHOWN}")
        for cls in terms.checkpoint_on:
            if not isinstance(cls, type):
                raise EventTypeError(f"checkpoint_on takes event classes; got {cls!r}")
        if store is not None:
            self.use_store(store)
        _ = self.store
        self._terms, before = terms, self._terms
        for cls in before.checkpoint_on:
            self.off(cls, self._checkpoint_after)
        for cls in terms.checkpoint_on:
            self.on(cls, self._checkpoint_after)
        self._armed = True

    def _checkpoint_after(self, envelope: Envelope) -> None:
        """Save a checkpoint after an event of a type that `enable_recording` was given: `Steps` knows how."""
        raise NotImplementedError

    def _refuse_recorded(self, run: Run) -> None:
        """Raise `RunIdInUseError` if a run of that id is recorded, unless a resumed run makes it anew."""
        store = self._store
        root = store.root_of(run.id) if store is not None else None
        if store is None or root is None:
            return
        if run.epoch == 0 or root not in (run.root.id, *store.lineage(run.root.id)):
            raise RunIdInUseError(f"run {run.id} is recorded already: choose another id")

    def disable_recording(self) -> None:
        """Disarm recording: runs that start from now on are not recorded; live ones are, to their end."""
        self._armed = False

    def reset_recording(self) -> None:
        """Drop what is kept of finished runs; recording stays as it is. Raises `RecordingError` while a run is live."""
        if self._runs:
            raise RecordingError(f"{len(self._runs)} runs are live ({', '.join(list(self._runs)[:3])}): end them first")
        if self._store is not None:
            store = self._store
            for root in sorted(store.roots(), key=lambda root: -len(store.lineage(root))):  # forks first
                store.drop(root)

    def record_of(self, run_id: str) -> Record:
        """The record of a run, live or finished; raises `RunNotFoundError` if there is none."""
        return Record.find(self.store, run_id, self.decode)

    def _arms(self, wanted: bool | None) -> bool:
        armed = self._armed if wanted is None else wanted
        if armed:
            self._require_recorder()
            _ = self.store
        return armed

    def _is_sync(self, durability: Durability | None) -> bool:
        return (durability or self._terms.durability) == "sync"

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
        name, version, data = (self._codec or self._coder()).encode(envelope.event)
        if len(data) > self._terms.max_event_bytes:
            name, version, data = self._oversized(name, version, data)
        source = envelope.source
        if source is not None and not isinstance(source, str):
            self._track_source(envelope)
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

    def _renumber(self, run: Run) -> None:
        # Whether the event reached the store, an interrupt leaves open.
        with suppress(CrewbusError):
            run.tree.numbers = count(self.store.info(run.root.id).last + 1)

    def _oversized(self, name: str, version: int, data: bytes) -> tuple[str, int, bytes]:
        """What is recorded of an event that is larger than the bound; raises `OversizedEventError`."""
        terms = self._terms
        if terms.oversized == "refuse" or name in LANDMARKS:
            raise OversizedEventError(
                f"{name}: {len(data)} bytes of JSON, more than the {terms.max_event_bytes} that one event may have: "
                "keep what is large elsewhere and record where, or raise max_event_bytes= of enable_recording()"
            )
        return self._coder().encode(Truncated(name, version, len(data), data[:_SHOWN].decode(errors="ignore")))

    def _track_source(self, envelope: Envelope) -> None:
        """Track an entity that is the source of an event of a recorded run, from its first on; under the lock."""
        run = self._runs.get(envelope.run_id or "")
        log = run.tree.log if run is not None else None
        if log is None or entities.find_class(type(envelope.source)) is None:
            return
        if id(envelope.source) not in log.sources:
            name = log.name_for(entities.of(type(envelope.source)).name)
            log.entities[name] = log.sources[id(envelope.source)] = Tracked(envelope.source)

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
