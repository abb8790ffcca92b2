"""crewAI's state of what runs: one of its own for each kickoff, with a record of events only where one is wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

from crewai.events import event_bus
from crewai.events.base_events import BaseEvent
from crewai.events.event_bus import CrewAIEventsBus, crewai_event_bus
from crewai.events.utils.handlers import _get_param_count
from crewai.state import checkpoint_listener
from crewai.state.event_record import EventNode, EventRecord
from crewai.state.runtime import RuntimeState

from crewbus_crewai.checkpoints import is_ours

_by_the_way: Final[ContextVar[RuntimeState | None]] = ContextVar("crewbus_crewai_state", default=None)
"""The state that crewAI made here because an entity was made or emitted something, outside any kickoff."""

CHANGED: Final = "during iteration"
"""What Python says of a container that is changed meanwhile: its size, its keys, or that it was "mutated"."""

TRIES: Final = 100
"""How often what others change meanwhile is written down anew before that is given up."""


# One for each kickoff


def registered(stock: Any, events: CrewAIEventsBus, entity: Any) -> None:
    """Register an entity; outside any kickoff with a state that is nobody's in particular, and holds nothing else."""
    outside = event_bus._runtime_scope_depth.get() == 0
    if outside:
        _drop_what_was_made_by_the_way()
    before = event_bus._runtime_state_var.get()
    stock(events, entity)
    if outside and before is None:
        _by_the_way.set(event_bus._runtime_state_var.get())


def entered(stock: Any, events: CrewAIEventsBus) -> Any:
    """Begin a kickoff: the outermost has a state of its own, unless one was restored, or set on purpose."""
    if event_bus._runtime_scope_depth.get() == 0:
        _drop_what_was_made_by_the_way()
    return stock(events)


def _drop_what_was_made_by_the_way() -> None:
    state = event_bus._runtime_state_var.get()
    if state is not None and state is _by_the_way.get():
        event_bus._runtime_state_var.set(None)
        event_bus._registered_entity_ids_var.set(None)
        _by_the_way.set(None)


@contextmanager
def runtime_scope() -> Iterator[None]:
    """The scope of a kickoff, for those that crewAI gives none: its agents'."""
    outermost = crewai_event_bus._enter_runtime_scope()
    try:
        yield
    finally:
        crewai_event_bus._exit_runtime_scope(outermost)


# A record where it is wanted


class _Takers:
    """Whether there are handlers, of somebody else's than crewAI, that take the state and so may look at its record."""

    def __init__(self) -> None:
        self._handlers = object()
        self._known: tuple[object, bool] = (None, False)
        """What was found, and of which handlers."""

    def forget(self) -> None:
        """Look again: handlers have changed."""
        self._handlers = object()

    def __bool__(self) -> bool:
        handlers, (known, found) = self._handlers, self._known
        if known is not handlers:  # else what others change while we look would never be seen
            found = self._look()
            self._known = (handlers, found)
        return found

    @staticmethod
    def _look() -> bool:
        with crewai_event_bus._rwlock.r_locked():
            every = (*crewai_event_bus._sync_handlers.values(), *crewai_event_bus._async_handlers.values())
        return any(_takes_state(handler) for handlers in every for handler in handlers)


def _takes_state(handler: Any) -> bool:
    try:
        takes: bool = _get_param_count(handler) >= 3
        return takes and getattr(handler, "__module__", None) != checkpoint_listener.__name__
    except (TypeError, ValueError):  # it has no signature
        return True


takers: Final = _Takers()


def handlers_changed(stock: Any, *args: Any, **kwargs: Any) -> Any:
    """Register or remove a handler."""
    try:
        return stock(*args, **kwargs)
    finally:
        takers.forget()


def recorded(stock: Any, events: CrewAIEventsBus, event: BaseEvent) -> None:
    """Add an event to the state's record, if there is anybody for whom."""
    state = event_bus._runtime_state_var.get()
    if state is not None and (takers or _is_checkpointed(state.root)):
        stock(events, event)


def _is_checkpointed(entities: Iterable[Any]) -> bool:
    if not checkpoint_listener._handlers_registered:  # as the first configuration of checkpoints does
        return False
    return any(_keeps(one) for entity in list(entities) for one in (entity, *(getattr(entity, "agents", None) or ())))


def _keeps(entity: Any) -> bool:
    """Whether crewAI writes checkpoints of ``entity``; for ours crewbus has the record."""
    around = getattr(entity, "crew", None)
    configured = getattr(entity, "checkpoint", None) or getattr(around, "checkpoint", None)
    return bool(configured) and not is_ours(configured)


# Written while the kickoff goes on


def dumped_record(stock: Any, record: EventRecord, *args: Any, **kwargs: Any) -> Any:
    """Write down a record as it stands at one moment, while events are added to it."""
    with record._lock.r_locked():
        nodes = {
            name: EventNode.model_construct(
                event=node.event, edges={kind: list(ids) for kind, ids in node.edges.items()}
            )
            for name, node in record.nodes.items()
        }
    return stock(EventRecord.model_construct(nodes=nodes), *args, **kwargs)


def unhurried(stock: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Write down entities, again where they were changed meanwhile."""
    for _ in range(TRIES):
        try:
            return stock(*args, **kwargs)
        except BaseException as error:  # pydantic's is no Exception
            if CHANGED not in str(error):
                raise
    return stock(*args, **kwargs)
