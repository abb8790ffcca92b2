"""A run as a timeline: a row for each run, step, call and attempt in it, as of any of its events."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final

import attrs

from crewbus import (
    AttemptEnded,
    AttemptStarted,
    CallCancelled,
    CallFailed,
    CallFinished,
    CallStarted,
    CheckpointSaved,
    Chunk,
    DecodeError,
    Envelope,
    Retracted,
    RunCancelled,
    RunFailed,
    RunForked,
    RunResumed,
    RunSuspended,
    StepFailed,
    StepFinished,
    StepStarted,
    StoredEvent,
)
from crewbus.records import CLOSERS, OPENERS, Node, RecordClock, RecordTree
from crewbus.stores import LANDMARKS
from crewbus_http.page.streamed import StreamedText

_READ: Final = LANDMARKS | {"crewbus.Chunk", "crewbus.Retracted"}
"""The names of the event types that are decoded; all others are counted."""


@attrs.define
class Spent:
    """Tokens and cost."""

    input_tokens: int = 0
    output_tokens: int = 0
    cost: float | None = None
    """In US dollars; None: no call said."""

    def add(self, usage: Mapping[str, Any] | None, cost: float | None) -> None:
        """Add what a call reported."""
        if isinstance(usage, Mapping):
            self.input_tokens += _number(usage.get("input_tokens"))
            self.output_tokens += _number(usage.get("output_tokens"))
        if isinstance(cost, int | float):
            self.cost = (self.cost or 0.0) + cost

    def __bool__(self) -> bool:
        return bool(self.input_tokens or self.output_tokens or self.cost)


def _number(value: Any) -> int:
    return value if isinstance(value, int) else 0


@attrs.define(eq=False)
class Row:
    """A scope of the run, or a checkpoint in it. Times are in seconds since its start, without pauses."""

    node: Node[Row]
    name: str
    at: float
    """When it started, in seconds since the epoch (UTC)."""
    start: float
    end: float
    """The time of its end, or of the last event in it."""
    opened: Any
    """The event that started it."""
    state: str = "open"
    """"open", "finished", "failed", "cancelled", "suspended"; "interrupted": open when the run was resumed;
    "retracted": an attempt that was taken back; "saved": a checkpoint; "void": the run was resumed from before it."""
    error: str = ""
    closed: int | None = None
    """The number of the event that ended it."""
    attempt: int = 1
    """Which try at the same step this is."""
    is_edited: bool = False
    """Whether a fork replaced the step's result."""
    events: int = 0
    """How many events belong to it directly that are not shown otherwise."""
    result: Any = None
    """What a step returned, or a call answered, as JSON."""
    text: StreamedText = attrs.field(factory=StreamedText)
    spent: Spent = attrs.field(factory=Spent)
    """By the calls in it, at any depth."""

    @property
    def kind(self) -> str:
        """ "run", "step", "call", "attempt" or "checkpoint"."""
        return self.node.kind

    @property
    def seq(self) -> int:
        """The number of the event that started it: rows are named by it."""
        return self.node.seq

    @property
    def seconds(self) -> float:
        """Its duration so far."""
        return max(0.0, self.end - self.start)

    @property
    def is_open(self) -> bool:
        """Whether it has not ended."""
        return self.state == "open"

    @property
    def step_name(self) -> str:
        """By which `Bus.fork` finds the step to edit; empty for anything else."""
        return f"{self.opened.name}[{self.opened.key}]" if isinstance(self.opened, StepStarted) else ""

    @property
    def label(self) -> str:
        """Its name without the function that it was defined in, with its number if it is an attempt."""
        name = self.name.rpartition("<locals>.")[2]
        return f"attempt {name}" if self.kind == "attempt" else name or self.kind

    def path(self) -> list[Row]:
        """The rows around it, outermost first, and itself."""
        found = [self]
        while (outer := found[-1].node.parent) is not None:
            found.append(row_of(outer))
        return found[::-1]

    def walk(self) -> Iterator[tuple[int, Row]]:
        """This row and those below it, in order, each with its depth below this one."""
        for depth, node in self.node.walk():
            yield depth, row_of(node)

    @property
    def own_error(self) -> str:
        """Its error, unless it only passed on that of a row in it."""
        return "" if any(row.error == self.error for row in self.children) else self.error

    @property
    def children(self) -> list[Row]:
        """The rows directly in it, in order."""
        return [row_of(node) for node in self.node.children]


@attrs.frozen
class Change:
    """Where the run was suspended, went on, or was forked."""

    seq: int
    at: float
    what: str
    """"suspended", "resumed" or "forked"."""
    details: str = ""
    pause: float = 0.0
    """For how many seconds nothing happened before it."""


class Timeline:
    """The rows of a root run. Grows with each event of its record, in order."""

    def __init__(self, decode: Callable[[StoredEvent], Envelope]) -> None:
        self._decode = decode
        self._tree = RecordTree[Row]()
        self._open: dict[int, Row] = {}
        self._tries: Counter[str] = Counter()
        self._edited_steps = 0  # how many of the next steps have results that a fork replaced
        self._clock = RecordClock()
        self.changes: list[Change] = []
        self.last = -1
        """The number of the newest event."""
        self.unreadable = 0
        """How many events could not be decoded."""

    @classmethod
    def read(cls, decode: Callable[[StoredEvent], Envelope], events: Iterable[StoredEvent], upto: int) -> Timeline:
        """The timeline as of event ``upto``."""
        timeline = cls(decode)
        for stored in events:
            if stored.seq > upto:
                break
            timeline.add(stored)
        return timeline

    @property
    def root(self) -> Row | None:
        """The row of the root run."""
        return next(iter(self.rows()), None)

    def rows(self) -> Iterator[Row]:
        """All rows, in the order in which they started."""
        return map(row_of, self._tree.nodes.values())

    def row(self, seq: int) -> Row | None:
        """The row that event ``seq`` started."""
        node = self._tree.nodes.get(seq)
        return row_of(node) if node is not None else None

    def around(self, parent: str | None) -> Row | None:
        """The row that an event with this parent belongs to."""
        node = self._tree.find(parent)
        return row_of(node) if node is not None else None

    @property
    def culprit(self) -> Row | None:
        """The innermost row that failed with the error that the run failed with: where to look first."""
        root = self.root
        if root is None or root.state != "failed":
            return None
        same = [row for row in self.rows() if row.state == "failed" and row.error == root.error]
        return max(same, key=lambda row: (len(row.path()), row.seq))

    # Building

    def add(self, stored: StoredEvent) -> Row | None:
        """Take the next event; return the row that it belongs to, if any."""
        self.last = stored.seq
        pause = self._clock.skip_pause(stored.at) if stored.name in ("crewbus.RunResumed", "crewbus.RunForked") else 0.0
        time = self._clock.read(stored.at)
        around = self.around(stored.parent)
        if around is not None:
            self._extend(around, time)
        if stored.name not in _READ:
            return self._count(around)
        try:
            event = self._decode(stored).event
        except DecodeError:
            self.unreadable += 1
            return self._count(around)
        return self._apply(event, stored, time, pause, around)

    @staticmethod
    def _extend(innermost: Row, time: float) -> None:
        """What is open around an event lasts at least until it."""
        node: Node[Row] | None = innermost.node
        while node is not None:
            row = row_of(node)
            if row.closed is None and row.end < time:
                row.end = time
            node = node.parent

    @staticmethod
    def _count(around: Row | None) -> Row | None:
        if around is not None:
            around.events += 1
        return around

    def _apply(self, event: Any, stored: StoredEvent, time: float, pause: float, around: Row | None) -> Row | None:
        if isinstance(event, Chunk):  # most events are
            if around is not None:
                around.text.add(stored.seq, event.text, event.kind)
            return around
        node = self._tree.apply(type(event), stored)
        if isinstance(event, Retracted):
            self._retract(event)
        elif isinstance(event, RunResumed | RunForked):
            self._resume(event, stored, pause)
        elif node is None:
            return None
        elif type(event) in OPENERS:
            self._start(node, event, stored, time)
        elif type(event) in CLOSERS:
            self._close(row_of(node), event, stored, time)
        else:
            row_of(node).events += 1
        return row_of(node) if node is not None else None

    def _start(self, node: Node[Row], event: Any, stored: StoredEvent, time: float) -> None:
        name = str(event.number) if isinstance(event, AttemptStarted) else event.name or ""
        row = node.value = Row(node, name, stored.at, time, time, event)
        if isinstance(event, CheckpointSaved):
            row.state = "saved"
        else:
            self._open[stored.seq] = row
        if isinstance(event, StepStarted):
            if self._edited_steps:
                self._edited_steps -= 1
                row.is_edited = True
            elif event.identity:
                self._tries[event.identity] += 1
                row.attempt = self._tries[event.identity]

    def _close(self, row: Row, event: Any, stored: StoredEvent, time: float) -> None:
        if row.seq not in self._open:
            return
        row.end, row.closed = time, stored.seq
        if row.state != "retracted":
            row.state, row.error = _outcome(event)
        del self._open[row.seq]
        if isinstance(event, StepFinished):
            row.result = event.result
        elif isinstance(event, CallFinished):
            row.result = event.output
            for one in row.path():
                one.spent.add(event.usage, event.cost)
        elif isinstance(event, RunSuspended) and row.node.parent is None:
            self.changes.append(Change(stored.seq, stored.at, "suspended", event.reason))
        self._settle_attempts(row)

    @staticmethod
    def _settle_attempts(row: Row) -> None:
        """An attempt without an end of its own ended as what it was made in."""
        for inner in row.children:
            if inner.kind == "attempt" and inner.is_open:
                inner.state = row.state

    def _retract(self, event: Retracted) -> None:
        if not event.parents:
            for row in self.rows():
                row.text.retract(event.since)
        for node in self._tree.retracted(event):
            row = row_of(node)
            row.text.retract(event.since)
            if node.kind == "attempt" and event.since <= node.seq + 1 and row.state != "retracted":
                row.state, row.error = "retracted", event.reason

    def _resume(self, event: RunResumed | RunForked, stored: StoredEvent, pause: float) -> None:
        self._edited_steps = len(event.edits) if isinstance(event, RunForked) else 0
        if isinstance(event, RunForked):
            details = f"from {event.of} at event {event.at}"
        else:
            self._discard(event.at)
            details = f"by holder {event.epoch}" + (f" from {event.checkpoint}" if event.checkpoint else "")
        what = "forked" if isinstance(event, RunForked) else "resumed"
        self.changes.append(Change(stored.seq, stored.at, what, details, pause))
        for row in list(self._open.values()):
            if row.kind != "run":
                row.state = "interrupted" if row.is_open else row.state
                del self._open[row.seq]
        root = self.root
        if root is not None:
            root.state, root.error, root.closed = "open", "", None
            self._open[root.seq] = root

    def _discard(self, at: int) -> None:
        """What happened after event ``at`` no longer counts."""
        for row in self.rows():
            if row.seq > at:
                row.state = "void"
                self._open.pop(row.seq, None)
                if isinstance(row.opened, StepStarted):
                    self._tries[row.opened.identity] = 0
            elif row.closed is not None and row.closed > at:
                row.state, row.error, row.closed = "open", "", None
                self._open[row.seq] = row


def row_of(node: Node[Row]) -> Row:
    """The row of a node."""
    assert node.value is not None  # set as soon as the tree has added the node
    return node.value


def _outcome(event: Any) -> tuple[str, str]:
    """The state that a terminal event gives a scope, and its error or reason."""
    match event:
        case RunFailed() | CallFailed() | StepFailed() | AttemptEnded(outcome="failed"):
            return "failed", ": ".join(part for part in (event.error.removeprefix("builtins."), event.message) if part)
        case RunCancelled() | CallCancelled():
            return "cancelled", event.reason
        case AttemptEnded(outcome="cancelled"):
            return "cancelled", ""
        case RunSuspended():
            return "suspended", event.reason
    return "finished", ""


def model_of(row: Row) -> str:
    """The model that a call asked, if the record says."""
    attributes = row.opened.attributes if isinstance(row.opened, CallStarted) else {}
    model = attributes.get("model")
    return model if isinstance(model, str) else ""
