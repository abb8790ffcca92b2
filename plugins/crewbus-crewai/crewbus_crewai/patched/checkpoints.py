"""crewAI's checkpoints in a run's record: the state of crewAI's entities is an event at its position.

A checkpoint of crewAI also contains all events so far; the run's record already has each of them once, so they are read
from there.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any, Final
from weakref import WeakKeyDictionary

from crewai.events.base_events import BaseEvent
from crewai.events.event_bus import crewai_event_bus
from crewai.state import checkpoint_listener
from crewai.state.event_record import EventRecord
from crewai.state.provider.core import BaseProvider
from crewai.state.provider.json_provider import JsonProvider

import crewbus
from crewbus import Envelope, RecordingError, Run, RunNotFoundError, reentrant_lock
from crewbus_crewai.context import held, live_run
from crewbus_crewai.delta import applied, difference
from crewbus_crewai.integration import integration

SCHEME: Final = "crewbus:"
_at_once: Final[ContextVar[bool]] = ContextVar("crewbus_crewai_at_once", default=False)
"""Whether the emitter of the triggering event is writing the checkpoint."""


@crewbus.event(name="crewbus_crewai.EntitiesSaved")
class EntitiesSaved:
    """A checkpoint of crewAI: the state of its entities, without the events before it."""

    checkpoint: str
    branch: str
    after: str | None
    """The checkpoint that ``data`` is a difference from; None if ``data`` is complete."""
    data: str
    """JSON: crewAI's data, or the difference."""


class CrewbusProvider(JsonProvider):  # type: ignore[misc]  # which is Any where crewAI is not installed
    """Stores crewAI's checkpoints in the record of their run, for ``CheckpointConfig(provider=)``.

    A kickoff with this provider is recorded even if its bus records nothing else, unless it runs inside an unrecorded
    run. A checkpoint's location is ``crewbus:RUN#CHECKPOINT``; the run has a checkpoint of the same name.
    """

    def checkpoint(self, data: str, location: str, *, parent_id: str | None = None, branch: str = "main") -> str:
        """Record a checkpoint, and return its location. Raises `crewbus.RecordingError` outside a recorded run."""
        bus = integration.bus_in_scope()
        run = live_run(bus) if bus is not None else None
        if run is None or not run.recorded:
            raise RecordingError("crewAI's checkpoints are stored in a run's record, but no recorded run is in scope")
        name = uuid.uuid4().hex
        _save(run, name, branch, json.loads(data))
        run.checkpoint(name)
        return f"{SCHEME}{run.root.id}#{name}"

    async def acheckpoint(self, data: str, location: str, *, parent_id: str | None = None, branch: str = "main") -> str:
        """As `checkpoint`."""
        return self.checkpoint(data, location, parent_id=parent_id, branch=branch)

    def prune(self, location: str, max_keep: int, *, branch: str = "main") -> int:
        """Remove nothing: a run's record is pruned as a whole, with `crewbus.Records.prune`."""
        return 0

    def extract_id(self, location: str) -> str:
        """The id in the location of a checkpoint."""
        return location.rpartition("#")[2]

    def from_checkpoint(self, location: str) -> str:
        """Read a checkpoint, with the events before it. Raises `crewbus.RunNotFoundError`."""
        run_id, _, name = location.removeprefix(SCHEME).rpartition("#")
        saved: dict[str, EntitiesSaved] = {}
        events = EventRecord()
        for envelope in _record_of(run_id):
            if isinstance(envelope.event, BaseEvent):
                events.add(envelope.event)
            elif isinstance(envelope.event, EntitiesSaved):
                saved[envelope.event.checkpoint] = envelope.event
                if envelope.event.checkpoint == name:
                    return json.dumps(_complete(saved, name) | {"event_record": _dumped(events)})
        raise RunNotFoundError(f"run {run_id} has no crewAI checkpoint {name!r}")

    async def afrom_checkpoint(self, location: str) -> str:
        """As `from_checkpoint`."""
        return self.from_checkpoint(location)


class _LastCheckpoint:
    """The last checkpoint in a run, with its data."""

    def __init__(self) -> None:
        self.lock = reentrant_lock()
        self.name: str | None = None
        self.data: Any = None


_last_checkpoints: Final[WeakKeyDictionary[Run, _LastCheckpoint]] = WeakKeyDictionary()
_lock: Final = reentrant_lock()


def _save(run: Run, name: str, branch: str, data: Any) -> None:
    """Record a checkpoint as the difference from the last one, so that its cost does not grow with the run."""
    with _lock:
        last = _last_checkpoints.setdefault(run, _LastCheckpoint())
    with last.lock:  # held while emitting, so that the record has the checkpoints in the order of their differences
        written = data if last.name is None else difference(last.data, data)
        run.emit(EntitiesSaved(name, branch, last.name, json.dumps(written)))
        last.name, last.data = name, data


def forget(run: Run) -> None:
    """Forget the last checkpoint of a run that has ended."""
    _last_checkpoints.pop(run, None)


def _complete(saved: dict[str, EntitiesSaved], name: str) -> Any:
    """The data of a checkpoint, with the differences that it builds on applied."""
    chain = [saved[name]]
    while chain[-1].after is not None:
        chain.append(saved[chain[-1].after])
    data = json.loads(chain.pop().data)
    while chain:
        data = applied(data, json.loads(chain.pop().data))
    return data


def _dumped(events: EventRecord) -> Any:
    return events.model_dump(mode="json", fallback=repr)


def _record_of(run_id: str) -> Iterator[Envelope]:
    for bus in integration.buses:
        try:
            return iter(bus.record_of(run_id))
        except (RunNotFoundError, RecordingError):
            continue
    raise RunNotFoundError(f"run {run_id} is not in the store of any bus that crewbus-crewai serves")


def kept_in_record(config: Any) -> bool:
    """Whether ``config``, a CheckpointConfig, a bool or None, stores checkpoints in the record of a run."""
    provider = getattr(config, "provider", None)
    return isinstance(provider, CrewbusProvider) or str(getattr(config, "location", "")).startswith(SCHEME)


def detect_provider(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> BaseProvider:
    """Find the provider that wrote a checkpoint, by its location."""
    path = args[0] if args else kwargs["path"]
    found: BaseProvider = CrewbusProvider() if path.startswith(SCHEME) else wrapped(path)
    return found


def checkpoint_after(source: Any, event: BaseEvent) -> None:
    """Write the checkpoint that ``event`` triggers, if it is kept in a record: at once, so that none comes too late."""
    if not checkpoint_listener._handlers_registered:
        return
    config = checkpoint_listener._find_checkpoint(source)
    if not kept_in_record(config):
        return
    config.location = SCHEME  # identifies the config after a restore, because crewAI does not store the provider
    with held(_at_once, True):
        checkpoint_listener._on_any_event(source, event, crewai_event_bus.runtime_state)


def write_checkpoint(wrapped: Any, instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Write a checkpoint; `checkpoint_after` has already written one that is kept in a record."""

    def write(state: Any, cfg: Any, event: BaseEvent | None = None) -> None:
        if not kept_in_record(cfg):
            wrapped(state, cfg, event)
        elif _at_once.get():
            with held(_at_once, False):
                wrapped(state, _with_provider(cfg), event)

    write(*args, **kwargs)


def _with_provider(config: Any) -> Any:
    """The config with its provider, which a restored config lacks."""
    if isinstance(config.provider, CrewbusProvider):
        return config
    return config.model_copy(update={"provider": CrewbusProvider()})
