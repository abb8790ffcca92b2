"""What crewAI's state keeps of the events: enough for a checkpoint by hand, at a cost that does not grow."""

from __future__ import annotations

import contextvars

import pytest
from crewai.events import event_bus
from crewai.events.base_events import BaseEvent
from crewai.events.event_bus import crewai_event_bus
from crewai.events.types.flow_events import MethodExecutionFinishedEvent, MethodExecutionStartedEvent
from crewai.flow.flow import Flow, listen, start
from crewai.state import CheckpointConfig
from crews import installed
from helpers import TIMEOUT

from crewbus_crewai.patched import runtime_state


class Ticked(BaseEvent):
    type: str = "ticked"


def emit(event):
    crewai_event_bus.emit(None, event)


class TwoSteps(Flow):
    """Writes a checkpoint by hand between its methods, although none is configured."""

    @start()
    def first(self):
        emit(Ticked())
        return "one"

    @listen(first)
    def second(self):
        if crewai_event_bus.runtime_state is not None:
            WRITTEN.append(crewai_event_bus.runtime_state.checkpoint(FOLDER[0]))
        return "two"


WRITTEN = []
FOLDER = []


def test_a_checkpoint_by_hand_has_what_a_replay_reads(active, tmp_path):
    FOLDER[:] = [str(tmp_path)]
    WRITTEN.clear()
    replayed = []

    def look(source, event):
        if event_bus.is_replaying():
            replayed.append((event.type, event.method_name))

    contextvars.Context().run(TwoSteps().kickoff)
    kinds = (MethodExecutionStartedEvent, MethodExecutionFinishedEvent)
    for kind in kinds:
        crewai_event_bus.register_handler(kind, look)
    try:
        restored = contextvars.Context()
        flow = restored.run(TwoSteps.from_checkpoint, CheckpointConfig(restore_from=WRITTEN[0]))
        assert restored.run(flow.kickoff) == "two"
        assert crewai_event_bus.flush(TIMEOUT)
    finally:
        for kind in kinds:
            crewai_event_bus.off(kind, look)
    assert sorted(replayed) == [("method_execution_finished", "first"), ("method_execution_started", "first")]


@pytest.mark.parametrize("many", [1, 100])
def test_the_cost_of_an_event_does_not_grow_with_the_entities_of_its_kickoff(monkeypatch, crew, many):
    looked = []
    monkeypatch.setattr(runtime_state._Checkpoints, "look_at", lambda self, entity: looked.append(entity))
    made = [crew(str(number)) for number in range(many)]

    def work():
        with runtime_state.runtime_scope():
            for one in made:
                crewai_event_bus.register_entity(one)
            emit(Ticked())
            looked.clear()
            emit(Ticked())
            assert len(crewai_event_bus.runtime_state.root) >= many
        return len(looked)

    with installed():
        assert contextvars.Context().run(work) == 1


def test_checkpoints_that_are_configured_later_are_noticed(tmp_path):
    class Later(Flow):
        @start()
        def begin(self):
            self.checkpoint = CheckpointConfig(location=str(tmp_path), on_events=["flow_finished"])
            crewai_event_bus.emit(self, Ticked())
            emit(Ticked())
            return [node.event.type for node in crewai_event_bus.runtime_state.event_record.all_nodes()].count("ticked")

    with installed():
        assert contextvars.Context().run(Later().kickoff) == 2
