"""The event types that crewbus itself emits, records and streams."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from reprlib import recursive_repr
from typing import Any, Final, TypeVar, dataclass_transform

import attrs

from crewbus._util import is_within
from crewbus.events.registration import event
from crewbus.events.registry import Upgrades
from crewbus.exceptions import InputError

C = TypeVar("C", bound=type)


class _Event:
    """What attrs would otherwise generate for each event type: it compiles that anew in every process."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        if other.__class__ is not self.__class__:
            return NotImplemented
        names = [field.name for field in _fields(self) if field.eq]
        return all(getattr(self, name) == getattr(other, name) for name in names)

    __hash__ = None  # type: ignore[assignment]  # it may change

    @recursive_repr("...")
    def __repr__(self) -> str:
        names = [field.name for field in _fields(self) if field.repr and not self._is_tacit(field)]
        shown = ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
        return f"{self.__class__.__qualname__.rpartition('>.')[2]}({shown})"

    def _is_tacit(self, field: attrs.Attribute[Any]) -> bool:
        return field.metadata == _TACIT and not getattr(self, field.name)


_TACIT: Final = {"tacit": True}
"""The metadata of a field that is shown only if it says something."""


def _fields(event: Any) -> tuple[attrs.Attribute[Any], ...]:
    fields: tuple[attrs.Attribute[Any], ...] = attrs.fields(event.__class__)
    return fields


@dataclass_transform(field_specifiers=(attrs.field,))
def _event(
    *, name: str, version: int = 1, upgrades: Upgrades | None = None, landmark: bool = False
) -> Callable[[C], C]:
    """As `event`, for the subclasses of `_Event`."""

    def declare(plain: C) -> C:
        defined = attrs.define(plain, eq=False, repr=False)
        return event(name=name, version=version, upgrades=upgrades, landmark=landmark)(defined)

    return declare


@_event(name="crewbus.RunStarted", landmark=True)
class RunStarted(_Event):
    """A run began. ``parent_run`` is the id of the enclosing run, or None."""

    name: str | None = None
    tags: Mapping[str, str] = attrs.field(factory=dict)
    parent_run: str | None = None
    key: str | None = None
    """The run's key, as given."""


class RunEnded(_Event):
    """Base class of the terminal events of a run: subscribe to it to receive all of them."""

    __slots__ = ()


@_event(name="crewbus.RunFinished", landmark=True)
class RunFinished(RunEnded):
    """A run ended without an exception. `Bus.result` returns its ``result`` in any process."""

    result: Any = None
    """The result as JSON; None if the run has none, or is not recorded."""
    type: str | None = None
    """The name of the result's registered type, or None."""
    version: int = 0
    refused: str = ""
    """Why the result is not here, if what was returned would not come back as it was."""

    def __repr__(self) -> str:
        return "RunFinished()" if self.result is None else f"RunFinished(result={self.result!r})"


@_event(name="crewbus.RunFailed", landmark=True)
class RunFailed(RunEnded):
    """A run ended with an exception: ``error`` is its type's qualified name, ``message`` its text."""

    error: str
    message: str
    steps: tuple[str, ...] = attrs.field(default=(), eq=False, repr=False)
    """The identities of the steps that failed with this exception: a resumed run executes them again."""
    value: Any = attrs.field(default=None, eq=False, repr=False)
    """The exception as JSON, in a recorded run."""
    type: str | None = attrs.field(default=None, eq=False, repr=False)
    """The name of the exception's type if `Bus.result` raises it again as itself; else None."""
    version: int = attrs.field(default=0, eq=False, repr=False)


@_event(name="crewbus.RunCancelled", landmark=True)
class RunCancelled(RunEnded):
    """A run was cancelled, by `Run.cancel`, by cancelling its task, or by Ctrl-C."""

    reason: str = ""


@_event(name="crewbus.RunSuspended", landmark=True)
class RunSuspended(RunEnded):
    """A recorded run was suspended: its holder released it, without an end, for anyone to resume.

    Its own streams end with this; those that follow the record pause. ``until``: before which time it should not be
    resumed, in seconds since the epoch (UTC), or None.
    """

    reason: str = ""
    until: float | None = None


@_event(name="crewbus.CallStarted", landmark=True)
class CallStarted(_Event):
    """A model or tool call began. The id of its envelope is the ``parent`` of what is emitted in the call."""

    name: str
    kind: str | None = attrs.field(default=None, metadata=_TACIT)
    """What is called: "model", "embedding", "tool", "agent", "retrieval", or another text."""
    attributes: Mapping[str, Any] = attrs.field(factory=dict, metadata=_TACIT)
    """What describes the call, by name, as JSON values."""
    input: Any = attrs.field(default=None, metadata=_TACIT)
    """What the call was given. A record has it only if ``enable_recording(content=True)`` asked for it."""


class CallEnded(_Event):
    """Base class of the terminal events of a call: subscribe to it to receive all of them."""

    __slots__ = ()


@_event(name="crewbus.CallFinished", landmark=True)
class CallFinished(CallEnded):
    """A call ended without an exception. Its fields are what the caller reported; None if it did not."""

    output: Any = None
    """Text, or another JSON value. A record has it only if ``enable_recording(content=True)`` asked for it."""
    usage: Mapping[str, int] | None = None
    """Counts by name: ``input_tokens``, ``output_tokens``, ``cached_input_tokens``, ``reasoning_tokens``, or others."""
    cost: float | None = None
    """In US dollars."""
    attributes: Mapping[str, Any] = attrs.field(factory=dict, metadata=_TACIT)
    """What describes the call at its end: the attributes of `CallStarted`, and what was added while it ran."""


@_event(name="crewbus.CallFailed", landmark=True)
class CallFailed(CallEnded):
    """A call ended with an exception: its type's qualified name (empty if unknown) and its text."""

    error: str
    message: str
    attributes: Mapping[str, Any] = attrs.field(factory=dict, metadata=_TACIT)
    """As of `CallFinished`."""


@_event(name="crewbus.CallCancelled", landmark=True)
class CallCancelled(CallEnded):
    """A call was cancelled, with its run, with its task, or by Ctrl-C."""

    reason: str = ""
    attributes: Mapping[str, Any] = attrs.field(factory=dict, metadata=_TACIT)
    """As of `CallFinished`."""


def _flat(fields: Any) -> Any:
    return {**fields, "flat": True}


@_event(name="crewbus.AttemptStarted", version=2, upgrades={1: _flat}, landmark=True)
class AttemptStarted(_Event):
    """An attempt at retried work began; ``number`` counts from 1."""

    number: int
    again: int | None = attrs.field(default=None, repr=False)
    """In a resumed run, where something new happened in a recorded attempt: the number of the event that started it."""
    flat: bool = attrs.field(default=False, eq=False, repr=False)
    """Whether an earlier release recorded it: then the ids of what is in it do not begin with its own."""


@_event(name="crewbus.AttemptEnded", landmark=True)
class AttemptEnded(_Event):
    """An attempt ended: its ``outcome`` is "succeeded", "failed" or "cancelled".

    What a failed one streamed is retracted before this. What a cancelled one streamed stays, unless another follows.
    """

    number: int
    outcome: str
    error: str = attrs.field(default="", metadata=_TACIT)
    """The qualified name of the exception's type with which it failed, if that is known."""
    message: str = attrs.field(default="", metadata=_TACIT)
    """The text of that exception."""


def _check_chunk(text: Any, kind: Any) -> None:
    for name, value in (("text", text), ("kind", kind)):
        if not isinstance(value, str):
            raise InputError(f"a chunk's {name} is a str; got {value!r}")


def _check_fields(chunk: Chunk, _: Any, __: Any) -> None:
    _check_chunk(chunk.text, chunk.kind)


@_event(name="crewbus.Chunk")
class Chunk(_Event):
    """A streamed piece of text. ``kind`` is "text", "reasoning" or "tool_call" (a piece of the call's arguments)."""

    # The validator is for subclasses, whose `__init__` attrs makes.
    text: str = attrs.field(validator=_check_fields, on_setattr=attrs.setters.NO_OP)
    kind: str = attrs.field(default="text", on_setattr=attrs.setters.NO_OP)

    # Written by hand, since it is called for each token, and a validator costs a call.
    def __init__(self, text: str, kind: str = "text") -> None:
        if text.__class__ is not str or kind.__class__ is not str:
            _check_chunk(text, kind)
        self.text = text
        self.kind = kind


@_event(name="crewbus.Retracted", landmark=True)
class Retracted(_Event):
    """Retracts chunks that were streamed before it, those with number ``since`` and higher.

    With ``parents`` it retracts only the chunks whose `Envelope.parent` is one of these, with a slash at its end or
    not, or begins with one that ends with a slash: what a failed attempt streamed, with the calls and runs nested in
    it. Without, it retracts all chunks since.
    """

    since: int
    reason: str = ""
    parents: tuple[str, ...] = ()

    def covers(self, seq: int, parent: str | None) -> bool:
        """Whether this retracts an earlier chunk, given the ``seq`` and ``parent`` of the chunk's envelope."""
        return seq >= self.since and (not self.parents or is_within(parent, self.parents))


@_event(name="crewbus.Dropped")
class Dropped(_Event):
    """A frame that a stream adds: its consumer was too slow, and ``count`` frames were dropped here.

    Its envelope's ``parent`` is theirs; None if they had several.
    """

    count: int


@_event(name="crewbus.RunInterrupted")
class RunInterrupted(RunEnded):
    """A terminal frame that a stream adds. Never recorded.

    The run's holder is dead, and no other has resumed the run; or the bus that the stream belongs to was closed.
    """

    holder: str = ""
    """A description of the last holder, such as ``process 12 on host``."""


@_event(name="crewbus.RunResumed", landmark=True)
class RunResumed(_Event):
    """A recorded run was resumed. The events between number ``at`` and this one no longer count.

    There are such events only if the run was resumed from a checkpoint.
    """

    at: int
    epoch: int
    """How many times the run was started or resumed, from 1."""
    checkpoint: str | None = None


@_event(name="crewbus.RunForked", landmark=True)
class RunForked(_Event):
    """The first own event of a fork: ``of`` is the id of the forked run, ``at`` the last number that both share."""

    of: str
    at: int
    edits: tuple[str, ...] = ()
    """The names of the steps whose results the fork replaces."""
    steps: tuple[str, ...] = attrs.field(default=(), eq=False, repr=False)
    """As `RunFailed.steps`, if the forked run failed after ``at``: what the fork shares does not show it."""


@_event(name="crewbus.RunPatched", landmark=True)
class RunPatched(_Event):
    """A run goes the way of changed code where it asks for ``name``: see `Run.patched`. Recorded once in each run."""

    name: str


@_event(name="crewbus.StepStarted", version=2, upgrades={1: _flat}, landmark=True)
class StepStarted(_Event):
    """A step began. The id of its envelope is the ``parent`` of what is emitted in it."""

    name: str
    key: str = ""
    """Its key, as given, or else a fingerprint of its arguments."""
    ordinal: int = 0
    """Its position among steps with the same name and key in the same scope, from 0."""
    inline: bool = True
    """Whether it was called in the thread or task that entered its scope."""
    identity: str = ""
    """A digest of path, name, key and ordinal, by which a resumed run finds the step."""
    flat: bool = attrs.field(default=False, eq=False, repr=False)
    """As of `AttemptStarted`."""


class StepEnded(_Event):
    """Base class of the terminal events of a step: subscribe to it to receive both."""

    __slots__ = ()


@_event(name="crewbus.StepFinished", landmark=True)
class StepFinished(StepEnded):
    """A step returned. A resumed run uses the recorded ``result`` instead of calling the step again."""

    name: str
    result: Any = None
    """The result as JSON; None in a run that is not recorded."""
    type: str | None = None
    """The name of the result's registered type, or None."""
    version: int = 0


@_event(name="crewbus.StepFailed", landmark=True)
class StepFailed(StepEnded):
    """A step ended with an exception: its type's qualified name and its text."""

    name: str
    error: str
    message: str
    value: Any = None
    """The exception as JSON, in a recorded run."""
    type: str | None = None
    """The name of the exception's type if a resumed run raises it again as itself; else None."""
    version: int = 0


@_event(name="crewbus.CheckpointSaved", landmark=True)
class CheckpointSaved(_Event):
    """A checkpoint: this event's number is a position to resume or fork from."""

    name: str
    entities: Mapping[str, int] = attrs.field(factory=dict)
    """For the name of each tracked entity, the number of the `EntitySaved` event with its state."""
    automatic: bool = False
    """Whether ``checkpoint_on`` of `Bus.enable_recording` caused it."""


@_event(name="crewbus.EntitySaved", version=2, upgrades={1: lambda fields: fields}, landmark=True)
class EntitySaved(_Event):
    """The state of a tracked entity, saved by the first checkpoint after it changed; see `Checkpoint.entity`."""

    name: str
    type: str
    """The name of its registered type."""
    version: int
    data: Any
    """The entity as JSON; or, with ``base``, what changed."""
    base: int | None = None
    """The number of the `EntitySaved` with the state that ``data`` changes; None: ``data`` is the whole state."""


@_event(name="crewbus.Truncated")
class Truncated(_Event):
    """Recorded in place of an event that exceeded the size limit: its type, and the beginning of its JSON."""

    name: str
    version: int
    size: int
    """The size of its JSON in bytes."""
    data: str


@_event(name="crewbus.UnknownEvent")
class UnknownEvent(_Event):
    """Read from a record: an event whose type is not registered in this process. ``data`` is its unchanged JSON."""

    name: str
    version: int
    data: str


FRAMES: Final = (Chunk, Retracted, RunEnded)
"""The event types that go to streams, including their subclasses."""
