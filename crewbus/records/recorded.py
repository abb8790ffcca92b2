"""What a record holds of runs, steps, calls and attempts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

import attrs

from crewbus._util import outermost
from crewbus.events import AttemptStarted, RunFinished, StepFinished, StepStarted
from crewbus.records.record import Landmark

Path = tuple[str, ...]
"""The names of calls inside each other, outermost first."""


@attrs.define(eq=False)
class RecordedAttempt:
    """An attempt as recorded."""

    event: AttemptStarted
    start: int
    start_parent: str | None
    """The parent of its start."""
    path: Path
    """The calls around it in its home."""
    ids: list[str]
    """The ids of its starts: it has several if something new happened in it in a resumed run."""
    around: RecordedAttempt | None = None
    """The attempt that it is nested in directly."""
    retracted_at: int | None = None
    """The number of its retraction, if it failed."""
    end: int | None = None
    """The number of its `AttemptEnded`; None: it was cut off, or an earlier release recorded it."""
    outcome: str = ""
    """How it ended."""
    went_on_after: set[int] = attrs.field(factory=set)
    """The numbers of the retractions after which a resume went on in it: what they took back was streamed again."""


@attrs.define(eq=False)
class RecordedCall:
    """A call as recorded."""

    home: RecordedHome
    start: int
    start_parent: str | None
    """The parent of its start."""
    ids: list[str]
    """Its own id and those of its attempts: the parents of what was emitted in it."""
    path: Path
    """Its name, after the names of the calls around it in its home."""
    around: RecordedCall | None
    """The call that it was made in."""
    attempt: RecordedAttempt | None
    """The innermost attempt in its home that it was made in."""
    end: int | None = None
    end_type: type | None = None

    @property
    def boundary(self) -> int:
        """The number of the last outcome of a step in it; the number before its own start if there is none."""
        return max((child.end or -1 for child in self.home.outcomes(self)), default=self.start - 1)

    def emission_parents(self) -> Iterator[str]:
        """Yield what covers the parents of everything that was emitted in it, at any depth."""
        return outermost(self._ids_within())

    def _ids_within(self) -> Iterator[str]:
        for call in self.home.holds.calls:
            if self.contains(call):
                yield from call.ids
        for child in self.home.holds.children:
            if self.contains(child.around):
                yield from child.ids_within()

    def contains(self, call: RecordedCall | None) -> bool:
        """Whether ``call`` is this one, or was made in it."""
        while call is not None:
            if call is self:
                return True
            call = call.around
        return False


@attrs.define(eq=False)
class Contents:
    """What is recorded in a home."""

    calls: dict[RecordedCall, None] = attrs.field(factory=dict)
    children: dict[RecordedHome, None] = attrs.field(factory=dict)
    attempts: list[RecordedAttempt] = attrs.field(factory=list)
    patches: dict[str, int] = attrs.field(factory=dict)
    """By name: the numbers under which it is recorded that a run takes a patch."""


_NOTHING: Final = Contents()
"""What is in most steps. Nothing is added to it."""


@attrs.define(eq=False)
class RecordedHome:
    """A run or step as recorded: steps, calls, attempts and nested runs have it as their home."""

    starts: list[Landmark]
    """Its own, a step's for each time it was taken up, and those of attempts in it; read when they are asked for."""
    start: int
    is_step: bool
    parent: RecordedHome | None = None
    around: RecordedCall | None = None
    """The call that it started in, in its parent."""
    holds: Contents = _NOTHING
    """What is in it, to be read; see `own`."""
    end: int | None = None
    end_type: type | None = None
    stands: bool = False
    """Of a step that failed: whether its failure is an outcome, since the code went on."""
    rejected: bool = False
    """Whether a failed attempt took it back: it is repeated, to fail again."""
    failed_tries: int = 0
    """The number of the last attempt that failed directly in it; 0 if none did, or it ended as failed since."""
    failed_at: int = -1
    """The number of the event that took that attempt back."""
    last_opened: int = -1
    """The number of the last event that started anything in it, at any depth."""

    @property
    def own(self) -> Contents:
        """What is in it, to be added to."""
        if self.holds is _NOTHING:
            self.holds = Contents()
        return self.holds

    @property
    def started(self) -> Landmark:
        """Its first start."""
        return self.starts[0]

    @property
    def ids(self) -> list[str]:
        """The parents of what was emitted directly in it."""
        return [start.id for start in self.starts]

    @property
    def step(self) -> StepStarted | None:
        """What says which step it is; None: it is a run."""
        return self.started.event if self.is_step else None

    @property
    def identity(self) -> str:
        """By what a resumed run finds a step; empty for a run."""
        return self.started.event.identity if self.is_step else ""

    @property
    def name(self) -> str:
        """Its name; empty if it has none."""
        return self.started.event.name or ""

    @property
    def start_parent(self) -> str | None:
        """The parent of its first start."""
        return self.started.parent

    @property
    def run_id(self) -> str:
        """The run that it is, or belongs to."""
        return self.started.run_id or ""

    @property
    def key(self) -> str | None:
        """Of a nested run: what the application chose to distinguish it."""
        return None if self.is_step else self.started.event.key

    @property
    def finished(self) -> bool:
        """Whether it ended well."""
        return self.end_type in (StepFinished, RunFinished)

    @property
    def has_outcome(self) -> bool:
        """Of a step: whether a resume repeats how it ended, instead of executing it."""
        return self.end is not None and (self.finished or self.stands)

    @property
    def boundary(self) -> int:
        """The number of the last outcome of a step in it; its own start if there is none."""
        return max((child.end or -1 for child in self.outcomes()), default=self.start)

    @property
    def last_finished(self) -> int:
        """The number of the last end of a finished step in it, or of its own if it is one; -1 if there is none."""
        if self.is_step and self.finished and self.end is not None:
            return self.end
        return max((child.last_finished for child in self.holds.children), default=-1)

    def outcomes(self, within: RecordedCall | None = None) -> Iterator[RecordedHome]:
        """Yield the steps in it that have an outcome, outermost ones only; ``within``: those made in this call."""
        for child in self.holds.children:
            if within is not None and not within.contains(child.around):
                continue
            if child.is_step and child.has_outcome:
                yield child
            else:
                yield from child.outcomes()

    def is_emitted_again(self, seq: int) -> bool:
        """Of a step: whether it was interrupted after event ``seq`` of it, and executed again from before that."""
        again = next((one.seq for one in self.starts if one.seq > seq and one.kind is StepStarted), None)
        return again is not None and not any(seq < (child.end or -1) < again for child in self.outcomes())

    def ancestry(self) -> Iterator[RecordedHome]:
        """Yield this home and those around it, outward."""
        home: RecordedHome | None = self
        while home is not None:
            yield home
            home = home.parent

    def is_within(self, other: RecordedHome) -> bool:
        """Whether it is ``other`` or inside it."""
        return any(home is other for home in self.ancestry())

    def describe(self) -> str:
        """Describe it for an error message."""
        return f"{'step' if self.is_step else 'run'} {self.name!r}" if self.name else f"run {self.run_id}"

    def emission_parents(self) -> Iterator[str]:
        """Yield what covers the parents of everything that was emitted in it, at any depth."""
        return outermost(self.ids_within())

    def ids_within(self) -> Iterator[str]:
        """Yield the ids of everything that started in it, its own first."""
        yield from self.ids
        for call in self.holds.calls:
            yield from call.ids
        for child in self.holds.children:
            yield from child.ids_within()


class Place(NamedTuple):
    """Where an event belongs: to a home, directly or in a call and an attempt there."""

    home: RecordedHome
    call: RecordedCall | None = None
    attempt: RecordedAttempt | None = None

    @property
    def path(self) -> Path:
        """The calls around it in its home."""
        return self.call.path if self.call is not None else ()
