"""Events that JSON cannot represent: they are delivered and recorded, each such value as its ``repr``."""

from __future__ import annotations

from typing import Any

import pytest
from crewai.events.base_events import BaseEvent
from crewai.events.event_bus import crewai_event_bus
from crewai.events.types.flow_events import FlowFinishedEvent, MethodExecutionFinishedEvent
from crewai.flow.flow import Flow, start
from crews import installed


class Carrying(BaseEvent):
    type: str = "carrying"
    payload: Any = None
    note: str = "kept"


class Unprintable:
    def __repr__(self):
        raise LookupError("no repr")


def cycle():
    made: list[Any] = ["in"]
    made.append(made)
    return made


def nested():
    made: Any = "innermost"
    for _ in range(5_000):
        made = [made]
    return made


HUGE = 1 << 100_000
VALUES = [
    (b"\xff", repr(b"\xff")),
    ({"raw": b"\xff", "n": 1}, {"raw": repr(b"\xff"), "n": 1}),
    (cycle(), ["in", "['in', [...]]"]),
    (HUGE, hex(HUGE)),
    ([HUGE, 1], [hex(HUGE), 1]),
    ("\ud800", "'\\ud800'"),
    (Unprintable(), "<Unprintable>"),
]


@pytest.mark.parametrize(("payload", "written"), VALUES, ids=[str(number) for number in range(len(VALUES))])
def test_what_json_cannot_represent_is_delivered_and_recorded(payload, written):
    with installed() as bus:
        bus.enable_recording("memory:")
        heard = []
        bus.on(Carrying, lambda envelope: heard.append(envelope.event))
        with bus.run(id="r"):
            crewai_event_bus.emit(None, sent := Carrying(payload=payload))
        assert heard == [sent]
        (recorded,) = [one.event for one in bus.record_of("r") if isinstance(one.event, Carrying)]
        assert (recorded.payload, recorded.note) == (written, "kept")


def test_an_event_that_nests_too_deep_is_delivered_and_recorded():
    with installed() as bus:
        bus.enable_recording("memory:")
        heard = []
        bus.on(Carrying, lambda envelope: heard.append(envelope.event.note))
        with bus.run(id="r"):
            crewai_event_bus.emit(None, Carrying(payload=nested()))
        assert heard == ["kept"]
        assert [one.event.note for one in bus.record_of("r") if isinstance(one.event, Carrying)] == ["kept"]


class Raw(Flow):
    @start()
    def begin(self):
        return b"\xff"


def test_a_flow_that_returns_bytes_is_recorded_to_its_end():
    with installed() as bus:
        bus.enable_recording("memory:")
        heard = []
        for kind in (MethodExecutionFinishedEvent, FlowFinishedEvent):
            bus.on(kind, lambda envelope: heard.append(type(envelope.event)))
        assert Raw().kickoff() == b"\xff"
        assert heard == [MethodExecutionFinishedEvent, FlowFinishedEvent]
        (run_id,) = bus.store.roots()
        results = [one.event.result for one in bus.record_of(run_id) if isinstance(one.event, tuple({*heard}))]
        assert results == [repr(b"\xff")] * 2
