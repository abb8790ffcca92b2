"""The spans of random programs are those of the record's tree: disturbed, resumed elsewhere, disturbed again."""

from __future__ import annotations

import random
from contextlib import suppress

import attrs
import pytest
from durable_language import Program, grown
from durable_player import HANDLED, Disturbance, OutageError, Play, StopError, World
from otel_helpers import traced

import crewbus
from crewbus.events import (
    AttemptStarted,
    CallEnded,
    CallStarted,
    Envelope,
    RunEnded,
    RunForked,
    RunResumed,
    RunStarted,
    StepEnded,
    StepStarted,
)
from crewbus_otel.conventions import NUMBER

SPANNED = (RunStarted, CallStarted, StepStarted)
OPENING = (*SPANNED, AttemptStarted, CallEnded, RunEnded, StepEnded, RunResumed, crewbus.Chunk)
"""What happens in a scope that is repeated from the record only if the code goes on there."""


def disturbance(rng: random.Random) -> Disturbance:
    kind = rng.choice(["", "stop", "cancel", "outage"])
    return Disturbance(seed=rng.random(), **({kind: rng.randrange(1, 8)} if kind else {}))


def play(bus: crewbus.Bus, program: Program, world: World, run: crewbus.Run, how: Disturbance) -> None:
    ends = (*HANDLED, OutageError, StopError, crewbus.Cancelled, crewbus.RunCancelledError, crewbus.RecordingError)
    with suppress(*ends):
        Play(bus, program, world, how).go(run)


class Elsewhere:
    """The parent of what a resumed run repeats in a step that it tries again: the record has it in the earlier try."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, int)

    __hash__ = None


@attrs.define
class Seen:
    """What a process has seen, as opposed to what the record has."""

    live: set[str] = attrs.field(factory=set)
    """The ids of what was started or repeated in it."""
    ended: set[str | None] = attrs.field(factory=set)
    late: set[int] = attrs.field(factory=set)
    """The numbers of the chunks that were emitted in what had ended before."""

    def watch(self, envelope: Envelope) -> None:
        if isinstance(envelope.event, (CallEnded, RunEnded, StepEnded)):
            self.ended.add(envelope.parent)
        elif isinstance(envelope.event, crewbus.Chunk) and envelope.parent in self.ended:
            self.late.add(envelope.seq)
        self.live.add(envelope.id)


def expected(record: list[Envelope], since: int, seen: Seen) -> dict[int, int | Elsewhere | None]:
    """By the number of the start of each scope that has a span: that of the scope around it that has one."""
    live = seen.live
    starts = {one.id: one for one in record if isinstance(one.event, (*SPANNED, AttemptStarted))}

    def around(one: Envelope) -> Envelope | None:
        found = starts.get(one.parent or "")
        while found is not None and isinstance(found.event, AttemptStarted) and found.id in live:
            found = starts.get(found.parent or "")
        return found

    tree: dict[int, int | Elsewhere | None] = {}
    for one in record:
        if one.seq < since or one.seq in seen.late or not isinstance(one.event, OPENING):
            continue
        here = one if isinstance(one.event, SPANNED) else around(one)
        while here is not None and here.id in live:
            outer = around(here)
            tree[here.seq] = None if outer is None else outer.seq if outer.id in live else Elsewhere()
            here = outer
    return tree


def check(program: Program, seed: int) -> None:
    rng, store, world, since = random.Random(seed), crewbus.MemoryStore(), World(), 0
    for session in range(3):
        with traced(store) as (bus, exported):
            if session == 0:
                run = bus.run("program", id="r")
            elif bus.records.info("r").state == "finished":
                return
            else:
                run = bus.resume("r")
            seen = Seen()
            bus.on(object, seen.watch)
            play(bus, program, world, run, disturbance(rng) if session < 2 else Disturbance())
            bus.flush()
            record = list(bus.record_of("r"))
        assert not any(isinstance(one.event, RunForked) for one in record)
        by_id = {span.context.span_id: span.attributes[NUMBER] for span in exported.spans}
        found = {
            span.attributes[NUMBER]: by_id[span.parent.span_id] if span.parent is not None else None
            for span in exported.spans
        }
        assert len(by_id) == len(found)
        assert found == expected(record, since, seen)
        since = record[-1].seq + 1


@pytest.mark.parametrize("first", range(0, 500, 50))
def test_the_spans_are_the_tree_of_the_record(first):
    for seed in range(first, first + 50):
        check(grown(seed), seed)
