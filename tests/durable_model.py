"""Durable runs, specified in code: what is recorded, what a crash leaves, what resuming makes of it.

Nothing of crewbus is used here. A `Session` is one process's go at a program: it plays it against a `Log`, and where
the log holds something already, from there. `SCOPES` says what a run or step then does with what the code asks for.
`docs/durability.md` prints the table, and a test compares the two.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping
from itertools import takewhile
from typing import Any, Final, NamedTuple, TypeAlias

import attrs
from durable_programs import (
    ALWAYS,
    Action,
    Apart,
    Break,
    BreakError,
    Call,
    FailureError,
    Note,
    Program,
    Run,
    Save,
    Say,
    Step,
    Try,
)

Part: TypeAlias = tuple[str, str, str, int]
"""Of an identity: what it is, its name, its key, and its ordinal among equals in its scope."""
Identity: TypeAlias = tuple[Part, ...]
Turns: TypeAlias = Generator[None, None, Any]
"""What is done in turns with others: it yields before each action, and returns the result."""

# Logs


class Entry(NamedTuple):
    """A recorded event. ``parent`` is the number of the start it belongs to directly; numbers serve as ids."""

    seq: int
    epoch: int
    kind: str
    parent: int | None = None
    name: str = ""
    identity: Identity = ()
    inline: bool = True
    result: Any = None
    since: int = 0
    parents: frozenset[int] = frozenset()

    def covers(self, other: Entry) -> bool:
        """Whether this, a retraction, takes ``other`` back, which was recorded before it."""
        return other.seq >= self.since and (not self.parents or other.parent in self.parents)


STARTS: Final = {"RunStarted", "StepStarted", "CallStarted"}
ENDS: Final = {"RunFinished", "StepFinished", "CallFinished"}
EMISSIONS: Final = {"Chunk", "Noted", "CheckpointSaved"}


class CrashError(BaseException):
    """The process died."""


class MismatchError(Exception):
    """The program asks for other steps than it recorded."""


@attrs.define
class Log:
    """The events of one root run. A fork shares a tuple of its parent's: it can't be changed."""

    epoch: int = 0
    shared: tuple[Entry, ...] = ()
    own: list[Entry] = attrs.field(factory=list)
    durable: int = 0
    """How many events are on disk for sure."""
    fuse: int | None = None
    """How many more events there will be until the process dies."""
    uncounted: frozenset[str] = frozenset()
    """Kinds of events that the fuse does not count."""

    @property
    def entries(self) -> list[Entry]:
        """All events, in order."""
        return [*self.shared, *self.own]

    @property
    def last(self) -> int:
        """The number of the last event; -1 where there is none."""
        return len(self.shared) + len(self.own) - 1

    def append(self, kind: str, parent: int | None = None, **fields: Any) -> int:
        """Record an event and return its number."""
        if self.fuse is not None and kind not in self.uncounted:
            if self.fuse == 0:
                raise CrashError
            self.fuse -= 1
        self.own.append(Entry(self.last + 1, self.epoch, kind, parent, **fields))
        return self.last

    def flush(self) -> None:
        """Wait for the disk, as the ends of steps and checkpoints do."""
        self.durable = self.last + 1

    def lose(self, count: int) -> None:
        """Forget the last ``count`` events, as far as they are not on disk."""
        while count and self.last >= self.durable:
            count -= self.own.pop().kind not in self.uncounted
        self.flush()
        self.fuse = None


def valid(entries: Iterable[Entry]) -> list[Entry]:
    """The events that count: without those behind a checkpoint from which the run was resumed.

    Only what was taken back there stays so: consumers have applied that.
    """
    kept: list[Entry] = []
    for entry in entries:
        if entry.kind == "RunResumed":
            kept = [before for before in kept if before.seq <= entry.since or before.kind == "Retracted"]
        kept.append(entry)
    return kept


def standing(entries: Iterable[Entry]) -> list[Entry]:
    """The events that were not retracted."""
    kept: list[Entry] = []
    for entry in valid(entries):
        if entry.kind == "Retracted":
            kept = [before for before in kept if not entry.covers(before)]
        kept.append(entry)
    return kept


# What a record means for a resume


class Row(NamedTuple):
    """A row of a table: the state that follows, and what happens; of what is refused, the error."""

    state: str
    effect: str


SCOPES: Final[Mapping[tuple[str, str], Row]] = {
    ("told", "emission"): Row("told", "told"),
    ("told", "step that finished"): Row("told", "its result is returned"),
    ("told", "other step"): Row("told", "executed"),
    ("told", "new step in line"): Row("told", "executed"),
    ("told", "end"): Row("told", "told"),
    ("repeating", "emission"): Row("repeating", "told"),
    ("repeating", "step that finished"): Row("repeating, trailing or live", "its result is returned"),
    ("repeating", "other step"): Row("repeating", "executed"),
    ("repeating", "new step in line"): Row("repeating", "ReplayMismatch"),
    ("repeating", "end"): Row("repeating", "ReplayMismatch"),
    ("trailing", "emission"): Row("trailing or live", "told"),
    ("trailing", "step that finished"): Row("trailing", "its result is returned"),
    ("trailing", "other step"): Row("trailing", "executed"),
    ("trailing", "new step in line"): Row("trailing", "executed"),
    ("trailing", "end"): Row("closed", "recorded"),
    ("live", "emission"): Row("live", "recorded"),
    ("live", "step that finished"): Row("live", "its result is returned"),
    ("live", "other step"): Row("live", "executed"),
    ("live", "new step in line"): Row("live", "executed"),
    ("live", "end"): Row("closed", "recorded"),
}
"""What a scope does with what the code asks for. A step "in line" is asked for by the scope's own thread or task."""


@attrs.define
class Scope:
    """A run or a step that continues: the tail of the record that it has yet to pass, and what it counts."""

    identity: Identity
    starts: list[int]
    """The numbers of its starts: a step that was left open has one for each time it was taken up."""
    opened: set[int] = attrs.field(factory=set)
    """The numbers of all that started in it, at whatever depth."""
    boundary: int = -1
    """The number of the last end of a step in it, at whatever depth, or of its first start: what precedes it stays."""
    expected: set[Identity] = attrs.field(factory=set)
    """Recorded steps of its own thread that have not been asked for yet."""
    tail: int = 0
    """How many of its emissions were recorded behind the last of those and before the boundary."""
    told: bool = False
    """Whether all that happens in it is on record."""
    beside: Scope | None = None
    """Of one that is told because a call in it is: the scope itself."""
    ordinals: Counter[tuple[str, str, str]] = attrs.field(factory=Counter)

    @property
    def state(self) -> str:
        """Where it stands in `SCOPES`."""
        if self.told:
            return "told"
        if self.expected:
            return "repeating"
        return "trailing" if self.tail > 0 else "live"

    def part(self, what: str, name: str, key: str = "") -> Identity:
        """The identity of the next of its name in here."""
        return (*self.identity, (what, name, key, self.ordinals[what, name, key]))

    def passed(self, identity: Identity) -> None:
        """Count one as done."""
        self.ordinals[identity[-1][:3]] += 1
        self.expected.discard(identity)


class Past:
    """What a log holds of the scopes that were open at its end."""

    def __init__(self, entries: list[Entry]) -> None:
        counted = valid(entries)
        self._all = {entry.seq: entry for entry in counted}
        self._standing = standing(counted)
        ended = {entry.parent for entry in counted if entry.kind in ENDS}
        self.asked = {entry.identity for entry in counted if entry.kind == "StepStarted"}
        self.results = self._results()
        self.scopes: dict[Identity, Scope] = {}
        """The runs and steps that are open, or failed, which is the same: outermost first."""
        discarded = self._discarded(counted)
        for entry in counted:
            ended_well = entry.seq in ended or entry.identity in self.results
            goes_on = not (ended_well or entry.seq in discarded) or not entry.identity
            if entry.kind in {"RunStarted", "StepStarted"} and goes_on:
                self.scopes.setdefault(entry.identity, Scope(entry.identity, [])).starts.append(entry.seq)
        for scope in self.scopes.values():
            self._read(scope)
        self.kept = self._kept()

    def _discarded(self, entries: list[Entry]) -> set[int]:
        """The starts of nested runs that were taken back as a whole: another run is made in their place."""
        taken = [entry for entry in entries if entry.kind == "Retracted"]
        return {at for entry in taken for at in entry.parents if at >= entry.since and self._kind(at) == "RunStarted"}

    def _kind(self, at: int) -> str:
        return self._all[at].kind if at in self._all else ""

    def _results(self) -> dict[Identity, Any]:
        results: dict[Identity, Any] = {}
        for entry in self._standing:
            if entry.kind == "StepFinished":
                results[entry.identity] = entry.result
            elif entry.kind == "RunForked":
                results.update({step: entry.result[step[-1][1]] for step in results if step[-1][1] in entry.result})
        return results

    def _read(self, scope: Scope) -> None:
        inside = [entry for entry in self._all.values() if any(at in scope.starts for at in self._around(entry))]
        scope.opened = {entry.seq for entry in inside if entry.kind in STARTS}
        still = [entry for entry in self._standing if entry in inside]
        ends = [entry for entry in still if entry.kind == "StepFinished"]
        scope.boundary = max([scope.starts[0], *(entry.seq for entry in ends)])
        own = [self._all[end.parent] for end in ends if end.parent is not None]
        own = [start for start in own if start.inline and self._home(start) in scope.starts]
        scope.expected = {start.identity for start in own}
        last = max([scope.starts[0], *(start.seq for start in own)])
        scope.tail = sum(
            entry.kind in EMISSIONS and last < entry.seq < scope.boundary and self._loose_in(entry, scope)
            for entry in still
        )

    def _around(self, entry: Entry) -> Iterator[int]:
        at = entry.parent
        while at is not None:
            yield at
            at = self._all[at].parent

    def _home(self, entry: Entry) -> int | None:
        """The run or step that ``entry`` belongs to: calls belong to the scope around them."""
        return next((at for at in self._around(entry) if self._all[at].kind != "CallStarted"), None)

    def _loose_in(self, entry: Entry, scope: Scope) -> bool:
        """Whether ``entry`` is an emission of ``scope`` itself, and not of a call that is kept."""
        directly = entry.parent if entry.parent is not None and self._kind(entry.parent) == "CallStarted" else None
        return self._home(entry) in scope.starts and (directly is None or not self._closed(directly, scope))

    def _closed(self, start: int, scope: Scope) -> bool:
        """Whether a call ended; one that was left open did if it was made again before the boundary, and that ended."""
        identity = self._all[start].identity
        same = {at for at, entry in self._all.items() if entry.identity == identity and at < scope.boundary}
        return any(entry.parent in {start, *same} and entry.kind in ENDS for entry in self._standing)

    def _kept(self) -> dict[Identity, int]:
        """The calls and nested runs that stay: they ended, and precede the boundary, or are in such a run."""
        kept: dict[Identity, int] = {}
        ends = {entry.parent for entry in self._standing if entry.kind in {"RunFinished", "CallFinished"}}
        for start in (entry for entry in self._all.values() if entry.seq in ends):
            home = self._scope(start)
            precedes = home is not None and start.seq < home.boundary
            if precedes or self._in_run(start, kept):
                kept[start.identity] = start.seq
        return kept

    def _in_run(self, entry: Entry, kept: Mapping[Identity, int]) -> bool:
        return any(at in kept.values() and self._kind(at) == "RunStarted" for at in self._around(entry))

    def _scope(self, entry: Entry) -> Scope | None:
        home = self._home(entry)
        return next((scope for scope in self.scopes.values() if home in scope.starts), None)

    @property
    def owed(self) -> list[int]:
        """Where a resume from a checkpoint died before it took back what lay behind that: from which number on."""
        done = {entry.seq - 1 for entry in self._all.values() if entry.kind == "Retracted" and not entry.parents}
        resumed = [entry for entry in self._all.values() if entry.kind == "RunResumed" and entry.seq not in done]
        return [entry.since + 1 for entry in resumed if entry.since < entry.seq - 1]

    def beyond(self, scope: Scope, *, ended: bool = False) -> frozenset[int]:
        """The parents of what ``scope`` emitted beyond its boundary; empty where there is nothing.

        What goes on in it has a boundary of its own, unless the scope has ``ended``.
        """
        parents = {*scope.starts, *(at for at in scope.opened if self._is_beyond(at, scope, ended))}
        parents |= {at for at in scope.opened if self._open_call(at, scope)}
        loose = any(entry.seq > scope.boundary and entry.parent in parents for entry in self._standing)
        return frozenset(parents) if loose else frozenset()

    def _is_beyond(self, at: int, scope: Scope, ended: bool) -> bool:
        inside = takewhile(lambda around: around not in scope.starts, [at, *self._around(self._all[at])])
        *_, outermost = [at, *(around for around in inside if self._kind(around) != "CallStarted")]
        goes_on = self._kind(outermost) == "RunStarted" and not self._closed(outermost, scope)
        return outermost > scope.boundary and (ended or not goes_on) and not self._in_run(self._all[at], self.kept)

    def _open_call(self, at: int, scope: Scope) -> bool:
        start = self._all[at]
        return start.kind == "CallStarted" and not self._closed(at, scope) and self._home(start) in scope.starts

    def forget(self, identity: Identity) -> None:
        """Let nothing count any more that was recorded in the step ``identity``: it is called again, as a whole."""
        for known in (self.results, self.scopes, self.kept):
            for found in [found for found in known if _within(found, identity)]:
                del known[found]


def _within(inner: Identity, outer: Identity) -> bool:
    return inner[: len(outer)] == outer


# Playing a program


@attrs.define
class World:
    """What happens outside the record, and is not undone by a crash."""

    begun: Counter[str] = attrs.field(factory=Counter)
    """How often each step was executed, by its ``uid``."""
    broken: Counter[str] = attrs.field(factory=Counter)
    """How often the program came to each `Break`."""


class Session:
    """One process's go at a run: plays the program, from the beginning or from what the log holds."""

    def __init__(self, log: Log, world: World, schedule: Iterable[int] = ()) -> None:
        self.log = log
        self.world = world
        self.past = Past(log.entries)
        self.root = self.past.scopes.get((), Scope((), []))
        self._schedule = iter(schedule)
        self._failed: set[Identity] = set()

    def begin(self) -> None:
        """Record the start of a new run."""
        self.log.epoch += 1
        self._start(self.root, None, "RunStarted", True)

    def resume(self, at: int | None = None) -> None:
        """Go on with a recorded one: from its end, or from the event ``at``, behind which nothing counts any more."""
        owed = self.past.owed
        self.log.epoch += 1
        self.log.append("RunResumed", since=self.log.last if at is None else at)
        for since in [*owed, *([] if at is None else [at + 1])]:
            self.log.append("Retracted", since=since)
        past = Past(self.log.entries)
        for scope in past.scopes.values():
            if parents := past.beyond(scope):
                self.log.append("Retracted", since=scope.boundary + 1, parents=parents)
        self.past = Past(self.log.entries)
        self.root = self.past.scopes[()]

    def play(self, program: Program) -> Any:
        """Do it all, and return the result."""
        try:
            result = _finish(self._all(self.root, program, None))
            self._close(self.root)
        except (BreakError, MismatchError):
            self._end_root("RunFailed")
            raise
        self._end_root("RunFinished")
        return result

    def _end_root(self, kind: str) -> None:
        self.log.append(kind, self.root.starts[-1])
        self.log.flush()

    def _all(self, scope: Scope, actions: Program, at: int | None, inline: bool = True) -> Turns:
        results = []
        for action in actions:
            results.append((yield from self._do(scope, action, at, inline)))
        return tuple(result for result in results if result is not None)

    def _do(self, scope: Scope, action: Action, at: int | None, inline: bool = True) -> Turns:
        """Do one action in ``scope``, ``at`` being the call that is around it, if any."""
        yield
        match action:
            case Say() | Note() | Save():
                self._emit(scope, action, at)
            case Step():
                return (yield from self._until_done(scope, action, at, inline))
            case Try():
                return (yield from self._try(scope, action, at))
            case Run():
                return (yield from self._run(scope, action, at))
            case Call():
                return (yield from self._call(scope, action, at))
            case Apart():
                return (yield from self._apart(scope, action, at))
            case Break():
                self._break(action)

    # Emissions

    def _emit(self, scope: Scope, action: Say | Note | Save, at: int | None) -> None:
        if SCOPES[scope.state, "emission"].effect == "told":
            scope.tail -= scope.state == "trailing"
        else:
            kind = {Say: "Chunk", Note: "Noted", Save: "CheckpointSaved"}[type(action)]
            self.log.append(kind, at or scope.starts[-1], name=action[0])
        if isinstance(action, Save):
            self.log.flush()

    def _break(self, action: Break) -> None:
        self.world.broken[action.name] += 1
        if self.world.broken[action.name] <= action.times:
            raise BreakError(action.name)

    # Steps

    def _until_done(self, scope: Scope, step: Step, at: int | None, inline: bool) -> Turns:
        while True:
            try:
                return (yield from self._step(scope, step, at, inline))
            except FailureError:
                if step.fails == ALWAYS:
                    raise

    def _try(self, scope: Scope, action: Try, at: int | None) -> Turns:
        try:
            return (yield from self._until_done(scope, action.step, at, True))
        except FailureError:
            return (yield from self._until_done(scope, action.instead, at, True))

    def _step(self, scope: Scope, step: Step, at: int | None, inline: bool) -> Turns:
        identity = scope.part("step", step.name, step.key)
        effect = SCOPES[scope.state, self._asked(identity, inline)].effect
        if effect == "ReplayMismatch":
            raise MismatchError(f"{identity} in place of {scope.expected}")
        if effect == "executed":
            result = yield from self._execute(scope, step, identity, at, inline)
        else:
            result = self.past.results[identity]
        scope.passed(identity)
        return result

    def _asked(self, identity: Identity, inline: bool) -> str:
        if identity in self.past.results:
            return "step that finished"
        return "new step in line" if inline and identity not in self.past.asked else "other step"

    def _execute(self, scope: Scope, step: Step, identity: Identity, at: int | None, inline: bool) -> Turns:
        if identity in self._failed:
            self._take_back(identity)
        inner = self.past.scopes.get(identity) or Scope(identity, [])
        start = self._start(inner, at or scope.starts[-1], "StepStarted", inline)
        self.world.begun[step.uid] += 1
        try:
            results = yield from self._all(inner, step.body, None)
            self._close(inner)
            if self.world.begun[step.uid] <= step.fails:
                raise FailureError(step.name)
        except (FailureError, BreakError):
            self._fail(identity, start)
            raise
        result = (step.name, step.key, results)
        self.log.append("StepFinished", start, identity=identity, result=result)
        self.log.flush()
        return result

    def _fail(self, identity: Identity, start: int) -> None:
        """Take back what the step streamed beyond its boundary: one that failed is as one that was left open."""
        self._failed.add(identity)
        seen = Past(self.log.entries)
        scope = seen.scopes[identity]
        if parents := seen.beyond(scope, ended=True):
            self.log.append("Retracted", since=scope.boundary + 1, parents=parents)
        self.log.append("StepFailed", start)

    def _take_back(self, identity: Identity) -> None:
        """A step is called again after it failed: nothing counts any more of what it did, whichever process did it."""
        seen = Past(self.log.entries).scopes[identity]
        self.log.append("Retracted", since=seen.starts[0] + 1, parents=frozenset({*seen.starts, *seen.opened}))
        self.past.forget(identity)

    def _start(self, scope: Scope, parent: int | None, kind: str, inline: bool) -> int:
        start = self.log.append(kind, parent, identity=scope.identity, inline=inline)
        scope.starts.append(start)
        scope.ordinals.clear()
        return start

    def _close(self, scope: Scope) -> None:
        if SCOPES[scope.state, "end"].effect == "ReplayMismatch":
            raise MismatchError(f"{scope.expected} was not called")

    # Runs and calls

    def _run(self, scope: Scope, run: Run, at: int | None) -> Turns:
        identity = scope.part("run", run.name)
        scope.passed(identity)
        inner = self._nested(scope, identity)
        if not inner.starts:
            self._start(inner, at or scope.starts[-1], "RunStarted", True)
        try:
            results = yield from self._all(inner, run.body, None)
            self._close(inner)
        except BreakError:
            self.log.append("RunFailed", inner.starts[-1])
            raise
        if not inner.told:
            self.log.append("RunFinished", inner.starts[-1])
        return (run.name, results)

    def _nested(self, scope: Scope, identity: Identity) -> Scope:
        """A nested run as the record has it: kept as a whole, left open, or not at all."""
        if identity in self.past.kept:
            return Scope(identity, [self.past.kept[identity]], told=True)
        return self.past.scopes.get(identity) or Scope(identity, [])

    def _call(self, scope: Scope, call: Call, at: int | None) -> Turns:
        identity = scope.part("call", call.name)
        scope.passed(identity)
        within = scope.beside or scope
        if within.told or identity in self.past.kept:
            told = attrs.evolve(within, told=True, beside=within)
            return (yield from self._all(told, call.body, None))
        scope = within
        start = self.log.append("CallStarted", at or scope.starts[-1], identity=identity)
        try:
            results = yield from self._all(scope, call.body, start)
        except BreakError:
            self.log.append("CallFailed", start)
            raise
        self.log.append("CallFinished", start)
        return results

    # Threads

    def _apart(self, scope: Scope, action: Apart, at: int | None) -> Turns:
        strands = [self._do(scope, step, at, inline=False) for step in action.steps]
        return (yield from self._interleave([self._all(scope, action.meanwhile, at), *strands]))

    def _interleave(self, strands: list[Turns]) -> Turns:
        results: list[Any] = [None] * len(strands)
        going = list(range(len(strands)))
        while going:
            chosen = going[next(self._schedule, 0) % len(going)]
            try:
                next(strands[chosen])
            except StopIteration as stop:
                results[chosen] = stop.value
                going.remove(chosen)
            yield
        return tuple(results)


def _finish(turns: Turns) -> Any:
    while True:
        try:
            next(turns)
        except StopIteration as stop:
            return stop.value
