"""crewAI's runtime state: one for each kickoff, which records all events only if something reads the record."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

from crewai.events import event_bus
from crewai.events.event_bus import CrewAIEventsBus, crewai_event_bus
from crewai.events.types.crew_events import CrewKickoffCompletedEvent, CrewKickoffStartedEvent
from crewai.events.types.flow_events import (
    FlowFinishedEvent,
    FlowStartedEvent,
    MethodExecutionFailedEvent,
    MethodExecutionFinishedEvent,
    MethodExecutionStartedEvent,
)
from crewai.events.types.task_events import TaskCompletedEvent, TaskStartedEvent
from crewai.events.utils.handlers import _get_param_count
from crewai.state import checkpoint_listener
from crewai.state.checkpoint_config import CheckpointConfig
from crewai.state.event_record import EventNode, EventRecord
from crewai.state.runtime import RuntimeState

from crewbus_crewai.patch_set import bound_to
from crewbus_crewai.patched.checkpoints import kept_in_record

_implicit_state: Final[ContextVar[RuntimeState | None]] = ContextVar("crewbus_crewai_state", default=None)
"""The state that crewAI created outside any kickoff, because an entity was created or emitted an event."""

CHANGED: Final = "during iteration"
"""Part of the message of the error that Python raises when a container changes while it is iterated."""

_CHECKPOINTS: Final = "_crewbus_crewai_checkpoints"
"""Where a state has its `_Checkpoints`."""

TRIES: Final = 100
"""How often a dump is repeated because of concurrent changes, before the error is raised."""


# One state for each kickoff


def register_entity(wrapped: Any, events: CrewAIEventsBus, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Register an entity; outside any kickoff in an implicit state, which holds only that entity."""
    outside = event_bus._runtime_scope_depth.get() == 0
    if outside:
        _drop_implicit_state()
    before = event_bus._runtime_state_var.get()
    wrapped(*args, **kwargs)
    if outside and before is None:
        _implicit_state.set(event_bus._runtime_state_var.get())


def enter_scope(wrapped: Any, events: CrewAIEventsBus, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Begin a kickoff: the outermost one has its own state, unless one was restored or set explicitly."""
    if event_bus._runtime_scope_depth.get() == 0:
        _drop_implicit_state()
    return wrapped(*args, **kwargs)


def _drop_implicit_state() -> None:
    state = event_bus._runtime_state_var.get()
    if state is not None and state is _implicit_state.get():
        event_bus._runtime_state_var.set(None)
        event_bus._registered_entity_ids_var.set(None)
        _implicit_state.set(None)


@contextmanager
def runtime_scope() -> Iterator[None]:
    """The scope of a kickoff, for agents, whose kickoffs crewAI gives none."""
    outermost = crewai_event_bus._enter_runtime_scope()
    try:
        yield
    finally:
        crewai_event_bus._exit_runtime_scope(outermost)


# A record only if something reads it


class _StateHandlers:
    """True if a handler other than crewAI's own takes the state, and so may read its record."""

    def __init__(self) -> None:
        self._handlers = object()
        self._known: tuple[object, bool] = (None, False)
        """The result of the last search, and the handlers it was made for."""

    def invalidate(self) -> None:
        """Search again, because the handlers changed."""
        self._handlers = object()

    def __bool__(self) -> bool:
        handlers, (known, found) = self._handlers, self._known
        if known is not handlers:  # compared first, so that a change during the search is not missed
            found = self._search()
            self._known = (handlers, found)
        return found

    @staticmethod
    def _search() -> bool:
        with crewai_event_bus._rwlock.r_locked():
            every = (*crewai_event_bus._sync_handlers.values(), *crewai_event_bus._async_handlers.values())
        return any(_takes_state(handler) for handlers in every for handler in handlers)


def _takes_state(handler: Any) -> bool:
    try:
        takes: bool = _get_param_count(handler) >= 3
        return takes and getattr(handler, "__module__", None) != checkpoint_listener.__name__
    except (TypeError, ValueError):  # it has no signature
        return True


state_handlers: Final = _StateHandlers()


def change_handlers(wrapped: Any, events: CrewAIEventsBus, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Register or remove a handler."""
    try:
        return wrapped(*args, **kwargs)
    finally:
        state_handlers.invalidate()


LIFECYCLE: Final = (
    CrewKickoffStartedEvent,
    CrewKickoffCompletedEvent,
    FlowStartedEvent,
    FlowFinishedEvent,
    MethodExecutionStartedEvent,
    MethodExecutionFinishedEvent,
    MethodExecutionFailedEvent,
    TaskStartedEvent,
    TaskCompletedEvent,
)
"""The few events that crewAI reads when it continues from a checkpoint, which may be written at any time by hand."""


def record_event(wrapped: Any, events: CrewAIEventsBus, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Add an event to the state's record, if something reads the record, or may."""
    event = args[0] if args else kwargs["event"]
    state = event_bus._runtime_state_var.get()
    if state is None:
        return
    checkpoints = _checkpoints_of(state)
    if state_handlers or checkpoints.need_all or (isinstance(event, LIFECYCLE) and not checkpoints.in_record):
        wrapped(*args, **kwargs)


def register_source(wrapped: Any, events: CrewAIEventsBus, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Register the source of an event, whose checkpoints may have been configured since it was registered."""
    wrapped(*args, **kwargs)
    state = event_bus._runtime_state_var.get()
    if state is not None:
        _checkpoints_of(state).look_at(args[0] if args else kwargs["source"])


class _Checkpoints:
    """Which checkpoints the entities of a state are configured to have.

    Each entity is looked at when it is registered and when it emits an event, so that the cost of an event does not
    grow with their number.
    """

    def __init__(self) -> None:
        self._seen = 0
        self.need_all = False
        """Whether crewAI writes checkpoints that need its record of all events."""
        self.in_record = False
        """Whether checkpoints are kept in the record of a run, which has the events."""

    def look_at_new(self, entities: list[Any]) -> None:
        """Look at the entities that were registered since the last time."""
        while self._seen < len(entities):
            entity = entities[self._seen]
            self._seen += 1
            for one in (entity, *(getattr(entity, "agents", None) or ())):
                self.look_at(one)

    def look_at(self, entity: Any) -> None:
        """Look at one entity: a flow, a crew, an agent; anything else has no checkpoints."""
        configured = getattr(entity, "checkpoint", None) or getattr(getattr(entity, "crew", None), "checkpoint", None)
        if configured is True or isinstance(configured, CheckpointConfig):
            kept = kept_in_record(configured)
            self.in_record = self.in_record or kept
            self.need_all = self.need_all or not kept


def _checkpoints_of(state: RuntimeState) -> _Checkpoints:
    found: _Checkpoints = vars(state).setdefault(_CHECKPOINTS, _Checkpoints())
    found.look_at_new(state.root)
    return found


# Dumps during a kickoff


def dump_record(wrapped: Any, record: EventRecord, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Dump a copy of the record, because events are added to it meanwhile."""
    with record._lock.r_locked():
        nodes = {name: _copied(node) for name, node in record.nodes.items()}
    return bound_to(wrapped, EventRecord.model_construct(nodes=nodes))(*args, **kwargs)


def _copied(node: EventNode) -> EventNode:
    """A node with the same event and edges of its own; constructing one takes longer than dumping it."""
    copy = node.__copy__()
    vars(copy)["edges"] = {kind: ids[:] for kind, ids in node.edges.items()}
    return copy


def dump_again(wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Dump entities, and repeat it if they were changed meanwhile."""
    for _ in range(TRIES):
        try:
            return wrapped(*args, **kwargs)
        except BaseException as error:  # pydantic raises a BaseException
            if CHANGED not in str(error):
                raise
    return wrapped(*args, **kwargs)
