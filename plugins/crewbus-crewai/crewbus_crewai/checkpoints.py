"""crewAI's checkpoints in the record of a run: what crewAI writes of its entities is an event, at its position.

crewAI restores from them as from any: of what it keeps besides, the events, the run's record has each once.
"""

from __future__ import annotations

import json
import threading
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
from crewbus import Envelope, RecordingError, Run, RunNotFoundError
from crewbus_crewai.context import held, live_run
from crewbus_crewai.delta import applied, difference
from crewbus_crewai.integration import integration

SCHEME: Final = "crewbus:"
_at_once: Final[ContextVar[bool]] = ContextVar("crewbus_crewai_at_once", default=False)
"""Whether a checkpoint is written by whoever emits the event that calls for it."""


@crewbus.event(name="crewbus_crewai.EntitiesSaved")
class EntitiesSaved:
    """A checkpoint of crewAI's: the state of its entities, without the events that led there."""

    checkpoint: str
    branch: str
    after: str | None
    """The checkpoint that this one is told as a difference from; None: it is told whole."""
    data: str
    """JSON: what crewAI writes, or the difference."""


class CrewbusProvider(JsonProvider):  # type: ignore[misc]  # which is Any where crewAI is not installed
    """Keeps crewAI's checkpoints in the record of the run in which they are made: for ``CheckpointConfig(provider=)``.

    A kickoff with it is recorded, also where its bus records nothing else, unless it stands in a run that is not. The
    location of a checkpoint, to restore from, is ``crewbus:RUN#CHECKPOINT``; it is one of the run's, by the same name.
    """

    def checkpoint(self, data: str, location: str, *, parent_id: str | None = None, branch: str = "main") -> str:  # noqa: ARG002
        """Record a checkpoint, and return its location. Raises `crewbus.RecordingError` outside a recorded run."""
        bus = integration.bus_in_scope()
        run = live_run(bus) if bus is not None else None
        if run is None or not run.recorded:
            raise RecordingError("crewAI's checkpoints are kept in a run's record, and no recorded run is in scope")
        name = uuid.uuid4().hex
        _save(run, name, branch, json.loads(data))
        run.checkpoint(name)
        return f"{SCHEME}{run.root.id}#{name}"

    async def acheckpoint(self, data: str, location: str, *, parent_id: str | None = None, branch: str = "main") -> str:
        """As `checkpoint`."""
        return self.checkpoint(data, location, parent_id=parent_id, branch=branch)

    def prune(self, location: str, max_keep: int, *, branch: str = "main") -> int:  # noqa: ARG002
        """Remove nothing: a run's record goes as a whole, with `crewbus.Records.prune`."""
        return 0

    def extract_id(self, location: str) -> str:
        """The id of a checkpoint, by its location."""
        return location.rpartition("#")[2]

    def from_checkpoint(self, location: str) -> str:
        """Read a checkpoint, with the events that led to it. Raises `crewbus.RunNotFoundError`."""
        run_id, _, name = location.removeprefix(SCHEME).rpartition("#")
        saved: dict[str, EntitiesSaved] = {}
        events = EventRecord()
        for envelope in _record_of(run_id):
            if isinstance(envelope.event, BaseEvent):
                events.add(envelope.event)
            elif isinstance(envelope.event, EntitiesSaved):
                saved[envelope.event.checkpoint] = envelope.event
                if envelope.event.checkpoint == name:
                    return json.dumps(_whole(saved, name) | {"event_record": _dumped(events)})
        raise RunNotFoundError(f"run {run_id} has no checkpoint {name!r} of crewAI's")

    async def afrom_checkpoint(self, location: str) -> str:
        """As `from_checkpoint`."""
        return self.from_checkpoint(location)


class _Last:
    """The last checkpoint in a run, and what that says."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.name: str | None = None
        self.data: Any = None


_lasts: Final[WeakKeyDictionary[Run, _Last]] = WeakKeyDictionary()
_lock: Final = threading.Lock()


def _save(run: Run, name: str, branch: str, data: Any) -> None:
    """Record a checkpoint: of what is like in the last one, nothing, so that a long run's costs no more."""
    with _lock:
        last = _lasts.setdefault(run, _Last())
    with last.lock:  # also while it is emitted: each is told as a difference from the one before it in the record
        written = data if last.name is None else difference(last.data, data)
        run.emit(EntitiesSaved(name, branch, last.name, json.dumps(written)))
        last.name, last.data = name, data


def forget(run: Run) -> None:
    """Let go of what the last checkpoint of a run says: it has ended."""
    _lasts.pop(run, None)


def _whole(saved: dict[str, EntitiesSaved], name: str) -> Any:
    """What a checkpoint says, by those that it is told as a difference from."""
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
    raise RunNotFoundError(f"run {run_id} is not recorded in the store of any bus that crewbus-crewai is installed for")


def is_ours(configured: Any) -> bool:
    """Whether checkpoints are kept in the record of a run; ``configured`` is a configuration, a bool or None."""
    provider = getattr(configured, "provider", None)
    return isinstance(provider, CrewbusProvider) or str(getattr(configured, "location", "")).startswith(SCHEME)


def detected(stock: Any, path: str) -> BaseProvider:
    """Find the provider that wrote a checkpoint, by its location."""
    found: BaseProvider = CrewbusProvider() if path.startswith(SCHEME) else stock(path)
    return found


def checkpoint_after(source: Any, event: BaseEvent) -> None:
    """Write the checkpoint that ``event`` calls for, if it goes into a record: at once, so that none comes too late."""
    if not checkpoint_listener._handlers_registered:
        return
    config = checkpoint_listener._find_checkpoint(source)
    if not is_ours(config):
        return
    config.location = SCHEME  # by which it is known when it was restored, since crewAI writes down no provider
    with held(_at_once, True):
        checkpoint_listener._on_any_event(source, event, crewai_event_bus.runtime_state)


def written(stock: Any, state: Any, config: Any, event: BaseEvent | None = None) -> None:
    """Write a checkpoint; one for a record has been, when crewAI's own handler comes to it."""
    if not is_ours(config):
        stock(state, config, event)
    elif _at_once.get():
        ours = config if isinstance(config.provider, CrewbusProvider) else _with_provider(config)
        with held(_at_once, False):
            stock(state, ours, event)


def _with_provider(config: Any) -> Any:
    """A configuration that was restored, with its provider."""
    return config.model_copy(update={"provider": CrewbusProvider()})
