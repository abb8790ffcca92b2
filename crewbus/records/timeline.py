"""A timeline of a record: its tree, with the state, times, text and events of each scope."""

from __future__ import annotations

import re
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

import attrs

from crewbus._util import one_line
from crewbus.events import (
    AttemptEnded,
    AttemptStarted,
    CallCancelled,
    CallFailed,
    CallFinished,
    CallStarted,
    Chunk,
    Envelope,
    Retracted,
    RunCancelled,
    RunFailed,
    RunForked,
    RunResumed,
    RunStarted,
    RunSuspended,
    StepFailed,
    StepStarted,
)
from crewbus.records.clock import RecordClock
from crewbus.records.info import RunInfo
from crewbus.records.retractions import DiscardedRanges
from crewbus.records.tree import CLOSERS, OPENERS, Node, RecordTree
from crewbus.stores import LANDMARKS, StoredEvent

RESUMING: Final = frozenset(("crewbus.RunResumed", "crewbus.RunForked"))
"""The names of the event types with which an ended or interrupted run continues."""
_DECODED: Final = LANDMARKS | {"crewbus.Chunk", "crewbus.Retracted"}
"""The names of the event types that the timeline reads; all others are counted."""
_FINGERPRINT: Final = re.compile("[0-9a-f]{24}")
_MAX_CONTENT: Final = 120
_ENDED: Final = ("finished", "failed", "cancelled")


class StreamedText:
    """The chunks of one scope that are not retracted, by number and length."""

    def __init__(self) -> None:
        self._numbers, self._lengths = array("q"), array("q")
        self.retracted = 0

    @property
    def numbers(self) -> Sequence[int]:
        """The numbers of the chunks, in order."""
        return self._numbers

    def add(self, seq: int, text: str) -> None:
        """Add a chunk, numbered above those before it."""
        self._numbers.append(seq)
        self._lengths.append(len(text))

    def retract(self, since: int) -> None:
        """Remove the chunks numbered ``since`` and above."""
        at = bisect_left(self._numbers, since)
        self.retracted += len(self._numbers) - at
        del self._numbers[at:], self._lengths[at:]

    @property
    def chunks(self) -> int:
        """How many chunks there are."""
        return len(self._numbers)

    @property
    def characters(self) -> int:
        """How many characters the chunks have."""
        return sum(self._lengths)


@attrs.define(eq=False)
class Entry:
    """A scope of the record, or a checkpoint. Times are in seconds since the record's start, without pauses."""

    node: Node[Entry]
    name: str
    at: float
    """When it started, in seconds since the epoch (UTC)."""
    start: float
    void: bool
    """Whether the run was later resumed from a checkpoint before it."""
    state: str = "open"
    """"open", "finished", "failed", "cancelled", "suspended"; "interrupted" if it was open when the run was resumed;
    "retracted" for a retracted attempt; "saved" for a checkpoint."""
    end: float = 0.0
    """The time of its end, or of the last event in it."""
    error: str = ""
    attempt: int = 1
    """Which attempt at the same step this is."""
    key: str = ""
    """The key that was given to a step or run; empty if the arguments are its key."""
    content: str = ""
    """What a call was given, if the record has it, and what it used."""
    edited: bool = False
    """Whether a fork replaced the step's result."""
    events: int = 0
    """How many events belong to it directly that the timeline does not show."""
    text: StreamedText = attrs.field(factory=StreamedText)

    @property
    def seconds(self) -> float:
        """Its duration so far."""
        return max(0.0, self.end - self.start)

    def state_in(self, info: RunInfo) -> str:
        """The state to show: what is open is running, suspended or interrupted as its run is."""
        if self.void:
            return "void"
        goes_on = self.state == "open" and info.state in ("running", "suspended", "interrupted")
        return info.state if goes_on else self.state

    def walk(self) -> Iterator[tuple[int, Entry]]:
        """Yield this entry and those below it, in order, each with its depth below this one."""
        for depth, node in self.node.walk():
            yield depth, _entry(node)


class Timeline:
    """Reads the events of a root's record, complete and in order.

    ``decode`` is only called for crewbus's own event types, and its exceptions propagate.
    """

    def __init__(
        self, landmarks: Iterable[StoredEvent], events: Iterable[StoredEvent], decode: Callable[[StoredEvent], Envelope]
    ) -> None:
        self._decode = decode
        self._tree = RecordTree[Entry]()
        self._open: dict[int, Entry] = {}
        self._attempts: Counter[str] = Counter()
        self._edited_steps = 0  # how many of the next steps have results that a fork replaced
        self._discarded = DiscardedRanges()
        for stored in landmarks:
            if stored.name == "crewbus.RunResumed" and isinstance(event := decode(stored).event, RunResumed):
                self._discarded.add(event, stored.seq)
        self._clock = RecordClock()
        for stored in events:
            self._apply(stored)
        self._complete()

    def run(self, run_id: str) -> Entry | None:
        """The entry of a run, or of the root run if no entry has the id, as in a fork."""
        runs = [node for node in self._tree.nodes.values() if node.kind == "run"]
        node = next((node for node in runs if node.run_id == run_id), runs[0] if runs else None)
        return _entry(node) if node is not None else None

    @property
    def finished_steps(self) -> int:
        """How many steps a resumed run would not execute again."""
        return sum(
            entry.node.kind == "step" and entry.state == "finished" and not entry.void for entry in self._entries()
        )

    def _entries(self) -> Iterator[Entry]:
        return map(_entry, self._tree.nodes.values())

    # Building

    def _apply(self, stored: StoredEvent) -> None:
        if stored.name in RESUMING:
            self._clock.skip_pause(stored.at)
        time = self._clock.read(stored.at)
        around = self._tree.find(stored.parent)
        if around is not None:
            entry = _entry(around)
            entry.end = max(entry.end, time)
        if stored.name not in _DECODED:
            if around is not None:
                entry.events += 1
            return
        event = self._decode(stored).event
        node = self._tree.apply(type(event), stored)
        if isinstance(event, Retracted):
            self._retract(event)
        elif isinstance(event, RunResumed | RunForked):
            self._resume(event)
        elif node is None:
            return
        elif type(event) in OPENERS:
            self._add(node, event, stored, time)
        elif type(event) in CLOSERS:
            self._close(_entry(node), event, stored, time)
        elif isinstance(event, Chunk):
            _entry(node).text.add(stored.seq, event.text)

    def _add(self, node: Node[Entry], event: Any, stored: StoredEvent, time: float) -> None:
        name = str(event.number) if isinstance(event, AttemptStarted) else event.name or ""
        entry = node.value = Entry(node, name, stored.at, time, stored.seq in self._discarded, end=time)
        if node.kind == "checkpoint":
            entry.state = "saved"
        else:
            self._open[stored.seq] = entry
        if isinstance(event, CallStarted) and event.input is not None:
            entry.content = one_line(f"input {event.input!r}", _MAX_CONTENT)
        if isinstance(event, RunStarted):
            entry.key = event.key or ""
        if isinstance(event, StepStarted):
            self._add_step(event, entry)

    def _add_step(self, event: StepStarted, entry: Entry) -> None:
        entry.key = "" if _FINGERPRINT.fullmatch(event.key) else event.key
        if self._edited_steps:
            self._edited_steps -= 1
            entry.edited = True
        elif event.identity and not entry.void:
            self._attempts[event.identity] += 1
            entry.attempt = self._attempts[event.identity]

    def _close(self, entry: Entry, event: Any, stored: StoredEvent, time: float) -> None:
        if entry.node.seq in self._open and (entry.void or stored.seq not in self._discarded):
            entry.end = time
            if entry.state != "retracted":
                entry.state, entry.error = _outcome(event)
            if isinstance(event, CallFinished) and event.usage:
                used = ", ".join(f"{name} {count:,}" for name, count in event.usage.items())
                entry.content = one_line("; ".join(part for part in (entry.content, used) if part), 2 * _MAX_CONTENT)
            del self._open[entry.node.seq]

    def _retract(self, event: Retracted) -> None:
        if not event.parents:
            for entry in self._entries():
                entry.text.retract(event.since)
        for node in self._tree.retracted(event):
            entry = _entry(node)
            entry.text.retract(event.since)
            if node.kind == "attempt" and event.since <= node.seq + 1:
                entry.state, entry.error = "retracted", one_line(event.reason)

    def _resume(self, event: RunResumed | RunForked) -> None:
        """Mark open scopes as interrupted. The root run is open again."""
        self._edited_steps = len(event.edits) if isinstance(event, RunForked) else 0
        for entry in list(self._open.values()):
            if entry.node.kind != "run":
                entry.state = "interrupted" if entry.state == "open" else entry.state
                del self._open[entry.node.seq]
        root = next(self._entries(), None)
        if root is not None:
            root.state, root.error = "open", ""
            self._open[root.node.seq] = root

    def _complete(self) -> None:
        """Derive what no event says: the end of open scopes, and the state of attempts."""
        for node in reversed(self._tree.nodes.values()):
            if node.parent is not None and (outer := _entry(node.parent)).state not in _ENDED:
                outer.end = max(outer.end, _entry(node).end)
        for node in self._tree.nodes.values():
            entry = _entry(node)
            if node.kind == "attempt" and entry.state == "open" and node.parent is not None:
                entry.state = _entry(node.parent).state


def _entry(node: Node[Entry]) -> Entry:
    assert node.value is not None  # set as soon as the tree has added the node
    return node.value


def _outcome(event: Any) -> tuple[str, str]:
    """The state that a terminal event gives a scope, and its error or reason."""
    match event:
        case RunFailed() | CallFailed() | StepFailed() | AttemptEnded(outcome="failed"):
            return "failed", one_line(": ".join(part for part in (event.error, event.message) if part))
        case RunCancelled() | CallCancelled():
            return "cancelled", one_line(event.reason)
        case AttemptEnded(outcome="cancelled"):
            return "cancelled", ""
        case RunSuspended():
            return "suspended", one_line(event.reason)
    return "finished", ""
