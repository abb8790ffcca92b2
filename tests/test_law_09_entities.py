"""Law 9 of durable runs: tracked sources keep their names after a resume; a checkpoint costs what was added."""

from __future__ import annotations

import json
from typing import Any

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from recorded_helpers import DISKS, Disk

import crewbus
from crewbus.serialization import apply_change, change_between


@crewbus.register_entity
@attrs.define(eq=False)
class Agent:
    role: str


@crewbus.event(name="tests.Thought")
class Thought:
    text: str


@pytest.fixture(params=DISKS)
def disk(request: pytest.FixtureRequest, tmp_path: Any) -> Disk:
    made: Disk = request.param(tmp_path)
    return made


def crew(disk: Disk, run: crewbus.Run, crashes_after: int | None) -> None:
    """Three agents speak, the last within a call; after so many of their events the process ends."""
    roles = ["researcher", "writer", "editor"]
    agents = [Agent(role) for role in roles]
    for number, agent in enumerate(agents):
        if number == crashes_after:
            disk.crash()
        if number < 2:
            run.emit(Thought(str(number)), source=agent)
        else:
            with run.bus.call("model", source=agent):
                pass
        run.step("s", lambda: 1, key=str(number))
    agents[0].role = "researcher, done"
    run.checkpoint("end")


def entities(bus: crewbus.Bus, run_id: str) -> dict[str, str]:
    checkpoint = bus.records.checkpoints(run_id)[-1]
    return {name: checkpoint.entity(name).role for name in checkpoint.entities}


@pytest.mark.parametrize("crashes_after", [1, 2])
def test_law_09_a_checkpoint_after_a_resume_has_the_entities_of_an_undisturbed_run(
    disk: Disk, crashes_after: int
) -> None:
    with disk.bus() as bus:
        with bus.run(id="whole") as run:
            crew(disk, run, None)
        with bus.run(id="r") as run:
            crew(disk, run, crashes_after)
    with disk.bus() as bus:
        with bus.resume("r") as run:
            crew(disk, run, None)
        expected = entities(bus, "whole")
        assert sorted(expected.values()) == ["editor", "researcher, done", "writer"]
        assert entities(bus, "r") == expected


# What checkpoints cost


@crewbus.register_entity
@attrs.define(eq=False)
class Conversation:
    messages: list[dict[str, str]] = attrs.field(factory=list)
    summary: str = ""
    turns: int = 0


TURNS = 300


def say(conversation: Conversation, turn: int) -> None:
    conversation.messages.append({"role": "user", "text": f"message {turn} " * 5})
    conversation.summary += f"{turn}, "
    conversation.turns += 1


def record_turns(bus: crewbus.Bus, turns: int) -> None:
    with bus.run(id="r") as run:
        conversation = run.track("conversation", Conversation())
        for turn in range(turns):
            say(conversation, turn)
            run.checkpoint(f"turn {turn}")


def saved_bytes(bus: crewbus.Bus) -> int:
    record = bus.record_of("r")
    return sum(len(stored.data) for stored in record.stored() if stored.name == "crewbus.EntitySaved")


def test_law_09_each_checkpoint_of_a_growing_conversation_has_its_state(disk: Disk) -> None:
    with disk.bus() as bus:
        record_turns(bus, TURNS)
        expected = Conversation()
        for turn, checkpoint in enumerate(bus.records.checkpoints("r")):
            say(expected, turn)
            if turn % 7 == 0 or turn in (63, 64, 65, TURNS - 1):
                found = checkpoint.entity("conversation")
                assert attrs.astuple(found) == attrs.astuple(expected)


def test_law_09_a_checkpoint_costs_what_was_added() -> None:
    with crewbus.Bus(entry_points=False) as bus:
        bus.enable_recording(store := crewbus.MemoryStore())
        record_turns(bus, TURNS)
        (first, *_, last) = bus.records.checkpoints("r")
        whole = len(str(attrs.asdict(last.entity("conversation"))))
        assert saved_bytes(bus) < 12 * whole  # and not TURNS / 2 times as much
        reads: list[int] = []
        event = store.event
        store.event = lambda root, seq: reads.append(seq) or event(root, seq)  # type: ignore[func-returns-value, method-assign]
        last.entity("conversation")
        assert len(reads) <= 8 * 3 + 1  # 8 for each power of 8 below the number of turns, and the whole state
        assert first.entity("conversation").turns == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda it: it.messages.clear(),
        lambda it: it.messages.reverse(),
        lambda it: it.messages.insert(0, {"role": "system"}),
        lambda it: it.messages[3].update(text="corrected", seen="yes"),
        lambda it: it.messages[3].pop("role"),
        lambda it: setattr(it, "summary", ""),
        lambda it: setattr(it, "summary", it.summary[1:] + "x"),
    ],
)
def test_law_09_what_did_not_grow_is_saved_too(disk: Disk, change: Any) -> None:
    with disk.bus() as bus, bus.run(id="r") as run:
        conversation = run.track("conversation", Conversation())
        for turn in range(20):
            say(conversation, turn)
            run.checkpoint("before")
        change(conversation)
        run.checkpoint("after")
        run.checkpoint("again")
        checkpoints = {checkpoint.name: checkpoint for checkpoint in bus.records.checkpoints("r")}
        assert attrs.astuple(checkpoints["after"].entity("conversation")) == attrs.astuple(conversation)
        assert checkpoints["again"].entities == checkpoints["after"].entities


def test_law_09_a_fork_and_a_resumed_run_go_on_from_a_saved_change(disk: Disk) -> None:
    with disk.bus() as bus:
        record_turns(bus, 12)
        fork = bus.fork("r", "turn 9")
        assert bus.records.checkpoints(fork)[-1].entity("conversation").turns == 10
        assert bus.records.diff("r", "r") is None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@settings(deadline=None, suppress_health_check=list(HealthCheck))
@given(json_values, json_values)
def test_law_09_a_change_leads_from_any_value_to_any_other(before: Any, after: Any) -> None:
    for one, other in [(before, after), ([before], [before, after]), ({"a": before}, {"a": after, "b": before})]:
        change = change_between(one, other)
        made = one if change is None else apply_change(one, json.loads(json.dumps(change)))
        assert json.dumps(made) == json.dumps(other)


@pytest.mark.parametrize(
    "change",
    [None, 1, [], ["="], ["?", 1], ["+", 1], ["~", {}], ["~", {"9": ["=", 1]}, []], ["~", {"x": 1}, []], ["~", 1, 1]],
)
def test_law_09_a_damaged_change_is_an_error(change: Any) -> None:
    with pytest.raises(crewbus.DecodeError, match="does not fit"):
        apply_change(["a"], change)


def test_law_09_a_redactor_sees_whole_states() -> None:
    class Redactor:
        @crewbus.hookimpl
        def crewbus_redact(self, event: Any) -> Any:
            if isinstance(event, crewbus.EntitySaved):
                assert event.base is None
                return attrs.evolve(event, data={**event.data, "summary": "*"})
            return event

    with crewbus.Bus([Redactor()], entry_points=False) as bus:
        bus.enable_recording("memory:")
        record_turns(bus, 10)
        assert bus.records.checkpoints("r")[-1].entity("conversation").summary == "*"
