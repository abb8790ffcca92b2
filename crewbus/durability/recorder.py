"""Recording: the gate, the store behind it, and what is written to it and read from it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, get_args
from weakref import WeakKeyDictionary

from crewbus import records, serialization
from crewbus._util import is_count, reentrant_lock, without_secrets
from crewbus.dispatch import now
from crewbus.durability.call_content import WITH_CONTENT, without_content
from crewbus.durability.disk import Disk
from crewbus.durability.idempotency import digest_of
from crewbus.durability.lane import RecordedLane, ReplayLane, SyncedLane
from crewbus.durability.limits import MAX_EVENT_BYTES, Oversized
from crewbus.durability.run_log import RunLog
from crewbus.durability.tracked import Tracked
from crewbus.events import (
    CheckpointSaved,
    Envelope,
    RunStarted,
    Truncated,
    entity_types,
    event_type_of,
    find_event_type,
)
from crewbus.exceptions import EventTypeError, InputError, OversizedEventError, RecordingError, RunIdInUseError
from crewbus.scopes import Deferring, Durability, Phase, Preparation, checked_durability
from crewbus.stores import LANDMARKS, Backlog, Store, StoredEvent, store_refs

if TYPE_CHECKING:
    from crewbus.dispatch import HookTable, OrderedLane, Plan
    from crewbus.durability.recorded_emissions import Content
    from crewbus.plugins import PluginManager
    from crewbus.records import Record
    from crewbus.scopes import Run, Scope, Tree
    from crewbus.serialization import Codec, Written

STORE: Final = "CREWBUS_STORE"
"""The environment variable that holds the URL of the default store."""
DEFAULT_STORE: Final = "memory:"
"""The store's URL if nothing else names one."""
CHECKPOINT: Final = event_type_of(CheckpointSaved).name
_SHOWN: Final = 1024
"""How many bytes are kept of an event that is truncated."""


class RecordingOptions(NamedTuple):
    """How the runs that start from now on are recorded."""

    durability: Durability = "async"
    checkpoint_on: tuple[type, ...] = ()
    max_event_bytes: int = MAX_EVENT_BYTES
    oversized: Oversized = "refuse"
    content: bool = False
    """Whether the input and output of calls are recorded."""

    @classmethod
    def checked(
        cls,
        durability: Durability,
        checkpoint_on: Iterable[type],
        max_event_bytes: int,
        oversized: Oversized,
        content: bool,
    ) -> RecordingOptions:
        """The options that `Bus.enable_recording` was given. Raises `InputError` and `EventTypeError`."""
        if not isinstance(checkpoint_on, Iterable):
            raise EventTypeError(f"checkpoint_on takes several event classes; got {checkpoint_on!r}")
        made = cls(checked_durability(durability) or "async", tuple(checkpoint_on), max_event_bytes, oversized, content)
        if not isinstance(content, bool):
            raise InputError(f"content= is True or False; got {content!r}")
        if oversized not in get_args(Oversized):
            raise InputError(f"oversized={oversized!r}: choose 'refuse' or 'truncate'")
        if not is_count(max_event_bytes, _SHOWN):
            raise InputError(f"max_event_bytes={max_event_bytes!r}: at least {_SHOWN}")
        for event_type in made.checkpoint_on:
            if not isinstance(event_type, type):
                raise EventTypeError(f"checkpoint_on takes event classes; got {event_type!r}")
        return made


class Recorder:
    """What `Bus.recording` is: whether runs are recorded, and where. Nothing is kept until recording is armed.

    A root run is recorded from its first event to its last, with the runs nested in it, or not at all: arming and
    disarming concern the runs that start afterwards.
    """

    def __init__(
        self,
        bus: Any,
        plugins: PluginManager,
        hooks: HookTable,
        plan_of: Callable[[Any], Plan],
        plain_lane: OrderedLane,
        live_runs: Mapping[str, Run],
    ) -> None:
        self._bus = bus
        self._plugins = plugins
        self._hooks = hooks
        self.plan_of = plan_of
        self._live_runs = live_runs
        self.armed = False
        """Whether the runs of this bus are recorded that don't say otherwise."""
        self.options = RecordingOptions()
        self._store: Store | None = None
        self._store_url: str | None = None
        self._asked: WeakKeyDictionary[Run, str | None] = WeakKeyDictionary()
        """In which record the id of a run was found before it started."""
        self._user = object()
        """Stands for the bus as a user of its store."""
        self._codec: Codec | None = None
        self.disk = Disk(lambda: self.store)
        self._recorded = RecordedLane(plain_lane, hooks.record, lambda: self.store)
        self._synced = SyncedLane(plain_lane, hooks.record, lambda: self.store, self.disk)
        self.after_fork()

    def after_fork(self) -> None:
        """In a forked child: take a new lock, and write nothing of what the parent had begun."""
        self._opening = reentrant_lock()
        if self._store is not None:
            self._store.after_fork()

    # The gate

    def enable(self, store: Store | str | None, options: RecordingOptions) -> None:
        """Arm recording; see `Bus.enable_recording`."""
        self.require_recorder()
        if store is not None:
            self.use_store(store)
        _ = self.store
        self.options = options
        self.armed = True

    def disable(self) -> None:
        """Disarm recording: runs that start from now on are not recorded; live ones are, to their end."""
        self.armed = False

    def arm(self, run: Run) -> None:
        """Have a run that starts recorded, if that is asked for. Raises `RecordingError`."""
        record, durability = run.request.record, run.request.durability
        if run.parent is None:
            if self.armed if record is None else record:
                self.require_recorder()
                _ = self.store
                self.open(run.tree, durability).claimed = not run.named
        elif record is not None and record != run.tree.recorded:
            state = "is not" if record else "is"
            raise RecordingError(
                f"run {run.id}: record={record} inside the root run {run.root.id}, which {state} recorded: "
                "nested runs share their root's record; say it at the root"
            )

    def preparation(self, run: Run) -> Preparation | None:
        """What may block before a new run starts: the store is opened, and asked for an id that was chosen."""
        recorded = self.armed if run.request.record is None else run.request.record
        if not (recorded if self._store is None else run.named):
            return None
        return Preparation(lambda: self._asked.__setitem__(run, self.store.root_of(run.id)), lambda: None)

    def open(self, tree: Tree, durability: Durability | None, epoch: int = 0) -> RunLog:
        """Have a tree recorded from now on."""
        sync = (durability or self.options.durability) == "sync"
        tree.log = log = RunLog(self._recorded, sync, epoch)
        tree.recorded = True
        tree.lane = self._synced if sync else self._recorded
        tree.refresh()
        return log

    def replaying(self, tree: Tree) -> None:
        """Have the lane of a tree compare each event with the record first."""
        tree.lane = ReplayLane(self._recorded, tree.lane, self.content_of, self.plan_of, self.track_source)

    def claim_nested(self, run: Run) -> int | None:
        """The number under which a resumed run repeats a nested one, whose id ``run`` gets; None: ``run`` is new."""
        log: RunLog | None = run.tree.log
        if run.parent is None or log is None:
            return None
        with Deferring(run.tree.lock), run.tree.lock:
            log.nested_runs.start(run)
            if log.replay is None:
                return None
            recorded = log.replay.claim_run(run)
        if recorded is None:
            return None
        run.id = recorded.run_id
        return recorded.start

    def require_recorder(self) -> None:
        """Raise `RecordingError` if no plugin records."""
        if not self._hooks.recorders:
            raise RecordingError(
                "nothing records: no plugin implements crewbus_record; the built-in one may be blocked"
            )

    # The store

    @property
    def store(self) -> Store:
        """Where this bus records; opened at first use. Raises `RecordingError` if no plugin opens it."""
        if self._store is None:
            with self._opening:
                if self._store is None:
                    url = os.environ.get(STORE) or DEFAULT_STORE
                    opened = self._open_store(url)
                    store_refs.acquire(opened, self._user)
                    self._store, self._store_url = opened, url
        return self._store

    def backlog(self) -> Backlog:
        """What the store in use has accepted and not written yet."""
        return self._store.backlog() if self._store is not None else Backlog()

    def use_store(self, store: Store | str) -> None:
        """Record to ``store``, a `Store` or the URL of one, and read from it, without arming anything.

        The store in use before is flushed, and closed with the last bus that used it. Raises `RecordingError` if no
        plugin opens the new one, if the old one can't be flushed, and while recorded runs are live.
        """
        if store in (self._store, self._store_url):
            return
        recorded = [run.id for run in list(self._live_runs.values()) if run.recorded]
        if recorded:
            raise RecordingError(f"live runs record to another store until they end: {', '.join(recorded[:3])}")
        opened = self._open_store(store) if isinstance(store, str) else store
        before = self._store
        if before is not None:
            before.flush()
            self._store = None
            store_refs.release(before, self._user)
        self._store, self._store_url = opened, store if isinstance(store, str) else None
        store_refs.acquire(opened, self._user)

    def _open_store(self, url: str) -> Store:
        store = self._plugins.hook.crewbus_open_store(bus=self._bus, url=url)
        if not isinstance(store, Store):
            shown = without_secrets(url)
            if ":" not in url:
                raise RecordingError(f"{shown!r} is not the URL of a store: did you mean sqlite:///{shown}?")
            raise RecordingError(f"no plugin opens the store {shown!r}: install or unblock the one for its scheme")
        return store

    def close(self) -> None:
        """Release the store; the last bus that uses it closes it."""
        if self._store is not None:
            store_refs.release(self._store, self._user)

    def reset(self) -> None:
        """Drop the records of finished runs; recording stays as it is. Raises `RecordingError` while a run is live."""
        live = list(self._live_runs)
        if live:
            raise RecordingError(f"{len(live)} runs are live ({', '.join(live[:3])}): end them first")
        if self._store is not None:
            store = self._store
            for root in sorted(store.roots(), key=lambda root: -len(store.lineage(root))):  # forks first
                store.drop(root)

    def refuse_recorded(self, run: Run) -> None:
        """Raise `RunIdInUseError` if a run of that id is recorded, unless a resumed run makes it again."""
        store = self._store
        if store is None:
            return
        root = self._asked.pop(run) if run in self._asked else store.root_of(run.id)
        if root is None:
            return
        if run.epoch == 0 or root not in (run.root.id, *store.lineage(run.root.id)):
            raise RunIdInUseError(f"run {run.id} is recorded already: choose another id")

    def record_of(self, run_id: str) -> Record:
        """The record of a run, live or finished. Raises `RunNotFoundError`."""
        return records.Record.find(self.store, run_id, self.decode)

    def end_of(self, run_id: str) -> Envelope | None:
        """The end of a run that the store in use knows and that has ended, or None."""
        if self._store is None or self._store.root_of(run_id) is None:
            return None
        return self.record_of(run_id).end(run_id)

    def find_run(self, run_id: str) -> Run | None:
        """The live run of that id, or None."""
        return self._live_runs.get(run_id)

    # Events of crewbus's own

    @property
    def redacts(self) -> bool:
        """Whether a plugin redacts what is recorded."""
        return bool(self._hooks.redaction.chain)

    def append(self, scope: Scope, event: Any) -> Envelope | None:
        """Emit and record an event that is new, whatever a resumed run still repeats."""
        event = self.redacted(scope.run, event)
        log: RunLog = scope.tree.log
        return log.lane.commit(self.plan_of(event), scope, event)

    def redeliver(self, scope: Scope, event: Any, seq: int) -> Envelope | None:
        """Deliver an event that the record of a resumed run holds already, under this number."""
        log: RunLog = scope.tree.log
        return log.lane.commit(self.plan_of(event), scope, event, None, Phase.BODY, seq)

    def redacted(self, run: Run | None, event: Any) -> Any:
        """What may be seen of an event. Raises `RedactionError`."""
        return self._hooks.redaction.apply(run, event) if self._hooks.redaction.chain else event

    def plant(self, run: Run, events: Iterable[Any] = (), until: float | None = None) -> None:
        """Record the start of a root run that has not started, for whoever resumes it; it is on disk on return.

        ``run`` is one that `Bus.run` returned. ``events``, of registered types, are recorded after its start, and
        redacted as all events are. ``until``: `Store.claim` does not take the run before, in seconds since the epoch.
        Raises `RunIdInUseError` if a run of its id is recorded already, and what recording an event raises.
        """
        self.require_recorder()
        first = [RunStarted(run.name, dict(run.tags), None, run.key), *events]
        envelopes = (
            Envelope(self.redacted(run, event), run.id, seq, f"{run.id}:0" if seq else None, now())
            for seq, event in enumerate(first)
        )
        self.store.create(run.id, [self.encode(envelope) for envelope in envelopes], until)

    # Encoding

    def write(self, value: Any, annotation: Any = Any, what: str = "the value") -> Written:
        """Encode a value as a step's result is: by its registered type, else as JSON, else by ``annotation``.

        Raises `UnserializableError`, with ``what`` and the place in it, if it would not decode to an equal value.
        """
        return self.codec().write(value, annotation, what)

    def digest(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
        """A digest of the arguments of a call, the same in every process: whether two calls are the same.

        Of an argument that steps have no fingerprint for, only the place counts.
        """
        return digest_of(args, kwargs)

    def read(self, written: tuple[Any, str | None, int], annotation: Any = Any) -> Any:
        """Decode what `write` returned. Raises `DecodeError`."""
        return self.codec().read(serialization.Written(*written), annotation)

    def codec(self) -> Codec:
        """What writes and reads events and values; made at first use, with the plugins' additions."""
        if self._codec is None:
            with self._opening:
                if self._codec is None:
                    self._codec = serialization.Codec(
                        lambda made: self._plugins.hook.crewbus_converter(bus=self._bus, converter=made)
                    )
        return self._codec

    def encode(self, envelope: Envelope) -> StoredEvent:
        """What a recorder writes of an envelope. Raises `UnserializableError` if it would not come back unchanged."""
        event = envelope.event
        if event.__class__ in WITH_CONTENT and not self.options.content:
            event = without_content(event)
        name, version, data = (self._codec or self.codec()).encode(event)
        if len(data) > self.options.max_event_bytes:
            name, version, data = self._oversized(name, version, data)
        source = envelope.source
        if source is not None and not isinstance(source, str):
            self.track_source(self.find_run(envelope.run_id or ""), source)
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

    def content_of(self, event: Any) -> Content:
        """By what a resumed run recognises an event. Raises `UnserializableError`."""
        if isinstance(event, CheckpointSaved):
            return CHECKPOINT, event.name.encode(errors="surrogatepass")
        name, version, data = self.codec().encode(event)
        if len(data) > self.options.max_event_bytes:
            name, _, data = self._oversized(name, version, data)
        return name, _recognisable(name, data)

    def recorded_content(self, stored: StoredEvent) -> Content | None:
        """As `content_of`, of a stored event that user code emitted; None if crewbus did."""
        if stored.name in LANDMARKS:
            event = self.event_of(stored) if stored.name == CHECKPOINT else None
            return self.content_of(event) if event is not None and not event.automatic else None
        registered = find_event_type(stored.name)
        if registered is not None and registered.version > stored.version:  # as this release would write it
            return self.content_of(self.event_of(stored))
        return stored.name, _recognisable(stored.name, stored.data)

    def as_recorded(self, landmark: Any) -> Any:
        """A copy of a landmark as the record will hold it. Raises `OversizedEventError` if it is too large."""
        name, version, data = self.codec().encode(landmark)
        if len(data) > self.options.max_event_bytes:
            self._oversized(name, version, data)
        return self.codec().decode(name, version, data)

    def _oversized(self, name: str, version: int, data: bytes) -> tuple[str, int, bytes]:
        """What is recorded of an event that is larger than the limit. Raises `OversizedEventError`."""
        options = self.options
        if options.oversized == "refuse" or name in LANDMARKS:
            raise OversizedEventError(
                f"{name}: {len(data)} bytes of JSON, more than the {options.max_event_bytes} that one event may have: "
                "keep what is large elsewhere and record where, or raise max_event_bytes= of enable_recording()"
            )
        return self.codec().encode(Truncated(name, version, len(data), data[:_SHOWN].decode(errors="ignore")))

    def track_source(self, run: Run | None, source: object) -> None:
        """Track an entity from the first event of a recorded run whose source it is; called under the lock.

        So its name follows from the order of these events, which a resumed run repeats.
        """
        log: RunLog | None = run.tree.log if run is not None else None
        if log is None or entity_types.find_class(type(source)) is None:
            return
        if id(source) not in log.sources:
            name = log.name_for(entity_types.of(type(source)).name)
            log.entities[name] = log.sources[id(source)] = Tracked(source)

    def event_of(self, stored: StoredEvent) -> Any:
        """The event that was encoded. Raises `DecodeError`."""
        return (self._codec or self.codec()).decode(stored.name, stored.version, stored.data)

    def decode(self, stored: StoredEvent) -> Envelope:
        """The envelope that was encoded; its source is a name. Raises `DecodeError`."""
        return Envelope(
            self.event_of(stored),
            stored.run_id,
            stored.seq,
            stored.parent,
            stored.at,
            stored.source,
            stored.attempt,
            replayed=True,
        )


def _recognisable(name: str, data: bytes) -> bytes:
    """Of the JSON of an event, that by which a resumed run recognises it."""
    registered = find_event_type(name)
    if registered is None or registered.recognised_by is None:
        return data
    fields = json.loads(data)
    return json.dumps([fields.get(field) for field in registered.recognised_by]).encode()
