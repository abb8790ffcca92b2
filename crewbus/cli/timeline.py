"""A record as a tree of what went on in it: runs, steps, calls, attempts and checkpoints, each with its times."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, Self

import attrs

from crewbus import Bus
from crewbus.cli.errors import one_line
from crewbus.events import (
    AttemptStarted,
    CallCancelled,
    CallEnded,
    CallFailed,
    CallStarted,
    CheckpointSaved,
    Chunk,
    Envelope,
    Retracted,
    RunCancelled,
    RunEnded,
    RunFailed,
    RunForked,
    RunResumed,
    RunStarted,
    StepEnded,
    StepFailed,
    StepStarted,
)
from crewbus.stores import LANDMARKS, StoredEvent

SHOWN: Final = LANDMARKS | {"crewbus.Chunk", "crewbus.Retracted"}
"""The names of the event types that the tree is made of; of all others it counts how many there are."""
GOING_ON: Final = frozenset(("crewbus.RunResumed", "crewbus.RunForked"))
"""The names of those with which an interrupted run goes on."""
ENDED: Final = ("finished", "failed", "cancelled")
"""The states of what its own terminal event has ended."""
_LATEST: Final = 253402300799.0  # the last second that a date can name


class Said:
    """The chunks of one scope that were not taken back, by number and length."""

    def __init__(self) -> None:
        self._numbers, self._lengths = array("q"), array("q")
        self.retracted = 0

    def add(self, seq: int, text: str) -> None:
        """Count a chunk, numbered above those before it."""
        self._numbers.append(seq)
        self._lengths.append(len(text))

    def take_back(self, since: int) -> None:
        """Forget those numbered ``since`` and above."""
        at = bisect_left(self._numbers, since)
        self.retracted += len(self._numbers) - at
        del self._numbers[at:], self._lengths[at:]

    @property
    def chunks(self) -> int:
        """How many there are."""
        return len(self._numbers)

    @property
    def characters(self) -> int:
        """How long they are together."""
        return sum(self._lengths)


@attrs.define(eq=False)
class Node:
    """A scope of a record, or a checkpoint in it. Times are in seconds from the record's start, pauses left out."""

    kind: str
    """"run", "step", "call", "attempt" or "checkpoint"."""
    name: str
    seq: int
    run_id: str
    at: float
    """When it began, in seconds since the epoch (UTC)."""
    began: float
    parent: Node | None
    void: bool
    """Whether the run was resumed, later on, from a checkpoint before it."""
    state: str = "open"
    """"open", "finished", "failed", "cancelled"; "interrupted" for what was open when the run was resumed; "retracted"
    for an attempt that was; "saved" for a checkpoint."""
    last: float = 0.0
    """When it ended, or the last is known of it."""
    error: str = ""
    attempt: int = 1
    """Of a step: the how manieth try at it this is."""
    edited: bool = False
    """Of a step: whether a fork gave it its result."""
    events: int = 0
    """How many events that the tree does not show belong to it directly."""
    said: Said = attrs.field(factory=Said)
    children: list[Node] = attrs.field(factory=list)

    @property
    def seconds(self) -> float:
        """How long it took, or has taken as far as is known."""
        return max(0.0, self.last - self.began)

    def walk(self) -> Iterator[tuple[int, Node]]:
        """This and what is under it, in order, each with its depth under this."""
        queue = [(0, self)]
        while queue:
            depth, node = queue.pop()
            yield depth, node
            queue += [(depth + 1, child) for child in reversed(node.children)]


class Timeline:
    """Reads the events of a root's record, whole and in order.

    ``decode`` is asked for the bus's own types only; what it raises, this raises.
    """

    def __init__(
        self, landmarks: Iterable[StoredEvent], events: Iterable[StoredEvent], decode: Callable[[StoredEvent], Envelope]
    ) -> None:
        self._decode = decode
        self._nodes: dict[int, Node] = {}
        self._open: dict[int, Node] = {}
        self._tries: Counter[str] = Counter()
        self._edits = 0  # how many of the steps that come next a fork gave their results
        self._void = _void(landmarks, decode)
        self._clock = _Clock()
        for stored in events:
            self._take(stored)
        self._settle()

    @classmethod
    def of(cls, bus: Bus, root_id: str) -> Self:
        """What went on in a recorded root run."""
        return cls(bus.store.landmarks(root_id), bus.record_of(root_id).stored(), bus.decode)

    def run(self, run_id: str) -> Node | None:
        """The node of a run; where none bears the id, as in a fork, that of the root run."""
        runs = [node for node in self._nodes.values() if node.kind == "run"]
        return next((node for node in runs if node.run_id == run_id), runs[0] if runs else None)

    @property
    def finished_steps(self) -> int:
        """How many steps a resumed run would not make again."""
        return sum(node.kind == "step" and node.state == "finished" and not node.void for node in self._nodes.values())

    # Building

    def _take(self, stored: StoredEvent) -> None:
        if stored.name in GOING_ON:
            self._clock.skip(stored.at)
        time = self._clock.time(stored.at)
        scope = self._scope(stored.parent)
        if scope is not None:
            scope.last = max(scope.last, time)
        if stored.name in SHOWN:
            self._show(self._decode(stored).event, stored, scope, time)
        elif scope is not None:
            scope.events += 1

    def _scope(self, parent: str | None) -> Node | None:
        # By the number alone, which is unique in a log: a fork's is that of the run it shares its beginning with.
        number = (parent or "").rpartition(":")[2]
        return self._nodes.get(int(number)) if number.isdecimal() and len(number) < 20 else None

    def _show(self, event: Any, stored: StoredEvent, scope: Node | None, time: float) -> None:
        started = _begun(event)
        if started is not None:
            self._start(*started, stored, scope, time)
            self._number(event, self._nodes[stored.seq])
        elif isinstance(event, Chunk):
            if scope is not None:
                scope.said.add(stored.seq, event.text)
        elif isinstance(event, Retracted):
            self._retract(event)
        elif isinstance(event, RunResumed | RunForked):
            self._interrupt()
            self._edits = len(event.edits) if isinstance(event, RunForked) else 0
        elif isinstance(event, RunEnded | CallEnded | StepEnded):
            self._end(scope, event, stored, time)

    def _start(self, kind: str, name: str, stored: StoredEvent, scope: Node | None, time: float) -> None:
        void = self._is_void(stored.seq)
        node = Node(kind, name, stored.seq, stored.run_id, stored.at, time, scope, void, last=time)
        self._nodes[stored.seq] = node
        if kind == "checkpoint":
            node.state = "saved"
        else:
            self._open[stored.seq] = node
        if scope is not None:
            scope.children.append(node)

    def _number(self, event: Any, node: Node) -> None:
        if isinstance(event, StepStarted) and self._edits:
            self._edits -= 1
            node.edited = True
        elif isinstance(event, StepStarted) and event.identity and not node.void:
            self._tries[event.identity] += 1
            node.attempt = self._tries[event.identity]

    def _end(self, node: Node | None, event: Any, stored: StoredEvent, time: float) -> None:
        kind = "run" if isinstance(event, RunEnded) else "call" if isinstance(event, CallEnded) else "step"
        while node is not None and node.kind != kind:  # it may end in an attempt
            node = node.parent
        if node is not None and node.seq in self._open and (node.void or not self._is_void(stored.seq)):
            node.last = time
            node.state, node.error = _ended(event)
            del self._open[node.seq]

    def _retract(self, event: Retracted) -> None:
        if not event.parents:
            for node in self._nodes.values():
                node.said.take_back(event.since)
        for parent in event.parents:
            scope = self._scope(parent)
            if scope is not None:
                scope.said.take_back(event.since)
                if scope.kind == "attempt" and event.since <= scope.seq + 1:
                    scope.state, scope.error = "retracted", one_line(event.reason)

    def _interrupt(self) -> None:
        for node in list(self._open.values()):
            if node.kind != "run":
                node.state = "interrupted" if node.state == "open" else node.state
                del self._open[node.seq]
        root = next(iter(self._nodes.values()), None)
        if root is not None:
            root.state, root.error = "open", ""
            self._open[root.seq] = root

    def _settle(self) -> None:
        for node in reversed(self._nodes.values()):
            if node.parent is not None and node.parent.state not in ENDED:
                node.parent.last = max(node.parent.last, node.last)
        for node in self._nodes.values():
            if node.kind == "attempt" and node.state == "open" and node.parent is not None:
                node.state = node.parent.state

    def _is_void(self, seq: int) -> bool:
        at = bisect_right(self._void, seq, key=lambda span: span.start) - 1
        return at >= 0 and seq in self._void[at]


class _Clock:
    """Makes times out of dates: seconds from the first, without the pauses between interruption and resumption."""

    def __init__(self) -> None:
        self._zero: float | None = None
        self._last = 0.0

    def time(self, at: float) -> float:
        """The time of an event. What a record may hold, but no clock shows, is the time of the one before."""
        if not 0 <= at <= _LATEST:
            return self._last
        if self._zero is None:
            self._zero = at
        self._last = max(0.0, at - self._zero)
        return self._last

    def skip(self, at: float) -> None:
        """Leave out what has passed between the event before and one at ``at``."""
        if self._zero is not None and 0 <= at <= _LATEST:
            self._zero += max(0.0, at - self._zero - self._last)


def _void(landmarks: Iterable[StoredEvent], decode: Callable[[StoredEvent], Envelope]) -> list[range]:
    """The numbers that are void, apart from each other and in order."""
    spans: list[range] = []
    for stored in landmarks:
        event = decode(stored).event if stored.name == "crewbus.RunResumed" else None
        if isinstance(event, RunResumed):
            start = event.at + 1
            while spans and spans[-1].stop >= start:
                start = min(start, spans.pop().start)
            if start < stored.seq:
                spans.append(range(start, stored.seq))
    return spans


def _begun(event: Any) -> tuple[str, str] | None:
    """The kind and name of what an event opens, or None."""
    match event:
        case RunStarted():
            return "run", event.name or ""
        case StepStarted():
            return "step", event.name
        case CallStarted():
            return "call", event.name
        case AttemptStarted():
            return "attempt", str(event.number)
        case CheckpointSaved():
            return "checkpoint", event.name
    return None


def _ended(event: Any) -> tuple[str, str]:
    """The state that a terminal event leaves, and what it says of the reason."""
    match event:
        case RunFailed() | CallFailed() | StepFailed():
            return "failed", one_line(": ".join(part for part in (event.error, event.message) if part))
        case RunCancelled() | CallCancelled():
            return "cancelled", one_line(event.reason)
    return "finished", ""
