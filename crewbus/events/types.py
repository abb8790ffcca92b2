"""The event types that crewbus itself emits, records and streams."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import attrs

from crewbus.events.registration import event


@event(name="crewbus.RunStarted", landmark=True)
class RunStarted:
    """A run began. ``parent_run`` is the id of the run around it, or None."""

    name: str | None = None
    tags: Mapping[str, str] = attrs.field(factory=dict)
    parent_run: str | None = None


class RunEnded:
    """What the terminal events of a run have in common: subscribe to it for all of them."""

    __slots__ = ()


@event(name="crewbus.RunFinished", landmark=True)
class RunFinished(RunEnded):
    """A run ended as it should."""


@event(name="crewbus.RunFailed", landmark=True)
class RunFailed(RunEnded):
    """A run ended with an exception: its type's qualified name and its text."""

    error: str
    message: str


@event(name="crewbus.RunCancelled", landmark=True)
class RunCancelled(RunEnded):
    """A run was cancelled, or its task was, or Ctrl-C hit it."""

    reason: str = ""


@event(name="crewbus.CallStarted", landmark=True)
class CallStarted:
    """A call of a model or tool began. The `id` of its envelope is the ``parent`` of what is emitted in the call."""

    name: str


class CallEnded:
    """What the terminal events of a call have in common: subscribe to it for all of them."""

    __slots__ = ()


@event(name="crewbus.CallFinished", landmark=True)
class CallFinished(CallEnded):
    """A call ended as it should. What it gave, and what it took, as far as whoever made it said so."""

    output: Any = None
    """Text, or whatever JSON can hold."""
    usage: Mapping[str, int] | None = None
    """Counts by name, such as ``output_tokens``."""
    cost: float | None = None
    """In US dollars."""


@event(name="crewbus.CallFailed", landmark=True)
class CallFailed(CallEnded):
    """A call ended with an exception: its type's qualified name (empty where nobody knows it) and its text."""

    error: str
    message: str


@event(name="crewbus.CallCancelled", landmark=True)
class CallCancelled(CallEnded):
    """A call was given up: its run or task was cancelled, or Ctrl-C hit it."""

    reason: str = ""


@event(name="crewbus.AttemptStarted", landmark=True)
class AttemptStarted:
    """A retried piece of work began anew; ``number`` counts from 1."""

    number: int


@event(name="crewbus.Chunk")
class Chunk:
    """A streamed piece. ``kind``: "text", "reasoning", or "tool_call" (``text`` is then a piece of its arguments)."""

    text: str
    kind: str = "text"


@event(name="crewbus.Retracted", landmark=True)
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


@event(name="crewbus.RunInterrupted")
class RunInterrupted(RunEnded):
    """A stream's own last frame: whoever carried out the run is gone, and nobody goes on with it. Never recorded."""

    holder: str = ""
    """Who held it last, in words."""


@event(name="crewbus.RunResumed", landmark=True)
class RunResumed:
    """A recorded run goes on. What its record holds after number ``at`` and before this is void from now on.

    That is nothing, unless the run was resumed from a checkpoint.
    """

    at: int
    epoch: int
    """How often the run was begun or resumed, from 1."""
    checkpoint: str | None = None


@event(name="crewbus.RunForked", landmark=True)
class RunForked:
    """The first event of a fork that is its own: which run it was forked of, and the last number that both share."""

    of: str
    at: int
    edits: tuple[str, ...] = ()
    """The names of the steps whose results were replaced."""


@event(name="crewbus.StepStarted", landmark=True)
class StepStarted:
    """A step began. The `id` of its envelope is the ``parent`` of what is emitted in it."""

    name: str
    key: str = ""
    """What tells it from others of its name: as given, or a digest of its arguments."""
    ordinal: int = 0
    """Which it is among those of the same name and key in the same place, from 0."""
    inline: bool = True
    """Whether it was called in the thread or task that its scope was entered in."""
    identity: str = ""
    """Path, name, key and ordinal in one: by this a resumed run finds it."""


class StepEnded:
    """What the terminal events of a step have in common: subscribe to it for both."""

    __slots__ = ()


@event(name="crewbus.StepFinished", landmark=True)
class StepFinished(StepEnded):
    """A step returned. In a recorded run it says what: a resumed run is given that and does not call it again."""

    name: str
    result: Any = None
    """What JSON holds of it; None in a run that is not recorded."""
    type: str | None = None
    """The name of its registered type, where it has one."""
    version: int = 0


@event(name="crewbus.StepFailed", landmark=True)
class StepFailed(StepEnded):
    """A step ended with an exception: its type's qualified name and its text. Called again, it is tried again."""

    name: str
    error: str
    message: str


@event(name="crewbus.CheckpointSaved", landmark=True)
class CheckpointSaved:
    """A position to resume or fork from: this event's number."""

    name: str
    entities: Mapping[str, int] = attrs.field(factory=dict)
    """By the name of each tracked entity: the number of the `EntitySaved` that holds its state."""
    automatic: bool = False
    """Whether it was saved because of the event before it: see ``checkpoint_on`` of `Bus.enable_recording`."""


@event(name="crewbus.EntitySaved", landmark=True)
class EntitySaved:
    """The state of a tracked entity, at the first checkpoint that found it so."""

    name: str
    type: str
    """The name of its registered type."""
    version: int
    data: Any
    """What JSON holds of it."""


@event(name="crewbus.Truncated")
class Truncated:
    """Recorded in the place of an event that was larger than the bound: what it was, and how its JSON began."""

    name: str
    version: int
    size: int
    """How many bytes its JSON had."""
    data: str


@event(name="crewbus.UnknownEvent")
class UnknownEvent:
    """Read from a record: an event whose type is not registered here. ``data`` is its JSON, untouched."""

    name: str
    version: int
    data: str


FRAMES: Final = (Chunk, Retracted, RunEnded)
"""The event types that go to streams; subclasses too."""
