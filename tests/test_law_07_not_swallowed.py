"""Law 7 of durable runs: a divergence from the record cannot be swallowed."""

from __future__ import annotations

import pytest

import crewbus


class Crash(BaseException):
    """Ends a run as a crash of its process does."""


def agent(run: crewbus.Run, names: list[str]) -> list[str]:
    """An agent that goes on when a tool fails, whatever the error."""
    done = []
    for name in names:
        try:
            done.append(run.step(name, lambda name=name: name))
        except Exception as error:
            done.append(type(error).__name__)
    return done


def test_law_07_a_swallowed_mismatch_is_raised_by_each_later_step_and_by_the_end() -> None:
    with crewbus.Bus(entry_points=False) as bus:
        bus.enable_recording("memory:")
        with pytest.raises(Crash), bus.run(id="r") as run:
            agent(run, ["a", "b"])
            raise Crash
        done: list[str] = []
        with pytest.raises(crewbus.ReplayMismatch, match="expected step 'a'"), bus.resume("r") as run:
            done = agent(run, ["notify the customer", "a", "b", "c"])
        assert done == ["ReplayMismatch"] * 4
        assert bus.records.info("r").state == "failed"
        with bus.resume("r") as run:  # with the code that recorded it
            assert agent(run, ["a", "b"]) == ["a", "b"]
