"""The tree of a record: its runs, steps, calls, attempts and checkpoints. All readers of a record's structure use it.

Nothing here decodes an event: the type of an event and its position are enough.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Generic, Literal, Protocol, TypeVar

import attrs

from crewbus._util import number_in
from crewbus.events import (
    AttemptEnded,
    AttemptStarted,
    CallCancelled,
    CallFailed,
    CallFinished,
    CallStarted,
    CheckpointSaved,
    Retracted,
    RunCancelled,
    RunFailed,
    RunFinished,
    RunStarted,
    RunSuspended,
    StepFailed,
    StepFinished,
    StepStarted,
)

T = TypeVar("T")
Kind = Literal["run", "step", "call", "attempt", "checkpoint"]

OPENERS: Final[dict[type, Kind]] = {
    RunStarted: "run",
    StepStarted: "step",
    CallStarted: "call",
    AttemptStarted: "attempt",
    CheckpointSaved: "checkpoint",
}
"""By the event type that adds a node: the node's kind."""
CLOSERS: Final[dict[type, Kind]] = {
    RunFinished: "run",
    RunFailed: "run",
    RunCancelled: "run",
    RunSuspended: "run",
    StepFinished: "step",
    StepFailed: "step",
    CallFinished: "call",
    CallFailed: "call",
    CallCancelled: "call",
    AttemptEnded: "attempt",
}
"""By the event type that ends a scope, or suspends it: the scope's kind."""


class Position(Protocol):
    """What a stored event, a landmark and an envelope have in common."""

    @property
    def run_id(self) -> str | None:
        """The run it belongs to."""

    @property
    def seq(self) -> int:
        """Its number."""

    @property
    def parent(self) -> str | None:
        """The id of the envelope that opened the scope it belongs to."""


@attrs.define(eq=False)
class Node(Generic[T]):
    """A scope of a record, or a checkpoint in one, and what a reader keeps for it."""

    kind: Kind
    seq: int
    run_id: str
    parent: Node[T] | None
    children: list[Node[T]] = attrs.field(factory=list)
    value: T | None = None

    def walk(self) -> Iterator[tuple[int, Node[T]]]:
        """Yield this node and those below it, in order, each with its depth below this one."""
        stack = [(0, self)]
        while stack:
            depth, node = stack.pop()
            yield depth, node
            stack += [(depth + 1, child) for child in reversed(node.children)]


class RecordTree(Generic[T]):
    """Grows with each event of a root's record, in order. A part of a record gives a part of the tree."""

    def __init__(self) -> None:
        self.nodes: dict[int, Node[T]] = {}
        """By the number of the envelope that added them, in order."""
        self._around: dict[str, Node[T]] = {}
        """By its id: where something was added."""

    def apply(self, event_type: type, at: Position) -> Node[T] | None:
        """Take the next event; return the node that it adds, the scope that it ends, or else the one it belongs to.

        None: that scope is not in this tree.
        """
        parent = at.parent
        around = self._around.get(parent) if parent is not None else None
        if around is None:
            around = self.find(parent)
        kind = OPENERS.get(event_type)
        if kind is not None:
            node = self.nodes[at.seq] = Node(kind, at.seq, at.run_id or "", around)
            if around is not None and parent is not None:
                around.children.append(node)
                self._around[parent] = around
            return node
        kind = CLOSERS.get(event_type)
        while kind is not None and around is not None and around.kind != kind:  # it may end during an attempt
            around = around.parent
        return around

    def find(self, envelope_id: str | None) -> Node[T] | None:
        """Return the node that the envelope of that id added, or None."""
        number = number_in(envelope_id) if envelope_id is not None else None
        return self.nodes.get(number) if number is not None else None

    def retracted(self, event: Retracted) -> Iterator[Node[T]]:
        """Yield the nodes that belong to the ``parents`` of a retraction: with an attempt or step, those in it."""
        for parent in event.parents:
            node = self.find(parent)
            if node is not None and parent.endswith("/"):
                yield from (inner for _, inner in node.walk())
            elif node is not None:
                yield node


class RunMembership:
    """Which events of a root's record belong to one run or to the runs nested in it; asked in order."""

    def __init__(self, run_id: str, root_id: str) -> None:
        self._runs = None if run_id == root_id else {run_id}
        """The runs inside; None: all."""

    def includes(self, at: Position, *, starts_run: bool, parent_run: str | None = None) -> bool:
        """Whether an event belongs; ``starts_run``: it is the start of a run, in the ``parent_run`` that it names."""
        runs = self._runs
        if runs is None or at.run_id in runs:
            return True
        if starts_run and (parent_run or (at.parent or "").rpartition(":")[0]) in runs:
            runs.add(at.run_id or "")
            return True
        return False
