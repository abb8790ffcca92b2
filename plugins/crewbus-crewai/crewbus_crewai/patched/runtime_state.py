"""crewAI's runtime state: one for each kickoff, which records events only if something reads the record."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

from crewai.events import event_bus
from crewai.events.event_bus import CrewAIEventsBus, crewai_event_bus
from crewai.events.utils.handlers import _get_param_count
from crewai.state import checkpoint_listener
from crewai.state.event_record import EventNode, EventRecord
from crewai.state.runtime import RuntimeState

from crewbus_crewai.patch_set import bound_to
from crewbus_crewai.patched.checkpoints import kept_in_record

_implicit_state: Final[ContextVar[RuntimeState | None]] = ContextVar("crewbus_crewai_state", default=None)
"""The state that crewAI created outside any kickoff, because an entity was created or emitted an event."""

CHANGED: Final = "during iteration"
"""Part of the message of the error that Python raises when a container changes while it is iterated."""

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


def record_event(wrapped: Any, events: CrewAIEventsBus, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Add an event to the state's record, if something reads the record."""
    state = event_bus._runtime_state_var.get()
    if state is not None and (state_handlers or _is_checkpointed(state.root)):
        wrapped(*args, **kwargs)


def _is_checkpointed(entities: Iterable[Any]) -> bool:
    if not checkpoint_listener._handlers_registered:  # the first CheckpointConfig registers them
        return False
    return any(
        _needs_record(one) for entity in list(entities) for one in (entity, *(getattr(entity, "agents", None) or ()))
    )


def _needs_record(entity: Any) -> bool:
    """Whether crewAI writes checkpoints of ``entity`` that need its record of events."""
    crew = getattr(entity, "crew", None)
    configured = getattr(entity, "checkpoint", None) or getattr(crew, "checkpoint", None)
    return bool(configured) and not kept_in_record(configured)


# Dumps during a kickoff


def dump_record(wrapped: Any, record: EventRecord, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Dump a copy of the record, because events are added to it meanwhile."""
    with record._lock.r_locked():
        nodes = {
            name: EventNode.model_construct(
                event=node.event, edges={kind: list(ids) for kind, ids in node.edges.items()}
            )
            for name, node in record.nodes.items()
        }
    return bound_to(wrapped, EventRecord.model_construct(nodes=nodes))(*args, **kwargs)


def dump_again(wrapped: Callable[..., Any], instance: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Dump entities, and repeat it if they were changed meanwhile."""
    for _ in range(TRIES):
        try:
            return wrapped(*args, **kwargs)
        except BaseException as error:  # pydantic raises a BaseException
            if CHANGED not in str(error):
                raise
    return wrapped(*args, **kwargs)
