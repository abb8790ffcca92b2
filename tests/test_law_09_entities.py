"""Law 9 of durable runs: tracked sources keep their names after a resume."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from recorded_helpers import DISKS, Disk

import crewbus


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
