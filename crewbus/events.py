"""Events: what happened. Envelopes: an event as emitted. The registry of event types. The bus's own events."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, TypeVar, dataclass_transform, overload

import attrs

from crewbus.exceptions import EventTypeError, UnregisteredEventError

__all__ = [
    "AttemptStarted",
    "CallCancelled",
    "CallEnded",
    "CallFailed",
    "CallFinished",
    "CallStarted",
    "Chunk",
    "Dropped",
    "Envelope",
    "EventType",
    "Retracted",
    "RunCancelled",
    "RunEnded",
    "RunFailed",
    "RunFinished",
    "RunStarted",
    "UnknownEvent",
    "event",
    "event_type_of",
    "event_types",
    "find_event_type",
    "register_event",
]

C = TypeVar("C", bound=type)
Structure = Callable[[Any], Any]
Unstructure = Callable[[Any], Any]


@attrs.define(eq=False, weakref_slot=False)
class Envelope:
    """An event as emitted: the event, and where and when it happened."""

    event: Any
    """The emitted object, an instance of a registered event type."""
    run_id: str | None
    """The run it was emitted in; None outside any run."""
    seq: int
    """Its number: gapless within a root run and the runs nested in it, from 0; outside runs, per process."""
    parent: str | None
    """`id` of the envelope that opened what it belongs to: the start of its run, call or attempt; for a start, that of
    what is around it."""
    at: float
    """When it was emitted, in seconds since the epoch (UTC)."""
    source: Any = None
    """Who emitted it, as given; a string naming it, once read back from a record."""
    attempt: int = 1
    """Which attempt of a retried piece of work it belongs to, from 1."""
    replayed: bool = False
    """Whether it is told again from a record rather than happening now."""

    @property
    def id(self) -> str:
        """The envelope's id, unique in its record."""
        return f"{self.run_id or 'unscoped'}:{self.seq}"


@attrs.frozen(eq=False)
class EventType:
    """A registered event type: the class and how its instances are written and read. Registering anew makes another."""

    cls: type
    name: str
    version: int = 1
    structure: Structure | None = None
    unstructure: Unstructure | None = None


@attrs.frozen
class Family:
    """What was registered for a class and its subclasses."""

    version: int
    structure: Callable[[Any, type], Any] | None
    unstructure: Unstructure | None

    def structure_for(self, cls: type) -> Structure | None:
        """How instances of ``cls``, one of the family, are read."""
        structure = self.structure
        return None if structure is None else lambda data: structure(data, cls)

    def admit(self, cls: type) -> EventType:
        """Register ``cls``, one of the family."""
        name = _qualified(cls)
        registered = EventType(cls, name, self.version, self.structure_for(cls), self.unstructure)
        _by_class[cls] = _by_name[name] = registered
        return registered


_families: Final[dict[type, Family]] = {}
_by_class: Final[dict[type, EventType]] = {}
_by_name: Final[dict[str, EventType]] = {}


def register_event(
    cls: C,
    *,
    name: str | None = None,
    version: int = 1,
    structure: Callable[..., Any] | None = None,
    unstructure: Unstructure | None = None,
    subclasses: bool = False,
) -> C:
    """Register ``cls`` as an event type, at any time, and return it.

    For classes that are not declared with `event`: pydantic models, dataclasses, plain classes.
    ``name`` (default ``module.qualname``) and ``version`` identify the type in a record;
    ``unstructure(instance)`` gives what JSON can hold, ``structure(that)`` gives an instance back; whether it is
    the same is then their affair. Both may be left out for attrs classes and dataclasses. With ``subclasses`` all
    subclasses are event types too, also those defined later, each under its own module and name; ``structure(that,
    cls)`` is then told which one. A class defined again under its own module and name (a reloaded module, a
    factory) takes the name over.

    Raises `EventTypeError` when ``cls`` is not a class, or the name belongs to another class.
    """
    if not isinstance(cls, type):
        raise EventTypeError(f"an event type is a class; got {cls!r}, an instance of {type(cls).__name__}")
    if (structure is None) != (unstructure is None):
        raise EventTypeError(f"{_qualified(cls)}: give both structure= and unstructure=, or neither")
    if version < 1:
        raise EventTypeError(f"{_qualified(cls)}: versions count from 1; got {version}")
    name = name or _qualified(cls)
    known = _by_name.get(name)
    if known is not None and known.cls is not cls and _qualified(known.cls) != _qualified(cls):
        raise EventTypeError(
            f"the event name {name!r} belongs to {_qualified(known.cls)}; give {_qualified(cls)} another name="
        )
    if subclasses:
        _families[cls] = Family(version, structure, unstructure)
        structure = _families[cls].structure_for(cls)
    registered = EventType(cls, name, version, structure, unstructure)
    _by_class[cls] = registered
    _by_name[name] = registered
    return cls


@overload
@dataclass_transform(field_specifiers=(attrs.field,))
def event(cls: C, /) -> C: ...
@overload
@dataclass_transform(field_specifiers=(attrs.field,))
def event(*, name: str | None = None, version: int = 1, frozen: bool = False) -> Callable[[C], C]: ...
@dataclass_transform(field_specifiers=(attrs.field,))
def event(
    cls: C | None = None, /, *, name: str | None = None, version: int = 1, frozen: bool = False
) -> C | Callable[[C], C]:
    """Make a class an event: an attrs class, registered for decoding.

    ``name`` and ``version`` are as for `register_event`; ``frozen=True`` makes instances immutable,
    at the price of a slower constructor. A class that attrs has already defined is registered as it is.

    >>> @event(name="acme.Greeted")
    ... class Greeted:
    ...     whom: str
    >>> Greeted("world")
    Greeted(whom='world')
    """

    def declare(plain: C) -> C:
        if not isinstance(plain, type):
            raise EventTypeError(f"@event goes on a class; got {plain!r}")
        ready = "__attrs_attrs__" in plain.__dict__
        defined = plain if ready else attrs.define(plain, frozen=frozen)
        return register_event(defined, name=name, version=version)

    return declare if cls is None else declare(cls)


def event_type_of(cls: type) -> EventType:
    """The registration of ``cls``; raises `UnregisteredEventError` where there is none."""
    try:
        return _by_class[cls]
    except KeyError:
        for base in cls.__mro__:
            if base in _families:
                return _families[base].admit(cls)
        raise UnregisteredEventError(
            f"{_qualified(cls)} is not an event type: decorate it with @crewbus.event, "
            f"or call crewbus.register_event({cls.__name__})"
        ) from None


def find_event_type(name: str) -> EventType | None:
    """The event type registered under ``name``, or None. Nothing is ever imported to find it."""
    known = _by_name.get(name)
    if known is None:
        named = [cls for base in list(_families) for cls in _descendants(base) if _qualified(cls) == name]
        # The last: of a class with slots the first is the one that attrs made it from.
        known = event_type_of(named[-1]) if named else None
    return known


def _descendants(cls: type) -> Iterator[type]:
    children: list[type] = type.__subclasses__(cls)
    for child in children:
        yield child
        yield from _descendants(child)


def event_types() -> Iterator[EventType]:
    """All registered event types, in order of registration."""
    yield from list(_by_name.values())


def _qualified(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


@event(name="crewbus.RunStarted")
class RunStarted:
    """A run began. ``parent_run`` is the id of the run around it, or None."""

    name: str | None = None
    tags: Mapping[str, str] = attrs.field(factory=dict)
    parent_run: str | None = None


class RunEnded:
    """What the terminal events of a run have in common: subscribe to it for all of them."""

    __slots__ = ()


@event(name="crewbus.RunFinished")
class RunFinished(RunEnded):
    """A run ended as it should."""


@event(name="crewbus.RunFailed")
class RunFailed(RunEnded):
    """A run ended with an exception: its type's qualified name and its text."""

    error: str
    message: str


@event(name="crewbus.RunCancelled")
class RunCancelled(RunEnded):
    """A run was cancelled, or its task was, or Ctrl-C hit it."""

    reason: str = ""


@event(name="crewbus.CallStarted")
class CallStarted:
    """A call of a model or tool began. The `id` of its envelope is the ``parent`` of what is emitted in the call."""

    name: str


class CallEnded:
    """What the terminal events of a call have in common: subscribe to it for all of them."""

    __slots__ = ()


@event(name="crewbus.CallFinished")
class CallFinished(CallEnded):
    """A call ended as it should. What it gave, and what it took, as far as whoever made it said so."""

    output: Any = None
    """Text, or whatever JSON can hold."""
    usage: Mapping[str, int] | None = None
    """Counts by name, such as ``output_tokens``."""
    cost: float | None = None
    """In US dollars."""


@event(name="crewbus.CallFailed")
class CallFailed(CallEnded):
    """A call ended with an exception: its type's qualified name (empty where nobody knows it) and its text."""

    error: str
    message: str


@event(name="crewbus.CallCancelled")
class CallCancelled(CallEnded):
    """A call was given up: its run or task was cancelled, or Ctrl-C hit it."""

    reason: str = ""


@event(name="crewbus.AttemptStarted")
class AttemptStarted:
    """A retried piece of work began anew; ``number`` counts from 1."""

    number: int


@event(name="crewbus.Chunk")
class Chunk:
    """A streamed piece. ``kind``: "text", "reasoning", or "tool_call" (``text`` is then a piece of its arguments)."""

    text: str
    kind: str = "text"


@event(name="crewbus.Retracted")
class Retracted:
    """Takes back chunks that were streamed before it: those numbered ``since`` and later.

    ``parents`` narrows it to the chunks whose envelope has one of these for its `Envelope.parent`: what a failed
    attempt streamed, and what the calls and runs in it did. Empty, it takes back all that a stream has shown since.
    """

    since: int
    reason: str = ""
    parents: tuple[str, ...] = ()

    def covers(self, seq: int, parent: str | None) -> bool:
        """Whether this takes back a chunk that was seen before it, by the ``seq`` and ``parent`` of its envelope."""
        return seq >= self.since and (not self.parents or parent in self.parents)


@event(name="crewbus.Dropped")
class Dropped:
    """A stream's own frame: so many frames were left out here, because its consumer was too slow."""

    count: int


@event(name="crewbus.UnknownEvent")
class UnknownEvent:
    """Read from a record: an event whose type is not registered here. ``data`` is its JSON, untouched."""

    name: str
    version: int
    data: str


FRAMES: Final = (Chunk, Retracted, RunEnded)
"""The event types that go to streams; subclasses too."""
