"""Wherever a kickoff is interrupted, the record of the resumed one equals that of an undisturbed one."""

from __future__ import annotations

import asyncio
from collections import Counter

import crewai
import pytest
from crewai.events.base_events import BaseEvent
from crewai.flow.flow import Flow, listen, start
from crews import installed
from scripted import Scripted

import crewbus

PARTS = 4


class Cut(BaseException):
    """A process that ends: nothing of crewAI's deals with it."""


def writers(llm, *parts):
    """A crew that writes these parts, one after the other."""
    agent = crewai.Agent(role="writer", goal="to write", backstory="It wrote.", llm=llm)
    tasks = [crewai.Task(description=f"part {part}", expected_output="a text", agent=agent) for part in parts]
    return crewai.Crew(name="writers", agents=[agent], tasks=tasks)


class Paper(Flow):
    """Two crews, one after the other."""

    llm: object = None

    @start()
    def news(self):
        return writers(self.llm, 0, 1).kickoff().raw

    @listen(news)
    def sports(self, before):
        return before + writers(self.llm, 2, 3).kickoff().raw


KICKOFFS = {
    "crew": lambda llm: writers(llm, *range(PARTS)).kickoff(),
    "crew on a loop": lambda llm: asyncio.run(writers(llm, *range(PARTS)).akickoff()),
    "flow": lambda llm: Paper(llm=llm).kickoff(),
}


def standing(bus):
    """How many events of each of crewAI's types a record has that were not taken back, and how many steps."""
    record = list(bus.record_of(bus.store.roots()[0]))
    gone = set()
    for end in record:
        if isinstance(end.event, crewbus.Retracted):
            gone |= {e.seq for e in record if e.seq < end.seq and end.event.covers(e.seq, e.parent)}
    kinds = BaseEvent | crewbus.StepFinished | crewbus.CallFinished
    return Counter(type(e.event).__name__ for e in record if e.seq not in gone and isinstance(e.event, kinds))


@pytest.mark.parametrize("kickoff", KICKOFFS)
def test_a_record_is_whole_wherever_it_was_cut(kickoff):
    answers = [f"Final Answer: {part}" for part in range(PARTS)]
    make = KICKOFFS[kickoff]
    with installed() as bus:
        bus.enable_recording(crewbus.MemoryStore())
        make(Scripted.of(*answers))
        whole = standing(bus)
    for cut in range(PARTS):
        with installed() as bus:
            bus.enable_recording(crewbus.MemoryStore())
            with pytest.raises(Cut):
                make(Scripted.of(*answers[:cut], Cut()))
            rest = Scripted.of(*answers[cut:])
            with bus.resume(bus.store.roots()[0]):
                make(rest)
            assert len(rest.asked) == PARTS - cut
            assert standing(bus) == whole
