"""Records, looked at: what the events of a run belong to, what counts, and what a consumer ends up with."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import takewhile
from typing import Final

from durable_language import MARK
from helpers import Noted

import crewbus
from crewbus.events import (
    AttemptEnded,
    AttemptStarted,
    CallEnded,
    CallStarted,
    CheckpointSaved,
    Retracted,
    RunEnded,
    RunForked,
    RunResumed,
    RunStarted,
    StepFailed,
    StepFinished,
    StepStarted,
)

ENDS: Final = (CallEnded, RunEnded, Retracted, RunResumed, RunForked)
"""What follows the failure of a step though the code does not go on after it; nor do emissions show that it did, since
a resume does not read them."""
KINDS: Final = {crewbus.Chunk: "Say", Noted: "Note", CheckpointSaved: "Save"}


# A record, looked at


class Recorded:
    """The record of a root run, with what its events belong to."""

    def __init__(self, envelopes: Iterable[crewbus.Envelope]) -> None:
        self.all = list(envelopes)
        discarded: set[int] = set()
        for one in self.all:
            if isinstance(one.event, RunResumed):
                discarded |= set(range(one.event.at + 1, one.seq))
        self.valid = [one for one in self.all if one.seq not in discarded or isinstance(one.event, Retracted)]
        self.by_id = {one.id: one for one in self.all}
        self.ends = {one.parent: one for one in self.valid if isinstance(one.event, (CallEnded, StepFinished))}
        self.retractions = [one for one in self.all if isinstance(one.event, Retracted)]
        self.starts: dict[str, list[int]] = {}
        for one in self.all:
            if isinstance(one.event, StepStarted):
                self.starts.setdefault(one.event.identity, []).append(one.seq)

    def chunks_after(self, frames: list[crewbus.Envelope]) -> int:
        """How many chunks that are not retracted come after these."""
        last = frames[-1].seq if frames else -1
        later = (one for one in self.valid if isinstance(one.event, crewbus.Chunk) and one.seq > last)
        return sum(not any(it.event.covers(one.seq, one.parent) for it in self.retractions) for one in later)

    def around(self, one: crewbus.Envelope) -> Iterator[crewbus.Envelope]:
        """What an event belongs to, innermost first: the starts of scopes."""
        seen = self.by_id.get(one.parent or "")
        while seen is not None:
            yield seen
            seen = self.by_id.get(seen.parent or "") if seen.parent != seen.id else None

    def home(self, one: crewbus.Envelope) -> str | None:
        """The id of the run or step around an event."""
        return next((s.id for s in self.around(one) if isinstance(s.event, (RunStarted, StepStarted))), None)

    def identity(self, end: crewbus.Envelope) -> str:
        """The identity of a step that ended."""
        start = self.by_id.get(end.parent or "")
        return start.event.identity if start is not None else ""

    def outcomes(self) -> dict[str, bool]:
        """The identities of the steps whose outcomes are recorded, and stand; whether each failed."""
        ends = {self.identity(one): one for one in self.valid if isinstance(one.event, (StepFinished, StepFailed))}
        return {
            identity: isinstance(one.event, StepFailed)
            for identity, one in ends.items()
            if isinstance(one.event, StepFinished) or self._continued(one, [e for e in self.valid if e.seq > one.seq])
        }

    def _continued(self, failed: crewbus.Envelope, later: list[crewbus.Envelope]) -> bool:
        start = self.by_id[failed.parent or ""]
        home, identity = self._same_home(start), start.event.identity
        later = list(takewhile(lambda one: not isinstance(one.event, RunResumed), later))
        return any(
            not isinstance(one.event, (*ENDS, *KINDS, AttemptStarted, AttemptEnded, StepFailed))
            and self._same_home(one) == home
            and getattr(one.event, "identity", "") not in (home, identity)
            for one in later
        )

    def _same_home(self, one: crewbus.Envelope) -> str | None:
        """What names the home of an event: of a step its identity, since it starts again."""
        home = self.by_id.get(self.home(one) or "")
        if home is None:
            return None
        return str(home.event.identity) if isinstance(home.event, StepStarted) else home.run_id

    def checkpoint(self, name: str) -> int:
        """The number of the last checkpoint of that name."""
        saved = [one for one in self.valid if isinstance(one.event, CheckpointSaved) and one.event.name == name]
        return saved[-1].seq

    def is_tried_again(self, end: crewbus.Envelope, after: int) -> bool:
        """Whether the end of a step was taken back, after a number, since a step around it failed and was retried."""
        again = (one for one in self.retractions if one.seq > after and one.event.reason == "tried again")
        return any(one.event.covers(end.seq, end.parent) for one in again)

    def takers(self, one: crewbus.Envelope) -> list[crewbus.Envelope]:
        """The retractions that cover an event."""
        return [r for r in self.retractions if r.seq > one.seq and r.event.covers(one.seq, one.parent)]

    def is_open(self, start: crewbus.Envelope, at: int) -> bool:
        """Whether a step or call had not ended well at a number."""
        if isinstance(start.event, StepStarted):
            return not any(
                isinstance(one.event, StepFinished)
                and one.seq < at
                and self.identity(one) == start.event.identity
                and one.seq > start.seq
                for one in self.valid
            )
        end = self.ends.get(start.id)
        return end is None or end.seq > at

    def is_void(self, one: crewbus.Envelope) -> bool:
        """Whether an emission counts for nothing: the step or call that it was made in was interrupted.

        What was rejected before that may have been repeated or made again.
        """
        return one not in self.valid or any(map(self._by_resume, self.takers(one)[:1]))

    def is_made_again(self, one: crewbus.Envelope) -> bool:
        """Whether an emission was retracted and may have been made again, with the step or call around it."""
        return any(map(self._by_resume, self.takers(one))) or any(
            isinstance(scope.event, StepStarted) and self.starts[scope.event.identity][-1] > retraction.seq
            for retraction in self.takers(one)
            for scope in self.around(one)
        )

    def _by_resume(self, retraction: crewbus.Envelope) -> bool:
        reason = retraction.event.reason
        if "Error: " in reason or reason == "tried again":  # an attempt or step that failed
            return False
        at = retraction.seq
        while at >= 0 and isinstance(self.all[at].event, Retracted):
            at -= 1
        return at >= 0 and isinstance(self.all[at].event, RunResumed)

    def failed_again(self) -> bool:
        """Whether a step that had failed was executed again: it may end otherwise, and so may what is around it."""
        failed = {self.identity(one): one.seq for one in reversed(self.all) if isinstance(one.event, StepFailed)}
        return any(self.starts[identity][-1] > seq for identity, seq in failed.items() if identity in self.starts)

    def counts(self, kind: str) -> tuple[Counter[str], Counter[str]]:
        """How often each text was emitted, without what is void; and without what may have been made again."""
        made = [one for one in self.all if KINDS.get(type(one.event)) == kind and not self.is_void(one)]
        once = [one for one in made if not self.is_made_again(one)]
        both = (Counter(getattr(one.event, "text", None) or one.event.name for one in ones) for ones in (made, once))
        made_counts, once_counts = both
        return made_counts, once_counts

    def taken_wrongly(self) -> Iterator[crewbus.Envelope]:
        """The chunks that a retraction covers though no open step or call, nor a failed attempt, is around them."""
        for one in self.valid:
            if isinstance(one.event, crewbus.Chunk):
                for retraction in self.takers(one):
                    around = list(self.around(one))
                    tried = "Error: " in retraction.event.reason and any(
                        isinstance(s.event, AttemptStarted) for s in around
                    )
                    opened = any(
                        isinstance(s.event, (StepStarted, CallStarted)) and self.is_open(s, retraction.seq)
                        for s in around
                    )
                    checkpoint = not retraction.event.parents
                    if not (tried or opened or checkpoint):
                        yield one


# Whether texts are those of an undisturbed run


def is_before(one: str, other: str) -> bool:
    """Whether the program orders what two strands say: they are not two strands of one `Parallel`."""
    for mine, others in zip(one.split(";"), other.split(";"), strict=False):
        if mine != others:
            return mine.partition(":")[0] != others.partition(":")[0]
    return True


def same_texts(found: list[str], expected: list[str]) -> bool:
    """Whether two sequences are equal, but for the order of what is said in parallel."""
    if found == expected:
        return True
    if Counter(found) != Counter(expected):
        return False
    strands = sorted({text.partition(MARK)[2] for text in expected})

    def of(texts: list[str], *chosen: str) -> list[str]:
        return [text for text in texts if text.partition(MARK)[2] in chosen]

    return all(
        of(found, one, other) == of(expected, one, other)
        for n, one in enumerate(strands)
        for other in strands[n:]
        if is_before(one, other)
    )
